#include "services/cli/gateway_bench/http_sender.h"

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <utility>

#include "shared/http/server.h"

namespace conclave::cli {
namespace {

class HttpSenderTest : public testing::Test {
 protected:
  HttpSenderTest() {
    auto server =
        http::Server::Start({.listen = "127.0.0.1:0"},
                            {{.method = "POST",
                              .path = "/whole",
                              .handler =
                                  [](std::shared_ptr<http::Exchange> exchange) {
                                    exchange->Respond({.body = exchange->request().body + "!"});
                                  }},
                             {.method = "POST", .path = "/stream", .handler = [](auto exchange) {
                                exchange->BeginStream({});
                                exchange->Write("data: 1\n\n");
                                exchange->Write(std::string(100'000, 'x'));
                                exchange->EndStream();
                              }}});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::pair<absl::Status, std::string> Post(HttpSender& sender, std::string_view path,
                                            std::string_view body) {
    std::promise<absl::Status> ended;
    std::string got;
    sender.Send(
        std::make_shared<const std::string>(HttpRequest(path, "cv-key", body)),
        [&](std::string answer) { got = std::move(answer); },
        [&](const absl::Status& status) { ended.set_value(status); });
    const absl::Status status = ended.get_future().get();
    return {status, got};
  }

  std::unique_ptr<http::Server> server_;
};

TEST_F(HttpSenderTest, FindsTheEndOfAnswersOfBothForms) {
  HttpSender sender(server_->address(), 1);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Post(sender, "/whole", "a\r\n0\r\n\r\nb"),
              std::make_pair(absl::OkStatus(), std::string("a\r\n0\r\n\r\nb!")));
    EXPECT_EQ(Post(sender, "/stream", "{}"),
              std::make_pair(absl::OkStatus(), "data: 1\n\n" + std::string(100'000, 'x')));
  }
  EXPECT_EQ(server_->num_connections(), 1);
}

TEST_F(HttpSenderTest, TellsWhatWasAnsweredInsteadOf200) {
  HttpSender sender(server_->address(), 1);
  const auto [status, body] = Post(sender, "/nothing", "{}");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("404"), absl::string_view::npos) << status;
  EXPECT_EQ(body, "");
  EXPECT_TRUE(Post(sender, "/whole", "again").first.ok());
}

TEST_F(HttpSenderTest, FailsWithoutAServer) {
  const std::string address = server_->address();
  server_.reset();
  HttpSender sender(address, 1);
  EXPECT_EQ(Post(sender, "/whole", "").first.code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace conclave::cli
