#include "services/gateway/cache/cache_key.h"

#include <algorithm>
#include <utility>

#include "services/gateway/cache/response_cache.h"
#include "services/gateway/hash_encoder.h"

namespace conclave::gateway {

namespace {

enum class Kind : uint8_t { kText, kChat, kIds };
enum class Seed : uint8_t { kGiven, kAny };

void AddPrompt(const PromptInput& prompt, HashEncoder& encoder) {
  if (const auto* text = std::get_if<TextPromptInput>(&prompt)) {
    encoder.Add(Kind::kText);
    encoder.Add(text->text);
    encoder.Add(text->add_special_tokens);
    encoder.Add(text->parse_special_tokens);
  } else if (const auto* chat = std::get_if<ChatPromptInput>(&prompt)) {
    encoder.Add(Kind::kChat);
    encoder.Add(chat->messages_json);
    encoder.Add(chat->add_generation_prompt);
    encoder.Add(chat->variables_json);
  } else {
    encoder.Add(Kind::kIds);
    encoder.Add(std::get<TokenPromptInput>(prompt).ids);
  }
}

}  // namespace

CacheKey CacheKeyOf(const CheckedRequest& request, const CacheScope& scope) {
  const Generation& generation = request.generation;
  const bool any_seed = generation.sampling.temperature == 0 || !request.seeded;
  HashEncoder encoder;
  encoder.Add("conclave answer 1");
  encoder.Add(generation.fingerprint);
  encoder.Add(scope.text_version);
  encoder.Add(scope.context_tokens);
  encoder.Add(scope.tenant);
  AddPrompt(request.prompt, encoder);
  AddDefinition(generation, encoder);
  encoder.Add(generation.sampling.top_logprobs.value_or(-1));
  encoder.Add(any_seed ? Seed::kAny : Seed::kGiven);
  encoder.Add(any_seed ? 0 : generation.seed);
  return encoder.Sha256();
}

bool IsCacheable(const CheckedRequest& request) {
  // Log-probabilities make an answer large.
  const Generation& generation = request.generation;
  if (generation.sampling.top_logprobs) {
    constexpr int64_t kLikelyTokens = 4096;
    const int64_t bytes =
        sizeof(PositionLogprobs) +
        static_cast<int64_t>(sizeof(std::pair<int32_t, float>)) * *generation.sampling.top_logprobs;
    if (generation.num_choices * std::min(generation.max_tokens, kLikelyTokens) * bytes >
        static_cast<int64_t>(kMostKeptBytes)) {
      return false;
    }
  }
  switch (request.generation.cache) {
    case CacheMode::kAuto:
      return request.generation.sampling.temperature == 0 || request.seeded;
    case CacheMode::kUse:
    case CacheMode::kRefresh:
      return true;
    case CacheMode::kOff:
      return false;
  }
  return false;
}

}  // namespace conclave::gateway
