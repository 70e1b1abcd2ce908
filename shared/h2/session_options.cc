#include "shared/h2/session_options.h"

namespace conclave::h2 {

const nghttp2_option* SessionOptions() {
  static const nghttp2_option* const options = [] {
    nghttp2_option* made = nullptr;
    nghttp2_option_new(&made);
    // Closed streams are kept for the older priority scheme alone, which is off.
    nghttp2_option_set_no_closed_streams(made, 1);
    // Answers to pings and settings of a client that does not read.
    nghttp2_option_set_max_outbound_ack(made, 1000);
    // Resets are counted with other nuisances (session.cc), and end a connection with
    // ENHANCE_YOUR_CALM; this is the library's own, further out.
    nghttp2_option_set_stream_reset_rate_limit(made, 4000, 2000);
    return made;
  }();
  return options;
}

}  // namespace conclave::h2
