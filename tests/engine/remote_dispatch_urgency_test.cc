// What the frames that an engine sends say of their urgency.
#include <algorithm>
#include <vector>

#include "shared/base/mutex.h"
#include "tests/engine/remote_dispatch_fixture.h"

namespace conclave::engine {
namespace {

constexpr milliseconds kCallTimeout{20'000};

class RemoteDispatchUrgencyTest : public RemoteDispatchFixture {
 protected:
  // The header of the frame that a call with these rows' origins sends.
  rpc::RequestHeader Sent(const std::vector<RowOrigin>& origins) {
    const auto hello = Hello();
    Mutex mutex;
    rpc::RequestHeader sent;
    ScriptedWorker worker(
        [&](const rpc::ParsedFrame& frame) -> std::vector<std::vector<std::byte>> {
          if (std::holds_alternative<rpc::HelloFrame>(frame)) return {hello};
          const auto* request = std::get_if<rpc::ParsedRequest>(&frame);
          if (request == nullptr) return {};
          {
            MutexLock lock(mutex);
            sent = request->header;
          }
          return {rpc::EncodeError({.call_id = request->header.call_id,
                                    .code = absl::StatusCode::kUnavailable,
                                    .message = "seen"})};
        });
    Place("expert-0", worker.address(), identity_.AllExperts());
    const auto dispatch = Connect(kCallTimeout);
    EXPECT_TRUE(WaitForMissing(*dispatch, 0));
    const auto memory = MakeCall(1, static_cast<int64_t>(origins.size()), 1);
    std::copy(origins.begin(), origins.end(), memory->origins.begin());
    Run(*dispatch, *memory);
    MutexLock lock(mutex);
    return sent;
  }

  static RowOrigin Row(QosClass qos, int64_t remaining_ms, float weight = 1) {
    RowOrigin origin;
    origin.qos = qos;
    origin.remaining_ms = remaining_ms;
    origin.tenant_weight = weight;
    return origin;
  }
};

TEST_F(RemoteDispatchUrgencyTest, AFrameIsDueWithTheFirstOfItsMostUrgentClass) {
  const rpc::RequestHeader sent =
      Sent({Row(QosClass::kBatch, 1000), Row(QosClass::kInteractive, 9000, 4),
            Row(QosClass::kInteractive, 7000), Row(QosClass::kInteractive, 0)});
  EXPECT_EQ(sent.qos, WireNumber(QosClass::kInteractive));
  EXPECT_EQ(sent.tenant_weight, 4);
  EXPECT_LE(sent.due_ms, 7000u);
  EXPECT_GT(sent.due_ms, 2000u);  // less what the machine took, and not the batch row's second
  // One row has all the time that a call has.
  EXPECT_LE(sent.remaining_ms, 20'000u);
  EXPECT_GT(sent.remaining_ms, 9000u);
}

TEST_F(RemoteDispatchUrgencyTest, WithoutADeadlineInItsClassItIsDueWhenTheCallEnds) {
  const rpc::RequestHeader sent = Sent({Row(QosClass::kBatch, 1000), Row(QosClass::kRealtime, 0)});
  EXPECT_EQ(sent.qos, WireNumber(QosClass::kRealtime));
  EXPECT_EQ(sent.due_ms, sent.remaining_ms);
  EXPECT_GT(sent.remaining_ms, 9000u);
}

TEST_F(RemoteDispatchUrgencyTest, TheCallLastsAsLongAsItsLongestRow) {
  const rpc::RequestHeader sent =
      Sent({Row(QosClass::kRealtime, 6000), Row(QosClass::kSheddable, 12'000)});
  EXPECT_EQ(sent.qos, WireNumber(QosClass::kRealtime));
  EXPECT_LE(sent.due_ms, 6000u);
  EXPECT_GT(sent.due_ms, 1u);
  EXPECT_LE(sent.remaining_ms, 12'000u);
  EXPECT_GT(sent.remaining_ms, 6000u);
}

}  // namespace
}  // namespace conclave::engine
