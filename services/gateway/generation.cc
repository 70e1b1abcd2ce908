#include "services/gateway/generation.h"

#include "services/gateway/hash_encoder.h"

namespace conclave::gateway {

const char* CacheStatusName(CacheStatus status) {
  switch (status) {
    case CacheStatus::kNone:
      return "";
    case CacheStatus::kMiss:
      return "miss";
    case CacheStatus::kHit:
      return "hit";
    case CacheStatus::kJoined:
      return "joined";
  }
  return "";
}

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

void AddDefinition(const Generation& generation, HashEncoder& encoder) {
  const Sampling& sampling = generation.sampling;
  encoder.Add(sampling.temperature);
  encoder.Add(sampling.top_p);
  encoder.Add(sampling.top_k);
  encoder.Add(sampling.min_p);
  encoder.Add(sampling.repetition_penalty);
  encoder.Add(sampling.presence_penalty);
  encoder.Add(sampling.frequency_penalty);
  encoder.Add(static_cast<uint64_t>(sampling.logit_bias.size()));
  for (const auto& [id, bias] : sampling.logit_bias) {
    encoder.Add(id);
    encoder.Add(bias);
  }
  encoder.Add(generation.num_choices);
  encoder.Add(generation.max_tokens);
  encoder.Add(generation.min_tokens);
  encoder.Add(generation.stop);
  encoder.Add(generation.stop_ids);
}

std::string DefinitionHash(const Generation& generation) {
  HashEncoder encoder;
  encoder.Add("conclave generation 1");
  encoder.Add(generation.prompt_ids);
  AddDefinition(generation, encoder);
  const auto digest = encoder.Sha256();
  return std::string(digest.begin(), digest.end());
}

}  // namespace conclave::gateway
