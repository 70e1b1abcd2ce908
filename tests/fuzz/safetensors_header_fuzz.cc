// Feeds bytes to the safetensors reader as if they were the start of a file: nothing may crash, and
// what is accepted must keep the promises of safetensors_header.h.
//
// Built twice: with -DCONCLAVE_BUILD_FUZZERS=ON (clang) as a libFuzzer program, and always into the
// test that replays the corpus.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "shared/weights/safetensors_header.h"

namespace {

// The corpus holds headers without the data that follows them: 1 GiB of it is pretended, or as much
// as the header says when it says less.
constexpr uint64_t kPretendedDataBytes = uint64_t{1} << 30;

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckAccepted(const std::vector<conclave::weights::TensorInfo>& tensors, uint64_t data_begin,
                   uint64_t file_bytes) {
  uint64_t covered = data_begin;
  for (const conclave::weights::TensorInfo& tensor : tensors) {
    Require(tensor.begin == covered && tensor.end >= tensor.begin);
    unsigned __int128 bits = static_cast<unsigned>(conclave::weights::DTypeBits(tensor.dtype));
    for (int64_t dimension : tensor.shape) {
      Require(dimension >= 0);
      if (dimension == 0) bits = 0;
    }
    for (int64_t dimension : tensor.shape) {
      if (bits != 0) bits *= static_cast<uint64_t>(dimension);
    }
    Require(bits == static_cast<unsigned __int128>(tensor.bytes()) * 8);
    covered = tensor.end;
  }
  Require(covered == file_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const auto length = conclave::weights::ParseHeaderLength(file.substr(0, 8), size, "fuzz");
  if (!length.ok()) return 0;
  Require(*length <= size - 8);
  const std::string_view json = file.substr(8, static_cast<size_t>(*length));
  const uint64_t data_begin = 8 + *length;
  for (const uint64_t data_bytes : {size - data_begin, kPretendedDataBytes}) {
    const uint64_t file_bytes = data_begin + data_bytes;
    const auto tensors = conclave::weights::ParseHeader(json, file_bytes, "fuzz");
    if (tensors.ok()) CheckAccepted(*tensors, data_begin, file_bytes);
  }
  return 0;
}
