// HTTP requests as bytes on kept connections, to a gateway or to the echo.
//
// Thread-safe, unless it is polled: then one thread sends and polls. Answers are looked at no
// further than to find their end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "services/cli/gateway_bench/client_loop.h"
#include "services/cli/gateway_bench/load.h"

namespace conclave::cli {

// A POST of JSON, head and body.
std::string HttpRequest(std::string_view path, std::string_view api_key, std::string_view body);

class HttpSender {
 public:
  // `address` is host:port. A request takes a connection that is free, or waits for one.
  HttpSender(const std::string& address, int32_t connections,
             Serving serving = Serving::kOwnThread);
  // No request may be under way.
  ~HttpSender();

  // Gets an answer's body, chunks joined; may be null.
  using Answered = std::function<void(std::string)>;
  // Any status but 200 is an error.
  void Send(std::shared_ptr<const std::string> request, Answered answered, SentDone done);
  // Of a polled one: sends, and ends requests that were answered.
  void Poll();

 private:
  class Loop;
  const std::unique_ptr<Loop> loop_;
};

}  // namespace conclave::cli
