#include "kernels/sample.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "kernels/functions.h"
#include "kernels/logit_passes.h"
#include "kernels/random.h"

namespace conclave::kernels {
namespace {

using Candidate = SampleScratch::Candidate;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr double kWeightScale = 0x1p+40;

// How far below the largest logit, in units of the temperature, top-p looks for its prefix; from
// one step to the next only if the mass above is not enough. Below the last there is no weight.
constexpr float kTopPDepths[] = {4.0f, 9.0f, 16.0f, std::numeric_limits<float>::infinity()};

// The order of docs/numerics.md: descending logits, ties to the lower id.
bool Before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

bool HasAdjustments(const SampleParameters& parameters, std::span<const TokenCount> counts) {
  const bool penalties = parameters.repetition_penalty != 1.0f ||
                         parameters.presence_penalty != 0.0f ||
                         parameters.frequency_penalty != 0.0f;
  return (penalties && !counts.empty()) || !parameters.logit_bias.empty() ||
         !parameters.banned_ids.empty();
}

float Sanitised(float logit) {
  if (logit != logit) return kMinusInfinity;
  return std::min(logit, std::numeric_limits<float>::max());
}

void Penalise(const SampleParameters& parameters, const TokenCount& count, float& logit) {
  if (parameters.repetition_penalty != 1.0f && (count.in_prompt > 0 || count.in_output > 0)) {
    logit =
        logit > 0 ? logit / parameters.repetition_penalty : logit * parameters.repetition_penalty;
  }
  if (count.in_output > 0) {
    if (parameters.frequency_penalty != 0.0f) {
      logit = logit - parameters.frequency_penalty * static_cast<float>(count.in_output);
    }
    if (parameters.presence_penalty != 0.0f) logit = logit - parameters.presence_penalty;
  }
}

// Steps 2 to 4, in place. Only what is touched needs to be sanitised again.
void Adjust(const SampleParameters& parameters, std::span<const TokenCount> counts,
            std::span<float> logits) {
  const auto in_vocabulary = [&](int32_t id) { return id >= 0 && id < std::ssize(logits); };
  for (const auto& [id, bias] : parameters.logit_bias) {
    if (in_vocabulary(id)) logits[static_cast<size_t>(id)] += bias;
  }
  for (const TokenCount& count : counts) {
    if (in_vocabulary(count.id)) {
      Penalise(parameters, count, logits[static_cast<size_t>(count.id)]);
    }
  }
  for (const auto& [id, bias] : parameters.logit_bias) {
    if (!in_vocabulary(id)) continue;
    float& logit = logits[static_cast<size_t>(id)];
    logit = Sanitised(logit);
  }
  for (const TokenCount& count : counts) {
    if (!in_vocabulary(count.id)) continue;
    float& logit = logits[static_cast<size_t>(count.id)];
    logit = Sanitised(logit);
  }
  for (int32_t id : parameters.banned_ids) {
    if (in_vocabulary(id)) logits[static_cast<size_t>(id)] = kMinusInfinity;
  }
}

// A logit that at least `count` ids reach: the count-th largest of the largest logits of runs.
float ThresholdOf(CpuLevel level, std::span<const float> logits, int64_t count,
                  std::vector<float>& maxima) {
  LargestOfRuns(level, logits, maxima);
  if (count > std::ssize(maxima)) return kMinusInfinity;
  const auto nth = maxima.begin() + (count - 1);
  std::nth_element(maxima.begin(), nth, maxima.end(), std::greater<float>());
  return *nth;
}

// scratch.candidates = what is collected in ids, kept_logits and weights.
void MakeCandidates(SampleScratch& scratch) {
  scratch.candidates.resize(scratch.ids.size());
  for (size_t i = 0; i < scratch.ids.size(); ++i) {
    scratch.candidates[i] = {scratch.kept_logits[i], scratch.ids[i], scratch.weights[i]};
  }
}

// The last of the shortest prefix of the order that weighs at least `target`: a selection that
// halves, so linear on average.
Candidate LastOfPrefix(std::span<Candidate> candidates, uint64_t target) {
  while (candidates.size() > 1) {
    const size_t half = (candidates.size() - 1) / 2;
    std::nth_element(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(half),
                     candidates.end(), Before);
    uint64_t mass = 0;
    for (size_t i = 0; i <= half; ++i) mass += candidates[i].weight;
    if (mass >= target) {
      candidates = candidates.first(half + 1);
    } else {
      target -= mass;
      candidates = candidates.subspan(half + 1);
    }
  }
  return candidates.front();
}

// Drops what comes after `last` in the order from ids, kept_logits and weights.
void KeepUpTo(const Candidate& last, SampleScratch& scratch) {
  size_t kept = 0;
  for (size_t i = 0; i < scratch.ids.size(); ++i) {
    const Candidate candidate{scratch.kept_logits[i], scratch.ids[i], scratch.weights[i]};
    if (Before(last, candidate)) continue;
    scratch.ids[kept] = candidate.id;
    scratch.kept_logits[kept] = candidate.logit;
    scratch.weights[kept++] = candidate.weight;
  }
  scratch.ids.resize(kept);
  scratch.kept_logits.resize(kept);
  scratch.weights.resize(kept);
}

uint64_t Total(std::span<const uint64_t> weights) {
  uint64_t total = 0;
  for (uint64_t weight : weights) total += weight;
  return total;
}

uint64_t TopPTarget(float top_p, uint64_t total) {
  const double product = static_cast<double>(top_p) * static_cast<double>(total);
  return std::clamp(static_cast<uint64_t>(std::ceil(product)), uint64_t{1}, total);
}

// Collects at least the prefix that top-p keeps of the whole vocabulary; returns its target.
uint64_t CollectTopP(const SampleParameters& parameters, std::span<const float> logits,
                     float largest, SampleScratch& scratch) {
  const uint64_t target = TopPTarget(
      parameters.top_p, SumOfWeights(scratch.level, logits, largest, parameters.temperature));
  for (float depth : kTopPDepths) {
    CollectFrom(scratch.level, logits, largest - depth * parameters.temperature, scratch.ids,
                scratch.kept_logits);
    WeighLogits(scratch.level, scratch.kept_logits, largest, parameters.temperature,
                scratch.weights);
    if (Total(scratch.weights) >= target) break;
  }
  return target;
}

// Steps 6 to 10. logits: adjusted, the largest above -infinity.
int32_t Draw(const SampleParameters& parameters, uint64_t bits, std::span<const float> logits,
             float largest, SampleScratch& scratch) {
  const bool top_k = parameters.top_k > 0 && parameters.top_k < std::ssize(logits);
  const bool top_p = parameters.top_p < 1.0f;
  if (top_k || !top_p) {
    const float threshold =
        top_k ? ThresholdOf(scratch.level, logits, parameters.top_k, scratch.maxima)
              : kMinusInfinity;
    CollectFrom(scratch.level, logits, threshold, scratch.ids, scratch.kept_logits);
    WeighLogits(scratch.level, scratch.kept_logits, largest, parameters.temperature,
                scratch.weights);
  }
  if (top_k) {
    MakeCandidates(scratch);
    const auto last = scratch.candidates.begin() + (parameters.top_k - 1);
    std::nth_element(scratch.candidates.begin(), last, scratch.candidates.end(), Before);
    KeepUpTo(*last, scratch);
  }
  if (top_p) {
    const uint64_t target = top_k ? TopPTarget(parameters.top_p, Total(scratch.weights))
                                  : CollectTopP(parameters, logits, largest, scratch);
    MakeCandidates(scratch);
    KeepUpTo(LastOfPrefix(scratch.candidates, target), scratch);
  }
  const uint64_t least =
      static_cast<uint64_t>(static_cast<double>(parameters.min_p) * kWeightScale);
  uint64_t total = 0;
  for (uint64_t& weight : scratch.weights) {
    if (weight < least) weight = 0;
    total += weight;
  }
  const uint64_t r = static_cast<uint64_t>(static_cast<unsigned __int128>(bits) * total >> 64);
  uint64_t running = 0;
  size_t i = 0;
  while ((running += scratch.weights[i]) <= r) ++i;
  return scratch.ids[i];
}

// Of the raw distribution: logits sanitised, not adjusted.
void AddLogprobs(int32_t num_top, std::span<const float> logits, SampleScratch& scratch,
                 SampleResult& result) {
  const float largest = logits[static_cast<size_t>(IndexOfLargest(scratch.level, logits))];
  if (largest == kMinusInfinity) {
    result.logprob = kMinusInfinity;
    return;
  }
  const uint64_t total = SumOfWeights(scratch.level, logits, largest, 1.0f);
  const double log_total = Log64(static_cast<double>(total) / kWeightScale);
  const auto logprob = [&](float logit) {
    return static_cast<float>((static_cast<double>(logit) - static_cast<double>(largest)) -
                              log_total);
  };
  result.logprob = logprob(logits[static_cast<size_t>(result.id)]);
  const int64_t count = std::min<int64_t>(num_top, std::ssize(logits));
  if (count == 0) return;
  CollectFrom(scratch.level, logits, ThresholdOf(scratch.level, logits, count, scratch.maxima),
              scratch.ids, scratch.kept_logits);
  scratch.weights.assign(scratch.ids.size(), 0);
  MakeCandidates(scratch);
  const auto end = scratch.candidates.begin() + count;
  std::partial_sort(scratch.candidates.begin(), end, scratch.candidates.end(), Before);
  for (auto candidate = scratch.candidates.begin(); candidate != end; ++candidate) {
    result.top_logprobs.push_back({candidate->id, logprob(candidate->logit)});
  }
}

}  // namespace

SampleResult Sample(const SampleParameters& parameters, const SamplePosition& position,
                    std::span<const TokenCount> counts, std::span<const float> logits,
                    SampleScratch& scratch) {
  SampleResult result;
  const bool logprobs = parameters.num_top_logprobs >= 0;
  const bool adjust = HasAdjustments(parameters, counts);
  if (parameters.temperature == 0.0f && !adjust && !logprobs) {
    const int32_t best = IndexOfLargest(scratch.level, logits);
    const float largest = logits[static_cast<size_t>(best)];
    // Neither +infinity, which ties with the largest float, nor a row without any candidate.
    if (std::isfinite(largest)) {
      result.id = best;
      return result;
    }
  }

  CopyLogits(scratch.level, logits, scratch.logits);
  if (adjust && logprobs) scratch.raw = scratch.logits;
  if (adjust) Adjust(parameters, counts, scratch.logits);
  const int32_t best = IndexOfLargest(scratch.level, scratch.logits);
  const float largest = scratch.logits[static_cast<size_t>(best)];
  if (largest == kMinusInfinity) {
    result.id = 0;
  } else if (parameters.temperature == 0.0f) {
    result.id = best;
  } else {
    const uint64_t bits = DrawBits(position.seed, position.choice_index, position.generated_index);
    result.id = Draw(parameters, bits, scratch.logits, largest, scratch);
  }
  if (logprobs) {
    AddLogprobs(parameters.num_top_logprobs, adjust ? scratch.raw : scratch.logits, scratch,
                result);
  }
  return result;
}

}  // namespace conclave::kernels
