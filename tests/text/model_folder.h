// Model folders for the tests of this folder: those of tests/golden/tokenizers, and altered copies
// of them.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "shared/text/chat_template.h"
#include "shared/text/tokenizer.h"
#include "tests/support/temp_dir.h"

namespace conclave::text {

inline const std::vector<std::string>& Families() {
  static const std::vector<std::string> families = {
      "deepseek_v2", "deepseek_v3", "glm4", "gpt_oss", "mixtral", "olmoe", "qwen2", "qwen3"};
  return families;
}

inline std::filesystem::path FamilyDir(const std::string& family) {
  return std::filesystem::path(CONCLAVE_SOURCE_DIR) / "tests/golden/tokenizers" / family;
}

inline std::string ReadAll(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(file.good()) << path;
  return text.str();
}

inline nlohmann::json ReadJson(const std::filesystem::path& path) {
  return nlohmann::json::parse(ReadAll(path));
}

// A copy of a family's folder to change.
class ModelFolder {
 public:
  explicit ModelFolder(const std::string& family) {
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      Write(name, ReadAll(FamilyDir(family) / name));
    }
  }

  std::filesystem::path path() const { return dir_.path(); }

  void Write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((path() / name).parent_path());
    std::ofstream(path() / name, std::ios::binary) << text;
  }
  void Remove(const std::string& name) { std::filesystem::remove(path() / name); }

  // Sets members of a JSON file; null removes nothing, it is a value.
  void Set(const std::string& name, const std::string& key, nlohmann::json value) {
    nlohmann::json object = ReadJson(path() / name);
    object[key] = std::move(value);
    Write(name, object.dump());
  }

 private:
  conclave::testing::TempDir dir_;
};

inline std::shared_ptr<const Tokenizer> LoadTokenizer(const std::filesystem::path& dir) {
  auto tokenizer = Tokenizer::Load(dir);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

inline std::shared_ptr<const ChatTemplate> LoadChat(const std::filesystem::path& dir) {
  auto tokenizer = LoadTokenizer(dir);
  if (tokenizer == nullptr) return nullptr;
  auto chat = ChatTemplate::Load(dir, tokenizer);
  EXPECT_TRUE(chat.ok()) << chat.status();
  return chat.ok() ? *std::move(chat) : nullptr;
}

}  // namespace conclave::text
