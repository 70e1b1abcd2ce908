#include "shared/text/model_text.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>

namespace conclave::text {
namespace {

namespace fs = std::filesystem;

class ModelTextTest : public ::testing::Test {
 protected:
  ModelTextTest()
      : dir_(fs::path(testing::TempDir()) /
             (std::string("model_text_test_") +
              testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
    const fs::path source = CONCLAVE_SOURCE_DIR "/models/tales";
    for (const char* name :
         {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
      fs::copy_file(source / name, dir_ / name);
    }
  }
  ~ModelTextTest() override { fs::remove_all(dir_); }

  void Write(const char* name, const std::string& text) { std::ofstream(dir_ / name) << text; }

  // The message of a refusal; empty: none.
  std::string Refusal() const {
    const absl::Status status = LoadModelText(dir_).status();
    if (status.ok()) return "";
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  }
  static bool Has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }

  const fs::path dir_;
};

TEST_F(ModelTextTest, LoadsTheBundledModel) {
  const auto model = LoadModelText(dir_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_GT(model->tokenizer->vocab_size(), 0);
  EXPECT_GE(model->defaults.vocab_size, model->tokenizer->vocab_size());
  EXPECT_FALSE(model->defaults.eos_ids.empty());
}

TEST_F(ModelTextTest, RefusesATokenizerLargerThanTheEmbedding) {
  Write("generation_config.json", "{}");
  Write("config.json", R"({"vocab_size": 100, "eos_token_id": 2})");
  EXPECT_TRUE(Has(Refusal(), "the embedding has 100 rows"));
}

TEST_F(ModelTextTest, RefusesAnEndTokenOutsideTheVocabulary) {
  const int64_t rows = LoadModelText(dir_)->defaults.vocab_size;
  Write("generation_config.json", "{\"eos_token_id\": " + std::to_string(rows) + "}");
  const std::string found = Refusal();
  EXPECT_TRUE(Has(found, "generation_config.json: eos_token_id has " + std::to_string(rows)))
      << found;
  EXPECT_TRUE(Has(found, "ends at " + std::to_string(rows - 1))) << found;
  Write("generation_config.json", "{\"eos_token_id\": [1, 999999]}");
  EXPECT_TRUE(Has(Refusal(), "eos_token_id has 999999"));
  Write("generation_config.json", "{\"eos_token_id\": " + std::to_string(rows - 1) + "}");
  EXPECT_EQ(Refusal(), "");
}

TEST_F(ModelTextTest, RefusesAnEndTokenOfTheConfigThoughAnotherFileHasOne) {
  Write("generation_config.json", R"({"eos_token_id": 1})");
  const std::string size = std::to_string(LoadModelText(dir_)->defaults.vocab_size);
  Write("config.json", "{\"vocab_size\": " + size + ", \"eos_token_id\": 16777216}");
  EXPECT_TRUE(Has(Refusal(), "config.json: eos_token_id has 16777216"));
}

TEST_F(ModelTextTest, RefusesDefaultsOfAWrongType) {
  for (const char* text :
       {R"({"eos_token_id": "x"})", R"({"eos_token_id": -1})", R"({"eos_token_id": 1.5})",
        R"({"eos_token_id": 18446744073709551615})", R"({"temperature": "hot"})",
        R"({"top_k": 1e300})", R"({"top_k": 2.5})", R"({"max_new_tokens": [1]})", "[]", "{"}) {
    Write("generation_config.json", text);
    EXPECT_TRUE(Has(Refusal(), "generation_config.json")) << text;
  }
}

TEST_F(ModelTextTest, RefusesDefaultsThatNoRequestMayAskFor) {
  const auto expect = [this](const std::string& field, const std::string& value,
                             const std::string& wanted) {
    Write("generation_config.json", "{\"" + field + "\": " + value + "}");
    const std::string found = Refusal();
    EXPECT_TRUE(Has(found, "generation_config.json: " + field + " is " + value + ", expected " +
                               wanted + "; correct the file"))
        << found;
  };
  expect("temperature", "-1", "a number in [0, 2]");
  expect("temperature", "2.5", "a number in [0, 2]");
  expect("top_p", "0", "a number in (0, 1]");
  expect("top_p", "1.5", "a number in (0, 1]");
  expect("min_p", "-0.5", "a number in [0, 1]");
  expect("repetition_penalty", "0", "a number in [0.001, 10]");
  expect("repetition_penalty", "11", "a number in [0.001, 10]");
  expect("top_k", "-2", "a whole number from -1 to 2147483647");
  expect("max_new_tokens", "-5", "a whole number from 1 to 2147483647");
  expect("max_new_tokens", "0", "a whole number from 1 to 2147483647");
  expect("max_new_tokens", "2147483648", "a whole number from 1 to 2147483647");
  Write("generation_config.json",
        R"({"temperature": 2, "top_p": 1, "min_p": 0, "repetition_penalty": 0.001, "top_k": -1,
            "max_new_tokens": 1})");
  EXPECT_EQ(Refusal(), "");
}

TEST_F(ModelTextTest, RefusesAtOnceWhatIsNoRegularFile) {
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"}) {
    SCOPED_TRACE(name);
    const fs::path path = dir_ / name;
    fs::rename(path, dir_ / "kept");
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    EXPECT_TRUE(Has(Refusal(), std::string(name) + " is not a regular file"));
    fs::remove(path);
    fs::create_symlink("/dev/zero", path);
    EXPECT_TRUE(Has(Refusal(), std::string(name) + " is not a regular file"));
    fs::rename(dir_ / "kept", path);
  }
}

TEST_F(ModelTextTest, RefusesADeeplyNestedFileAtOnce) {
  const std::string nested(200'000, '[');
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"}) {
    SCOPED_TRACE(name);
    const fs::path path = dir_ / name;
    fs::copy_file(path, dir_ / "kept");
    const std::string closed = nested + std::string(200'000, ']');
    for (const std::string& text :
         {nested, closed, "{\"model\": " + nested, "{\"temperature\": " + closed + "}",
          "{\"eos_token_id\": " + closed + "}"}) {
      Write(name, text);
      const auto start = std::chrono::steady_clock::now();
      EXPECT_TRUE(Has(Refusal(), name));
      EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
    }
    fs::rename(dir_ / "kept", path);
  }
}

}  // namespace
}  // namespace conclave::text
