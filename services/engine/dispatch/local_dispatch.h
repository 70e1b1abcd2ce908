// Experts in the engine's own process: the transport without a wire. The rows are rounded and
// computed by the code that a worker runs, so the bits are the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/context.h"
#include "services/engine/dispatch/expert_dispatch.h"
#include "shared/base/clock.h"
#include "shared/experts/expert_set.h"

namespace conclave::engine {

class LocalDispatch final : public ExpertDispatch {
 public:
  // Borrows all, which outlive it. `context` is the step thread's: the pool is not shared, because
  // Finish computes on the calling thread.
  LocalDispatch(const experts::ExpertSet* experts, const Clock* clock, kernels::Context* context);

  void Begin(const ExpertCall& call) override;
  // Tokens with an expert that is not held fail with UNAVAILABLE.
  ExpertOutcome Finish() override;
  std::vector<std::pair<int32_t, int32_t>> Missing() const override;

 private:
  // Marks the tokens that need an expert which is not held.
  void FindFailed(ExpertOutcome& outcome);
  // Fills experts_, first_row_, inputs_ and outputs_: the rows of all tokens that have not failed,
  // by expert ascending, in one expert by token ascending.
  void SortByExpert();

  const experts::ExpertSet& experts_set_;
  const Clock& clock_;
  kernels::Context& context_;

  ExpertCall call_;
  std::vector<uint8_t> token_failed_;  // [num_tokens]
  std::vector<int32_t> rows_of_;    // [num_experts]: rows of an expert, then the next row to fill
  std::vector<int32_t> experts_;    // those with rows, ascending
  std::vector<int32_t> first_row_;  // [experts_.size() + 1]
  std::vector<const std::byte*> inputs_;  // [num_rows]
  std::vector<std::byte*> outputs_;       // [num_rows]
  experts::ExpertScratch scratch_;
};

}  // namespace conclave::engine
