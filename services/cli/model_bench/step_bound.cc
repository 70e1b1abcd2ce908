#include "services/cli/model_bench/step_bound.h"

#include <algorithm>
#include <span>
#include <string_view>

#include "shared/model/token_cost.h"
#include "shared/weights/engine_weights.h"
#include "shared/weights/expert_weights.h"
#include "shared/weights/matrix_source.h"

namespace conclave::cli {
namespace {

using kernels::PackedMatrix;
using kernels::WeightFormat;

// Counts what is asked for, and makes nothing.
class Counter : public weights::MatrixSource {
 public:
  PackedMatrix Add(WeightFormat format, std::string_view, int64_t, int64_t num_outputs,
                   int64_t num_inputs) override {
    counted_.push_back({format.type,
                        static_cast<double>(kernels::PackedBytes(format, num_outputs, num_inputs)),
                        static_cast<double>(num_outputs) * static_cast<double>(num_inputs)});
    return {};
  }
  PackedMatrix AddTransposed(WeightFormat format, std::string_view name, int64_t first_row,
                             int64_t num_outputs, int64_t num_inputs) override {
    return Add(format, name, first_row, num_outputs, num_inputs);
  }
  // The embedding: a row of it a token.
  std::span<const std::byte> AddRowMajor(WeightFormat, std::string_view, int64_t, int64_t,
                                         int64_t) override {
    return {};
  }
  absl::Status Run() override { return absl::OkStatus(); }
  std::vector<float> LoadVector(std::string_view, int64_t) override { return {}; }

  std::vector<ModelWork::Matrix>& counted() { return counted_; }

 private:
  std::vector<ModelWork::Matrix> counted_;
};

// Adds a matrix, by so many rows and read so many times, to what a step takes.
void Add(const ModelWork::Matrix& matrix, double times_read, double rows, const MachineRates& rates,
         StepBound* bound) {
  const double rate = rates.operations.at(matrix.type);
  const double reading = times_read * matrix.bytes / rates.read;
  const double multiplying = rate > 0 ? 2 * rows * matrix.multiply_adds / rate : 0;
  bound->seconds += std::max(reading, multiplying);
  if (reading >= multiplying) bound->reading_seconds += reading;
}

}  // namespace

ModelWork ModelWorkOf(const weights::ModelConfig& config, const weights::WeightFormats& formats) {
  ModelWork work;
  Counter engine;
  weights::EngineWeights unused;
  // Nothing is read, so nothing can fail.
  weights::WalkEngine(config, formats, engine, unused, nullptr).IgnoreError();
  work.matrices = std::move(engine.counted());
  work.head = work.matrices.back();  // the last of the walk
  work.matrices.pop_back();
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (!config.IsMoe(layer)) continue;
    if (work.moe_layers == 0) {
      Counter expert;
      weights::AddExpert(config, formats, {layer, 0}, expert);
      for (const ModelWork::Matrix& matrix : expert.counted()) {
        work.expert.type = matrix.type;
        work.expert.bytes += matrix.bytes;
        work.expert.multiply_adds += matrix.multiply_adds;
      }
    }
    ++work.moe_layers;
  }
  work.experts = config.moe.num_experts;
  work.experts_a_row = config.moe.top_k;
  work.attention_multiply_adds = static_cast<double>(model::TokenCostOf(config).attention_width);
  work.attention_type = kernels::TableFormatOf(formats.numerics).type;
  return work;
}

StepBound BoundOf(const ModelWork& work, const StepWork& step, const MachineRates& rates) {
  StepBound bound;
  for (const ModelWork::Matrix& matrix : work.matrices) Add(matrix, 1, step.rows, rates, &bound);
  Add(work.head, 1, step.head_rows, rates, &bound);
  Add(work.expert, work.moe_layers * work.experts * step.active_expert_ratio,
      work.moe_layers * work.experts_a_row * step.rows, rates, &bound);
  Add({work.attention_type, 0, work.attention_multiply_adds}, 0, step.attended, rates, &bound);
  return bound;
}

}  // namespace conclave::cli
