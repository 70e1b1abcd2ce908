// Texts that cannot fit are refused at once, the bound that refuses them is never wrong, and who
// has given up is not kept waiting.
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "tests/text/model_folder.h"

namespace conclave::text {
namespace {

using nlohmann::json;

std::string Utf8(char32_t c) {
  std::string out;
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 63));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 63));
    out += static_cast<char>(0x80 | (c & 63));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 63));
    out += static_cast<char>(0x80 | (c >> 6 & 63));
    out += static_cast<char>(0x80 | (c & 63));
  }
  return out;
}

std::string Repeat(const std::string& unit, size_t times) {
  std::string text;
  for (size_t i = 0; i < times; ++i) text += unit;
  return text;
}

// Texts that become few ids for their bytes: what a bound could be wrong about.
std::vector<std::string> ShortTexts(const std::filesystem::path& dir) {
  std::vector<std::string> texts = {
      Repeat(" ", 64),
      Repeat("\n", 64),
      Repeat("the ", 40),
      Repeat("=", 80),
      Repeat("\u1FBE\u0308\u0301", 20),  // seven bytes that NFC makes two of
      Repeat("\u1100\u1161\u11A8", 20),  // nine that become three
      Repeat("\u212A", 20),              // three that become one
      Repeat("a \u00A0\u3000", 20),
  };
  const json tokenizer = ReadJson(dir / "tokenizer.json");
  std::string longest;
  for (const auto& [token, id] : tokenizer.at("model").at("vocab").items()) {
    if (token.size() > longest.size()) longest = token;
  }
  texts.push_back(Repeat(longest, 10));
  for (const json& added : tokenizer.at("added_tokens")) {
    texts.push_back(Repeat(added.at("content").get<std::string>(), 10));
    texts.push_back(Repeat(added.at("content").get<std::string>() + "   ", 10));
  }
  std::mt19937 random(7);
  for (int i = 0; i < 50; ++i) {
    std::string text;
    for (int c = 0; c < 60; ++c) {
      char32_t code = std::uniform_int_distribution<char32_t>(1, c % 3 ? 0x3FF : 0x1FFFF)(random);
      if (code >= 0xD800 && code < 0xE000) code = 0xE9;
      text += Utf8(code);
    }
    texts.push_back(std::move(text));
  }
  return texts;
}

class EncodeLimitsTest : public ::testing::TestWithParam<std::string> {
 protected:
  EncodeLimitsTest() : dir_(FamilyDir(GetParam())), tokenizer_(*Tokenizer::Load(dir_)) {}
  const std::filesystem::path dir_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_P(EncodeLimitsTest, NeverRefusesWhatFitsExactly) {
  for (const std::string& text : ShortTexts(dir_)) {
    for (const bool parse : {true, false}) {
      const EncodeOptions options{.add_special_tokens = false, .parse_special_tokens = parse};
      const auto free = tokenizer_->Encode(text, options);
      ASSERT_TRUE(free.ok()) << free.status();
      const auto count = static_cast<int64_t>(free->size());
      const auto limited = tokenizer_->Encode(text, options, {.max_ids = count});
      ASSERT_TRUE(limited.ok()) << limited.status() << "\n" << text;
      EXPECT_EQ(*limited, *free);
      const auto refused = tokenizer_->Encode(text, options, {.max_ids = count - 1});
      ASSERT_TRUE(absl::IsOutOfRange(refused.status())) << text;
      EXPECT_GT(AtLeastIds(refused.status()), count - 1);
      EXPECT_LE(AtLeastIds(refused.status()), count) << "not a lower bound for " << text;
    }
  }
}

TEST_P(EncodeLimitsTest, RefusesAMegabyteWithoutEncodingIt) {
  const std::string text = Repeat("story ", 1 << 20);
  const auto begin = std::chrono::steady_clock::now();
  const auto refused = tokenizer_->Encode(text, {}, {.max_ids = 100});
  EXPECT_TRUE(absl::IsOutOfRange(refused.status()));
  EXPECT_GT(AtLeastIds(refused.status()), 10000);
  // Encoding it takes seconds; counting its bytes takes milliseconds.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(500));
}

TEST_P(EncodeLimitsTest, StopsWhenInterrupted) {
  const std::string text = Repeat("story ", 1000);
  Interrupt cancelled;
  cancelled.Cancel();
  EXPECT_TRUE(absl::IsCancelled(tokenizer_->Encode(text, {}, {.interrupt = &cancelled}).status()));
  const Interrupt late(std::chrono::steady_clock::now());
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(tokenizer_->Encode(text, {}, {.interrupt = &late}).status()));
  const Interrupt patient(std::chrono::steady_clock::now() + std::chrono::hours(1));
  EXPECT_TRUE(tokenizer_->Encode(text, {}, {.interrupt = &patient}).ok());
}

TEST_P(EncodeLimitsTest, HoldsForChats) {
  const auto chat = *ChatTemplate::Load(dir_, tokenizer_);
  const json messages = {{{"role", "user"}, {"content", Repeat("story ", 1 << 19)}}};
  const std::string text = messages.dump();
  const auto refused = chat->Render({.messages_json = text, .limits = {.max_ids = 100}});
  ASSERT_TRUE(absl::IsOutOfRange(refused.status())) << refused.status();
  EXPECT_GT(AtLeastIds(refused.status()), 10000);
  Interrupt cancelled;
  cancelled.Cancel();
  EXPECT_TRUE(absl::IsCancelled(
      chat->Render({.messages_json = text, .limits = {.interrupt = &cancelled}}).status()));
}

INSTANTIATE_TEST_SUITE_P(Families, EncodeLimitsTest, ::testing::ValuesIn(Families()),
                         [](const auto& info) { return info.param; });

TEST(LengthBoundTest, MakesNoBoundOfTokenizersThatDropText) {
  // White space vanishes between words: a thousand spaces are no id at all.
  ModelFolder folder("qwen3");
  folder.Set("tokenizer.json", "pre_tokenizer", {{"type", "WhitespaceSplit"}});
  EXPECT_TRUE(
      LoadTokenizer(folder.path())->Encode(Repeat(" ", 10000) + "a", {}, {.max_ids = 4}).ok());
}

TEST(LengthBoundTest, CountsNoSpaceThatAnAddedTokenTakesAlong) {
  ModelFolder folder("qwen3");
  json added = ReadJson(folder.path() / "tokenizer.json").at("added_tokens");
  added[0]["rstrip"] = true;
  folder.Set("tokenizer.json", "added_tokens", added);
  const std::string text = added[0]["content"].get<std::string>() + Repeat(" ", 10000);
  EXPECT_TRUE(LoadTokenizer(folder.path())->Encode(text, {}, {.max_ids = 1}).ok());
}

}  // namespace
}  // namespace conclave::text
