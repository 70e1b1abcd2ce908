#include "shared/weights/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <span>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "shared/base/check.h"
#include "shared/base/status_macros.h"
#include "shared/weights/fingerprint.h"
#include "shared/weights/integer_view.h"
#include "shared/weights/shard_set.h"
#include "shared/weights/tensor_table.h"
#include "shared/weights/tensor_view.h"

namespace conclave::weights {
namespace {

namespace fs = std::filesystem;

constexpr char kOneRevision[] = "use config and weights of one model and revision";

// Names of tensors that say which unsupported format a checkpoint is in.
struct ForeignName {
  const char* part;
  const char* format;
};
constexpr ForeignName kForeignNames[] = {
    {".qweight", "GPTQ or AWQ"},
    {".qzeros", "GPTQ or AWQ"},
    {".g_idx", "GPTQ"},
    {"_blocks", "MXFP4"},
    {".weight_packed", "compressed-tensors"},
    {".absmax", "bitsandbytes"},
    {".quant_map", "bitsandbytes"},
    {".quant_state", "bitsandbytes"},
    {".lora_", "a LoRA adapter"},
};

std::string MtpPrefix(const ModelConfig& config, int32_t index) {
  return LayerTensorName(config.num_layers + index, "");
}

// Buffers that old versions of transformers saved; they follow from the config.
bool IsInert(const std::string& name) { return absl::EndsWith(name, "rotary_emb.inv_freq"); }

absl::Status Unexpected(const StoredTensor& stored, const ModelConfig& config) {
  const std::string& name = stored.info.name;
  const std::string subject =
      absl::StrCat(stored.file->path().string(), ": tensor ", name, " is unexpected");
  for (const ForeignName& foreign : kForeignNames) {
    if (absl::StrContains(name, foreign.part)) {
      return absl::UnimplementedError(
          absl::StrCat(subject, ": it looks like ", foreign.format,
                       ", and config.json does not say so, or it is not "
                       "supported; use config and weights of one "
                       "revision, or the original checkpoint "
                       "(docs/models.md)"));
    }
  }
  if (absl::EndsWith(name, "_scale_inv")) {
    return absl::InvalidArgumentError(absl::StrCat(
        subject, ": it scales a tensor that is not F8_E4M3; download the checkpoint again"));
  }
  for (int32_t i = 0; i < 64; ++i) {
    if (absl::StartsWith(name, MtpPrefix(config, i))) {
      return absl::InvalidArgumentError(absl::StrCat(
          subject, ": config.json says num_hidden_layers ", config.num_layers,
          " and num_nextn_predict_layers ", config.num_mtp_layers, "; ", kOneRevision));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(subject, ": a model of this config has no such tensor; ", kOneRevision));
}

}  // namespace

struct Checkpoint::State {
  fs::path dir;
  ModelConfig config;
  std::vector<std::string> warnings;
  ShardSet shards;
  std::map<std::string, TensorView, std::less<>> views;
  int64_t weight_bytes = 0;

  absl::Status Resolve();
  absl::Status ResolveOne(const TensorSpec& spec, std::set<std::string>* used,
                          std::vector<std::string>* missing);
  absl::Status CheckRest(const std::set<std::string>& used);
  absl::Status CheckTiedHead(const StoredTensor& head) const;
  bool IsBiasOfNothing(const StoredTensor& stored, const std::set<std::string>& used) const;
  const TensorView& View(std::string_view name) const;
};

absl::Status Checkpoint::State::ResolveOne(const TensorSpec& spec, std::set<std::string>* used,
                                           std::vector<std::string>* missing) {
  const StoredTensor* stored = nullptr;
  const StackSlice* slice = nullptr;
  const auto found = [&](const std::string& name, const StackSlice* in_stack) -> absl::Status {
    const StoredTensor* candidate = shards.Find(name);
    if (candidate == nullptr) return absl::OkStatus();
    if (stored != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(dir.string(), ": tensors ", stored->info.name,
                                                     " and ", name, " both hold ", spec.name,
                                                     "; remove the file that is not part of this "
                                                     "checkpoint"));
    }
    stored = candidate;
    slice = in_stack;
    return absl::OkStatus();
  };
  for (const std::string& name : spec.stored_names) RETURN_IF_ERROR(found(name, nullptr));
  for (const StackSlice& each : spec.slices) RETURN_IF_ERROR(found(each.stored_name, &each));
  const bool matrix = spec.shape.size() == 2;
  if (matrix && config.integers.layout != IntegerLayout::kNone) {
    for (const std::string& name : spec.stored_names) {
      const std::string integers = IntegerView::IntegersName(config.integers.layout, name);
      if (shards.Find(integers) == nullptr) continue;
      RETURN_IF_ERROR(found(integers, nullptr));
      ASSIGN_OR_RETURN(const IntegerView view, IntegerView::Make(name, spec.shape[0], spec.shape[1],
                                                                 shards, config.integers, used));
      views.emplace(spec.name, TensorView::MakeIntegers(spec, view));
      return absl::OkStatus();
    }
  }
  if (stored == nullptr) {
    missing->push_back(spec.stored_names.back());
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(TensorView view, TensorView::Make(spec, *stored, slice, shards, config));
  used->insert(stored->info.name);
  if (view.scales().stored != nullptr) used->insert(view.scales().stored->info.name);
  views.emplace(spec.name, view);
  return absl::OkStatus();
}

// A tied model may still have its LM head in the file; transformers would use the embedding, so a
// head that differs means that the config is wrong.
absl::Status Checkpoint::State::CheckTiedHead(const StoredTensor& head) const {
  const StoredTensor& embedding = View(kEmbeddingName).stored();
  if (head.info.dtype == embedding.info.dtype && head.info.shape == embedding.info.shape &&
      std::memcmp(head.data(), embedding.data(), static_cast<size_t>(head.info.bytes())) == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      head.file->path().string(), ": tensor ", head.info.name,
      " differs from the embedding, but config.json says tie_word_embeddings true; set it to false "
      "if the head was trained apart, or use config and weights of one revision"));
}

// Writers of GPTQ give each matrix a bias, of zeros where the model has none.
bool Checkpoint::State::IsBiasOfNothing(const StoredTensor& stored,
                                        const std::set<std::string>& used) const {
  const std::string& name = stored.info.name;
  if (!absl::EndsWith(name, ".bias")) return false;
  const std::string matrix(absl::StripSuffix(name, ".bias"));
  if (!used.contains(IntegerView::IntegersName(config.integers.layout, matrix))) return false;
  const std::span bytes(stored.data(), static_cast<size_t>(stored.info.bytes()));
  return std::all_of(bytes.begin(), bytes.end(),
                     [](std::byte byte) { return byte == std::byte{}; });
}

// What no spec asked for: MTP layers, inert buffers, a tied head; anything else is an error.
absl::Status Checkpoint::State::CheckRest(const std::set<std::string>& used) {
  std::vector<bool> mtp_found(static_cast<size_t>(config.num_mtp_layers));
  int64_t num_inert = 0;
  for (const auto& [name, stored] : shards.tensors()) {
    if (used.contains(name)) {
      weight_bytes += static_cast<int64_t>(stored.info.bytes());
      continue;
    }
    if (stored.info.bytes() == 0) continue;  // such as shared experts of which there are none
    if (IsInert(name)) {
      ++num_inert;
      continue;
    }
    if (IsBiasOfNothing(stored, used)) continue;
    if (config.tied_embeddings && name == kLmHeadName) {
      RETURN_IF_ERROR(CheckTiedHead(stored));
      continue;
    }
    bool mtp = false;
    for (int32_t i = 0; i < config.num_mtp_layers && !mtp; ++i) {
      mtp = absl::StartsWith(name, MtpPrefix(config, i));
      if (mtp) mtp_found[static_cast<size_t>(i)] = true;
    }
    if (!mtp) return Unexpected(stored, config);
  }
  for (int32_t i = 0; i < config.num_mtp_layers; ++i) {
    // A layer without this projection is an ordinary one: num_hidden_layers is too small.
    const std::string projection = absl::StrCat(MtpPrefix(config, i), "eh_proj.weight");
    if (mtp_found[static_cast<size_t>(i)] && shards.Find(projection) == nullptr &&
        shards.Find(IntegerView::IntegersName(config.integers.layout, projection)) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          dir.string(), ": layer ", config.num_layers + i, " is no multi-token-prediction layer (",
          projection, " is missing), but config.json says num_hidden_layers ", config.num_layers,
          "; ", kOneRevision));
    }
  }
  if (num_inert > 0) {
    warnings.push_back(absl::StrCat(dir.string(), ": ", num_inert,
                                    " rotary_emb.inv_freq tensors follow from the config and are "
                                    "ignored"));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::State::Resolve() {
  std::set<std::string> used;
  std::vector<std::string> missing;
  for (const TensorSpec& spec : TensorTable(config)) {
    RETURN_IF_ERROR(ResolveOne(spec, &used, &missing));
  }
  // A foreign format misses tensors and has others instead; what it has says more.
  if (!missing.empty()) {
    const bool foreign_expected = config.integers.layout != IntegerLayout::kNone;
    for (const auto& [name, stored] : shards.tensors()) {
      if (used.contains(name) || foreign_expected) continue;
      const absl::Status foreign = Unexpected(stored, config);
      if (absl::IsUnimplemented(foreign)) return foreign;
    }
    std::string hint;
    if (foreign_expected) {
      hint = absl::StrCat(", and so is ",
                          IntegerView::IntegersName(config.integers.layout, missing.front()));
    }
    if (missing.front() == kLmHeadName) hint = " (or tie_word_embeddings should be true)";
    if (missing.front() == kEmbeddingName && shards.Find("embed_tokens.weight") != nullptr) {
      hint = " (names lack the prefix \"model.\": save the model with its LM head)";
    }
    return absl::InvalidArgumentError(absl::StrCat(
        dir.string(), ": tensor ", missing.front(), " is missing", hint,
        missing.size() > 1 ? absl::StrCat(", and ", missing.size() - 1, " others") : "", "; ",
        kOneRevision));
  }
  return CheckRest(used);
}

const TensorView& Checkpoint::State::View(std::string_view name) const {
  const auto it = views.find(name);
  CONCLAVE_CHECK(it != views.end());
  return it->second;
}

Checkpoint::Checkpoint(std::unique_ptr<State> state) : state_(std::move(state)) {}
Checkpoint::~Checkpoint() = default;

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const fs::path& model_dir,
                                                             const Options& options) {
  auto state = std::make_unique<State>();
  state->dir = model_dir;
  ASSIGN_OR_RETURN(state->config, LoadModelConfig(model_dir, options.config, &state->warnings));
  ASSIGN_OR_RETURN(state->shards, ShardSet::Open(model_dir));
  RETURN_IF_ERROR(state->Resolve());
  return std::unique_ptr<Checkpoint>(new Checkpoint(std::move(state)));
}

const ModelConfig& Checkpoint::config() const { return state_->config; }
const fs::path& Checkpoint::path() const { return state_->dir; }
const std::vector<std::string>& Checkpoint::warnings() const { return state_->warnings; }
int64_t Checkpoint::weight_bytes() const { return state_->weight_bytes; }

bool Checkpoint::Has(std::string_view name) const { return state_->views.contains(name); }

void Checkpoint::ReadRows(std::string_view name, int64_t first_row, int64_t num_rows,
                          std::span<float> output) const {
  state_->View(name).Read(first_row, num_rows, output);
}

absl::Status Checkpoint::CheckUnchanged() const {
  for (const auto& file : state_->shards.files()) RETURN_IF_ERROR(file->CheckUnchanged());
  return absl::OkStatus();
}

void Checkpoint::Forget(std::string_view name) const {
  const TensorView& view = state_->View(name);
  if (const IntegerView* integers = view.integers()) {
    for (const StoredTensor* part : integers->parts()) {
      part->file->Forget(part->info.begin, part->info.begin + part->info.bytes());
    }
    return;
  }
  const std::span<const std::byte> bytes = view.bytes();
  const uint64_t begin = static_cast<uint64_t>(bytes.data() - view.stored().file->data());
  view.stored().file->Forget(begin, begin + bytes.size());
}

std::optional<kernels::WeightFormat> Checkpoint::IntegersOf(std::string_view name) const {
  const IntegerView* integers = state_->View(name).integers();
  return integers == nullptr ? std::nullopt : std::optional(integers->format());
}

void Checkpoint::ReadIntegers(std::string_view name, int64_t first_row, int64_t num_rows,
                              Int4Values& output) const {
  const IntegerView* integers = state_->View(name).integers();
  CONCLAVE_CHECK(integers != nullptr);
  integers->ReadIntegers(first_row, num_rows, output);
}

absl::Status Checkpoint::Check(std::string_view name) const {
  const IntegerView* integers = state_->View(name).integers();
  return integers == nullptr ? absl::OkStatus() : integers->Check();
}

std::string Checkpoint::FileOf(std::string_view name) const {
  return state_->View(name).stored().file->path().string();
}

std::string Checkpoint::Fingerprint(std::string_view numerics_class) const {
  FingerprintHash hash(numerics_class, NormalisedConfigText(state_->config));
  for (const auto& [name, view] : state_->views) {
    hash.AddTensor(name, view);
    // The samples are few, but about a megabyte was mapped for them; of a large model's tensors
    // together that would be a good part of the memory.
    Forget(name);
  }
  return hash.Finish();
}

}  // namespace conclave::weights
