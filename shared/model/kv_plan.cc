#include "shared/model/kv_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "shared/base/byte_size.h"

namespace conclave::model {
namespace {

constexpr int64_t kLeastContext = 2;  // a prompt token and one to generate
constexpr int64_t kMostBlocks = 1 << 30;

}  // namespace

kernels::KvShape KvShapeOf(const weights::ModelConfig& config, kernels::NumericsClass numerics) {
  const weights::AttentionConfig& attention = config.attention;
  if (attention.kind == weights::AttentionKind::kLatent) {
    return {.numerics = numerics,
            .num_kv_heads = 1,
            .key_dim = attention.kv_lora_rank + attention.qk_rope_head_dim,
            .value_dim = attention.kv_lora_rank,
            .value_is_key_prefix = true};
  }
  return {.numerics = numerics,
          .num_kv_heads = attention.num_kv_heads,
          .key_dim = attention.head_dim,
          .value_dim = attention.head_dim,
          .value_is_key_prefix = false};
}

int64_t KvBlockBytesOf(const weights::ModelConfig& config, kernels::NumericsClass numerics) {
  return config.num_layers *
         static_cast<int64_t>(kernels::KvBlockBytes(KvShapeOf(config, numerics)));
}

int32_t BlocksFor(int64_t num_tokens) {
  return static_cast<int32_t>((num_tokens + kernels::kBlockTokens - 1) / kernels::kBlockTokens);
}

int64_t TokensIn(int64_t num_blocks) { return num_blocks * kernels::kBlockTokens; }

absl::StatusOr<KvPlan> PlanKv(const KvDemand& demand) {
  if (demand.context != 0 &&
      (demand.context < kLeastContext || demand.context > demand.model_context)) {
    return absl::InvalidArgumentError(absl::StrCat("engine.context is ", demand.context,
                                                   ": this model allows ", kLeastContext, " to ",
                                                   demand.model_context, " tokens"));
  }
  const int64_t wanted = demand.context != 0 ? demand.context : demand.model_context;
  const int64_t blocks_of_context = BlocksFor(wanted);
  const int64_t useful = std::min(blocks_of_context * demand.max_batch, kMostBlocks);

  KvPlan plan;
  int64_t blocks = useful;
  if (demand.kv_bytes != 0) {
    if (demand.kv_bytes > demand.available_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("engine.kv_memory is ", FormatBytes(demand.kv_bytes), " and ",
                       FormatBytes(demand.available_bytes), " are free: lower it"));
    }
    blocks = std::min(demand.kv_bytes / demand.block_bytes, kMostBlocks);
    plan.reason = "kv_memory";
  } else {
    const int64_t fits =
        static_cast<int64_t>(demand.share * static_cast<double>(demand.available_bytes)) /
        demand.block_bytes;
    plan.reason =
        fits < useful ? "kv_memory_share of the free memory" : "max_batch sequences of full length";
    blocks = std::min(useful, fits);
  }
  const int64_t capacity = TokensIn(blocks);
  const int64_t least = demand.context != 0 ? blocks_of_context : BlocksFor(kLeastContext);
  if (blocks < least) {
    const std::string need =
        absl::StrCat("a context of ", demand.context != 0 ? demand.context : kLeastContext,
                     " tokens needs ", FormatBytes(least * demand.block_bytes), " of KV cache");
    if (demand.kv_bytes != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(need, " and engine.kv_memory is ", FormatBytes(demand.kv_bytes),
                       ", room for ", capacity, " tokens: raise kv_memory or lower context"));
    }
    return absl::ResourceExhaustedError(
        absl::StrCat(need, " and ", demand.share, " of the ", FormatBytes(demand.available_bytes),
                     " that are free (engine.kv_memory_share) hold ", capacity,
                     " tokens: lower context, or set kv_memory"));
  }
  plan.num_blocks = static_cast<int32_t>(blocks);
  plan.context_tokens = std::min(wanted, capacity);
  return plan;
}

}  // namespace conclave::model
