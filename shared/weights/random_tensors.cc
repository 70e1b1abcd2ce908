#include "shared/weights/random_tensors.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "shared/base/check.h"
#include "shared/weights/fingerprint.h"
#include "shared/weights/tensor_table.h"

namespace conclave::weights {
namespace {

// FNV-1a.
uint64_t HashOf(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
// Generators", OOPSLA 2014): 64 random bits of a counter.
uint64_t Mix(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return bits ^ (bits >> 31);
}

}  // namespace

RandomTensors::RandomTensors(const ModelConfig& config) : config_(config) {
  for (const TensorSpec& spec : TensorTable(config)) {
    columns_.emplace(spec.name, spec.shape.size() == 2 ? spec.shape[1] : 1);
  }
}

void RandomTensors::ReadRows(std::string_view name, int64_t first_row, int64_t num_rows,
                             std::span<float> output) const {
  const auto found = columns_.find(name);
  CONCLAVE_CHECK(found != columns_.end());
  const int64_t columns = found->second;
  CONCLAVE_CHECK(static_cast<int64_t>(output.size()) == num_rows * columns);
  if (columns == 1 &&
      !absl::EndsWith(absl::string_view(name.data(), name.size()), "_gate.weight")) {
    const bool norm = name.find("norm") != std::string_view::npos;
    std::fill(output.begin(), output.end(), norm ? 1.0f : 0.0f);
    return;
  }
  // Uniform in [-a, a) with variance a^2 / 3 = 1 / columns, from 32 bits each.
  const float step = std::sqrt(3.0f / static_cast<float>(columns)) * 0x1p-31f;
  const uint64_t seed = HashOf(name);
  const auto first = static_cast<uint64_t>(first_row * columns);
  for (size_t i = 0; i < output.size(); ++i) {
    const uint64_t at = first + i;
    const uint64_t pair = Mix(seed + (at / 2) * 0x9e3779b97f4a7c15u);
    const auto bits = static_cast<uint32_t>(at % 2 == 0 ? pair : pair >> 32);
    output[i] = static_cast<float>(static_cast<int32_t>(bits)) * step;
  }
}

std::string RandomTensors::FileOf(std::string_view) const { return "random weights"; }

std::string RandomTensors::Fingerprint(std::string_view label) const {
  return FingerprintHash(label, absl::StrCat("random 1\n", NormalisedConfigText(config_))).Finish();
}

}  // namespace conclave::weights
