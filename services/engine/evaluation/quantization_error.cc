#include "services/engine/evaluation/quantization_error.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "kernels/unpack.h"
#include "shared/base/status_macros.h"
#include "shared/weights/dtype.h"
#include "shared/weights/engine_weights.h"
#include "shared/weights/expert_weights.h"
#include "shared/weights/matrix_source.h"
#include "shared/weights/packed_buffer.h"
#include "shared/weights/tensor_table.h"

namespace conclave::engine {
namespace {

using kernels::DenseView;
using kernels::PackedMatrix;
using kernels::WeightFormat;
using weights::SquaredError;
using weights::TensorKind;
using weights::TensorKindOf;

constexpr int64_t kRowsAtOnce = 64;  // of a thread: few enough to stay in its cache

int64_t NumMeasured(const weights::ModelConfig& config) {
  int64_t tensors = config.tied_embeddings ? 1 : 0;  // measured twice: as table and as LM head
  for (const weights::TensorSpec& spec : weights::TensorTable(config)) {
    tensors += spec.shape.size() == 2 && TensorKindOf(spec.name, false);
  }
  return tensors;
}

// Is asked for all tensors as a loader's source is, and keeps none: Run makes each, measures it and
// lets it go.
class Meter : public weights::MatrixSource {
 public:
  Meter(const weights::StoredModel& model, const weights::TensorReader& exact,
        kernels::ThreadPool& pool, const MeasureProgress& progress)
      : model_(model),
        exact_(exact),
        pool_(pool),
        progress_(progress),
        total_(NumMeasured(model.config())) {}

  PackedMatrix Add(WeightFormat format, std::string_view name, int64_t first_row,
                   int64_t num_outputs, int64_t num_inputs) override {
    Note({Order::kPacked, format, std::string(name), first_row, num_outputs, num_inputs});
    return {};
  }
  PackedMatrix AddTransposed(WeightFormat format, std::string_view name, int64_t first_row,
                             int64_t num_outputs, int64_t num_inputs) override {
    Note({Order::kTransposed, format, std::string(name), first_row, num_outputs, num_inputs});
    return {};
  }
  std::span<const std::byte> AddRowMajor(WeightFormat format, std::string_view name,
                                         int64_t first_row, int64_t num_rows,
                                         int64_t num_columns) override {
    Note({Order::kRowMajor, format, std::string(name), first_row, num_rows, num_columns});
    return {};
  }
  std::vector<float> LoadVector(std::string_view, int64_t) override { return {}; }

  absl::Status Run() override {
    for (const Asked& asked : std::exchange(asked_, {})) {
      if (!status_.ok()) break;
      status_ = Measure(asked);
      exact_.Forget(asked.name);
      if (status_.ok() && progress_ != nullptr) {
        progress_(static_cast<int64_t>(measured_.size()), total_);
      }
    }
    return status_;
  }

  std::vector<TensorError> measured() && { return std::move(measured_); }

 private:
  enum class Order : uint8_t { kPacked, kTransposed, kRowMajor };
  struct Asked {
    Order order = Order::kPacked;
    WeightFormat format = WeightFormat::kF32;
    std::string name;
    int64_t first_row = 0;                    // of the tensor
    int64_t num_outputs = 0, num_inputs = 0;  // of the matrix
  };

  void Note(Asked asked) {
    if (TensorKindOf(asked.name, asked.order == Order::kRowMajor))
      asked_.push_back(std::move(asked));
  }

  absl::Status Measure(const Asked& asked) {
    const int64_t outputs = asked.num_outputs, inputs = asked.num_inputs;
    const size_t bytes = asked.order == Order::kRowMajor
                             ? static_cast<size_t>(outputs * inputs) * sizeof(float)
                             : kernels::PackedBytes(asked.format, outputs, inputs);
    weights::PackedBuffer buffer(
        weights::BufferBytes(model_, weights::PackedBuffer::RoundUp(bytes)));
    const auto source = weights::MakeMatrixSource(model_, buffer, &pool_);
    PackedMatrix matrix;
    std::span<const std::byte> table;
    switch (asked.order) {
      case Order::kPacked:
        matrix = source->Add(asked.format, asked.name, asked.first_row, outputs, inputs);
        break;
      case Order::kTransposed:
        matrix = source->AddTransposed(asked.format, asked.name, asked.first_row, outputs, inputs);
        break;
      case Order::kRowMajor:
        table = source->AddRowMajor(asked.format, asked.name, asked.first_row, outputs, inputs);
        break;
    }
    RETURN_IF_ERROR(source->Run());
    RETURN_IF_ERROR(exact_.Check(asked.name));  // another reader than the source's

    // Rows of the tensor as it is stored: of a transposed matrix, its inputs.
    const bool transposed = asked.order == Order::kTransposed;
    const int64_t rows = transposed ? inputs : outputs;
    const int64_t columns = transposed ? outputs : inputs;
    std::vector<float> turned;  // [inputs, outputs]
    if (transposed) turned = Transposed(matrix);
    std::vector<SquaredError> parts(static_cast<size_t>((rows + kRowsAtOnce - 1) / kRowsAtOnce));
    pool_.ParallelFor(static_cast<int64_t>(parts.size()), 1, [&](int64_t begin, int64_t end, int) {
      std::vector<float> exact, quantized;
      for (int64_t part = begin; part < end; ++part) {
        const int64_t first = part * kRowsAtOnce;
        const int64_t count = std::min(kRowsAtOnce, rows - first);
        exact.resize(static_cast<size_t>(count * columns));
        quantized.resize(exact.size());
        exact_.ReadRows(asked.name, asked.first_row + first, count, exact);
        if (transposed) {
          std::copy_n(turned.begin() + first * columns, count * columns, quantized.begin());
        } else if (asked.order == Order::kPacked) {
          kernels::UnpackRows(matrix, first, DenseView(quantized.data(), count, columns));
        } else {
          const bool f32 = asked.format == WeightFormat::kF32;
          weights::WidenToFloat(f32 ? weights::DType::kF32 : weights::DType::kBf16,
                                table.data() + first * columns * (f32 ? 4 : 2), quantized);
        }
        parts[static_cast<size_t>(part)].Add(exact, quantized);
      }
    });
    SquaredError error;
    for (const SquaredError& part : parts) error.Add(part);
    Keep(asked, error);
    return absl::OkStatus();
  }

  static std::vector<float> Transposed(const PackedMatrix& matrix) {
    const int64_t outputs = matrix.num_outputs, inputs = matrix.num_inputs;
    std::vector<float> rows(static_cast<size_t>(outputs * inputs));
    kernels::UnpackRows(matrix, 0, DenseView(rows.data(), outputs, inputs));
    std::vector<float> turned(rows.size());
    for (int64_t output = 0; output < outputs; ++output) {
      for (int64_t input = 0; input < inputs; ++input) {
        turned[static_cast<size_t>(input * outputs + output)] =
            rows[static_cast<size_t>(output * inputs + input)];
      }
    }
    return turned;
  }

  // Parts of one tensor, such as a head's of kv_b, are summed up.
  void Keep(const Asked& asked, const SquaredError& error) {
    const TensorKind kind = *TensorKindOf(asked.name, asked.order == Order::kRowMajor);
    // A tied LM head has the embedding's name.
    const std::string key = asked.name + (kind == TensorKind::kLmHead ? " as LM head" : "");
    const auto [found, is_new] = index_.try_emplace(key, measured_.size());
    if (is_new) measured_.push_back({.name = asked.name, .kind = kind, .error = {}});
    measured_[found->second].error.Add(error);
  }

  const weights::StoredModel& model_;
  const weights::TensorReader& exact_;
  kernels::ThreadPool& pool_;
  const MeasureProgress& progress_;
  std::vector<Asked> asked_;
  std::vector<TensorError> measured_;
  std::unordered_map<std::string, size_t> index_;  // into measured_
  const int64_t total_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::vector<TensorError>> MeasureQuantization(const weights::StoredModel& model,
                                                             const weights::WeightFormats& formats,
                                                             const weights::TensorReader& exact,
                                                             kernels::ThreadPool& pool,
                                                             const MeasureProgress& progress) {
  const weights::ModelConfig& config = model.config();
  Meter meter(model, exact, pool, progress);
  weights::EngineWeights nothing;
  RETURN_IF_ERROR(weights::WalkEngine(config, formats, meter, nothing, nullptr));
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (!config.IsMoe(layer)) continue;
    for (int32_t expert = 0; expert < config.moe.num_experts; ++expert) {
      weights::AddExpert(config, formats, {layer, expert}, meter);
      RETURN_IF_ERROR(meter.Run());
    }
  }
  return std::move(meter).measured();
}

std::vector<KindError> ByKind(const std::vector<TensorError>& tensors) {
  std::vector<KindError> kinds;
  for (const TensorKind kind : weights::kTensorKinds) {
    KindError sum;
    sum.kind = kind;
    for (const TensorError& tensor : tensors) {
      if (tensor.kind != kind) continue;
      if (sum.tensors == 0 || tensor.error.Relative() > sum.worst.error.Relative()) {
        sum.worst = tensor;
      }
      ++sum.tensors;
      sum.error.Add(tensor.error);
    }
    if (sum.tensors > 0) kinds.push_back(std::move(sum));
  }
  return kinds;
}

}  // namespace conclave::engine
