#include "shared/weights/packer.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <thread>

#include "absl/strings/str_cat.h"
#include "shared/base/crc32c.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/weights/engine_weights.h"
#include "shared/weights/expert_weights.h"
#include "shared/weights/imported_format.h"
#include "shared/weights/matrix_loader.h"
#include "shared/weights/packed_entry.h"
#include "shared/weights/packed_layout.h"
#include "shared/weights/packed_writer.h"

namespace conclave::weights {
namespace {

using kernels::PackedMatrix;
using kernels::WeightFormat;

// A tensor of the file and what it is made of.
struct Planned {
  enum class Order : uint8_t { kPacked, kTransposed, kRowMajor, kVector };
  Order order = Order::kPacked;
  WeightFormat format = WeightFormat::kF32;
  std::string name;               // of the tensor
  int64_t first_row = 0;          // of the tensor
  int64_t rows = 0, columns = 0;  // of the matrix: outputs and inputs
};

// Writes down what is asked for, and makes nothing.
class Planner : public MatrixSource {
 public:
  Planner(const TensorReader& tensors, PackedLayout* layout)
      : tensors_(tensors), layout_(*layout) {}

  PackedMatrix Add(WeightFormat format, std::string_view name, int64_t first_row,
                   int64_t num_outputs, int64_t num_inputs) override {
    const absl::StatusOr<WeightFormat> made = FormatToMake(tensors_, name, format);
    status_.Update(made.status());
    if (!status_.ok()) return {};
    Note({Planned::Order::kPacked, format, std::string(name), first_row, num_outputs, num_inputs},
         PanelsEntry(*made, PackedName(name, first_row, num_outputs), num_outputs, num_inputs));
    return {};
  }
  PackedMatrix AddTransposed(WeightFormat format, std::string_view name, int64_t first_row,
                             int64_t num_outputs, int64_t num_inputs) override {
    Note({Planned::Order::kTransposed, format, std::string(name), first_row, num_outputs,
          num_inputs},
         PanelsEntry(format, PackedTransposedName(name, first_row, num_inputs), num_outputs,
                     num_inputs));
    return {};
  }
  std::span<const std::byte> AddRowMajor(WeightFormat format, std::string_view name,
                                         int64_t first_row, int64_t num_rows,
                                         int64_t num_columns) override {
    Note({Planned::Order::kRowMajor, format, std::string(name), first_row, num_rows, num_columns},
         RowMajorEntry(format, PackedRowMajorName(name), num_rows, num_columns));
    return {};
  }
  std::vector<float> LoadVector(std::string_view name, int64_t elements) override {
    Note({Planned::Order::kVector, WeightFormat::kF32, std::string(name), 0, elements, 1},
         VectorEntry(std::string(name), elements));
    return {};
  }
  // What is run together is loaded together.
  absl::Status Run() override {
    layout_.BeginBlock();
    return status_;
  }

  std::vector<Planned> planned;

 private:
  void Note(Planned tensor, PackedEntry entry) {
    planned.push_back(std::move(tensor));
    layout_.AddEntry(std::move(entry));
  }
  const TensorReader& tensors_;
  PackedLayout& layout_;
  absl::Status status_;
};

struct Plan {
  PackedIndex index;
  std::vector<Planned> tensors;  // in the order of index.entries
};

absl::StatusOr<Plan> MakePlan(const PackInput& input, const WeightFormats& formats) {
  const ModelConfig& config = *input.config;
  PackedLayout layout(input.fingerprint, formats.Label());
  for (const auto& [name, bytes] : input.texts) layout.AddText(name, bytes);
  Planner planner(*input.tensors, &layout);
  EngineWeights nothing;
  RETURN_IF_ERROR(WalkEngine(config, formats, planner, nothing, nullptr));
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (!config.IsMoe(layer)) continue;
    for (int32_t expert = 0; expert < config.moe.num_experts; ++expert) {
      AddExpert(config, formats, {layer, expert}, planner);
      RETURN_IF_ERROR(planner.Run());
    }
  }
  return Plan{std::move(layout).Finish(), std::move(planner.planned)};
}

uint64_t PanelsOf(int64_t rows) {
  return static_cast<uint64_t>((rows + kernels::kPanelOutputs - 1) / kernels::kPanelOutputs);
}

// Bytes that are made in one go at least, at most: a panel, or a transposed matrix.
uint64_t LargestStep(const Plan& plan) {
  uint64_t largest = 0;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const Planned& tensor = plan.tensors[i];
    const bool whole = tensor.order == Planned::Order::kTransposed;
    const uint64_t steps = whole ? 1 : PanelsOf(tensor.rows);
    largest = std::max(largest, plan.index.entries[i].bytes / steps + 1);
  }
  return PackedBuffer::RoundUp(largest);
}

// Bytes of a tensor of the file, made.
struct Piece {
  size_t entry = 0;
  uint64_t begin = 0;  // within the entry
  std::span<const std::byte> bytes;
  std::vector<SquaredError> errors = {};  // of its rows that were looked at
};

// Pieces in their order, and the memory that they lie in.
struct Batch {
  PackedBuffer buffer;
  std::vector<std::vector<float>> vectors;
  std::vector<Piece> pieces;
};

// Makes the tensors of a plan, batch by batch.
class Maker {
 public:
  Maker(const Plan& plan, const PackInput& input, const PackOptions& options)
      : plan_(plan), input_(input), options_(options) {}

  bool done() const { return entry_ == plan_.tensors.size(); }

  absl::StatusOr<Batch> Next() {
    Batch batch;
    batch.buffer = PackedBuffer(options_.batch_bytes + LargestStep(plan_));
    MatrixLoader loader(*input_.tensors, batch.buffer, options_.pool);
    uint64_t left = options_.batch_bytes;
    while (!done() && left > 0) left -= std::min(left, Take(loader, left, batch));
    RETURN_IF_ERROR(loader.Run());
    auto errors = loader.row_errors().begin();  // of matrices alone, as they were added
    for (Piece& piece : batch.pieces) {
      if (plan_.tensors[piece.entry].order != Planned::Order::kVector) piece.errors = *errors++;
    }
    return batch;
  }

 private:
  // Asks for as much of the tensor as there is room for, one step at least; its bytes.
  uint64_t Take(MatrixLoader& loader, uint64_t room, Batch& batch) {
    const Planned& tensor = plan_.tensors[entry_];
    Piece piece = {.entry = entry_, .begin = begin_, .bytes = {}, .errors = {}};
    const int64_t rows = Rows(tensor, room);
    const int64_t first = tensor.first_row + row_;
    switch (tensor.order) {
      case Planned::Order::kPacked:
        piece.bytes = Bytes(loader.Add(tensor.format, tensor.name, first, rows, tensor.columns));
        break;
      case Planned::Order::kTransposed:
        piece.bytes = Bytes(
            loader.AddTransposed(tensor.format, tensor.name, first, tensor.rows, tensor.columns));
        break;
      case Planned::Order::kRowMajor:
        piece.bytes = loader.AddRowMajor(tensor.format, tensor.name, first, rows, tensor.columns);
        break;
      case Planned::Order::kVector:
        batch.vectors.push_back(loader.LoadVector(tensor.name, tensor.rows));
        piece.bytes = std::as_bytes(std::span(batch.vectors.back()));
        break;
    }
    batch.pieces.push_back(piece);
    row_ += rows;
    begin_ += piece.bytes.size();
    if (row_ == tensor.rows) {
      ++entry_;
      row_ = 0;
      begin_ = 0;
    }
    return piece.bytes.size();
  }

  // Of the tensor's rows that are left: whole panels.
  int64_t Rows(const Planned& tensor, uint64_t room) const {
    const int64_t left = tensor.rows - row_;
    if (tensor.order == Planned::Order::kTransposed || tensor.order == Planned::Order::kVector) {
      return left;
    }
    const uint64_t bytes = plan_.index.entries[entry_].bytes;
    const uint64_t panels = PanelsOf(tensor.rows);
    const uint64_t fit = std::max<uint64_t>(1, room / std::max<uint64_t>(1, bytes / panels));
    return std::min(left, static_cast<int64_t>(std::min(fit, panels)) * kernels::kPanelOutputs);
  }

  static std::span<const std::byte> Bytes(const PackedMatrix& matrix) {
    return {matrix.data,
            kernels::PackedBytes(matrix.format, matrix.num_outputs, matrix.num_inputs)};
  }

  const Plan& plan_;
  const PackInput& input_;
  const PackOptions& options_;
  size_t entry_ = 0;
  int64_t row_ = 0;     // of the entry: made so far
  uint64_t begin_ = 0;  // the same in bytes
};

// Writes batches in their order, and sums up.
class Output {
 public:
  explicit Output(PackedWriter* writer)
      : writer_(*writer),
        checksums_(writer->index().entries.size()),
        errors_(writer->index().entries.size()) {}

  absl::Status Write(const Batch& batch) {
    for (const Piece& piece : batch.pieces) {
      RETURN_IF_ERROR(writer_.Write(piece.entry, piece.begin, piece.bytes));
      checksums_[piece.entry] = ExtendCrc32c(checksums_[piece.entry], piece.bytes);
      for (const SquaredError& error : piece.errors) errors_[piece.entry].Add(error);
      done_ += piece.bytes.size();
    }
    return absl::OkStatus();
  }
  uint64_t done() const { return done_; }

  absl::Status Commit() {
    for (size_t i = 0; i < checksums_.size(); ++i) {
      writer_.SetChecksum(i, checksums_[i]);
      writer_.SetErrors(i, errors_[i].errors, errors_[i].weights);
    }
    return writer_.Commit();
  }

 private:
  PackedWriter& writer_;
  std::vector<uint32_t> checksums_;
  std::vector<SquaredError> errors_;
  uint64_t done_ = 0;
};

// One batch being written, while another is made.
class Writing {
 public:
  explicit Writing(Output* output) : output_(*output) {}
  ~Writing() { Wait().IgnoreError(); }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;

  // After Wait.
  void Begin(Batch batch) {
    batch_ = std::move(batch);
    thread_ = std::thread([this] {
      SetThreadName("pack-writer");
      status_ = output_.Write(batch_);
    });
  }
  // Of what has been written so far.
  absl::Status Wait() {
    if (thread_.joinable()) thread_.join();
    return status_;
  }

 private:
  Output& output_;
  Batch batch_;
  absl::Status status_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<PackedIndex> PlanPack(const PackInput& input, const WeightFormats& formats) {
  ASSIGN_OR_RETURN(Plan plan, MakePlan(input, formats));
  return std::move(plan.index);
}

absl::Status Pack(const PackInput& input, const std::filesystem::path& path,
                  const PackOptions& options) {
  ASSIGN_OR_RETURN(const Plan plan, MakePlan(input, options.formats));
  std::vector<std::string> texts;
  for (const auto& [name, bytes] : input.texts) texts.push_back(bytes);
  ASSIGN_OR_RETURN(const std::unique_ptr<PackedWriter> writer,
                   PackedWriter::Create(path, plan.index, texts, options.replace));
  uint64_t total = 0;
  for (const PackedEntry& entry : plan.index.entries) total += entry.bytes;
  Maker maker(plan, input, options);
  Output output(writer.get());
  Writing writing(&output);
  const auto go_on = [&](uint64_t done) {
    if (options.progress == nullptr || options.progress(done, total)) return absl::OkStatus();
    return absl::CancelledError(absl::StrCat("packing ", path.string(), " was stopped"));
  };
  while (!maker.done()) {
    absl::StatusOr<Batch> batch = maker.Next();
    RETURN_IF_ERROR(writing.Wait());
    RETURN_IF_ERROR(batch.status());
    RETURN_IF_ERROR(go_on(output.done()));
    writing.Begin(*std::move(batch));
  }
  RETURN_IF_ERROR(writing.Wait());
  RETURN_IF_ERROR(go_on(total));
  // What was read while somebody wrote to it must not get the fingerprint of before.
  if (input.check_unchanged != nullptr) RETURN_IF_ERROR(input.check_unchanged());
  return output.Commit();
}

}  // namespace conclave::weights
