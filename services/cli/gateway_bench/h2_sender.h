// Unary gRPC calls as bytes on a few kept connections, to a gateway or to an echo, by a client that
// costs little: gRPC's own would take more of the processor than what it measures.
//
// Thread-safe, unless it is polled: then one thread sends and polls. Answers are looked at no
// further than their status.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "services/cli/gateway_bench/client_loop.h"
#include "services/cli/gateway_bench/load.h"

namespace conclave::cli {

class H2Sender {
 public:
  // `address` is host:port, `path` the method's, `message` what every call sends. Calls take the
  // connections in turn.
  H2Sender(const std::string& address, int32_t connections, std::string path,
           const std::string& api_key, std::string_view message,
           Serving serving = Serving::kOwnThread);
  // Calls that are under way end with UNAVAILABLE.
  ~H2Sender();

  // Any status but 0 is an error with that code.
  void Send(SentDone done);
  // Of a polled one: sends, and ends calls that were answered.
  void Poll();

 private:
  class Loop;
  const std::unique_ptr<Loop> loop_;
};

}  // namespace conclave::cli
