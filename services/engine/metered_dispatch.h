// Counts the rows that each expert gets in this process. (RemoteDispatch counts for itself.)
//
// Stands between the forward pass and the in-process transport; step thread alone, like it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "services/engine/dispatch/dispatch_metrics.h"
#include "services/engine/dispatch/expert_dispatch.h"

namespace conclave::engine {

class MeteredDispatch final : public ExpertDispatch {
 public:
  // Borrows both, which outlive it. `num_experts`: of a layer.
  MeteredDispatch(ExpertDispatch* dispatch, int32_t num_experts, metrics::Registry* registry)
      : dispatch_(*dispatch), metrics_(registry, num_experts) {}

  void Begin(const ExpertCall& call) override {
    dispatch_.Begin(call);
    metrics_.CountRows(call.layer, call.expert_ids);
  }
  ExpertOutcome Finish() override { return dispatch_.Finish(); }
  std::vector<std::pair<int32_t, int32_t>> Missing() const override { return dispatch_.Missing(); }

 private:
  ExpertDispatch& dispatch_;
  DispatchMetrics metrics_;
};

}  // namespace conclave::engine
