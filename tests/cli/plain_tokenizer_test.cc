#include "services/cli/pack/plain_tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "shared/text/tokenizer.h"
#include "tests/support/temp_dir.h"

namespace conclave::cli {
namespace {

TEST(PlainTokenizerTest, IsReadAndGivesTextBack) {
  const testing::TempDir dir;
  for (const auto& [name, text] : PlainTokenizer(1000)) std::ofstream(dir.path() / name) << text;
  const auto tokenizer = text::Tokenizer::Load(dir.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 1000);
  // Every byte below 0x80, and characters of two, three and four.
  std::string text = "é 中 😀 ";
  for (char c = 1; c > 0; ++c) text.push_back(c);
  const auto ids = (*tokenizer)->Encode(text);
  ASSERT_TRUE(ids.ok()) << ids.status();
  ASSERT_EQ(ids->size(), text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    EXPECT_EQ((*ids)[i], static_cast<uint8_t>(text[i]));
  }
  EXPECT_EQ(*(*tokenizer)->Decode(*ids), text);
  EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{72, 256, 999}), "H<256><999>");
}

}  // namespace
}  // namespace conclave::cli
