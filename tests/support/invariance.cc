#include "tests/support/invariance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

namespace conclave::testing {

InvarianceCase MakeInvarianceCase(std::shared_ptr<const LoadedModel> model,
                                  const std::vector<int64_t>& lengths, uint64_t seed) {
  std::mt19937_64 random(seed);
  InvarianceCase made{.model = std::move(model), .prompts = {}, .expected = {}};
  ForwardRig rig(made.model, {.level = kernels::CpuLevel::kReference});
  for (const int64_t length : lengths) {
    std::vector<int32_t> prompt;
    for (int64_t i = 0; i < length; ++i) {
      prompt.push_back(
          static_cast<int32_t>(random() % static_cast<uint64_t>(made.model->config().vocab_size)));
    }
    made.expected.push_back(rig.LogitsOf(prompt, 0));
    made.prompts.push_back(std::move(prompt));
  }
  return made;
}

void ExpectLogits(const InvarianceCase& expected, size_t prompt, int64_t first_position,
                  const float* rows, int64_t num_rows, const std::string& how) {
  const int64_t vocab = expected.model->config().vocab_size;
  for (int64_t row = 0; row < num_rows; ++row) {
    const float* wanted = expected.expected[prompt].data() + (first_position + row) * vocab;
    if (std::memcmp(wanted, rows + row * vocab, static_cast<size_t>(vocab) * sizeof(float)) == 0)
      continue;
    ADD_FAILURE() << how << ": other bits for prompt " << prompt << " at position "
                  << first_position + row << " of " << expected.prompts[prompt].size();
    return;
  }
}

void ExpectSameAlone(const InvarianceCase& expected, const RigOptions& options, int64_t chunk) {
  ForwardRig rig(expected.model, options);
  for (size_t prompt = 0; prompt < expected.prompts.size(); ++prompt) {
    const auto& ids = expected.prompts[prompt];
    const std::vector<float> logits = rig.LogitsOf(ids, chunk);
    ExpectLogits(expected, prompt, 0, logits.data(), static_cast<int64_t>(ids.size()),
                 "alone in chunks of " + std::to_string(chunk));
  }
}

void ExpectSameInBatch(const InvarianceCase& expected, const RigOptions& options,
                       const std::vector<int64_t>& chunks) {
  ForwardRig rig(expected.model, options);
  const int64_t vocab = expected.model->config().vocab_size;
  for (int step = 0;; ++step) {
    std::vector<ForwardRig::Part> parts;
    for (size_t s = 0; s < expected.prompts.size(); ++s) {
      const auto& ids = expected.prompts[s];
      const int64_t done = rig.num_tokens(static_cast<int>(s));
      const int64_t next =
          std::min(chunks[s % chunks.size()], static_cast<int64_t>(ids.size()) - done);
      if (next == 0) continue;
      parts.push_back(
          {.sequence = static_cast<int>(s),
           .ids = std::span(ids).subspan(static_cast<size_t>(done), static_cast<size_t>(next)),
           .num_logits = static_cast<int32_t>(next)});
    }
    if (parts.empty()) return;
    const engine::ForwardOutput& output = rig.Step(parts);
    const float* rows = output.logits.data();
    for (size_t i = 0; i < parts.size(); ++i) {
      ASSERT_TRUE(output.status[i].ok()) << output.status[i];
      const size_t s = static_cast<size_t>(parts[i].sequence);
      const int64_t count = static_cast<int64_t>(parts[i].ids.size());
      ExpectLogits(
          expected, s, rig.num_tokens(parts[i].sequence) - count, rows, count,
          "in a batch of " + std::to_string(parts.size()) + " at step " + std::to_string(step));
      rows += count * vocab;
    }
  }
}

}  // namespace conclave::testing
