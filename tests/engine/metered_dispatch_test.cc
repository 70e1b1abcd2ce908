#include "services/engine/metered_dispatch.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/golden_engine.h"

namespace conclave::engine {
namespace {

using testing::HasSubstr;

TEST(MeteredDispatch, CountsRowsByExpertAndPassesEverythingOn) {
  const GoldenModel& model = LoadGolden("deepseek_v3", kernels::NumericsClass::kF32);
  const weights::ModelConfig& config = model.checkpoint->config();
  const auto experts = LoadAllExperts(model);
  const weights::ExpertId gone = experts->Held().back();
  experts->Release(gone);
  SteadyClock clock;
  kernels::Context context(kernels::BestCpuLevel(), 1);
  LocalDispatch local(experts.get(), &clock, &context);
  metrics::Registry registry;
  MeteredDispatch metered(&local, config.moe.num_experts, &registry);

  const int32_t layer = gone.layer;
  const std::vector<float> rows(2 * config.hidden, 0.5f);
  const std::vector<int32_t> ids = {0, 1, 0, gone.expert};
  std::vector<float> results(4 * config.hidden);
  const std::vector<RowOrigin> origins(2);
  metered.Begin({.layer = layer,
                 .num_tokens = 2,
                 .hidden = config.hidden,
                 .top_k = 2,
                 .row_type = kernels::RowType::kF32,
                 .rows = reinterpret_cast<const std::byte*>(rows.data()),
                 .expert_ids = ids,
                 .results = reinterpret_cast<std::byte*>(results.data()),
                 .origins = origins,
                 .traceparent = {}});
  const ExpertOutcome outcome = metered.Finish();
  ASSERT_EQ(outcome.failed.size(), 1u);
  EXPECT_EQ(outcome.failed[0].token, 1);
  EXPECT_EQ(metered.Missing(), local.Missing());
  EXPECT_EQ(metered.Missing().size(), 1u);
  const std::string text = registry.Expose();
  const std::string at = "conclave_expert_rows_total{expert=\"";
  const std::string in_layer = "\",layer=\"" + std::to_string(layer) + "\"} ";
  EXPECT_THAT(text, HasSubstr(at + "0" + in_layer + "2"));
  EXPECT_THAT(text, HasSubstr(at + "1" + in_layer + "1"));
  EXPECT_THAT(text, HasSubstr(at + std::to_string(gone.expert) + in_layer + "1"));
  EXPECT_THAT(text, HasSubstr("conclave_active_expert_ratio_count 1"));
}

}  // namespace
}  // namespace conclave::engine
