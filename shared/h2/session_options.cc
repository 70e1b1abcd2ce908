#include "shared/h2/session_options.h"

namespace conclave::h2 {

const nghttp2_option* SessionOptions() {
  static const nghttp2_option* const options = [] {
    nghttp2_option* made = nullptr;
    nghttp2_option_new(&made);
    // Closed streams are kept for the older priority scheme alone, which is off.
    nghttp2_option_set_no_closed_streams(made, 1);
    // Resets, pings and settings are counted with other nuisances (session.cc), which end a
    // connection with ENHANCE_YOUR_CALM; these limits are the library's own, further out.
    nghttp2_option_set_max_outbound_ack(made, 4000);
    nghttp2_option_set_stream_reset_rate_limit(made, 4000, 2000);
    return made;
  }();
  return options;
}

}  // namespace conclave::h2
