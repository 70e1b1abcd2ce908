#include "kernels/ref/rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/ref/functions.h"

namespace conclave::kernels::ref {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

std::vector<float> Scores(GateScoring scoring, const float* logits, int32_t num_experts) {
  std::vector<float> scores(static_cast<size_t>(num_experts));
  if (scoring == GateScoring::kSigmoid) {
    std::transform(logits, logits + num_experts, scores.begin(), Sigmoid);
    return scores;
  }
  float largest = kMinusInfinity;
  for (int32_t i = 0; i < num_experts; ++i) {
    if (logits[i] > largest) largest = logits[i];
  }
  LaneSum sum;
  for (int32_t i = 0; i < num_experts; ++i) {
    scores[i] = Exp(logits[i] - largest);
    sum.Add(i, scores[i]);
  }
  const float total = sum.Total();
  for (float& score : scores) score = score / total;
  return scores;
}

// The indices of `values` in descending order, ties to the lower index.
std::vector<int32_t> Order(const std::vector<float>& values) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  return order;
}

float GroupScore(GroupScoring grouping, const float* choices, int32_t size) {
  float first = kMinusInfinity;
  float second = kMinusInfinity;
  for (int32_t i = 0; i < size; ++i) {
    if (choices[i] > first) {
      second = first;
      first = choices[i];
    } else if (choices[i] > second) {
      second = choices[i];
    }
  }
  return grouping == GroupScoring::kMax || size == 1 ? first : first + second;
}

void DropGroups(const GateParameters& parameters, std::vector<float>& choices) {
  const int32_t size = parameters.num_experts / parameters.num_groups;
  std::vector<float> scores;
  for (int32_t g = 0; g < parameters.num_groups; ++g) {
    scores.push_back(GroupScore(parameters.grouping, &choices[g * size], size));
  }
  const std::vector<int32_t> order = Order(scores);
  for (int32_t i = parameters.top_groups; i < parameters.num_groups; ++i) {
    std::fill_n(&choices[order[i] * size], size, kMinusInfinity);
  }
}

}  // namespace

void RmsNorm(MatrixView<const float> input, const float* weight, float epsilon,
             MatrixView<float> output) {
  for (int64_t r = 0; r < input.rows; ++r) {
    const float* x = input.Row(r);
    LaneSum sum;
    for (int64_t i = 0; i < input.cols; ++i) sum.AddSquare(i, x[i]);
    const float mean = sum.Total() / static_cast<float>(input.cols);
    const float factor = 1.0f / std::sqrt(mean + epsilon);
    for (int64_t i = 0; i < input.cols; ++i) output.Row(r)[i] = (x[i] * factor) * weight[i];
  }
}

void ApplyRope(const RopeTable& table, RopePairing pairing, std::span<const int32_t> positions,
               int64_t num_heads, int64_t head_stride, MatrixView<float> rows) {
  for (int64_t r = 0; r < rows.rows; ++r) {
    const float* cos = &table.cos[positions[r] * table.num_pairs];
    const float* sin = &table.sin[positions[r] * table.num_pairs];
    for (int64_t h = 0; h < num_heads; ++h) {
      float* head = rows.Row(r) + h * head_stride;
      for (int64_t i = 0; i < table.num_pairs; ++i) {
        const bool interleaved = pairing == RopePairing::kInterleaved;
        float& a = head[interleaved ? 2 * i : i];
        float& b = head[interleaved ? 2 * i + 1 : i + table.num_pairs];
        const float rotated_a = std::fma(a, cos[i], -(b * sin[i]));
        const float rotated_b = std::fma(b, cos[i], a * sin[i]);
        a = rotated_a;
        b = rotated_b;
      }
    }
  }
}

void Add(MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> output) {
  for (int64_t r = 0; r < output.rows; ++r) {
    for (int64_t i = 0; i < output.cols; ++i) output.Row(r)[i] = a.Row(r)[i] + b.Row(r)[i];
  }
}

void ScaleBySigmoid(std::span<const float> scores, MatrixView<float> rows) {
  for (int64_t r = 0; r < rows.rows; ++r) {
    const float factor = Sigmoid(scores[r]);
    for (int64_t i = 0; i < rows.cols; ++i) rows.Row(r)[i] *= factor;
  }
}

void Gate(const GateParameters& parameters, MatrixView<const float> logits, MatrixView<int32_t> ids,
          MatrixView<float> weights) {
  for (int64_t t = 0; t < logits.rows; ++t) {
    const std::vector<float> scores =
        Scores(parameters.scoring, logits.Row(t), parameters.num_experts);
    std::vector<float> choices = scores;
    for (int32_t i = 0; i < parameters.num_experts; ++i) {
      if (parameters.correction_bias != nullptr) choices[i] += parameters.correction_bias[i];
      if (choices[i] != choices[i]) choices[i] = kMinusInfinity;
    }
    if (parameters.grouping != GroupScoring::kNone) DropGroups(parameters, choices);
    const std::vector<int32_t> order = Order(choices);
    float sum = 0.0f;
    for (int32_t j = 0; j < parameters.top_k; ++j) {
      ids.Row(t)[j] = order[j];
      weights.Row(t)[j] = scores[order[j]];
      sum = sum + scores[order[j]];
    }
    sum = sum + parameters.normalise_epsilon;
    for (int32_t j = 0; j < parameters.top_k; ++j) {
      float& weight = weights.Row(t)[j];
      if (parameters.normalise) weight = weight / sum;
      weight = weight * parameters.scale;
    }
  }
}

void CombineExperts(MatrixView<const float> rows, MatrixView<const float> weights,
                    MatrixView<float> accumulator) {
  const int64_t top_k = weights.cols;
  for (int64_t t = 0; t < accumulator.rows; ++t) {
    for (int64_t j = 0; j < top_k; ++j) {
      const float weight = weights.Row(t)[j];
      for (int64_t i = 0; i < accumulator.cols; ++i) {
        float& sum = accumulator.Row(t)[i];
        sum = std::fma(weight, rows.Row(t * top_k + j)[i], sum);
      }
    }
  }
}

}  // namespace conclave::kernels::ref
