// One function per kind of family: the fields of config.json that are its own.
//
// Called by LoadModelConfig after the fields that all families share; errors go to `fields`.
#pragma once

#include <string>
#include <vector>

#include "shared/weights/config_fields.h"
#include "shared/weights/model_config.h"

namespace conclave::weights {

// DeepSeek-V2 and -V3: latent attention, score rules, groups, shared experts, MTP layers.
// `config.rope` is filled already; `score_scale` is its factor of the attention scale.
void ReadDeepseek(ConfigFields& fields, double score_scale, ModelConfig& config);

// Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE: grouped-query attention.
void ReadGrouped(ConfigFields& fields, ModelConfig& config);

// Reads num_experts_per_tok and checks it against the number of experts.
void ReadTopK(ConfigFields& fields, ModelConfig& config);

// An integer that goes by several names, depending on who wrote the file: at least one is there,
// and all that are there agree.
int64_t ReadAliased(ConfigFields& fields, const std::vector<std::string>& names,
                    IntegerRange range);

}  // namespace conclave::weights
