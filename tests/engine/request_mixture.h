// Requests for the tests that compare runs: the same ones, under other circumstances.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/golden_engine.h"

namespace conclave::engine {

// Requests that differ in everything that sampling knows.
inline std::vector<SequenceRequest> Mixture(GoldenEngine& engine, const GoldenModel& model,
                                            int count, int64_t max_tokens) {
  std::vector<SequenceRequest> requests;
  for (int i = 0; i < count; ++i) {
    SequenceRequest request =
        engine.Request(i + 1, model.Prompt(i % model.num_prompts()), max_tokens);
    request.seed = 1000 + i;
    request.choice_index = i % 3;
    request.sampling.temperature = i % 4 == 0 ? 0.0f : 0.5f + 0.1f * static_cast<float>(i);
    if (i % 2 == 1) request.sampling.top_p = 0.9f;
    if (i % 3 == 1) request.sampling.top_k = 20;
    if (i % 3 == 2) request.sampling.repetition_penalty = 1.2f;
    if (i % 5 == 2) request.sampling.frequency_penalty = 0.3f;
    if (i % 5 == 3) request.sampling.presence_penalty = 0.5f;
    if (i % 2 == 0) request.sampling.top_logprobs = 3;
    requests.push_back(std::move(request));
  }
  return requests;
}

// To the bit, log-probabilities included.
inline void ExpectSame(const Outcome& a, const Outcome& b) {
  EXPECT_EQ(a.ids, b.ids);
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (size_t i = 0; i < a.logprobs.size(); ++i) {
    EXPECT_EQ(a.logprobs[i].chosen, b.logprobs[i].chosen);
    ASSERT_EQ(a.logprobs[i].top.size(), b.logprobs[i].top.size());
    for (size_t j = 0; j < a.logprobs[i].top.size(); ++j) {
      EXPECT_EQ(a.logprobs[i].top[j].id, b.logprobs[i].top[j].id);
      EXPECT_EQ(a.logprobs[i].top[j].logprob, b.logprobs[i].top[j].logprob);
    }
  }
}

}  // namespace conclave::engine
