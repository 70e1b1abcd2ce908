#include "services/expert/expert_service.h"

#include <chrono>
#include <random>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shared/rpc/row_frame_layout.h"
#include "tests/expert/raw_stream.h"
#include "tests/expert/served_experts.h"

namespace conclave::expert {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using Bytes = RawStream::Bytes;

class ExpertServiceTest : public ::testing::Test {
 protected:
  ExpertServiceTest()
      : checkpoint_(OpenGolden("qwen2_moe")),
        identity_(IdentityOf(*checkpoint_, kernels::NumericsClass::kBf16)) {}

  std::unique_ptr<ServedExperts> Start(const ServedExperts::Options& options = {}) {
    auto worker = std::make_unique<ServedExperts>(checkpoint_, options);
    worker->Load(identity_.AllExperts());
    return worker;
  }

  Bytes Hello() const {
    rpc::HelloFrame hello;
    hello.fingerprint = *rpc::ParseFingerprint(identity_.fingerprint);
    hello.name = "engine-0";
    return rpc::EncodeHello(hello);
  }

  rpc::RequestHeader Header(uint64_t call_id, uint32_t num_rows = 1) const {
    rpc::RequestHeader header;
    header.call_id = call_id;
    header.fingerprint = *rpc::ParseFingerprint(identity_.fingerprint);
    header.layer = 1;
    header.hidden = static_cast<uint32_t>(checkpoint_->config().hidden);
    header.num_rows = num_rows;
    return header;
  }

  // A request of rows of ones.
  static Bytes Request(const rpc::RequestHeader& header,
                       const std::vector<rpc::RowReference>& references) {
    Bytes frame(rpc::RequestFrameBytes(header, references.size()));
    const size_t rows = rpc::EncodeRequest(header, references, frame);
    for (size_t i = rows; i + 1 < frame.size(); i += 2) {
      frame[i] = std::byte{0x80};
      frame[i + 1] = std::byte{0x3f};
    }
    return frame;
  }

  // Opens a stream, with both hellos said.
  std::unique_ptr<RawStream> Greet(const ServedExperts& worker) const {
    auto stream = std::make_unique<RawStream>(worker.address());
    EXPECT_TRUE(stream->Write(Hello()));
    const auto hello = stream->Read();
    EXPECT_TRUE(hello.has_value() && std::holds_alternative<rpc::HelloFrame>(*hello));
    return stream;
  }

  std::shared_ptr<const weights::Checkpoint> checkpoint_;
  placement::ModelIdentity identity_;
};

TEST_F(ExpertServiceTest, SaysWhoItIsWithoutBeingAsked) {
  const auto worker = Start();
  RawStream stream(worker->address());
  const auto frame = stream.Read();
  ASSERT_TRUE(frame.has_value());
  const auto& hello = std::get<rpc::HelloFrame>(*frame);
  EXPECT_EQ(hello.name, "expert-0");
  EXPECT_EQ(rpc::FingerprintHex(hello.fingerprint), identity_.fingerprint);
  EXPECT_EQ(hello.window_bytes, 32u << 20);
}

TEST_F(ExpertServiceTest, AnswersEachReferenceWithItsRow) {
  const auto worker = Start();
  const auto stream = Greet(*worker);
  ASSERT_TRUE(stream->Write(Request(Header(7, 2), {{0, 1}, {1, 1}, {0, 2}})));
  Bytes rows;
  const auto frame = stream->Read(&rows);
  ASSERT_TRUE(frame.has_value());
  const auto& results = std::get<rpc::ParsedResults>(*frame);
  EXPECT_EQ(results.header.call_id, 7u);
  EXPECT_TRUE(results.header.last);
  EXPECT_GT(results.header.compute_ns, 0u);
  ASSERT_EQ(results.answers.size(), 3u);
  // Both rows are equal, so what expert 1 makes of them is, too.
  std::map<uint32_t, Bytes> by_reference;
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(results.answers[i].status, rpc::AnswerStatus::kOk);
    const auto row = rows.begin() + i * results.rows.row_bytes;
    by_reference[results.answers[i].reference] = Bytes(row, row + results.rows.row_bytes);
  }
  EXPECT_EQ(by_reference[0], by_reference[1]);
  EXPECT_NE(by_reference[0], by_reference[2]);
}

TEST_F(ExpertServiceTest, AnotherModelsEngineIsSentAway) {
  const auto worker = Start();
  rpc::HelloFrame hello;
  hello.name = "engine-9";
  RawStream stream(worker->address());
  ASSERT_TRUE(stream.Write(rpc::EncodeHello(hello)));
  while (stream.Read().has_value()) {
  }
  const grpc::Status status = stream.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("engine engine-9 serves fingerprint 00000000"));
  EXPECT_THAT(status.error_message(), HasSubstr(identity_.fingerprint));
}

TEST_F(ExpertServiceTest, ARequestBeforeTheHelloEndsTheStream) {
  const auto worker = Start();
  RawStream stream(worker->address());
  ASSERT_TRUE(stream.Write(Request(Header(1), {{0, 1}})));
  while (stream.Read().has_value()) {
  }
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ExpertServiceTest, GarbageEndsItsStreamAndNoOther) {
  const auto worker = Start();
  const auto good = Greet(*worker);
  std::mt19937 random(1);
  for (const size_t bytes : {0, 1, 23, 24, 100, 5000}) {
    const auto bad = Greet(*worker);
    Bytes garbage(bytes);
    for (std::byte& byte : garbage) byte = static_cast<std::byte>(random());
    ASSERT_TRUE(bad->Write(garbage));
    EXPECT_FALSE(bad->Read().has_value());
    const grpc::Status status = bad->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << bytes;
    EXPECT_THAT(status.error_message(), HasSubstr("row frame"));
  }
  const auto results_to_worker = Greet(*worker);
  ASSERT_TRUE(results_to_worker->Write(rpc::EncodeError({1, absl::StatusCode::kInternal, "x"})));
  EXPECT_FALSE(results_to_worker->Read().has_value());
  EXPECT_EQ(results_to_worker->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  ASSERT_TRUE(good->Write(Request(Header(1), {{0, 1}})));
  EXPECT_TRUE(good->Read().has_value());
}

TEST_F(ExpertServiceTest, FramesAboveTheLimitsAreRefused) {
  const auto worker = Start();
  const auto long_frame = Greet(*worker);
  ASSERT_TRUE(long_frame->Write(Bytes(rpc::kMaxFrameBytes + 1)));
  EXPECT_FALSE(long_frame->Read().has_value());
  EXPECT_EQ(long_frame->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ExpertServiceTest, WhatCannotBeServedGetsAnErrorAndTheStreamGoesOn) {
  const auto worker = Start();
  const auto stream = Greet(*worker);
  const auto error_of = [&](const rpc::RequestHeader& header,
                            std::vector<rpc::RowReference> references) {
    EXPECT_TRUE(stream->Write(Request(header, references)));
    const auto frame = stream->Read();
    EXPECT_TRUE(frame.has_value() && std::holds_alternative<rpc::ErrorFrame>(*frame));
    const auto error = std::get<rpc::ErrorFrame>(*frame);
    EXPECT_EQ(error.call_id, header.call_id);
    return absl::Status(error.code, error.message);
  };
  rpc::RequestHeader header = Header(1);
  header.fingerprint[3] ^= 1;
  EXPECT_EQ(error_of(header, {{0, 1}}).code(), absl::StatusCode::kFailedPrecondition);
  header = Header(2);
  header.row_type = kernels::RowType::kF32;
  EXPECT_EQ(error_of(header, {{0, 1}}).code(), absl::StatusCode::kFailedPrecondition);
  header = Header(3);
  header.hidden = 8;
  EXPECT_THAT(std::string(error_of(header, {{0, 1}}).message()), HasSubstr("have 8 elements"));
  header = Header(4);
  header.layer = 99;
  EXPECT_THAT(std::string(error_of(header, {{0, 1}}).message()), HasSubstr("layer is 99"));
  EXPECT_THAT(std::string(error_of(Header(5), {{0, 10}}).message()), HasSubstr("expert 10"));

  ASSERT_TRUE(stream->Write(Request(Header(6), {{0, 1}})));
  const auto frame = stream->Read();
  ASSERT_TRUE(frame.has_value());
  EXPECT_EQ(std::get<rpc::ParsedResults>(*frame).header.call_id, 6u);
}

TEST_F(ExpertServiceTest, ALayerWithoutExpertsHoldsNone) {
  const auto worker = Start();
  const auto stream = Greet(*worker);
  rpc::RequestHeader header = Header(1);
  for (uint32_t layer = 0; layer < static_cast<uint32_t>(identity_.num_layers); ++layer) {
    if (!checkpoint_->config().IsMoe(static_cast<int32_t>(layer))) header.layer = layer;
  }
  worker->experts().Release({static_cast<int32_t>(header.layer), 1});
  ASSERT_TRUE(stream->Write(Request(header, {{0, 1}})));
  const auto frame = stream->Read();
  ASSERT_TRUE(frame.has_value());
  EXPECT_EQ(std::get<rpc::ParsedResults>(*frame).answers[0].status, rpc::AnswerStatus::kNotHeld);
}

TEST_F(ExpertServiceTest, ARepeatedHelloIsAnsweredAsASignOfLife) {
  const auto worker = Start();
  const auto stream = Greet(*worker);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(stream->Write(Hello()));
    const auto frame = stream->Read();
    ASSERT_TRUE(frame.has_value());
    EXPECT_TRUE(std::holds_alternative<rpc::HelloFrame>(*frame));
  }
}

TEST_F(ExpertServiceTest, TheSecretIsDemanded) {
  const rpc::ClusterSecret secret("0123456789abcdef");
  const auto worker = Start({.secret = secret});
  RawStream stream(worker->address());
  EXPECT_FALSE(stream.Read().has_value());
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  RawStream right(worker->address(), secret);
  EXPECT_TRUE(right.Read().has_value());
}

// An engine that sends and does not read must not fill the worker's memory.
TEST_F(ExpertServiceTest, StopsReadingAnEngineThatDoesNotTakeItsAnswers) {
  for (const bool by_stream : {true, false}) {
    ServedExperts::Options options;
    (by_stream ? options.window_bytes : options.limit_bytes) = 1 << 20;
    const auto worker = Start(options);
    const auto stream = Greet(*worker);
    std::vector<rpc::RowReference> references;
    for (uint32_t row = 0; row < 1000; ++row) {
      for (uint32_t expert = 0; expert < 8; ++expert) references.push_back({row, expert});
    }
    // Each request is 256 KiB, its answer 1.5 MiB. Writes end when the flow-control window of 4 MiB
    // is full.
    std::atomic<int> written = 0;
    std::thread writer([&] {
      for (uint64_t call = 1; call <= 60; ++call) {
        if (!stream->Write(Request(Header(call, 1000), references))) break;
        ++written;
      }
    });
    size_t most = 0;
    int seen = -1;
    auto still_since = std::chrono::steady_clock::now();
    while (std::chrono::steady_clock::now() - still_since < milliseconds(700)) {
      most = std::max(most, worker->limit().bytes());
      if (std::exchange(seen, written.load()) != seen)
        still_since = std::chrono::steady_clock::now();
      std::this_thread::yield();
    }
    EXPECT_LT(written, 60);
    EXPECT_GT(most, 0u);
    // Up to five requests are read before the first is answered, and each becomes 1.9 MiB; all
    // sixty would be 114 MiB.
    EXPECT_LT(most, size_t{12} << 20);
    worker->Kill();
    writer.join();
  }
}

}  // namespace
}  // namespace conclave::expert
