#include "services/cli/pack/plain_tokenizer.h"

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace conclave::cli {
namespace {

constexpr int32_t kNumBytes = 256;

std::string Utf8(int32_t code) {  // below U+0800
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

// How byte-level tokenizers write a byte: as the character of its code where that is visible, else
// as the next of those from U+0100 on.
std::vector<std::string> ByteNames() {
  std::vector<std::string> names;
  int32_t next = 0x100;
  for (int32_t byte = 0; byte < kNumBytes; ++byte) {
    const bool visible = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    names.push_back(Utf8(visible ? byte : next++));
  }
  return names;
}

constexpr char kChatTemplate[] =
    "{% for message in messages %}{{ message['content'] }}\n{% endfor %}";

}  // namespace

std::vector<std::pair<std::string, std::string>> PlainTokenizer(int32_t vocab_size) {
  nlohmann::json vocab = nlohmann::json::object();
  for (const std::string& name : ByteNames()) vocab[name] = vocab.size();
  for (int32_t id = kNumBytes; id < vocab_size; ++id) vocab[absl::StrCat("<", id, ">")] = id;
  const nlohmann::json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  nlohmann::json split = byte_level;
  split["use_regex"] = false;
  const nlohmann::json tokenizer = {
      {"version", "1.0"},
      {"added_tokens", nlohmann::json::array()},
      {"pre_tokenizer", split},
      {"decoder", byte_level},
      {"model",
       {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", nlohmann::json::array()}}}};
  const nlohmann::json config = {{"chat_template", kChatTemplate},
                                 {"clean_up_tokenization_spaces", false}};
  return {{"tokenizer.json", tokenizer.dump()}, {"tokenizer_config.json", config.dump()}};
}

}  // namespace conclave::cli
