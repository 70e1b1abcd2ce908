#include "kernels/ref/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/functions.h"
#include "kernels/random.h"
#include "kernels/ref/functions.h"

namespace conclave::kernels::ref {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr double kWeightScale = 0x1p+40;

float Sanitise(float logit) {
  if (logit != logit) return kMinusInfinity;
  return std::min(logit, std::numeric_limits<float>::max());
}

// Ids by descending logit, ties to the lower id.
std::vector<int32_t> Order(const std::vector<float>& logits) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  return order;
}

uint64_t Weight(float exponential) {
  return static_cast<uint64_t>(static_cast<double>(exponential) * kWeightScale);
}

void Penalise(const SampleParameters& parameters, std::span<const TokenCount> counts,
              std::vector<float>& logits) {
  const int64_t vocab_size = static_cast<int64_t>(logits.size());
  for (const TokenCount& count : counts) {
    if (count.id < 0 || count.id >= vocab_size) continue;
    float& logit = logits[count.id];
    if (parameters.repetition_penalty != 1.0f && (count.in_prompt > 0 || count.in_output > 0)) {
      logit =
          logit > 0 ? logit / parameters.repetition_penalty : logit * parameters.repetition_penalty;
    }
    if (count.in_output == 0) continue;
    if (parameters.frequency_penalty != 0.0f) {
      logit = logit - parameters.frequency_penalty * static_cast<float>(count.in_output);
    }
    if (parameters.presence_penalty != 0.0f) logit = logit - parameters.presence_penalty;
  }
}

// Steps 6 to 10 of docs/numerics.md, "Sampling".
int32_t Draw(const SampleParameters& parameters, uint64_t bits, const std::vector<float>& logits,
             const std::vector<int32_t>& order) {
  const float largest = logits[order[0]];
  std::vector<uint64_t> weights(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    weights[i] = Weight(Exp((logits[i] - largest) / parameters.temperature));
  }
  std::vector<int32_t> staying = order;
  if (parameters.top_k > 0 && parameters.top_k < static_cast<int64_t>(staying.size())) {
    staying.resize(static_cast<size_t>(parameters.top_k));
  }
  const auto sum = [&] {
    uint64_t total = 0;
    for (int32_t id : staying) total += weights[id];
    return total;
  };
  if (parameters.top_p < 1.0f) {
    const uint64_t total = sum();
    const double product = static_cast<double>(parameters.top_p) * static_cast<double>(total);
    const uint64_t target =
        std::clamp(static_cast<uint64_t>(std::ceil(product)), uint64_t{1}, total);
    uint64_t running = 0;
    size_t length = 0;
    while (running < target) running += weights[staying[length++]];
    staying.resize(length);
  }
  const uint64_t least = Weight(parameters.min_p);
  std::erase_if(staying, [&](int32_t id) { return weights[id] < least; });
  std::sort(staying.begin(), staying.end());
  const uint64_t r = static_cast<uint64_t>(static_cast<unsigned __int128>(bits) * sum() >> 64);
  uint64_t running = 0;
  for (int32_t id : staying) {
    running += weights[id];
    if (running > r) return id;
  }
  return staying.back();
}

void AddLogprobs(int32_t num_top, const std::vector<float>& logits, SampleResult& result) {
  const std::vector<int32_t> order = Order(logits);
  const float largest = logits[order[0]];
  if (largest == kMinusInfinity) {
    result.logprob = kMinusInfinity;
    return;
  }
  uint64_t total = 0;
  for (float logit : logits) total += Weight(Exp(logit - largest));
  const double log_total = Log64(static_cast<double>(total) / kWeightScale);
  const auto logprob = [&](int32_t id) {
    return static_cast<float>((static_cast<double>(logits[id]) - static_cast<double>(largest)) -
                              log_total);
  };
  result.logprob = logprob(result.id);
  const size_t length = std::min(static_cast<size_t>(num_top), order.size());
  for (size_t i = 0; i < length; ++i) result.top_logprobs.push_back({order[i], logprob(order[i])});
}

}  // namespace

SampleResult Sample(const SampleParameters& parameters, const SamplePosition& position,
                    std::span<const TokenCount> counts, std::span<const float> logits) {
  std::vector<float> raw(logits.begin(), logits.end());
  for (float& logit : raw) logit = Sanitise(logit);
  const int64_t vocab_size = static_cast<int64_t>(raw.size());

  std::vector<float> adjusted = raw;
  for (const auto& [id, bias] : parameters.logit_bias) {
    if (id >= 0 && id < vocab_size) adjusted[id] = adjusted[id] + bias;
  }
  Penalise(parameters, counts, adjusted);
  for (float& logit : adjusted) logit = Sanitise(logit);
  for (int32_t id : parameters.banned_ids) {
    if (id >= 0 && id < vocab_size) adjusted[id] = kMinusInfinity;
  }

  SampleResult result;
  const std::vector<int32_t> order = Order(adjusted);
  if (adjusted[order[0]] == kMinusInfinity) {
    result.id = 0;
  } else if (parameters.temperature == 0.0f) {
    result.id = order[0];
  } else {
    const uint64_t bits = DrawBits(position.seed, position.choice_index, position.generated_index);
    result.id = Draw(parameters, bits, adjusted, order);
  }
  if (parameters.num_top_logprobs >= 0) AddLogprobs(parameters.num_top_logprobs, raw, result);
  return result;
}

}  // namespace conclave::kernels::ref
