#include "services/gateway/cache/cache_key.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>

namespace conclave::gateway {
namespace {

struct Asked {
  CheckedRequest request;
  CacheScope scope;
};
using Change = std::function<void(Asked&)>;

Asked Base() {
  Asked asked;
  Generation& generation = asked.request.generation;
  generation.model = "tales";
  generation.fingerprint = std::string(64, 'a');
  generation.sampling.temperature = 0.5F;
  generation.seed = 7;
  generation.max_tokens = 100;
  generation.stop = {"one", "two"};
  generation.stop_ids = {2};
  generation.sampling.logit_bias = {{5, 1.0F}};
  asked.request.seeded = true;
  asked.request.prompt = ChatPromptInput{.messages_json = R"([{"role":"user","content":"Hi"}])"};
  asked.scope = {.text_version = "t1", .context_tokens = 2048, .tenant = "acme"};
  return asked;
}

CacheKey KeyOf(const Change& change) {
  Asked asked = Base();
  change(asked);
  return CacheKeyOf(asked.request, asked.scope);
}

Generation& Of(Asked& asked) { return asked.request.generation; }

// Each of them makes another answer; so no two have the same key.
TEST(CacheKeyTest, WhateverDecidesTheAnswerChangesTheKey) {
  const std::map<std::string, Change> changes = {
      {"nothing", [](Asked&) {}},
      {"fingerprint", [](Asked& a) { Of(a).fingerprint[0] = 'b'; }},
      {"versions of template and tokenizer", [](Asked& a) { a.scope.text_version = "t2"; }},
      {"context", [](Asked& a) { a.scope.context_tokens = 4096; }},
      {"tenant", [](Asked& a) { a.scope.tenant = "beta"; }},
      {"no tenant", [](Asked& a) { a.scope.tenant.clear(); }},
      {"messages",
       [](Asked& a) { std::get<ChatPromptInput>(a.request.prompt).messages_json = "[]"; }},
      {"generation prompt",
       [](Asked& a) { std::get<ChatPromptInput>(a.request.prompt).add_generation_prompt = false; }},
      {"variables",
       [](Asked& a) { std::get<ChatPromptInput>(a.request.prompt).variables_json = "{}"; }},
      {"text", [](Asked& a) { a.request.prompt = TextPromptInput{.text = "[]"}; }},
      {"text without special tokens",
       [](Asked& a) {
         a.request.prompt = TextPromptInput{.text = "[]", .add_special_tokens = false};
       }},
      {"text with literal special tokens",
       [](Asked& a) {
         a.request.prompt = TextPromptInput{.text = "[]", .parse_special_tokens = false};
       }},
      {"ids",
       [](Asked& a) {
         a.request.prompt = TokenPromptInput{.ids = {1, 2}};
       }},
      {"other ids",
       [](Asked& a) {
         a.request.prompt = TokenPromptInput{.ids = {1, 2, 3}};
       }},
      {"greedy", [](Asked& a) { Of(a).sampling.temperature = 0; }},
      {"temperature", [](Asked& a) { Of(a).sampling.temperature = 0.6F; }},
      {"top_p", [](Asked& a) { Of(a).sampling.top_p = 0.9F; }},
      {"top_k", [](Asked& a) { Of(a).sampling.top_k = 5; }},
      {"min_p", [](Asked& a) { Of(a).sampling.min_p = 0.1F; }},
      {"repetition", [](Asked& a) { Of(a).sampling.repetition_penalty = 1.1F; }},
      {"presence", [](Asked& a) { Of(a).sampling.presence_penalty = 0.1F; }},
      {"frequency", [](Asked& a) { Of(a).sampling.frequency_penalty = 0.1F; }},
      {"bias", [](Asked& a) { Of(a).sampling.logit_bias[0].second = 2; }},
      {"biased token", [](Asked& a) { Of(a).sampling.logit_bias[0].first = 6; }},
      {"no bias", [](Asked& a) { Of(a).sampling.logit_bias.clear(); }},
      {"logprobs", [](Asked& a) { Of(a).sampling.top_logprobs = 0; }},
      {"top logprobs", [](Asked& a) { Of(a).sampling.top_logprobs = 2; }},
      {"seed", [](Asked& a) { Of(a).seed = 8; }},
      {"no seed", [](Asked& a) { a.request.seeded = false; }},
      {"choices", [](Asked& a) { Of(a).num_choices = 2; }},
      {"most tokens", [](Asked& a) { Of(a).max_tokens = 101; }},
      {"fewest tokens", [](Asked& a) { Of(a).min_tokens = 1; }},
      {"stops", [](Asked& a) { Of(a).stop = {"one"}; }},
      {"order of stops",
       [](Asked& a) {
         Of(a).stop = {"two", "one"};
       }},
      {"one stop of two", [](Asked& a) { Of(a).stop = {"onetwo"}; }},
      {"stop ids",
       [](Asked& a) {
         Of(a).stop_ids = {2, 3};
       }},
      {"no stop ids", [](Asked& a) { Of(a).stop_ids.clear(); }},
  };
  std::map<CacheKey, std::string> seen;
  for (const auto& [name, change] : changes) {
    const auto [at, is_new] = seen.emplace(KeyOf(change), name);
    EXPECT_TRUE(is_new) << name << " has the key of " << at->second;
  }
}

TEST(CacheKeyTest, WhatDecidesNoTokenChangesNothing) {
  const CacheKey key = KeyOf([](Asked&) {});
  const std::map<std::string, Change> changes = {
      {"API", [](Asked& a) { Of(a).api = "grpc"; }},
      {"request id", [](Asked& a) { Of(a).request_id = "r-2"; }},
      {"pace", [](Asked& a) { Of(a).sampling.pace = 5; }},
      {"class", [](Asked& a) { Of(a).qos = QosClass::kBatch; }},
      {"the tenant's share", [](Asked& a) { Of(a).tenant.weight = 3; }},
      {"deadline", [](Asked& a) { Of(a).deadline = TimePoint{} + std::chrono::seconds(1); }},
      {"trace", [](Asked& a) { Of(a).traceparent = "00-1-2-01"; }},
      {"how the cache is used", [](Asked& a) { Of(a).cache = CacheMode::kRefresh; }},
  };
  for (const auto& [name, change] : changes) EXPECT_EQ(KeyOf(change), key) << name;
}

TEST(CacheKeyTest, ASeedThatDecidesNothingIsNotInTheKey) {
  const auto greedy = [](uint64_t seed, bool seeded) {
    return KeyOf([=](Asked& a) {
      Of(a).sampling.temperature = 0;
      Of(a).seed = seed;
      a.request.seeded = seeded;
    });
  };
  EXPECT_EQ(greedy(1, true), greedy(2, true));
  EXPECT_EQ(greedy(1, true), greedy(3, false));
  // Drawn by the gateway: any answer will do.
  const auto drawn = [](uint64_t seed) {
    return KeyOf([=](Asked& a) {
      Of(a).seed = seed;
      a.request.seeded = false;
    });
  };
  EXPECT_EQ(drawn(1), drawn(2));
}

}  // namespace
}  // namespace conclave::gateway
