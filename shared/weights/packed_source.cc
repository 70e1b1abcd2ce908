#include "shared/weights/packed_source.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/matrix_loader.h"
#include "shared/weights/packed_entry.h"
#include "shared/weights/packed_model.h"

namespace conclave::weights {
namespace {

using kernels::PackedMatrix;
using kernels::WeightFormat;

std::string Described(const PackedEntry& entry) {
  const WeightFormat format = FormatOf(entry);
  return absl::StrCat(std::string(kernels::WeightTypeName(format.type)),
                      format.group > 0 ? absl::StrCat(":", format.group) : "",
                      format.zeros ? " with zero points" : "", " [", entry.rows, ", ",
                      entry.columns, "]");
}

// Whether one may stand for the other: zero points are the checkpoint's affair.
bool SameFormat(WeightFormat found, WeightFormat wanted) {
  return found.type == wanted.type && found.group == wanted.group;
}

}  // namespace

const PackedEntry* PackedSource::Find(const PackedEntry& wanted) {
  if (!status_.ok()) return nullptr;
  const PackedEntry* found = file_.Find(wanted.name);
  if (found == nullptr) {
    status_ = absl::InvalidArgumentError(
        absl::StrCat(file_.path().string(), ": tensor ", wanted.name,
                     " is missing, which its config.json asks for; pack the checkpoint again"));
    return nullptr;
  }
  if (found->order != wanted.order || !SameFormat(FormatOf(*found), FormatOf(wanted)) ||
      found->rows != wanted.rows || found->columns != wanted.columns ||
      found->bytes != wanted.bytes) {
    status_ = absl::InvalidArgumentError(
        absl::StrCat(file_.path().string(), ": tensor ", wanted.name, " is ", Described(*found),
                     " in ", found->bytes, " bytes, wanted ", Described(wanted), " in ",
                     wanted.bytes, "; pack the checkpoint again"));
    return nullptr;
  }
  unverified_.push_back(found);
  if (wanted.order != PackedEntry::Order::kVector) {
    const bool is_table = wanted.order == PackedEntry::Order::kRowMajor;
    if (const auto kind = TensorKindOf(found->name, is_table)) {
      errors_.Of(*kind).Add({found->squared_errors, found->squared_weights});
    }
  }
  return found;
}

std::span<const std::byte> PackedSource::Take(const PackedEntry& wanted) {
  const PackedEntry* found = Find(wanted);
  return found == nullptr ? std::span<const std::byte>() : file_.Bytes(*found);
}

PackedMatrix PackedSource::Matrix(WeightFormat format, std::string name, int64_t num_outputs,
                                  int64_t num_inputs) {
  const PackedEntry* found = Find(PanelsEntry(format, std::move(name), num_outputs, num_inputs));
  if (found == nullptr) return {format, num_outputs, num_inputs, nullptr};
  return {FormatOf(*found), num_outputs, num_inputs, file_.Bytes(*found).data()};
}

PackedMatrix PackedSource::Add(WeightFormat format, std::string_view name, int64_t first_row,
                               int64_t num_outputs, int64_t num_inputs) {
  return Matrix(format, PackedName(name, first_row, num_outputs), num_outputs, num_inputs);
}

PackedMatrix PackedSource::AddTransposed(WeightFormat format, std::string_view name,
                                         int64_t first_row, int64_t num_outputs,
                                         int64_t num_inputs) {
  return Matrix(format, PackedTransposedName(name, first_row, num_inputs), num_outputs, num_inputs);
}

std::span<const std::byte> PackedSource::AddRowMajor(WeightFormat format, std::string_view name,
                                                     int64_t, int64_t num_rows,
                                                     int64_t num_columns) {
  return Take(RowMajorEntry(format, PackedRowMajorName(name), num_rows, num_columns));
}

std::vector<float> PackedSource::LoadVector(std::string_view name, int64_t elements) {
  std::vector<float> values(static_cast<size_t>(elements));
  const auto bytes = Take(VectorEntry(std::string(name), elements));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

absl::Status PackedSource::Run() {
  const std::vector<const PackedEntry*> entries = std::exchange(unverified_, {});
  if (!status_.ok()) return status_;
  std::vector<absl::Status> found(entries.size());
  const auto verify = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      found[static_cast<size_t>(i)] = file_.Verify(*entries[static_cast<size_t>(i)]);
    }
  };
  const auto count = static_cast<int64_t>(entries.size());
  if (pool_ == nullptr) {
    verify(0, count, 0);
  } else {
    pool_->ParallelFor(count, 1, verify);
  }
  for (const absl::Status& each : found) status_.Update(each);
  return status_;
}

std::unique_ptr<MatrixSource> MakeMatrixSource(const StoredModel& model, PackedBuffer& buffer,
                                               kernels::ThreadPool* pool) {
  if (const PackedModel* packed = model.packed()) {
    return std::make_unique<PackedSource>(packed->file(), pool);
  }
  return std::make_unique<MatrixLoader>(*model.checkpoint(), buffer, pool);
}

size_t BufferBytes(const StoredModel& model, size_t matrix_bytes) {
  return model.packed() != nullptr ? 0 : matrix_bytes;
}

}  // namespace conclave::weights
