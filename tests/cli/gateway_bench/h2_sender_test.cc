// The client that the gateway's figures rest on, against a real server: what it says was answered
// was, and what was not is an error.
#include "services/cli/gateway_bench/h2_sender.h"

#include <gtest/gtest.h>

#include <future>
#include <map>
#include <memory>
#include <vector>

#include "shared/base/mutex.h"
#include "shared/h2/server.h"
#include "tests/support/wait.h"

namespace conclave::cli {
namespace {

constexpr char kService[] = "test.Answers";

// What the server has seen.
class Seen {
 public:
  void Add(const h2::Metadata& metadata, std::string_view message) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    ++messages_[std::string(message)];
    ++keys_[std::string(metadata.Find("authorization").value_or("none"))];
  }
  std::map<std::string, int> messages() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return messages_;
  }
  std::map<std::string, int> keys() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return keys_;
  }

 private:
  Mutex mutex_;
  std::map<std::string, int> messages_ GUARDED_BY(mutex_);
  std::map<std::string, int> keys_ GUARDED_BY(mutex_);
};

// Answers a message with itself and `status`; without a status, never.
class AnswerCall final : public h2::ServerCall {
 public:
  AnswerCall(Seen* seen, const h2::Metadata& metadata, std::optional<absl::Status> status)
      : seen_(seen), metadata_(metadata), status_(std::move(status)) {}
  void OnMessage(std::string_view bytes) override {
    seen_->Add(metadata_, bytes);
    if (!status_) return;
    if (status_->ok()) WriteBytes(bytes);
    Finish(*status_);
  }
  void OnHalfClose() override {}
  void OnCancel() override {}

 private:
  Seen* const seen_;
  const h2::Metadata metadata_;
  const std::optional<absl::Status> status_;
};

class H2SenderTest : public ::testing::Test {
 protected:
  H2SenderTest() {
    const auto answering = [this](std::optional<absl::Status> status) {
      return [this, status](const h2::CallStart& start) {
        return std::make_shared<AnswerCall>(&seen_, start.metadata, status);
      };
    };
    auto server = h2::Server::Start(
        {.name = "answers", .listen = "127.0.0.1:0"},
        {{.name = kService,
          .methods = {{"Answer", answering(absl::OkStatus())},
                      {"Refuse", answering(absl::ResourceExhaustedError("too many"))},
                      {"Hold", answering(std::nullopt)}}}});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::unique_ptr<H2Sender> Sender(const std::string& method, std::string_view message,
                                   int32_t connections = 1) {
    return std::make_unique<H2Sender>(server_->address(), connections,
                                      std::string("/") + kService + "/" + method, "cv-key",
                                      message);
  }
  // Begins `count` calls at once.
  static std::vector<std::future<absl::Status>> Begin(H2Sender& sender, int count) {
    std::vector<std::future<absl::Status>> ended;
    for (int i = 0; i < count; ++i) {
      auto promise = std::make_shared<std::promise<absl::Status>>();
      ended.push_back(promise->get_future());
      sender.Send([promise](const absl::Status& status) { promise->set_value(status); });
    }
    return ended;
  }
  static std::map<absl::StatusCode, int> Codes(std::vector<std::future<absl::Status>> ended) {
    std::map<absl::StatusCode, int> codes;
    for (auto& call : ended) {
      if (call.wait_for(std::chrono::seconds(20)) != std::future_status::ready) {
        ADD_FAILURE() << "a call has not ended";
        break;
      }
      ++codes[call.get().code()];
    }
    return codes;
  }
  static std::map<absl::StatusCode, int> Call(H2Sender& sender, int count) {
    return Codes(Begin(sender, count));
  }
  using CodeCounts = std::map<absl::StatusCode, int>;

  Seen seen_;
  std::unique_ptr<h2::Server> server_;
};

TEST_F(H2SenderTest, WhatItCountsAsAnsweredTheServerHasAnswered) {
  const auto sender = Sender("Answer", "question", 3);
  for (const int count : {1, 20, 979}) {
    EXPECT_EQ(Call(*sender, count), (CodeCounts{{absl::StatusCode::kOk, count}}));
  }
  EXPECT_EQ(seen_.messages(), (std::map<std::string, int>{{"question", 1000}}));
  EXPECT_EQ(seen_.keys(), (std::map<std::string, int>{{"Bearer cv-key", 1000}}));
  EXPECT_EQ(server_->num_connections(), 3);
}

TEST_F(H2SenderTest, MoreCallsThanTheServerTakesAtOnceWait) {
  const auto sender = Sender("Answer", "question");
  EXPECT_EQ(Call(*sender, 5000), (CodeCounts{{absl::StatusCode::kOk, 5000}}));
  EXPECT_EQ(seen_.messages(), (std::map<std::string, int>{{"question", 5000}}));
}

TEST_F(H2SenderTest, MessagesBeyondAWindowArriveWhole) {
  std::string large;
  for (int i = 0; large.size() < 300'000; ++i) large += std::to_string(i);
  for (const std::string& message : {std::string(), large}) {
    const auto sender = Sender("Answer", message);
    EXPECT_EQ(Call(*sender, 3), (CodeCounts{{absl::StatusCode::kOk, 3}}));
    EXPECT_EQ(seen_.messages()[message], 3);
  }
}

TEST_F(H2SenderTest, RefusalsAreErrorsOfTheirCode) {
  const auto refused = Sender("Refuse", "question");
  EXPECT_EQ(Call(*refused, 10), (CodeCounts{{absl::StatusCode::kResourceExhausted, 10}}));
  const auto unknown = Sender("None", "question");
  EXPECT_EQ(Call(*unknown, 10), (CodeCounts{{absl::StatusCode::kUnimplemented, 10}}));
}

TEST_F(H2SenderTest, AServerThatEndsFailsWhatItHasNotAnsweredAndAllThatFollows) {
  const auto sender = Sender("Hold", "question");
  auto held = Begin(*sender, 10);
  EXPECT_TRUE(testing::WaitFor([this] { return seen_.messages()["question"] == 10; }));
  server_.reset();
  EXPECT_EQ(Codes(std::move(held)), (CodeCounts{{absl::StatusCode::kUnavailable, 10}}));
  EXPECT_EQ(Call(*sender, 5), (CodeCounts{{absl::StatusCode::kUnavailable, 5}}));
}

TEST_F(H2SenderTest, ASenderThatEndsFailsWhatIsUnderWay) {
  auto sender = Sender("Hold", "question", 2);
  auto held = Begin(*sender, 10);
  EXPECT_TRUE(testing::WaitFor([this] { return seen_.messages()["question"] == 10; }));
  sender.reset();
  EXPECT_EQ(Codes(std::move(held)), (CodeCounts{{absl::StatusCode::kUnavailable, 10}}));
}

TEST_F(H2SenderTest, ASenderThatEndsFailsWhatHasNotBegun) {
  for (int i = 0; i < 20; ++i) {
    auto sender = Sender("Hold", "question");
    auto calls = Begin(*sender, 10);
    sender.reset();
    EXPECT_EQ(Codes(std::move(calls)), (CodeCounts{{absl::StatusCode::kUnavailable, 10}}));
  }
}

TEST_F(H2SenderTest, FailsWithoutAServer) {
  const auto address = server_->address();
  server_.reset();
  H2Sender sender(address, 2, std::string("/") + kService + "/Answer", "cv-key", "question");
  EXPECT_EQ(Call(sender, 4), (CodeCounts{{absl::StatusCode::kUnavailable, 4}}));
}

}  // namespace
}  // namespace conclave::cli
