// A model's tokenizer: text to ids and back, exactly as the Hugging Face `tokenizers` library does
// it.
//
// Loaded once at start, from a checkpoint folder, and shared: every method is const, thread-safe,
// and neither blocks nor does I/O. The gateway encodes and decodes on its request threads; the
// engine uses only the table of token bytes. The work is done by the Rust crate in
// shared/text/bridge, whose panics arrive here as INTERNAL.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "shared/text/interrupt.h"

namespace conclave::text {

namespace internal {
struct TokenizerHandle;  // the Rust object; see bridge_handles.h
}

struct EncodeOptions {
  // Adds BOS and EOS as the model wants it: `add_bos_token` and `add_eos_token` of
  // tokenizer_config.json where they are set, else what tokenizer.json's post-processor adds.
  bool add_special_tokens = false;
  // "<|eos|>" in the text becomes the id of that token. When false, every added token that is not
  // mere white space is encoded as the characters it is written with.
  bool parse_special_tokens = true;
};

// How much an encoding may cost.
struct EncodeLimits {
  // A text of more ids than this is refused as soon as that is known: mostly from its bytes alone,
  // else after about so many ids.
  int64_t max_ids = INT64_MAX;
  // Asked between words; may be null. Lives as long as the call.
  const Interrupt* interrupt = nullptr;
};

// The number in the OUT_OF_RANGE of a text that is too long: it has at least so many ids. nullopt
// for any other status.
std::optional<int64_t> AtLeastIds(const absl::Status& status);

struct DecodeOptions {
  bool skip_special_tokens = false;
  // An id that no token has (padding rows of an embedding) decodes to nothing instead of being
  // refused.
  bool allow_unknown_ids = false;
};

class Tokenizer {
 public:
  // Reads tokenizer.json and, if there, tokenizer_config.json. NOT_FOUND, INVALID_ARGUMENT: the
  // message names the file, what is wrong in it, and what to do.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Load(
      const std::filesystem::path& model_dir);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // INVALID_ARGUMENT if `text` is not UTF-8. OUT_OF_RANGE with AtLeastIds beyond the limits' ids
  // (what the options add is not counted); CANCELLED or DEADLINE_EXCEEDED if interrupted.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options = {},
                                              const EncodeLimits& limits = {}) const;

  // The text of `ids`; bytes that are not UTF-8 become U+FFFD. OUT_OF_RANGE names the first id that
  // no token has, unless the options allow such ids. transformers' `clean_up_tokenization_spaces`
  // is not applied.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids,
                                     const DecodeOptions& options = {}) const;

  // The bytes that a token stands for inside a text (not necessarily UTF-8): for log-probabilities
  // and grammars. A leading space of a SentencePiece model is kept. OUT_OF_RANGE for an id that no
  // token has.
  absl::StatusOr<std::string> TokenBytes(int32_t id) const;

  // The token's exact name in the vocabulary: "Ġwolf" of a byte-level model, "▁wolf" or "<0x0A>" of
  // a SentencePiece one. Always UTF-8, and different for different ids. OUT_OF_RANGE as above.
  absl::StatusOr<std::string> TokenName(int32_t id) const;

  // The id of a token by its exact name in the vocabulary ("<|eos|>").
  std::optional<int32_t> TokenId(std::string_view token) const;
  bool IsSpecial(int32_t id) const;

  // Highest id + 1: what the embedding must hold at least.
  int32_t vocab_size() const { return vocab_size_; }
  // As tokenizer_config.json names them; nullopt where it does not, or the vocabulary lacks them.
  std::optional<int32_t> bos_token_id() const { return bos_token_id_; }
  std::optional<int32_t> eos_token_id() const { return eos_token_id_; }

  // The text version: 64 hex digits of SHA-256 over every file that decides what text becomes which
  // ids: tokenizer.json, tokenizer_config.json and the chat templates. Part of cache keys and
  // resume tokens.
  const std::string& version() const { return version_; }

  const internal::TokenizerHandle& handle() const { return *handle_; }  // for this folder only

 private:
  explicit Tokenizer(std::unique_ptr<internal::TokenizerHandle> handle);

  std::unique_ptr<internal::TokenizerHandle> handle_;
  int32_t vocab_size_ = 0;
  std::optional<int32_t> bos_token_id_;
  std::optional<int32_t> eos_token_id_;
  std::string version_;
};

}  // namespace conclave::text
