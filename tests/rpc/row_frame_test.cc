#include "shared/rpc/row_frame.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shared/rpc/row_frame_layout.h"

namespace conclave::rpc {
namespace {

using ::testing::HasSubstr;
using Bytes = std::vector<std::byte>;

ScatteredBytes Whole(const Bytes& bytes) {
  return ScatteredBytes({std::span<const std::byte>(bytes)});
}

// The same bytes in pieces of `piece` bytes.
ScatteredBytes InPieces(const Bytes& bytes, size_t piece) {
  std::vector<std::span<const std::byte>> pieces;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    pieces.push_back(std::span(bytes).subspan(at, std::min(piece, bytes.size() - at)));
    pieces.push_back({});
  }
  return ScatteredBytes(std::move(pieces));
}

RequestHeader SomeHeader() {
  RequestHeader header;
  header.call_id = 77;
  for (size_t i = 0; i < header.fingerprint.size(); ++i)
    header.fingerprint[i] = static_cast<uint8_t>(i * 7);
  header.qos = 1;
  header.layer = 3;
  header.hidden = 5;
  header.tenant_weight = 2.5f;
  header.remaining_ms = 1234;
  header.due_ms = 567;
  header.num_rows = 2;
  header.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  return header;
}

const std::vector<RowReference> kReferences = {{0, 4}, {1, 4}, {0, 9}};

Bytes SomeRequest(const RequestHeader& header = SomeHeader()) {
  Bytes frame(RequestFrameBytes(header, kReferences.size()));
  const size_t rows = EncodeRequest(header, kReferences, frame);
  for (size_t i = rows; i < frame.size(); ++i) frame[i] = static_cast<std::byte>(i);
  return frame;
}

const std::vector<Answer> kAnswers = {
    {2, AnswerStatus::kOk}, {0, AnswerStatus::kNotHeld}, {1, AnswerStatus::kOk}};

Bytes SomeResults() {
  ResultsHeader header;
  header.call_id = 5;
  header.row_type = kernels::RowType::kF32;
  header.last = true;
  header.layer = 6;
  header.hidden = 3;
  header.num_rows = 2;
  header.compute_ns = 1'000'000'007;
  header.queue_ns = 42;
  Bytes frame(ResultsFrameBytes(header, kAnswers.size()));
  const size_t rows = EncodeResults(header, kAnswers, frame);
  for (size_t i = rows; i < frame.size(); ++i) frame[i] = static_cast<std::byte>(i);
  return frame;
}

template <typename T>
void Put(Bytes& frame, size_t offset, T value) {
  std::memcpy(&frame[offset], &value, sizeof(value));
}

// Parses a frame that must be refused and returns the message.
std::string Refusal(const Bytes& frame) {
  const auto parsed = ParseRowFrame(Whole(frame));
  EXPECT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(parsed.status().message());
}

TEST(RowFrameTest, RequestComesBackAsItWas) {
  const Bytes frame = SomeRequest();
  const auto parsed = ParseRowFrame(Whole(frame));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const auto& request = std::get<ParsedRequest>(*parsed);
  const RequestHeader wanted = SomeHeader();
  EXPECT_EQ(request.header.call_id, wanted.call_id);
  EXPECT_EQ(request.header.fingerprint, wanted.fingerprint);
  EXPECT_EQ(request.header.numerics, wanted.numerics);
  EXPECT_EQ(request.header.row_type, wanted.row_type);
  EXPECT_EQ(request.header.qos, wanted.qos);
  EXPECT_EQ(request.header.layer, wanted.layer);
  EXPECT_EQ(request.header.hidden, wanted.hidden);
  EXPECT_EQ(request.header.tenant_weight, wanted.tenant_weight);
  EXPECT_EQ(request.header.remaining_ms, wanted.remaining_ms);
  EXPECT_EQ(request.header.due_ms, wanted.due_ms);
  EXPECT_EQ(request.header.traceparent, wanted.traceparent);
  EXPECT_EQ(request.references, kReferences);
  EXPECT_EQ(request.rows.row_bytes, 10u);
  EXPECT_EQ(request.rows.num_rows, 2u);
  EXPECT_EQ(request.rows.offset % 8, 0u);
  EXPECT_EQ(request.rows.offset + 20, frame.size());
}

TEST(RowFrameTest, ResultsComeBackAsTheyWere) {
  const Bytes frame = SomeResults();
  const auto parsed = ParseRowFrame(Whole(frame));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const auto& results = std::get<ParsedResults>(*parsed);
  EXPECT_EQ(results.header.call_id, 5u);
  EXPECT_TRUE(results.header.last);
  EXPECT_EQ(results.header.layer, 6u);
  EXPECT_EQ(results.header.hidden, 3u);
  EXPECT_EQ(results.header.compute_ns, 1'000'000'007u);
  EXPECT_EQ(results.header.queue_ns, 42u);
  EXPECT_EQ(results.answers, kAnswers);
  EXPECT_EQ(results.rows.offset + 2 * 12, frame.size());
}

TEST(RowFrameTest, SmallFramesComeBackAsTheyWere) {
  const HelloFrame hello{.window_bytes = 9u << 20, .name = "expert-0"};
  const auto parsed_hello = ParseRowFrame(Whole(EncodeHello(hello)));
  ASSERT_TRUE(parsed_hello.ok()) << parsed_hello.status();
  EXPECT_EQ(std::get<HelloFrame>(*parsed_hello).name, "expert-0");
  EXPECT_EQ(std::get<HelloFrame>(*parsed_hello).window_bytes, 9u << 20);

  const auto parsed_error =
      ParseRowFrame(Whole(EncodeError({3, absl::StatusCode::kUnavailable, "draining"})));
  ASSERT_TRUE(parsed_error.ok()) << parsed_error.status();
  EXPECT_EQ(std::get<ErrorFrame>(*parsed_error).code, absl::StatusCode::kUnavailable);
  EXPECT_EQ(std::get<ErrorFrame>(*parsed_error).message, "draining");

  const auto parsed_cancel = ParseRowFrame(Whole(EncodeCancel({12})));
  ASSERT_TRUE(parsed_cancel.ok()) << parsed_cancel.status();
  EXPECT_EQ(std::get<CancelFrame>(*parsed_cancel).call_id, 12u);
}

TEST(RowFrameTest, LongTextsAreCutByTheEncoder) {
  const auto parsed =
      ParseRowFrame(Whole(EncodeError({1, absl::StatusCode::kInternal, std::string(5000, 'x')})));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(std::get<ErrorFrame>(*parsed).message.size(), kMaxTextBytes);
}

TEST(RowFrameTest, PiecesOfAnySizeGiveTheSameFrameAndRows) {
  const Bytes frame = SomeRequest();
  const auto whole = ParseRowFrame(Whole(frame));
  ASSERT_TRUE(whole.ok());
  const RowArea rows = std::get<ParsedRequest>(*whole).rows;
  for (size_t piece = 1; piece <= frame.size() + 1; ++piece) {
    const ScatteredBytes message = InPieces(frame, piece);
    ASSERT_EQ(message.size(), frame.size());
    const auto parsed = ParseRowFrame(message);
    ASSERT_TRUE(parsed.ok()) << piece << ": " << parsed.status();
    EXPECT_EQ(std::get<ParsedRequest>(*parsed).references, kReferences);
    for (uint32_t row = 0; row < 2; ++row) {
      const std::byte* found = RowInPlace(message, rows, row, 1);
      std::byte copy[10];
      message.CopyTo(rows.offset + row * 10, copy);
      EXPECT_EQ(std::memcmp(copy, &frame[rows.offset + row * 10], 10), 0);
      if (found != nullptr) {
        EXPECT_EQ(std::memcmp(found, copy, 10), 0);
      } else {
        EXPECT_NE((rows.offset + row * 10) / piece, (rows.offset + row * 10 + 9) / piece);
      }
    }
  }
}

TEST(RowFrameTest, OnlyAlignedRowsAreUsedInPlace) {
  const Bytes frame = SomeRequest();
  const auto parsed = ParseRowFrame(Whole(frame));
  ASSERT_TRUE(parsed.ok());
  const RowArea rows = std::get<ParsedRequest>(*parsed).rows;
  EXPECT_EQ(RowInPlace(Whole(frame), rows, 1, 2), &frame[rows.offset + 10]);
  Bytes shifted(1);
  shifted.insert(shifted.end(), frame.begin(), frame.end());
  const ScatteredBytes odd({std::span<const std::byte>(shifted).subspan(1)});
  EXPECT_EQ(RowInPlace(odd, rows, 1, 2), nullptr);
}

TEST(RowFrameTest, EveryTruncationIsRefused) {
  for (const Bytes& frame :
       {SomeRequest(), SomeResults(), EncodeHello({.name = "w"}),
        EncodeError({1, absl::StatusCode::kInternal, "x"}), EncodeCancel({1})}) {
    for (size_t bytes = 0; bytes < frame.size(); ++bytes) {
      Bytes cut(frame.begin(), frame.begin() + bytes);
      EXPECT_FALSE(ParseRowFrame(Whole(cut)).ok()) << bytes;
      if (bytes >= layout::kCommonBytes) {  // also when the frame claims to be as long as it is
        Put<uint32_t>(cut, layout::kFrameBytesAt, static_cast<uint32_t>(bytes));
        EXPECT_FALSE(ParseRowFrame(Whole(cut)).ok()) << bytes;
      }
    }
  }
}

TEST(RowFrameTest, TrailingBytesAreRefused) {
  Bytes frame = SomeRequest();
  frame.push_back(std::byte{0});
  Put<uint32_t>(frame, layout::kFrameBytesAt, static_cast<uint32_t>(frame.size()));
  EXPECT_THAT(Refusal(frame), HasSubstr("by its tables and rows"));
}

TEST(RowFrameTest, EveryWrongFieldIsNamed) {
  const auto with = [](Bytes frame, size_t offset, auto value) {
    Put(frame, offset, value);
    return Refusal(frame);
  };
  const Bytes request = SomeRequest();
  EXPECT_THAT(with(request, layout::kMagicAt, uint32_t{1}), HasSubstr("magic is 0x00000001"));
  EXPECT_THAT(with(request, layout::kVersionAt, uint16_t{2}), HasSubstr("version is 2, wanted 1"));
  EXPECT_THAT(with(request, layout::kKindAt, uint8_t{9}), HasSubstr("kind is 9"));
  EXPECT_THAT(with(request, layout::kKindAt, uint8_t{0}), HasSubstr("kind is 0"));
  EXPECT_THAT(with(request, layout::kFlagsAt, uint8_t{1}), HasSubstr("flags is 1"));
  EXPECT_THAT(with(request, layout::kFrameBytesAt, uint32_t{0xffffffff}),
              HasSubstr("frame_bytes is 4294967295"));
  EXPECT_THAT(with(request, layout::kHeaderBytesAt, uint32_t{96}),
              HasSubstr("header_bytes is 96, wanted 88"));
  EXPECT_THAT(with(request, layout::kCallIdAt, uint64_t{0}), HasSubstr("call id is 0"));
  EXPECT_THAT(with(request, layout::kRequestNumericsAt, uint8_t{7}),
              HasSubstr("numerics class is 7"));
  EXPECT_THAT(with(request, layout::kRequestRowTypeAt, uint8_t{0}), HasSubstr("row type is 0"));
  EXPECT_THAT(with(request, layout::kRequestQosAt, uint8_t{0}), HasSubstr("QoS class is 0"));
  EXPECT_THAT(with(request, layout::kRequestQosAt, uint8_t{5}), HasSubstr("QoS class is 5"));
  EXPECT_THAT(with(request, layout::kRequestLayerAt, uint32_t{70000}), HasSubstr("layer is 70000"));
  EXPECT_THAT(with(request, layout::kRequestHiddenAt, uint32_t{0}), HasSubstr("hidden is 0"));
  EXPECT_THAT(with(request, layout::kRequestHiddenAt, uint32_t{0xffffffff}),
              HasSubstr("hidden is 4294967295"));
  EXPECT_THAT(with(request, layout::kRequestWeightAt, 0.0f), HasSubstr("tenant weight is 0"));
  EXPECT_THAT(with(request, layout::kRequestWeightAt, std::numeric_limits<float>::quiet_NaN()),
              HasSubstr("tenant weight"));
  EXPECT_THAT(with(request, layout::kRequestWeightAt, std::numeric_limits<float>::infinity()),
              HasSubstr("tenant weight"));
  EXPECT_THAT(with(request, layout::kRequestRowsAt, uint32_t{0}), HasSubstr("number of rows is 0"));
  EXPECT_THAT(with(request, layout::kRequestRowsAt, uint32_t{0xffffffff}),
              HasSubstr("number of rows is 4294967295"));
  EXPECT_THAT(with(request, layout::kRequestRowsAt, uint32_t{3}),
              HasSubstr("wanted 198 bytes by its tables and rows"));
  EXPECT_THAT(with(request, layout::kRequestReferencesAt, uint32_t{0}),
              HasSubstr("number of references is 0"));
  EXPECT_THAT(with(request, layout::kRequestReferencesAt, uint32_t{0xffffffff}),
              HasSubstr("number of references is"));
  EXPECT_THAT(with(request, layout::kRequestTraceBytesAt, uint8_t{200}),
              HasSubstr("traceparent length is 200"));
  EXPECT_THAT(with(request, layout::kRequestBytes, uint32_t{2}),
              HasSubstr("a reference's row is 2, wanted below 2"));
  EXPECT_THAT(with(request, layout::kRequestBytes + 4, uint32_t{70000}),
              HasSubstr("a reference's expert is 70000"));
  EXPECT_THAT(with(request, layout::kRequestBytes + 24, uint8_t{7}),
              HasSubstr("traceparent is not printable"));

  const Bytes results = SomeResults();
  EXPECT_THAT(with(results, layout::kFlagsAt, uint8_t{3}), HasSubstr("flags is 3"));
  EXPECT_THAT(with(results, layout::kResultsRowTypeAt, uint8_t{3}), HasSubstr("row type is 3"));
  EXPECT_THAT(with(results, layout::kResultsAnswersAt, uint32_t{0}),
              HasSubstr("number of answers is 0"));
  EXPECT_THAT(with(results, layout::kResultsRowsAt, uint32_t{4}), HasSubstr("number of rows is 4"));
  EXPECT_THAT(with(results, layout::kResultsBytes + 4, uint32_t{3}),
              HasSubstr("an answer's status is 3"));
  EXPECT_THAT(with(results, layout::kResultsBytes + 4, uint32_t{1}),
              HasSubstr("number of rows is 2, wanted 1"));

  const Bytes error = EncodeError({1, absl::StatusCode::kInternal, "x"});
  EXPECT_THAT(with(error, layout::kErrorCodeAt, uint32_t{0}), HasSubstr("error code is 0"));
  EXPECT_THAT(with(error, layout::kErrorCodeAt, uint32_t{17}), HasSubstr("error code is 17"));
  EXPECT_THAT(with(error, layout::kErrorMessageBytesAt, uint32_t{0xffffffff}),
              HasSubstr("message length is"));

  const Bytes hello = EncodeHello({.name = "w"});
  EXPECT_THAT(with(hello, layout::kHelloNameBytesAt, uint16_t{60000}),
              HasSubstr("name length is 60000"));
  EXPECT_THAT(with(hello, layout::kHelloBytes, uint8_t{1}), HasSubstr("name is not printable"));
}

TEST(RowFrameTest, FramesAboveOneMebibyteAreRefused) {
  EXPECT_THAT(Refusal(Bytes(kMaxFrameBytes + 1)),
              HasSubstr("length is 1048577, wanted at most 1048576"));
}

TEST(RowFrameTest, RandomChangesNeverCrash) {
  std::mt19937 random(5);
  for (int round = 0; round < 20'000; ++round) {
    Bytes frame = round % 2 == 0 ? SomeRequest() : SomeResults();
    for (int change = 0; change < 3; ++change)
      frame[random() % frame.size()] = static_cast<std::byte>(random());
    const ScatteredBytes message = InPieces(frame, 1 + random() % 64);
    const auto parsed = ParseRowFrame(message);
    if (!parsed.ok()) continue;
    if (const auto* request = std::get_if<ParsedRequest>(&*parsed)) {
      Bytes copy(request->rows.row_bytes);
      for (const RowReference& reference : request->references) {
        message.CopyTo(request->rows.offset + reference.row * copy.size(), copy);
      }
    }
  }
}

TEST(RowFrameTest, FingerprintsAreHexDigits) {
  const std::string hex = "00ff" + std::string(58, 'a') + "1B";
  const auto bytes = ParseFingerprint(hex);
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ((*bytes)[1], 0xff);
  EXPECT_EQ((*bytes)[31], 0x1b);
  EXPECT_EQ(FingerprintHex(*bytes), "00ff" + std::string(58, 'a') + "1b");
  EXPECT_FALSE(ParseFingerprint("").ok());
  EXPECT_FALSE(ParseFingerprint(std::string(63, 'a')).ok());
  EXPECT_FALSE(ParseFingerprint(std::string(63, 'a') + "g").ok());
}

TEST(RowFrameDeathTest, ABufferOfAnotherSizeIsAProgrammingError) {
  Bytes frame(10);
  EXPECT_DEATH(EncodeRequest(SomeHeader(), kReferences, frame), "check failed");
}

}  // namespace
}  // namespace conclave::rpc
