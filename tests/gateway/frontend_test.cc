// The gateway's core as its transports call it.
#include "services/gateway/frontend.h"

#include <gtest/gtest.h>

#include "services/gateway/request_record.h"
#include "shared/base/status_macros.h"
#include "tests/gateway/http_api_fixture.h"

namespace conclave::gateway {
namespace {

// What a request's end says.
class EndSink final : public GenerationSink {
 public:
  void OnStarted(const Started& started) override { cache_ = started.cache; }
  void OnTokens(const ChoiceTokens&) override {}
  void OnFinished(const ChoiceFinished&) override {}
  void OnDone(const Usage&) override { ends_.TryPush(CacheStatus(cache_)); }
  void OnFailed(const absl::Status& status) override { ADD_FAILURE() << status; }

  // kNone after ten seconds without an end.
  CacheStatus End() { return ends_.PopFor(std::chrono::seconds(10)).value_or(CacheStatus::kNone); }
  bool ended() const { return ends_.size() > 0; }

 private:
  CacheStatus cache_ = CacheStatus::kNone;
  BoundedQueue<CacheStatus> ends_{4};
};

class FrontendTest : public HttpApiTest {
 protected:
  absl::StatusOr<Generation> Prepare(const Principal& principal, GenerationInput input) {
    ASSIGN_OR_RETURN(Frontend::Checked checked,
                     rig_->frontend().Check(principal, std::move(input), FieldNames()));
    return rig_->frontend().Encode(std::move(checked), FieldNames(), nullptr);
  }
  uint64_t Submit(const std::shared_ptr<EndSink>& sink) {
    Frontend& frontend = rig_->frontend();
    GenerationInput input;
    input.api = "chat";
    input.prompt = TokenPromptInput{.ids = {5, 6, 7}};
    input.sampling.temperature = 0;
    input.arrival = frontend.clock().Now();
    auto admission = frontend.Admit(Principal());
    auto generation = Prepare(Principal(), std::move(input));
    EXPECT_TRUE(admission.ok() && generation.ok()) << generation.status();
    return frontend.Submit(*std::move(admission), *std::move(generation), sink);
  }
};

TEST_F(FrontendTest, ARequestCarriesItsKeyToItsEnd) {
  Start();
  Principal principal;
  principal.key_id = "0123abcd";
  principal.tenant.name = "acme";
  GenerationInput input;
  input.prompt = TokenPromptInput{.ids = {5, 6, 7}};
  const auto generation = Prepare(principal, std::move(input));
  ASSERT_TRUE(generation.ok()) << generation.status();
  const RequestRecord record = RequestRecord::Of(*generation, CacheStatus::kNone);
  ::testing::internal::CaptureStderr();
  ChargeAndLogEnd(record, absl::OkStatus(), 1, "engine-0", rig_->frontend().clock().Now());
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("tenant=acme key=0123abcd"), std::string::npos) << log;
}

// Whoever resumes repeats the definition: a kept answer's request has the same as the first one's.
TEST_F(FrontendTest, ARequestHasItsDefinitionsHash) {
  Start();
  std::vector<std::string> hashes;
  for (int i = 0; i < 2; ++i) {
    GenerationInput input;
    input.api = "chat";
    input.prompt = TokenPromptInput{.ids = {5, 6, 7}};
    input.sampling.temperature = 0;
    auto generation = Prepare(Principal(), std::move(input));
    ASSERT_TRUE(generation.ok()) << generation.status();
    EXPECT_EQ(generation->answer != nullptr, i == 1);
    EXPECT_EQ(generation->definition_hash, DefinitionHash(*generation));
    hashes.push_back(generation->definition_hash);
    const auto sink = std::make_shared<EndSink>();
    Submit(sink);
    EXPECT_EQ(sink->End(), i == 0 ? CacheStatus::kMiss : CacheStatus::kHit);
  }
  EXPECT_EQ(hashes[0].size(), 32U);
  EXPECT_EQ(hashes[0], hashes[1]);
}

TEST_F(FrontendTest, AKeptAnswerIsOverBeforeItHasAKey) {
  Start();
  const auto first = std::make_shared<EndSink>();
  EXPECT_NE(Submit(first), 0U);
  EXPECT_EQ(first->End(), CacheStatus::kMiss);
  const auto second = std::make_shared<EndSink>();
  EXPECT_EQ(Submit(second), 0U);
  EXPECT_TRUE(second->ended());
  EXPECT_EQ(second->End(), CacheStatus::kHit);
}

}  // namespace
}  // namespace conclave::gateway
