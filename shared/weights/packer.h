// Writes a model into a packed file: the matrices of engines and experts in the kernels' order, as
// loading would make them, piece by piece in bounded memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/thread_pool.h"
#include "shared/weights/model_config.h"
#include "shared/weights/packed_index.h"
#include "shared/weights/tensor_reader.h"
#include "shared/weights/weight_formats.h"

namespace conclave::weights {

struct PackInput {
  const ModelConfig* config = nullptr;
  const TensorReader* tensors = nullptr;
  std::string fingerprint;                                 // of these formats
  std::vector<std::pair<std::string, std::string>> texts;  // name and bytes
  // Whether what was read is still what was opened: asked before the file gets its name.
  std::function<absl::Status()> check_unchanged = {};
};

struct PackOptions {
  WeightFormats formats;
  bool replace = false;               // a file that lies there
  uint64_t batch_bytes = 128u << 20;  // made at once; one batch is made while another is written
  // Both may be null. `progress` gets bytes written and in all; false: stop.
  kernels::ThreadPool* pool = nullptr;
  std::function<bool(uint64_t done, uint64_t total)> progress;
};

// What the file will have, before anything is read: its size is PackedIndex::file_bytes.
// INVALID_ARGUMENT for integers of a matrix that is stored as others (FormatToMake).
absl::StatusOr<PackedIndex> PlanPack(const PackInput& input, const WeightFormats& formats);

// The same bytes for the same input and formats, whatever the threads. Holds at most some 400 MiB
// besides the input. Errors of PackedWriter; INVALID_ARGUMENT naming a tensor that holds an
// infinity or a NaN; CANCELLED when `progress` said so. Nothing lies at `path` then that did not
// before.
absl::Status Pack(const PackInput& input, const std::filesystem::path& path,
                  const PackOptions& options);

}  // namespace conclave::weights
