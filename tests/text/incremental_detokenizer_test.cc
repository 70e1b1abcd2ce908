#include "shared/text/incremental_detokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/text/model_folder.h"

namespace conclave::text {
namespace {

using nlohmann::json;

// Well-formed UTF-8 (RFC 3629): no stray or missing continuation byte, no overlong form, no
// surrogate.
bool IsUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80   ? 1
                          : lead < 0xC2 ? 0
                          : lead < 0xE0 ? 2
                          : lead < 0xF0 ? 3
                          : lead < 0xF5 ? 4
                                        : 0;
    if (length == 0 || i + length > text.size()) return false;
    for (size_t k = 1; k < length; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) & 0xC0) != 0x80) return false;
    }
    const auto second = static_cast<unsigned char>(length > 1 ? text[i + 1] : 0);
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) ||
        (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F)) {
      return false;
    }
    i += length;
  }
  return true;
}

// Pushes `ids` in pieces of random size and checks every piece; the sum must be Decode's text.
void CheckStream(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<int32_t>& ids,
                 const DecodeOptions& options, std::mt19937& random) {
  IncrementalDetokenizer stream(tokenizer, options);
  std::string text;
  for (size_t i = 0; i < ids.size();) {
    const size_t count = std::min<size_t>(1 + random() % 3, ids.size() - i);
    const auto piece = stream.Push(std::span(ids).subspan(i, count));
    ASSERT_TRUE(piece.ok()) << piece.status();
    EXPECT_TRUE(IsUtf8(*piece));
    text += *piece;
    i += count;
  }
  const std::string rest = *stream.Flush();
  EXPECT_TRUE(IsUtf8(rest));
  EXPECT_EQ(text + rest, *tokenizer->Decode(ids, options)) << ::testing::PrintToString(ids);
}

// Random ids, with the given ones drawn half of the time.
void CheckRandomStreams(const std::shared_ptr<const Tokenizer>& tokenizer,
                        const std::vector<int32_t>& favourites) {
  std::mt19937 random(20261122);
  for (int round = 0; round < 300; ++round) {
    std::vector<int32_t> ids(random() % 40);
    for (int32_t& id : ids) {
      id = random() % 2 == 0 && !favourites.empty()
               ? favourites[random() % favourites.size()]
               : static_cast<int32_t>(random() % tokenizer->vocab_size());
    }
    CheckStream(tokenizer, ids, {.skip_special_tokens = round % 2 == 1}, random);
    if (::testing::Test::HasFailure()) return;
  }
}

class StreamedFamily : public ::testing::TestWithParam<std::string> {};

TEST_P(StreamedFamily, PiecesOfRandomIdsAreFinalAndSumToDecode) {
  const auto tokenizer = LoadTokenizer(FamilyDir(GetParam()));
  ASSERT_NE(tokenizer, nullptr);
  // Bytes of characters outside ASCII, so that many characters are whole and many are cut.
  std::vector<int32_t> favourites = *tokenizer->Encode("你好😀é");
  favourites.push_back(*tokenizer->eos_token_id());
  CheckRandomStreams(tokenizer, favourites);
}

INSTANTIATE_TEST_SUITE_P(, StreamedFamily, ::testing::ValuesIn(Families()),
                         [](const auto& info) { return info.param; });

TEST(IncrementalDetokenizer, GivesEachCharacterAsSoonAsItIsWhole) {
  const auto tokenizer = LoadTokenizer(FamilyDir("qwen3"));
  ASSERT_NE(tokenizer, nullptr);
  const std::vector<int32_t> ids = *tokenizer->Encode("😀a");
  ASSERT_EQ(ids.size(), 5u);
  IncrementalDetokenizer stream(tokenizer);
  EXPECT_EQ(*stream.Push(ids[0]), "");
  EXPECT_EQ(*stream.Push(ids[1]), "");
  EXPECT_EQ(*stream.Push(ids[2]), "");
  EXPECT_EQ(*stream.Push(ids[3]), "😀");
  EXPECT_EQ(*stream.Push(ids[4]), "a");
  EXPECT_EQ(*stream.Flush(), "");
}

TEST(IncrementalDetokenizer, FlushEndsAnIncompleteCharacterAndStartsAnew) {
  const auto tokenizer = LoadTokenizer(FamilyDir("qwen3"));
  ASSERT_NE(tokenizer, nullptr);
  const std::vector<int32_t> ids = *tokenizer->Encode("😀");
  IncrementalDetokenizer stream(tokenizer);
  EXPECT_EQ(*stream.Push(std::span(ids).first(2)), "");
  EXPECT_EQ(*stream.Flush(), "\uFFFD");
  EXPECT_EQ(*stream.Push(ids), "😀");
}

TEST(IncrementalDetokenizer, HoldsARunOfByteTokensUntilItEnds) {
  const auto tokenizer = LoadTokenizer(FamilyDir("mixtral"));
  ASSERT_NE(tokenizer, nullptr);
  const auto id = [&](const char* token) { return *tokenizer->TokenId(token); };
  IncrementalDetokenizer stream(tokenizer);
  EXPECT_EQ(*stream.Push(id("<0xE4>")), "");
  EXPECT_EQ(*stream.Push(id("<0xBD>")), "");
  EXPECT_EQ(*stream.Push(id("<0xA0>")), "");
  EXPECT_EQ(*stream.Push(id("a")), "你a");
  // One bad byte spoils its whole run, as the library decodes it.
  EXPECT_EQ(*stream.Push(std::vector{id("<0xE4>"), id("<0xBD>"), id("<0xA0>"), id("<0xFF>")}), "");
  EXPECT_EQ(*stream.Flush(), "\uFFFD\uFFFD\uFFFD\uFFFD");
}

TEST(IncrementalDetokenizer, StripsTheLeadingSpaceOfTheFirstTokenOnly) {
  const auto tokenizer = LoadTokenizer(FamilyDir("mixtral"));
  ASSERT_NE(tokenizer, nullptr);
  const int32_t space_a = *tokenizer->TokenId("▁a");
  IncrementalDetokenizer stream(tokenizer);
  EXPECT_EQ(*stream.Push(space_a), "a");
  EXPECT_EQ(*stream.Push(space_a), " a");
}

// Decoders that none of the golden families has.
TEST(IncrementalDetokenizer, FollowsOtherDecoders) {
  const json replace = {{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
  const json fallback = {{"type", "ByteFallback"}};
  const json fuse = {{"type", "Fuse"}};
  const json metaspace = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}};
  const json strip = {{"type", "Strip"}, {"content", " "}, {"start", 2}, {"stop", 0}};
  const auto sequence = [](std::vector<json> steps) {
    return json{{"type", "Sequence"}, {"decoders", std::move(steps)}};
  };
  const std::vector<json> decoders = {json(),
                                      metaspace,
                                      sequence({replace, fallback, fuse}),
                                      sequence({replace, fallback, fuse, strip}),
                                      sequence({fallback, metaspace}),
                                      sequence({replace, strip, fallback}),
                                      sequence({fuse})};
  for (const json& decoder : decoders) {
    SCOPED_TRACE(decoder.dump());
    ModelFolder folder("mixtral");
    folder.Set("tokenizer.json", "decoder", decoder);
    const auto tokenizer = LoadTokenizer(folder.path());
    ASSERT_NE(tokenizer, nullptr);
    CheckRandomStreams(tokenizer, *tokenizer->Encode("  你 a"));
  }
}

TEST(IncrementalDetokenizer, RefusesOrSkipsUnknownIds) {
  const auto tokenizer = LoadTokenizer(FamilyDir("qwen3"));
  ASSERT_NE(tokenizer, nullptr);
  const int32_t a = *tokenizer->TokenId("a");
  const std::vector<int32_t> ids = {a, tokenizer->vocab_size(), a};
  IncrementalDetokenizer strict(tokenizer);
  EXPECT_EQ(strict.Push(ids).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(*strict.Push(a), "aa");  // the id before the refused one, then this one
  IncrementalDetokenizer lenient(tokenizer, {.allow_unknown_ids = true});
  EXPECT_EQ(*lenient.Push(ids), "aa");
}

TEST(IncrementalDetokenizer, WorkPerTokenDoesNotGrow) {
  const auto tokenizer = LoadTokenizer(FamilyDir("mixtral"));
  ASSERT_NE(tokenizer, nullptr);
  // 200 000 tokens one by one: quadratic work would take minutes.
  const std::vector<int32_t> word = *tokenizer->Encode("tale 你");
  IncrementalDetokenizer stream(tokenizer);
  size_t bytes = 0;
  for (int i = 0; i < 200000; ++i) bytes += stream.Push(word[i % word.size()])->size();
  EXPECT_GT(bytes, 200000u);
}

}  // namespace
}  // namespace conclave::text
