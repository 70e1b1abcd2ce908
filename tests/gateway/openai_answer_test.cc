// How an answer keeps track of the requests that it is made of.
#include "services/gateway/openai_answer.h"

#include <gtest/gtest.h>

#include "tests/http/server_fixture.h"

namespace conclave::gateway {
namespace {

class OpenAiAnswerTest : public http::ServerTest {
 protected:
  // An answer to a client that has just asked, with one choice.
  void Begin() {
    Start();
    client_ = std::make_unique<http::RawClient>(server_->address());
    client_->Send(http::Get("/held"));
    const std::shared_ptr<http::Exchange> exchange = Held();
    ASSERT_TRUE(exchange);
    OpenAiAnswer::Options options;
    options.abandon = [this](uint64_t key) { abandoned_.push_back(key); };
    answer_ = std::make_shared<OpenAiAnswer>(std::move(options), exchange);
    answer_->Begin();
  }
  void Finish() {
    const auto sink = answer_->SinkOf(0);
    sink->OnStarted({});
    sink->OnFinished({});
    sink->OnDone({});
    EXPECT_EQ(client_->ReadResponse().status, 200);
  }

  std::unique_ptr<http::RawClient> client_;
  std::shared_ptr<OpenAiAnswer> answer_;
  std::vector<uint64_t> abandoned_;
};

TEST_F(OpenAiAnswerTest, AbandonsARequestThatComesTooLate) {
  Begin();
  Finish();
  answer_->AddKey(7);
  EXPECT_EQ(abandoned_, std::vector<uint64_t>{7});
}

TEST_F(OpenAiAnswerTest, AbandonsNothingWhereNoRequestRuns) {
  Begin();
  Finish();
  answer_->AddKey(0);
  EXPECT_EQ(abandoned_, std::vector<uint64_t>());
}

}  // namespace
}  // namespace conclave::gateway
