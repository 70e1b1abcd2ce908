// What the tests of the HTTP server share: a server with a few handlers, on a real port.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "shared/base/bounded_queue.h"
#include "shared/http/server.h"
#include "tests/http/raw_client.h"

namespace conclave::http {

inline constexpr char kHost[] = "Host: localhost\r\n";

inline std::string Get(const std::string& path) {
  return "GET " + path + " HTTP/1.1\r\n" + kHost + "\r\n";
}
inline std::string Post(const std::string& path, const std::string& body) {
  return "POST " + path + " HTTP/1.1\r\n" + kHost +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

inline void Text(const std::shared_ptr<Exchange>& exchange, std::string body) {
  exchange->Respond(
      {.status = 200, .content_type = "text/plain", .body = std::move(body), .headers = {}});
}

// A server with an echo, a handler that hands its exchange to the test, and the options a test
// wants.
class ServerTest : public ::testing::Test {
 protected:
  void Start(ServerOptions options = {}) {
    options.listen = "127.0.0.1:0";
    auto server = Server::Start(
        std::move(options),
        {{"POST", "/echo", [](std::shared_ptr<Exchange> e) { Text(e, e->request().body); }},
         {"GET", "/path/*",
          [](std::shared_ptr<Exchange> e) {
            Text(e, e->request().path + "|" + e->request().query);
          }},
         {"GET", "/dropped", [](std::shared_ptr<Exchange>) {}},
         {"GET", "/held", [this](std::shared_ptr<Exchange> e) { held_.TryPush(std::move(e)); }}});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::shared_ptr<Exchange> Held() {
    return held_.PopFor(std::chrono::seconds(10)).value_or(nullptr);
  }
  // Every test of bad input ends with this: the server still serves.
  void ExpectServes() {
    RawClient client(server_->address());
    client.Send(Post("/echo", "alive"));
    EXPECT_EQ(client.ReadResponse().body, "alive");
  }

  BoundedQueue<std::shared_ptr<Exchange>> held_{16};
  std::unique_ptr<Server> server_;
};

}  // namespace conclave::http
