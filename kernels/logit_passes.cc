#include "kernels/logit_passes.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/logit_passes.h"
#include "kernels/ref/functions.h"

namespace conclave::kernels {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

uint64_t WeightOf(float logit, float largest, float temperature) {
  return static_cast<uint64_t>(static_cast<double>(ref::Exp((logit - largest) / temperature)) *
                               0x1p+40);
}

}  // namespace

void CopyLogits(CpuLevel level, std::span<const float> logits, std::vector<float>& output) {
  output.resize(logits.size());
  if (level != CpuLevel::kReference) {
    cpu::LogitsFor(level).copy(logits.data(), std::ssize(logits), output.data());
    return;
  }
  std::transform(logits.begin(), logits.end(), output.begin(), [](float logit) {
    return logit != logit ? kMinusInfinity : std::min(logit, std::numeric_limits<float>::max());
  });
}

int32_t IndexOfLargest(CpuLevel level, std::span<const float> logits) {
  if (level != CpuLevel::kReference) {
    return static_cast<int32_t>(
        cpu::LogitsFor(level).index_of_largest(logits.data(), std::ssize(logits)));
  }
  size_t best = 0;
  float largest = kMinusInfinity;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > largest) {
      largest = logits[i];
      best = i;
    }
  }
  return static_cast<int32_t>(best);
}

void LargestOfRuns(CpuLevel level, std::span<const float> logits, std::vector<float>& maxima) {
  maxima.clear();
  const int64_t size = std::ssize(logits);
  for (int64_t first = 0; first < size; first += kRunLogits) {
    const int64_t count = std::min(kRunLogits, size - first);
    const float* run = logits.data() + first;
    maxima.push_back(level == CpuLevel::kReference ? *std::max_element(run, run + count)
                                                   : cpu::LogitsFor(level).largest(run, count));
  }
}

void CollectFrom(CpuLevel level, std::span<const float> logits, float threshold,
                 std::vector<int32_t>& ids, std::vector<float>& kept) {
  ids.resize(logits.size());
  kept.resize(logits.size());
  size_t count = 0;
  if (level != CpuLevel::kReference) {
    count = static_cast<size_t>(cpu::LogitsFor(level).collect_from(
        logits.data(), std::ssize(logits), threshold, ids.data(), kept.data()));
  } else {
    for (size_t i = 0; i < logits.size(); ++i) {
      if (logits[i] < threshold) continue;
      ids[count] = static_cast<int32_t>(i);
      kept[count++] = logits[i];
    }
  }
  ids.resize(count);
  kept.resize(count);
}

void WeighLogits(CpuLevel level, std::span<const float> logits, float largest, float temperature,
                 std::vector<uint64_t>& weights) {
  weights.resize(logits.size());
  if (level != CpuLevel::kReference) {
    cpu::LogitsFor(level).weigh(logits.data(), std::ssize(logits), largest, temperature,
                                weights.data());
    return;
  }
  for (size_t i = 0; i < logits.size(); ++i) {
    weights[i] = WeightOf(logits[i], largest, temperature);
  }
}

uint64_t SumOfWeights(CpuLevel level, std::span<const float> logits, float largest,
                      float temperature) {
  if (level != CpuLevel::kReference) {
    return cpu::LogitsFor(level).sum_of_weights(logits.data(), std::ssize(logits), largest,
                                                temperature);
  }
  uint64_t sum = 0;
  for (float logit : logits) sum += WeightOf(logit, largest, temperature);
  return sum;
}

}  // namespace conclave::kernels
