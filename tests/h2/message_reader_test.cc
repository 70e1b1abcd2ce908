#include "shared/h2/message_reader.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <string>
#include <vector>

namespace conclave::h2 {
namespace {

std::string Framed(const std::string& message, char flag = 0) {
  std::string bytes(1, flag);
  for (const int shift : {24, 16, 8, 0})
    bytes.push_back(static_cast<char>(message.size() >> shift));
  return bytes + message;
}

std::string Zipped(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string zipped(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(zipped.data());
  stream.avail_out = static_cast<uInt>(zipped.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  zipped.resize(stream.total_out);
  deflateEnd(&stream);
  return zipped;
}

class MessageReaderTest : public ::testing::Test {
 protected:
  absl::Status Take(const std::string& bytes) { return reader_.Take(bytes, events_); }

  MessageReader reader_{100'000};
  std::vector<std::string> messages_;
  std::vector<size_t> asked_;
  absl::Status may_;
  const MessageReader::Events events_ = {
      .on_message = [this](std::string_view message) { messages_.emplace_back(message); },
      .may_arrive =
          [this](size_t size) {
            asked_.push_back(size);
            return may_;
          }};
};

TEST_F(MessageReaderTest, FindsMessagesHoweverTheyAreCut) {
  const std::vector<std::string> sent = {"", "a", std::string(300, 'b'), "", "end"};
  std::string all;
  for (const std::string& message : sent) all += Framed(message);
  for (size_t step = 1; step <= all.size(); ++step) {
    messages_.clear();
    for (size_t at = 0; at < all.size(); at += step) ASSERT_TRUE(Take(all.substr(at, step)).ok());
    EXPECT_EQ(messages_, sent) << step;
    EXPECT_EQ(reader_.held(), 0U);
    EXPECT_FALSE(reader_.partial());
  }
}

TEST_F(MessageReaderTest, AsksOnceForAMessageThatIsNotAllThere) {
  const std::string message = Framed(std::string(1000, 'x'));
  EXPECT_TRUE(Take(message).ok());
  EXPECT_TRUE(asked_.empty());
  EXPECT_TRUE(Take(message.substr(0, 500)).ok());
  EXPECT_TRUE(reader_.partial());
  EXPECT_GE(reader_.held(), 500U);
  EXPECT_TRUE(Take(message.substr(500)).ok());
  EXPECT_EQ(asked_, std::vector<size_t>{1000});
  may_ = absl::UnauthenticatedError("no key");
  EXPECT_EQ(Take(message.substr(0, 5)), may_);
}

TEST_F(MessageReaderTest, ATooLargeMessageIsRefusedByItsPrefix) {
  const absl::Status refused = Take(Framed(std::string(100'001, 'x')).substr(0, 5));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("100001"), absl::string_view::npos) << refused;
  EXPECT_TRUE(messages_.empty());
}

TEST_F(MessageReaderTest, Decompresses) {
  reader_.set_encoding(Encoding::kGzip);
  const std::string text(100'000, 'x');
  EXPECT_TRUE(Take(Framed(Zipped(text), 1) + Framed("plain") + Framed(Zipped(""), 1)).ok());
  EXPECT_EQ(messages_, (std::vector<std::string>{text, "plain", ""}));
  const absl::Status bomb = Take(Framed(Zipped(text + "x"), 1));
  EXPECT_EQ(bomb.code(), absl::StatusCode::kResourceExhausted) << bomb;
}

TEST_F(MessageReaderTest, WhatCannotBeDecompressedIsRefused) {
  EXPECT_EQ(Take(Framed("x", 1)).code(), absl::StatusCode::kInternal);
  const std::string zipped = Zipped("some text");
  for (const std::string& bad : {std::string("nonsense"), zipped.substr(0, zipped.size() - 3),
                                 zipped + "more", std::string()}) {
    MessageReader reader(1000);
    reader.set_encoding(Encoding::kGzip);
    EXPECT_EQ(reader.Take(Framed(bad, 1), events_).code(), absl::StatusCode::kInternal);
  }
  MessageReader reader(1000);
  reader.set_encoding(Encoding::kGzip);
  EXPECT_EQ(reader.Take(Framed(zipped, 2), events_).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace conclave::h2
