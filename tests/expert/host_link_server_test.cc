// The worker's side of shared memory, met by engines that are made by hand.
#include "services/expert/host_link_server.h"

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shared/rpc/host_frames.h"
#include "shared/shm/host_socket.h"
#include "tests/expert/served_experts.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace conclave::expert {
namespace {

using conclave::testing::WaitFor;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

class HostLinkServerTest : public ::testing::Test {
 protected:
  HostLinkServerTest() : checkpoint_(OpenGolden("qwen2_moe")) {
    ServedExperts::Options options;
    options.host_path = folder_.path() / "expert-0.rows";
    options.secret = rpc::ClusterSecret("0123456789abcdef");
    options.cluster = std::make_shared<rpc::ClusterId>("c-1");
    worker_ = std::make_unique<ServedExperts>(checkpoint_, options);
    offer_ = {.cluster = "c-1",
              .secret = options.secret.token(),
              .worker = "expert-0",
              .request_ring_bytes = rpc::kLeastRingBytes,
              .result_ring_bytes = rpc::kLeastRingBytes};
  }

  shm::HostConnection Connect() {
    auto connection = shm::HostConnection::Connect(worker_->host_path());
    EXPECT_TRUE(connection.ok()) << connection.status();
    return *std::move(connection);
  }

  // What the worker answers to an offer with these descriptors.
  absl::Status Answer(shm::HostConnection& connection, const std::vector<std::byte>& offer,
                      const std::vector<int>& descriptors) {
    const absl::Status sent = connection.Send(offer, descriptors);
    if (!sent.ok()) return sent;
    auto message = connection.Receive(milliseconds(5000));
    if (!message.ok()) return message.status();
    const auto answer = rpc::ParseAnswer(message->bytes);
    EXPECT_TRUE(answer.ok()) << answer.status();
    if (answer->status.ok()) {
      EXPECT_EQ(message->descriptors.size(), 1u);
      worker_bell_ = std::make_unique<shm::SharedDoorbell>(
          *shm::SharedDoorbell::Map(message->TakeDescriptor(0)));
    }
    return answer->status;
  }

  shm::SharedMemory Memory(size_t more = 0) const {
    auto memory =
        shm::SharedMemory::Create("test-rows", rpc::HostFrames::MemoryBytes(offer_) + more);
    EXPECT_TRUE(memory.ok()) << memory.status();
    return *std::move(memory);
  }

  // An engine's side that the worker has agreed with.
  std::shared_ptr<rpc::HostFrames> Agree(shm::HostConnection& connection) {
    shm::SharedMemory memory = Memory();
    const absl::Status status =
        Answer(connection, rpc::EncodeOffer(offer_), {memory.descriptor(), bell_.descriptor()});
    EXPECT_TRUE(status.ok()) << status;
    return std::make_shared<rpc::HostFrames>(rpc::HostFrames::Side::kEngine, offer_,
                                             std::move(memory), std::move(*worker_bell_));
  }

  static rpc::OutgoingFrame Frame(const std::vector<std::byte>& bytes) {
    rpc::OutgoingFrame frame;
    frame.push_back(rpc::FrameBuffer::CopyOf(bytes));
    return frame;
  }

  std::vector<std::byte> Hello() const {
    const placement::ModelIdentity identity =
        IdentityOf(*checkpoint_, kernels::NumericsClass::kBf16);
    rpc::HelloFrame hello;
    hello.fingerprint = *rpc::ParseFingerprint(identity.fingerprint);
    hello.numerics = kernels::NumericsClass::kBf16;
    hello.row_type = kernels::RowType::kBf16;
    hello.name = "engine-9";
    return rpc::EncodeHello(hello);
  }

  // The next frame that the worker sends.
  rpc::ParsedFrame Next(rpc::HostFrames& engine) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (true) {
      const uint32_t seen = bell_->Look();
      auto message = engine.Receive();
      EXPECT_TRUE(message.ok()) << message.status();
      if (message->has_value()) return *rpc::ParseRowFrame((*message)->bytes());
      if (std::chrono::steady_clock::now() > deadline) {
        ADD_FAILURE() << "the worker sends nothing";
        return rpc::CancelFrame{};
      }
      bell_->Wait(seen, milliseconds(100));
    }
  }

  const conclave::testing::TempDir folder_;
  const std::shared_ptr<const weights::Checkpoint> checkpoint_;
  std::unique_ptr<ServedExperts> worker_;
  rpc::HostOffer offer_;
  const shm::SharedDoorbell bell_{"test-bell"};
  std::unique_ptr<shm::SharedDoorbell> worker_bell_;
};

TEST_F(HostLinkServerTest, GreetsAndAnswersHellos) {
  auto connection = Connect();
  const auto engine = Agree(connection);
  EXPECT_TRUE(std::holds_alternative<rpc::HelloFrame>(Next(*engine)));
  ASSERT_TRUE(engine->Send(Frame(Hello())).ok());
  ASSERT_TRUE(engine->Send(Frame(Hello())).ok());  // asks for a sign of life
  const rpc::ParsedFrame answer = Next(*engine);
  ASSERT_TRUE(std::holds_alternative<rpc::HelloFrame>(answer));
  EXPECT_EQ(std::get<rpc::HelloFrame>(answer).name, "expert-0");
}

TEST_F(HostLinkServerTest, RefusesOffersThatAreNone) {
  const shm::SharedMemory memory = Memory();
  const std::vector<int> good = {memory.descriptor(), bell_.descriptor()};
  {
    auto connection = Connect();
    EXPECT_THAT(std::string(Answer(connection, Hello(), good).message()), HasSubstr("magic"));
  }
  {
    auto connection = Connect();
    const absl::Status status = Answer(connection, rpc::EncodeOffer(offer_), {memory.descriptor()});
    EXPECT_THAT(std::string(status.message()), HasSubstr("1 descriptors, wanted 2"));
  }
  {
    auto connection = Connect();
    const absl::Status status =
        Answer(connection, rpc::EncodeOffer(offer_), {bell_.descriptor(), bell_.descriptor()});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  }
  {
    auto connection = Connect();
    const shm::SharedMemory larger = Memory(4096);
    const absl::Status status =
        Answer(connection, rpc::EncodeOffer(offer_), {larger.descriptor(), bell_.descriptor()});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  }
  {  // memory that could be cut under the worker's feet
    const int unsealed = memfd_create("test", MFD_CLOEXEC);
    ASSERT_EQ(ftruncate(unsealed, static_cast<off_t>(memory.bytes().size())), 0);
    auto connection = Connect();
    const absl::Status status =
        Answer(connection, rpc::EncodeOffer(offer_), {unsealed, bell_.descriptor()});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    close(unsealed);
  }
  auto connection = Connect();
  Agree(connection);  // nobody else was disturbed
}

TEST_F(HostLinkServerTest, RefusesStrangers) {
  const shm::SharedMemory memory = Memory();
  const std::vector<int> good = {memory.descriptor(), bell_.descriptor()};
  const auto answer = [&](auto change) {
    rpc::HostOffer offer = offer_;
    change(offer);
    auto connection = Connect();
    return Answer(connection, rpc::EncodeOffer(offer), good);
  };
  EXPECT_EQ(answer([](auto& offer) { offer.secret = ""; }).code(),
            absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(answer([](auto& offer) { offer.secret.back() ^= 1; }).code(),
            absl::StatusCode::kUnauthenticated);
  const absl::Status cluster = answer([](auto& offer) { offer.cluster = "c-2"; });
  EXPECT_EQ(cluster.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(cluster.message()), HasSubstr("c-2"));
  const absl::Status name = answer([](auto& offer) { offer.worker = "expert-7"; });
  EXPECT_THAT(std::string(name.message()), HasSubstr("the engine wants expert-7"));
}

TEST_F(HostLinkServerTest, TellsWhyItEndsAStream) {
  auto connection = Connect();
  const auto engine = Agree(connection);
  Next(*engine);
  ASSERT_TRUE(engine->Send(Frame(std::vector<std::byte>(40, std::byte{1}))).ok());
  const rpc::ParsedFrame answer = Next(*engine);
  ASSERT_TRUE(std::holds_alternative<rpc::ErrorFrame>(answer));
  EXPECT_EQ(std::get<rpc::ErrorFrame>(answer).call_id, 0u);
  EXPECT_EQ(std::get<rpc::ErrorFrame>(answer).code, absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(connection.Receive(milliseconds(5000)).status().code(), absl::StatusCode::kUnavailable);
}

// Positions that are none, written by an engine that has gone mad.
TEST_F(HostLinkServerTest, SurvivesARingThatIsDamaged) {
  auto connection = Connect();
  shm::SharedMemory memory = Memory();
  const std::span<std::byte> bytes = memory.bytes();
  ASSERT_TRUE(
      Answer(connection, rpc::EncodeOffer(offer_), {memory.descriptor(), bell_.descriptor()}).ok());
  std::fill(bytes.begin(), bytes.begin() + 64, std::byte{0x7f});
  (*worker_bell_)->Ring();
  EXPECT_EQ(connection.Receive(milliseconds(5000)).status().code(), absl::StatusCode::kUnavailable);
  auto another = Connect();
  EXPECT_TRUE(std::holds_alternative<rpc::HelloFrame>(Next(*Agree(another))));
}

TEST_F(HostLinkServerTest, SilentConnectionsAreClosed) {
  auto silent = Connect();
  const auto since = std::chrono::steady_clock::now();
  EXPECT_EQ(silent.Receive(milliseconds(10'000)).status().code(), absl::StatusCode::kUnavailable);
  const auto took = std::chrono::steady_clock::now() - since;
  EXPECT_GT(took, milliseconds(1500));
  EXPECT_LT(took, milliseconds(8000));
}

TEST_F(HostLinkServerTest, ManySilentConnectionsGiveWayToAnEngine) {
  std::vector<shm::HostConnection> silent;
  for (int i = 0; i < 300; ++i) {
    silent.push_back(Connect());
    std::this_thread::sleep_for(milliseconds(1));
  }
  auto connection = Connect();
  Agree(connection);
}

// Requests of an engine that is gone are dropped, and what they held is free again.
TEST_F(HostLinkServerTest, AnEnginesEndFreesWhatItHeld) {
  for (int round = 0; round < 5; ++round) {
    auto connection = Connect();
    const auto engine = Agree(connection);
    ASSERT_TRUE(engine->Send(Frame(Hello())).ok());
    for (uint64_t call = 1; call <= 50; ++call) {
      rpc::RequestHeader header;
      header.call_id = call;
      header.fingerprint = *rpc::ParseFingerprint(
          IdentityOf(*checkpoint_, kernels::NumericsClass::kBf16).fingerprint);
      header.layer = 1;
      header.hidden = static_cast<uint32_t>(checkpoint_->config().hidden);
      header.num_rows = 16;
      std::vector<rpc::RowReference> references;
      for (uint32_t row = 0; row < 16; ++row) references.push_back({row, row % 2});
      rpc::FrameBuffer buffer(rpc::RequestFrameBytes(header, references.size()));
      std::fill_n(buffer.data.get(), buffer.size, std::byte{0});
      rpc::EncodeRequest(header, references, buffer.span());
      rpc::OutgoingFrame frame;
      frame.push_back(std::move(buffer));
      ASSERT_TRUE(engine->Send(std::move(frame)).ok());
    }
    ASSERT_TRUE(WaitFor([&] { return worker_->compute().num_frames() >= 50u * round + 1; }));
  }
  EXPECT_TRUE(WaitFor([&] { return worker_->compute().pending() == 0; }));
  EXPECT_TRUE(WaitFor([&] { return worker_->limit().bytes() == 0; }));
}

}  // namespace
}  // namespace conclave::expert
