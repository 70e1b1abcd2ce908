#include "services/gateway/openai_fields.h"

#include <algorithm>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

constexpr uint8_t kChat = static_cast<uint8_t>(Endpoint::kChat);
constexpr uint8_t kCompletions = static_cast<uint8_t>(Endpoint::kCompletions);
constexpr uint8_t kBoth = kChat | kCompletions;
constexpr FieldUse kServed = FieldUse::kServed;
constexpr FieldUse kIgnored = FieldUse::kIgnored;
constexpr FieldUse kRefused = FieldUse::kRefused;

constexpr std::string_view kNoTools = "tool calls are not served yet";
constexpr std::string_view kNoConstraints = "constrained output is not served yet";
constexpr std::string_view kTextOnly = "only text is served";
constexpr std::string_view kNotServed = "it is not served";

constexpr FieldRule kFields[] = {
    {"model", kBoth, kServed, "", ""},
    {"messages", kChat, kServed, "", ""},
    {"prompt", kCompletions, kServed, "", ""},
    {"max_tokens", kBoth, kServed, "", ""},
    {"max_completion_tokens", kChat, kServed, "", ""},
    {"temperature", kBoth, kServed, "", ""},
    {"top_p", kBoth, kServed, "", ""},
    {"n", kBoth, kServed, "", ""},
    {"stop", kBoth, kServed, "", ""},
    {"stream", kBoth, kServed, "", ""},
    {"stream_options", kBoth, kServed, "", ""},
    {"logprobs", kBoth, kServed, "", ""},
    {"top_logprobs", kChat, kServed, "", ""},
    {"seed", kBoth, kServed, "", ""},
    {"logit_bias", kBoth, kServed, "", ""},
    {"presence_penalty", kBoth, kServed, "", ""},
    {"frequency_penalty", kBoth, kServed, "", ""},
    {"top_k", kBoth, kServed, "", ""},
    {"min_p", kBoth, kServed, "", ""},
    {"repetition_penalty", kBoth, kServed, "", ""},
    {"min_tokens", kBoth, kServed, "", ""},
    {"stop_token_ids", kBoth, kServed, "", ""},
    {"ignore_eos", kBoth, kServed, "", ""},
    {"pace", kBoth, kServed, "", ""},
    {"qos", kBoth, kServed, "", ""},
    {"cache", kBoth, kServed, "", ""},
    {"return_token_ids", kBoth, kServed, "", ""},
    {"add_generation_prompt", kChat, kServed, "", ""},
    {"chat_template_kwargs", kChat, kServed, "", ""},
    {"add_special_tokens", kCompletions, kServed, "", ""},

    {"user", kBoth, kIgnored, "", ""},
    {"metadata", kChat, kIgnored, "", ""},
    {"store", kChat, kIgnored, "", ""},
    {"service_tier", kChat, kIgnored, "", ""},
    {"safety_identifier", kChat, kIgnored, "", ""},
    {"prompt_cache_key", kChat, kIgnored, "", ""},
    {"prompt_cache_retention", kChat, kIgnored, "", ""},
    {"prediction", kChat, kIgnored, "", ""},
    {"parallel_tool_calls", kChat, kIgnored, "", ""},

    {"tools", kChat, kRefused, "[[]]", kNoTools},
    {"tool_choice", kChat, kRefused, "[\"none\", \"auto\"]", kNoTools},
    {"functions", kChat, kRefused, "[[]]", kNoTools},
    {"function_call", kChat, kRefused, "[\"none\", \"auto\"]", kNoTools},
    {"response_format", kBoth, kRefused, "[{\"type\": \"text\"}]", kNoConstraints},
    {"structured_outputs", kBoth, kRefused, "[]", kNoConstraints},
    {"guided_json", kBoth, kRefused, "[]", kNoConstraints},
    {"guided_regex", kBoth, kRefused, "[]", kNoConstraints},
    {"guided_choice", kBoth, kRefused, "[]", kNoConstraints},
    {"guided_grammar", kBoth, kRefused, "[]", kNoConstraints},
    {"modalities", kChat, kRefused, "[[\"text\"]]", kTextOnly},
    {"audio", kChat, kRefused, "[]", kTextOnly},
    {"web_search_options", kChat, kRefused, "[]", kNotServed},
    {"reasoning_effort", kChat, kRefused, "[]",
     "use chat_template_kwargs for what the model's template offers"},
    {"verbosity", kChat, kRefused, "[]", kNotServed},
    {"continue_final_message", kChat, kRefused, "[false]",
     "use /v1/completions to continue a text"},
    {"chat_template", kChat, kRefused, "[]", "the model's own template is used"},
    {"suffix", kCompletions, kRefused, "[\"\"]", "filling in the middle is not served"},
    {"echo", kBoth, kRefused, "[false]", "the prompt is not repeated"},
    {"best_of", kCompletions, kRefused, "[1]", "use n, and choose"},
    {"use_beam_search", kBoth, kRefused, "[false]", "tokens are sampled"},
    {"prompt_logprobs", kBoth, kRefused, "[]", kNotServed},
    {"include_stop_str_in_output", kBoth, kRefused, "[false]", "stop strings are never shown"},
    {"skip_special_tokens", kBoth, kRefused, "[true]",
     "special tokens are never shown; return_token_ids has them"},
    {"truncate_prompt_tokens", kBoth, kRefused, "[]", "a prompt that is too long is an error"},
};

// nullptr: the endpoint does not know the name. Found fast: a stranger may send thousands.
const FieldRule* FindRule(const std::string& name, uint8_t endpoint) {
  using Rules = std::unordered_map<std::string_view, const FieldRule*>;
  static const auto rules_of = [](uint8_t bit) {
    Rules rules;
    for (const FieldRule& rule : kFields) {
      if ((rule.endpoints & bit) != 0) rules.emplace(rule.name, &rule);
    }
    return rules;
  };
  static const Rules chat = rules_of(kChat);
  static const Rules completions = rules_of(kCompletions);
  const Rules& rules = endpoint == kChat ? chat : completions;
  const auto found = rules.find(name);
  return found == rules.end() ? nullptr : found->second;
}

}  // namespace

std::span<const FieldRule> OpenAiFields() { return kFields; }

absl::Status CheckOpenAiFields(const nlohmann::json& body, Endpoint endpoint,
                               std::vector<std::string>* unknown) {
  const auto bit = static_cast<uint8_t>(endpoint);
  for (const auto& [name, value] : body.items()) {
    const FieldRule* const rule = FindRule(name, bit);
    if (!rule) {
      unknown->push_back(name);
      continue;
    }
    if (rule->use != FieldUse::kRefused || value.is_null()) continue;
    const nlohmann::json inert = nlohmann::json::parse(rule->inert);
    if (std::find(inert.begin(), inert.end(), value) != inert.end()) continue;
    absl::Status refused = rpc::InvalidField(name, std::string(rule->why));
    return rpc::WithDetails(
        std::move(refused),
        {.reason = "UNSUPPORTED_FIELD", .metadata = {}, .retry_after_ms = -1, .fields = {}});
  }
  return absl::OkStatus();
}

}  // namespace conclave::gateway
