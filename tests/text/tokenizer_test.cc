#include "shared/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/text/model_folder.h"

namespace conclave::text {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

std::string LoadError(const std::filesystem::path& dir, absl::StatusCode code) {
  const auto tokenizer = Tokenizer::Load(dir);
  EXPECT_EQ(tokenizer.status().code(), code) << tokenizer.status();
  return std::string(tokenizer.status().message());
}

TEST(Tokenizer, TellsTheSizeOfItsVocabularyAndItsNamedTokens) {
  const auto tokenizer = LoadTokenizer(FamilyDir("mixtral"));
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 556);
  EXPECT_EQ(tokenizer->bos_token_id(), 1);
  EXPECT_EQ(tokenizer->eos_token_id(), 2);
  EXPECT_TRUE(tokenizer->IsSpecial(2));
  EXPECT_FALSE(tokenizer->IsSpecial(300));
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
  EXPECT_EQ(tokenizer->TokenId("</s>"), 2);
  EXPECT_EQ(tokenizer->TokenId("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer->TokenId("\xFF"), std::nullopt);
  const auto qwen = LoadTokenizer(FamilyDir("qwen3"));
  ASSERT_NE(qwen, nullptr);
  EXPECT_EQ(qwen->bos_token_id(), std::nullopt);
  EXPECT_EQ(qwen->vocab_size(), 508);
}

TEST(Tokenizer, LeavesAddedTokensAsTextWhenAsked) {
  for (const std::string& family : Families()) {
    SCOPED_TRACE(family);
    const auto tokenizer = LoadTokenizer(FamilyDir(family));
    ASSERT_NE(tokenizer, nullptr);
    const json file = ReadJson(FamilyDir(family) / "tokenizer.json");
    int checked = 0;
    for (const json& token : file["added_tokens"]) {
      const std::string name = token["content"];
      const int32_t id = token["id"];
      const std::string text = "x " + name + name + " y";
      const Ids parsed = *tokenizer->Encode(text);
      const Ids plain = *tokenizer->Encode(text, {.parse_special_tokens = false});
      if (name.find_first_not_of(' ') == std::string::npos) {
        EXPECT_EQ(plain, parsed) << "white space is no control token";
        continue;
      }
      ++checked;
      EXPECT_THAT(parsed, ::testing::Contains(id)) << name;
      EXPECT_THAT(plain, ::testing::Not(::testing::Contains(id))) << name;
      // Mixtral's decoder writes one more space after an added token.
      if (family != "mixtral") {
        EXPECT_EQ(*tokenizer->Decode(plain), text);
      }
    }
    EXPECT_GE(checked, 2);
  }
}

TEST(Tokenizer, GivesTheBytesOfATokenInsideAText) {
  const auto qwen = LoadTokenizer(FamilyDir("qwen3"));
  const auto mixtral = LoadTokenizer(FamilyDir("mixtral"));
  ASSERT_TRUE(qwen != nullptr && mixtral != nullptr);
  EXPECT_EQ(*qwen->TokenBytes(*qwen->TokenId("Ġa")), " a");
  EXPECT_EQ(*qwen->TokenBytes(*qwen->TokenId("<|im_end|>")), "<|im_end|>");
  EXPECT_EQ(*mixtral->TokenBytes(*mixtral->TokenId("▁a")), " a");
  EXPECT_EQ(*mixtral->TokenBytes(*mixtral->TokenId("<0xE4>")), "\xE4");
  for (const auto& tokenizer : {qwen, mixtral}) {
    std::string bytes;
    const Ids ids = *tokenizer->Encode("naïve 你好 😀");
    for (const int32_t id : ids) bytes += *tokenizer->TokenBytes(id);
    EXPECT_EQ(bytes, tokenizer == qwen ? "naïve 你好 😀" : " naïve 你好 😀");
    EXPECT_EQ(tokenizer->TokenBytes(-1).status().code(), absl::StatusCode::kOutOfRange);
  }
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const auto tokenizer = LoadTokenizer(FamilyDir("qwen3"));
  ASSERT_NE(tokenizer, nullptr);
  const auto ids = tokenizer->Encode("abc\xC3(");
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ids.status().message()), HasSubstr("not UTF-8: bad byte at offset 3"));
  EXPECT_EQ(tokenizer->Encode("\xED\xA0\x80").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Tokenizer, RefusesIdsOutsideTheVocabularyUnlessAllowed) {
  const auto tokenizer = LoadTokenizer(FamilyDir("qwen3"));
  ASSERT_NE(tokenizer, nullptr);
  const int32_t a = *tokenizer->TokenId("a");
  for (const int32_t bad : {-1, 508, 2147483647, -2147483647 - 1}) {
    const auto text = tokenizer->Decode(Ids{a, bad});
    EXPECT_EQ(text.status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(std::string(text.status().message()),
                AllOf(HasSubstr(std::to_string(bad)), HasSubstr("0 to 507")));
    EXPECT_EQ(*tokenizer->Decode(Ids{a, bad, a}, {.allow_unknown_ids = true}), "aa");
  }
}

TEST(Tokenizer, AddsBosAndEosAsTheConfigSays) {
  const auto ids = [](const ModelFolder& folder) {
    const auto tokenizer = LoadTokenizer(folder.path());
    return *tokenizer->Encode("</s>", {.add_special_tokens = true});
  };
  ModelFolder folder("mixtral");
  EXPECT_EQ(ids(folder), (Ids{1, 2}));
  folder.Set("tokenizer_config.json", "add_eos_token", true);
  EXPECT_EQ(ids(folder), (Ids{1, 2, 2}));
  folder.Set("tokenizer_config.json", "add_bos_token", false);
  EXPECT_EQ(ids(folder), (Ids{2, 2}));
  folder.Set("tokenizer_config.json", "add_eos_token", nullptr);
  folder.Set("tokenizer_config.json", "add_bos_token", nullptr);
  EXPECT_EQ(ids(folder), (Ids{1, 2})) << "what the post-processor says";
}

TEST(Tokenizer, TakesTokensThatOnlyTheConfigLists) {
  ModelFolder folder("qwen3");
  json listed;
  listed["507"] = {{"content", "</think>"}};
  listed["508"] = {{"content", "<|extra|>"}, {"special", true}};
  folder.Set("tokenizer_config.json", "added_tokens_decoder", listed);
  const auto tokenizer = LoadTokenizer(folder.path());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 509);
  EXPECT_EQ(*tokenizer->Encode("<|extra|>"), Ids{508});
  EXPECT_EQ(*tokenizer->Decode(Ids{508}, {.skip_special_tokens = true}), "");

  folder.Set("tokenizer_config.json", "added_tokens_decoder",
             {{"600", {{"content", "<|extra|>"}, {"special", true}}}});
  EXPECT_THAT(LoadError(folder.path(), absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("<|extra|>"), HasSubstr("600"), HasSubstr("508")));
}

TEST(Tokenizer, TakesSpecialTokensFromTheirOwnFile) {
  ModelFolder folder("qwen3");
  folder.Write("tokenizer_config.json", "{}");
  EXPECT_EQ(LoadTokenizer(folder.path())->eos_token_id(), std::nullopt);
  folder.Write("special_tokens_map.json", R"({"eos_token": {"content": "<|im_end|>"}})");
  EXPECT_EQ(LoadTokenizer(folder.path())->eos_token_id(), 503);
}

TEST(Tokenizer, NeverCutsOrPads) {
  ModelFolder folder("qwen3");
  folder.Set(
      "tokenizer.json", "truncation",
      {{"direction", "Right"}, {"max_length", 3}, {"strategy", "LongestFirst"}, {"stride", 0}});
  folder.Set("tokenizer.json", "padding",
             {{"strategy", {{"Fixed", 50}}},
              {"direction", "Right"},
              {"pad_to_multiple_of", nullptr},
              {"pad_id", 501},
              {"pad_type_id", 0},
              {"pad_token", "<|endoftext|>"}});
  const auto tokenizer = LoadTokenizer(folder.path());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(*tokenizer->Encode("the quick brown fox"),
            *LoadTokenizer(FamilyDir("qwen3"))->Encode("the quick brown fox"));
}

TEST(Tokenizer, ItsVersionFollowsEveryFileThatMatters) {
  ModelFolder folder("qwen3");
  const std::string version = LoadTokenizer(folder.path())->version();
  EXPECT_EQ(version.size(), 64u);
  EXPECT_EQ(LoadTokenizer(FamilyDir("qwen3"))->version(), version) << "the path does not matter";
  folder.Write("README.md", "nor other files");
  EXPECT_EQ(LoadTokenizer(folder.path())->version(), version);

  folder.Write("additional_chat_templates/rag.jinja", "{{ messages }}");
  const std::string with_template = LoadTokenizer(folder.path())->version();
  EXPECT_NE(with_template, version);
  folder.Write("additional_chat_templates/rag.jinja", "{{ messages[0] }}");
  EXPECT_NE(LoadTokenizer(folder.path())->version(), with_template);
  ModelFolder other("qwen3");
  other.Set("tokenizer_config.json", "add_bos_token", nullptr);
  EXPECT_NE(LoadTokenizer(other.path())->version(), version);
}

TEST(Tokenizer, SaysHowToGetAMissingFile) {
  ModelFolder folder("qwen3");
  folder.Remove("tokenizer.json");
  const std::string path = (folder.path() / "tokenizer.json").string();
  EXPECT_THAT(LoadError(folder.path(), absl::StatusCode::kNotFound),
              AllOf(HasSubstr(path), HasSubstr("fast tokenizer"), HasSubstr("save_pretrained")));
  folder.Write("tokenizer.model", "sentencepiece");
  EXPECT_THAT(LoadError(folder.path(), absl::StatusCode::kNotFound), HasSubstr("slow tokenizer"));
  EXPECT_THAT(LoadError("/no/such/folder", absl::StatusCode::kNotFound),
              HasSubstr("/no/such/folder/tokenizer.json"));
}

TEST(Tokenizer, LoadsWithoutAConfig) {
  ModelFolder folder("qwen3");
  folder.Remove("tokenizer_config.json");
  const auto tokenizer = LoadTokenizer(folder.path());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->eos_token_id(), std::nullopt);
}

TEST(Tokenizer, RefusesDamagedFilesByName) {
  const std::string whole = ReadAll(FamilyDir("qwen3") / "tokenizer.json");
  std::string deep = "{\"model\":";
  for (int i = 0; i < 100000; ++i) deep += "[";
  const std::vector<std::string> damaged = {
      "",
      "{",
      "null",
      "[]",
      "{}",
      "\xFF\xFE",
      std::string(1 << 20, '\0'),
      deep,
      R"({"model": {"type": "BPE", "vocab": {}, "merges": []}})",
      R"({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}})",
      R"({"model": {"type": "BPE", "vocab": {"a": 99999999999}, "merges": []}})",
      R"({"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}})",
      R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}})",
      R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [7]}, "decoder": {"type": "None"}})",
      whole.substr(0, whole.size() / 2),
      whole.substr(1)};
  for (const std::string& text : damaged) {
    SCOPED_TRACE(text.substr(0, 70));
    ModelFolder folder("qwen3");
    folder.Write("tokenizer.json", text);
    const auto tokenizer = Tokenizer::Load(folder.path());
    ASSERT_FALSE(tokenizer.ok());
    EXPECT_THAT(std::string(tokenizer.status().message()),
                AllOf(HasSubstr(folder.path().string()), HasSubstr("tokenizer.json")));
  }
  ModelFolder folder("qwen3");
  for (const char* config : {"{", "[]", "3", "{\"chat_template\": "}) {
    folder.Write("tokenizer_config.json", config);
    EXPECT_THAT(LoadError(folder.path(), absl::StatusCode::kInvalidArgument),
                HasSubstr((folder.path() / "tokenizer_config.json").string()));
  }
}

TEST(Tokenizer, SurvivesEveryByteFlipped) {
  // A panic in the library must not end the process, wherever the file is damaged.
  std::string text = ReadAll(FamilyDir("mixtral") / "tokenizer.json");
  ModelFolder folder("mixtral");
  int loaded = 0;
  for (size_t at = 0; at < text.size(); at += text.size() / 150) {
    std::string damaged = text;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x15);
    folder.Write("tokenizer.json", damaged);
    const auto tokenizer = Tokenizer::Load(folder.path());
    if (tokenizer.ok()) {
      ++loaded;
      const auto ids = (*tokenizer)->Encode("the quick 你好 <s> fox");
      if (ids.ok()) (*tokenizer)->Decode(*ids).IgnoreError();
    }
  }
  EXPECT_GT(loaded, 0);
  EXPECT_LT(loaded, 150);
}

TEST(Tokenizer, APanicInTheLibraryIsAnErrorThatTellsWhere) {
  // The library looks up a special token that the file's own post-processor forgot to list, and
  // panics.
  ModelFolder folder("qwen3");
  const json forgetful = {{"type", "TemplateProcessing"},
                          {"single", {{{"SpecialToken", {{"id", "<x>"}, {"type_id", 0}}}}}},
                          {"pair", json::array()},
                          {"special_tokens", json::object()}};
  folder.Set("tokenizer.json", "post_processor", forgetful);
  EXPECT_THAT(LoadError(folder.path(), absl::StatusCode::kInternal),
              AllOf(HasSubstr(folder.path().string()), HasSubstr("panicked at tokenizers-")));
  EXPECT_NE(LoadTokenizer(FamilyDir("qwen3")), nullptr);
}

TEST(Tokenizer, NamesADecoderItCannotStream) {
  ModelFolder folder("qwen3");
  folder.Set("tokenizer.json", "decoder",
             {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}});
  EXPECT_THAT(LoadError(folder.path(), absl::StatusCode::kUnimplemented), HasSubstr("WordPiece"));
}

TEST(Tokenizer, RefusesABosThatIsNotInTheVocabulary) {
  ModelFolder folder("mixtral");
  folder.Set("tokenizer_config.json", "bos_token", "<nope>");
  EXPECT_THAT(LoadError(folder.path(), absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("add_bos_token"), HasSubstr("<nope>")));
}

TEST(Tokenizer, EncodesAndDecodesOnManyThreadsAtOnce) {
  const auto tokenizer = LoadTokenizer(FamilyDir("deepseek_v3"));
  ASSERT_NE(tokenizer, nullptr);
  const json vectors = ReadJson(FamilyDir("deepseek_v3") / "tokenizer_vectors.json");
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < vectors.size(); ++i) {
        const json& vector = vectors[(i + t * 7) % vectors.size()];
        const std::string text = vector["text"];
        const auto ids = tokenizer->Encode(text, {.add_special_tokens = true});
        if (!ids.ok() || *ids != vector["ids_with_special"].get<Ids>()) ++wrong[t];
        if (*tokenizer->Decode(vector["ids"].get<Ids>()) != vector["decoded"].get<std::string>())
          ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ::testing::Each(0));
}

}  // namespace
}  // namespace conclave::text
