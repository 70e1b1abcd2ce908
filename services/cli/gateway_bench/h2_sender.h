// Unary gRPC calls as bytes on a few kept connections, to a gateway or to an echo, by a client that
// costs little: gRPC's own would take more of the processor than what it measures.
//
// Thread-safe. One thread owns the connections. Answers are looked at no further than their status.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "services/cli/gateway_bench/load.h"

namespace conclave::cli {

class H2Sender {
 public:
  // `address` is host:port, `path` the method's, `message` what every call sends. Calls take the
  // connections in turn.
  H2Sender(const std::string& address, int32_t connections, std::string path,
           const std::string& api_key, std::string_view message);
  // Calls that are under way end with UNAVAILABLE.
  ~H2Sender();

  // Any status but 0 is an error with that code.
  void Send(SentDone done);

 private:
  class Loop;
  const std::unique_ptr<Loop> loop_;
};

}  // namespace conclave::cli
