#include "shared/text/tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"
#include "shared/text/bridge_handles.h"
#include "shared/text/text_files.h"

namespace conclave::text {

using internal::ByteSlice;
using internal::Call;
using internal::IdSlice;

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Load(
    const std::filesystem::path& model_dir) {
  ASSIGN_OR_RETURN(TextFiles files, ReadTextFiles(model_dir));
  auto rust = Call([&] {
    return bridge::load_tokenizer(ByteSlice(files.tokenizer_json), ByteSlice(files.config_json));
  });
  if (!rust.ok()) {
    return absl::Status(rust.status().code(),
                        absl::StrCat(model_dir.string(), ": ", rust.status().message()));
  }
  auto handle =
      std::make_unique<internal::TokenizerHandle>(internal::TokenizerHandle{*std::move(rust)});
  ASSIGN_OR_RETURN(const bridge::TokenizerFacts facts, Call([&] { return handle->rust->facts(); }));
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer(std::move(handle)));
  tokenizer->vocab_size_ = facts.vocab_size;
  if (facts.bos_token_id >= 0) tokenizer->bos_token_id_ = facts.bos_token_id;
  if (facts.eos_token_id >= 0) tokenizer->eos_token_id_ = facts.eos_token_id;
  tokenizer->version_ = std::move(files.version);
  return tokenizer;
}

Tokenizer::Tokenizer(std::unique_ptr<internal::TokenizerHandle> handle)
    : handle_(std::move(handle)) {}

Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       const EncodeOptions& options,
                                                       const EncodeLimits& limits) const {
  return internal::TakeIds(
      Call([&] {
        return handle_->rust->encode(
            {ByteSlice(text), options.add_special_tokens, options.parse_special_tokens,
             static_cast<uint64_t>(limits.max_ids), internal::InterruptOf(limits)});
      }),
      limits);
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids,
                                              const DecodeOptions& options) const {
  ASSIGN_OR_RETURN(const rust::String text, Call([&] {
                     return handle_->rust->decode(IdSlice(ids), options.skip_special_tokens,
                                                  options.allow_unknown_ids);
                   }));
  return std::string(text);
}

absl::StatusOr<std::string> Tokenizer::TokenBytes(int32_t id) const {
  ASSIGN_OR_RETURN(const rust::Vec<uint8_t> bytes,
                   Call([&] { return handle_->rust->token_bytes(id); }));
  return std::string(bytes.begin(), bytes.end());
}

absl::StatusOr<std::string> Tokenizer::TokenName(int32_t id) const {
  ASSIGN_OR_RETURN(const rust::String name, Call([&] { return handle_->rust->token_name(id); }));
  return std::string(name);
}

std::optional<int32_t> Tokenizer::TokenId(std::string_view token) const {
  const absl::StatusOr<int32_t> id =
      Call([&] { return handle_->rust->token_id(ByteSlice(token)); });
  if (!id.ok() || *id < 0) return std::nullopt;
  return *id;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const absl::StatusOr<bool> special = Call([&] { return handle_->rust->is_special(id); });
  return special.ok() && *special;
}

}  // namespace conclave::text
