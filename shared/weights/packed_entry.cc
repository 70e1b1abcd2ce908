#include "shared/weights/packed_entry.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace conclave::weights {
namespace {

using kernels::WeightFormat;

std::string Rows(std::string_view name, int64_t first_row, int64_t num_rows) {
  return absl::StrCat(std::string(name), "[", first_row, ":", first_row + num_rows, "]");
}

PackedEntry Entry(PackedEntry::Order order, WeightFormat format, std::string name, int64_t rows,
                  int64_t columns, size_t bytes) {
  PackedEntry entry;
  entry.name = std::move(name);
  entry.order = order;
  entry.type = format.zeros ? kPackedInt4WithZeros : static_cast<uint8_t>(format.type);
  entry.group = static_cast<uint16_t>(format.group);
  entry.rows = static_cast<uint64_t>(rows);
  entry.columns = static_cast<uint64_t>(columns);
  entry.bytes = bytes;
  return entry;
}

}  // namespace

std::string PackedName(std::string_view name, int64_t first_row, int64_t num_rows) {
  return first_row == 0 ? std::string(name) : Rows(name, first_row, num_rows);
}

std::string PackedTransposedName(std::string_view name, int64_t first_row, int64_t num_rows) {
  return absl::StrCat(Rows(name, first_row, num_rows), "^T");
}

std::string PackedRowMajorName(std::string_view name) {
  return absl::StrCat(std::string(name), "^R");
}

WeightFormat FormatOf(const PackedEntry& entry) {
  if (entry.type == kPackedInt4WithZeros) return {kernels::WeightType::kInt4, entry.group, true};
  return {static_cast<kernels::WeightType>(entry.type), entry.group};
}

PackedEntry PanelsEntry(WeightFormat format, std::string name, int64_t num_outputs,
                        int64_t num_inputs) {
  return Entry(PackedEntry::Order::kPanels, format, std::move(name), num_outputs, num_inputs,
               kernels::PackedBytes(format, num_outputs, num_inputs));
}

PackedEntry RowMajorEntry(WeightFormat format, std::string name, int64_t num_rows,
                          int64_t num_columns) {
  const int64_t element = format == WeightFormat::kF32 ? 4 : 2;
  return Entry(PackedEntry::Order::kRowMajor, format, std::move(name), num_rows, num_columns,
               static_cast<size_t>(num_rows * num_columns * element));
}

PackedEntry VectorEntry(std::string name, int64_t elements) {
  return Entry(PackedEntry::Order::kVector, WeightFormat::kF32, std::move(name), elements, 1,
               static_cast<size_t>(elements) * sizeof(float));
}

}  // namespace conclave::weights
