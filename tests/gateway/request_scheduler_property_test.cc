// Whatever clients and engines do: every request ends once, and nothing is left behind.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <optional>
#include <vector>

#include "tests/gateway/request_scheduler_fixture.h"

namespace conclave::gateway {
namespace {

using std::chrono::milliseconds;

// The fixture without a test of its own, so that a property can make one for each of its tries.
class Rig : public RequestSchedulerTest {
 public:
  using RequestSchedulerTest::Ask;
  using RequestSchedulerTest::cache_;
  using RequestSchedulerTest::clock_;
  using RequestSchedulerTest::engine_;
  using RequestSchedulerTest::engines_;
  using RequestSchedulerTest::last_key_;
  using RequestSchedulerTest::scheduler_;
  using RequestSchedulerTest::SetUpTestSuite;
  using RequestSchedulerTest::Start;
  using RequestSchedulerTest::Step;
  using RequestSchedulerTest::Submit;
  using RequestSchedulerTest::TearDownTestSuite;

 private:
  void TestBody() override {}
};

struct Asked {
  std::shared_ptr<Heard> heard;
  uint64_t key = 0;
  std::string tenant;
  std::string id;
  bool abandoned = false;

  bool over() const { return abandoned || heard->done || heard->failed; }
};

void AskSomething(Rig& rig, std::vector<Asked>* asked) {
  static const std::vector<Tenant> kTenants = {
      {.name = "a", .weight = 1}, {.name = "b", .weight = 5}, {.name = "c", .max_running = 1}};
  const Tenant& tenant = *rc::gen::elementOf(kTenants);
  Rig::Ask ask = {.qos = *rc::gen::elementOf(kQosClasses),
                  .tenant = &tenant,
                  .prompt = *rc::gen::inRange<int64_t>(1, 200),
                  .answer = *rc::gen::inRange<int64_t>(1, 20),
                  .choices = *rc::gen::inRange(1, 4),
                  .id = "r" + std::to_string(*rc::gen::inRange(0, 1000)),
                  .cache_key = *rc::gen::inRange(0, 4)};
  if (*rc::gen::inRange(0, 2) == 0)
    ask.timeout = milliseconds(*rc::gen::element(5, 300, 300, 3000));
  const auto heard = rig.Submit(ask);
  asked->push_back({.heard = heard, .key = rig.last_key_, .tenant = tenant.name, .id = ask.id});
}

void Disturb(Rig& rig, std::vector<Asked>* asked) {
  if (asked->empty()) return;
  Asked& one = (*asked)[*rc::gen::inRange<size_t>(0, asked->size())];
  switch (*rc::gen::inRange(0, 4)) {
    case 0:  // as a transport does: never after the end was sent
      if (!one.over()) {
        rig.scheduler_->Abandon(one.key);
        one.abandoned = true;
      }
      break;
    case 1: {
      const absl::Status status = rig.scheduler_->Cancel(one.tenant, one.id);
      RC_ASSERT(status.ok() || absl::IsNotFound(status));
      break;
    }
    case 2:
      rig.engine_.Lose();
      rig.scheduler_->FailAllOn("engine-0", absl::UnavailableError("lost"));
      rig.scheduler_->Dispatch();
      break;
    default:
      if (const std::optional<SequenceEvent> refusal = rig.engine_.Refuse()) {
        rig.scheduler_->OnEvent(*refusal);
        rig.engines_.Find("engine-0")->leaving = false;  // it is back
      }
  }
}

RC_GTEST_PROP(RequestSchedulerProperty, EveryRequestEndsOnce, ()) {
  Rig rig;
  rig.Start({.max_running = *rc::gen::inRange(1, 8),
             .max_waiting = *rc::gen::inRange(0, 60),
             .queue = {.aging = milliseconds(500), .bypass = milliseconds(200)}},
            *rc::gen::inRange(0, 6), *rc::gen::inRange<int64_t>(0, 400));
  std::vector<Asked> asked;
  for (int i = *rc::gen::inRange(1, 300); i > 0; --i) {
    const int what = *rc::gen::inRange(0, 100);
    if (what < 40) {
      for (int more = *rc::gen::element(1, 1, 1, 20); more > 0; --more) AskSomething(rig, &asked);
    } else if (what < 80) {
      rig.Step(*rc::gen::inRange<int64_t>(1, 10));
      rig.clock_.Advance(milliseconds(*rc::gen::inRange(1, 50)));
    } else if (what < 92) {
      rig.clock_.Advance(milliseconds(*rc::gen::inRange(0, 400)));
      rig.scheduler_->Tick();
    } else {
      Disturb(rig, &asked);
    }
  }
  for (int i = 0; i < 2000 && rig.scheduler_->num_running() + rig.scheduler_->num_waiting() > 0;
       ++i) {
    rig.Step();
    rig.clock_.Advance(milliseconds(20));
    rig.scheduler_->Tick();
  }
  RC_ASSERT(rig.scheduler_->num_running() == 0);
  RC_ASSERT(rig.scheduler_->num_waiting() == 0);
  RC_ASSERT(rig.engine_.num_running() == 0);
  RC_ASSERT(rig.engines_.Find("engine-0")->own_sequences == 0);
  RC_ASSERT(rig.engines_.Find("engine-0")->own_tokens == 0);
  for (const Asked& one : asked) {
    RC_ASSERT(one.over());
    RC_ASSERT(one.heard->ends <= 1);
    RC_ASSERT(one.abandoned == (one.heard->ends == 0));
  }
}

class WithModel : public testing::Environment {
  void SetUp() override { Rig::SetUpTestSuite(); }
  void TearDown() override { Rig::TearDownTestSuite(); }
};
const auto* const with_model = testing::AddGlobalTestEnvironment(new WithModel);

}  // namespace
}  // namespace conclave::gateway
