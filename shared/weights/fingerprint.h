// The fingerprint of a model: which weights and which arithmetic, in 64 hex digits.
//
// docs/formats.md, "Fingerprint", defines the bytes. Built once at start, on the loading thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/weights/tensor_view.h"

namespace conclave::weights {

struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

// The parts of a tensor of `bytes` that the fingerprint reads: all of it up to 64 KiB; beyond that
// four pieces of 16 KiB, the first at the start, the last at the end, evenly spaced.
std::vector<ByteRange> SampleRanges(uint64_t bytes);

class FingerprintHash {
 public:
  FingerprintHash(std::string_view numerics_class, std::string_view config_text);
  ~FingerprintHash();

  // Tensors are added in ascending order of their canonical names.
  void AddTensor(std::string_view name, const TensorView& view);

  // Lower-case hex. Once.
  std::string Finish();

 private:
  struct Digest;
  void Add(std::string_view text);
  void AddSamples(std::span<const std::byte> bytes);

  std::unique_ptr<Digest> digest_;
};

}  // namespace conclave::weights
