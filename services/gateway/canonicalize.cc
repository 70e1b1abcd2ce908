#include "services/gateway/canonicalize.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/gateway/excerpt.h"
#include "shared/base/random_bytes.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

using rpc::InvalidField;

// As few digits as tell the number from its neighbours: of floats, if it is one, else of doubles.
std::string Digits(double value) {
  char text[32];
  const auto single = static_cast<float>(value);
  const std::to_chars_result end = static_cast<double>(single) == value
                                       ? std::to_chars(text, text + sizeof text, single)
                                       : std::to_chars(text, text + sizeof text, value);
  return std::string(text, end.ptr);
}

absl::Status CheckRange(const std::string& field, std::optional<double> value,
                        const text::Range& range) {
  if (!value || range.Holds(*value)) return absl::OkStatus();
  return InvalidField(
      field, absl::StrCat("expected a number in ", range.low_open ? "(" : "[", range.low, ", ",
                          range.high, "], found ", Digits(*value)));
}

absl::Status CheckIntegerRange(const std::string& field, std::optional<int64_t> value, int64_t low,
                               int64_t high) {
  if (!value || (*value >= low && *value <= high)) return absl::OkStatus();
  return InvalidField(
      field, absl::StrCat("expected an integer from ", low, " to ", high, ", found ", *value));
}

absl::Status CheckSampling(const SamplingInput& sampling, const FieldNames& names) {
  const std::string& p = names.prefix;
  RETURN_IF_ERROR(CheckRange(p + "temperature", sampling.temperature, text::kTemperatureRange));
  RETURN_IF_ERROR(CheckRange(p + "top_p", sampling.top_p, text::kTopPRange));
  RETURN_IF_ERROR(CheckRange(p + "min_p", sampling.min_p, text::kMinPRange));
  RETURN_IF_ERROR(CheckRange(p + "repetition_penalty", sampling.repetition_penalty,
                             text::kRepetitionPenaltyRange));
  RETURN_IF_ERROR(CheckRange(p + "presence_penalty", sampling.presence_penalty, {-2, 2}));
  RETURN_IF_ERROR(CheckRange(p + "frequency_penalty", sampling.frequency_penalty, {-2, 2}));
  RETURN_IF_ERROR(CheckRange(p + "pace", sampling.pace, kPaceRange));
  RETURN_IF_ERROR(CheckIntegerRange(p + "top_k", sampling.top_k, 0, INT32_MAX));
  RETURN_IF_ERROR(CheckIntegerRange(p + names.max_tokens, sampling.max_tokens, 1, INT32_MAX));
  RETURN_IF_ERROR(CheckIntegerRange(p + "min_tokens", sampling.min_tokens, 0, INT32_MAX));
  RETURN_IF_ERROR(
      CheckIntegerRange(p + names.top_logprobs, sampling.top_logprobs, 0, kMaxTopLogprobs));
  RETURN_IF_ERROR(CheckIntegerRange(p + names.num_choices, sampling.num_choices, 1, kMaxChoices));
  if (sampling.max_tokens && sampling.min_tokens && *sampling.min_tokens > *sampling.max_tokens) {
    return InvalidField(p + "min_tokens",
                        absl::StrCat("is ", *sampling.min_tokens, ", above ", p, names.max_tokens,
                                     ", which is ", *sampling.max_tokens));
  }
  if (sampling.stop.size() > kMaxStopStrings) {
    return InvalidField(p + "stop", absl::StrCat("expected at most ", kMaxStopStrings,
                                                 " strings, found ", sampling.stop.size()));
  }
  for (const std::string& stop : sampling.stop) {
    if (stop.empty() || stop.size() > kMaxStopStringBytes) {
      return InvalidField(p + "stop",
                          absl::StrCat("each string must have 1 to ", kMaxStopStringBytes,
                                       " bytes, found ", stop.size()));
    }
  }
  if (sampling.stop_ids.size() > kMaxStopIds) {
    return InvalidField(p + names.stop_ids, absl::StrCat("expected at most ", kMaxStopIds,
                                                         " ids, found ", sampling.stop_ids.size()));
  }
  if (sampling.logit_bias.size() > kMaxLogitBiases) {
    return InvalidField(p + "logit_bias",
                        absl::StrCat("expected at most ", kMaxLogitBiases, " entries, found ",
                                     sampling.logit_bias.size()));
  }
  return absl::OkStatus();
}

absl::Status CheckIds(const std::string& field, const std::vector<int64_t>& ids,
                      int32_t vocab_size) {
  for (const int64_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      return InvalidField(
          field, absl::StrCat("id ", id, " is not in the vocabulary of ", vocab_size, " ids"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> CheckRequestId(std::string id, const FieldNames& names) {
  if (id.empty()) return DrawRequestId();
  if (id.size() > kMaxRequestIdBytes || !std::all_of(id.begin(), id.end(), absl::ascii_isgraph)) {
    return InvalidField(
        names.request_id,
        absl::StrCat("expected 1 to ", kMaxRequestIdBytes,
                     " printable ASCII characters without spaces, found ", id.size(), " bytes"));
  }
  return id;
}

// Random bytes for ids and seeds, which are no secrets: fetched from OpenSSL a few hundred at a
// time, because a call of it costs as much as all the rest of an id.
void Draw(void* into, size_t size) {
  thread_local std::array<unsigned char, 512> pool;
  thread_local size_t used = pool.size();
  if (size > pool.size() - used) {
    FillRandom(pool.data(), pool.size());
    used = 0;
  }
  std::memcpy(into, pool.data() + used, size);
  used += size;
}

uint64_t DrawSeed(uint64_t largest) {
  uint64_t seed = 0;
  Draw(&seed, sizeof seed);
  return largest == UINT64_MAX ? seed : seed % (largest + 1);
}

Sampling FillSampling(const SamplingInput& asked, const text::ModelDefaults& defaults) {
  Sampling sampling;
  sampling.temperature =
      static_cast<float>(asked.temperature.value_or(defaults.temperature.value_or(1)));
  // However small, it keeps the most probable token; a float of it must not become 0.
  sampling.top_p = std::max(static_cast<float>(asked.top_p.value_or(defaults.top_p.value_or(1))),
                            std::numeric_limits<float>::min());
  sampling.min_p = static_cast<float>(asked.min_p.value_or(defaults.min_p.value_or(0)));
  sampling.top_k = static_cast<int32_t>(asked.top_k.value_or(defaults.top_k.value_or(0)));
  sampling.repetition_penalty = static_cast<float>(
      asked.repetition_penalty.value_or(defaults.repetition_penalty.value_or(1)));
  sampling.presence_penalty = static_cast<float>(asked.presence_penalty.value_or(0));
  sampling.frequency_penalty = static_cast<float>(asked.frequency_penalty.value_or(0));
  sampling.pace = asked.pace.value_or(0);
  if (asked.top_logprobs) sampling.top_logprobs = static_cast<int32_t>(*asked.top_logprobs);
  return sampling;
}

// `at_least`: the prompt was not encoded to its end.
absl::Status ContextExceeded(const std::string& field, int64_t prompt_tokens, bool at_least,
                             int64_t context_tokens) {
  return rpc::WithDetails(
      absl::InvalidArgumentError(
          absl::StrCat("the prompt has ", at_least ? "at least " : "", prompt_tokens,
                       " tokens, and the context of this model holds ", context_tokens,
                       ", of which at least one must be left for the answer; shorten the prompt")),
      {.reason = "CONTEXT_LENGTH_EXCEEDED",
       .metadata = {{"prompt_tokens", absl::StrCat(prompt_tokens)},
                    {"context_tokens", absl::StrCat(context_tokens)}},
       .retry_after_ms = -1,
       .fields = {{field, "too long"}}});
}

}  // namespace

absl::Status CheckModelName(const std::string& name, const TextModel& model) {
  if (name.empty() || name == model.name()) return absl::OkStatus();
  return rpc::WithDetails(
      absl::NotFoundError(absl::StrCat("model \"", Excerpt(name, 100),
                                       "\" is not served here; served: \"", model.name(), "\"")),
      {.reason = "MODEL_NOT_FOUND",
       .metadata = {},
       .retry_after_ms = -1,
       .fields = {{"model", "not served"}}});
}

std::string ValidTraceparent(const std::string& received) {
  // 00-<32 hex>-<16 hex>-<2 hex>, lower case; ids must not be all zeros (W3C Trace Context,
  // section 3.2).
  if (received.size() != 55) return "";
  for (size_t i = 0; i < received.size(); ++i) {
    const char c = received[i];
    const bool dash = i == 2 || i == 35 || i == 52;
    if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return "";
  }
  if (received.substr(0, 2) == "ff" || received.find_first_not_of('0', 3) >= 35 ||
      received.find_first_not_of('0', 36) >= 52) {
    return "";
  }
  return received;
}

std::string DrawRequestId() {
  std::string bytes(16, '\0');
  Draw(bytes.data(), bytes.size());
  return absl::BytesToHexString(bytes);
}

absl::StatusOr<CheckedRequest> CheckRequest(GenerationInput input, const TextModel& model,
                                            const EngineLimits& limits, const FieldNames& names) {
  RETURN_IF_ERROR(CheckModelName(input.model, model));
  CheckedRequest checked;
  Generation& generation = checked.generation;
  ASSIGN_OR_RETURN(generation.request_id, CheckRequestId(std::move(input.request_id), names));
  const SamplingInput& asked = input.sampling;
  RETURN_IF_ERROR(CheckSampling(asked, names));
  RETURN_IF_ERROR(CheckIds(names.prefix + names.stop_ids, asked.stop_ids, limits.vocab_size));
  generation.sampling = FillSampling(asked, model.defaults());
  for (const auto& [id, bias] : asked.logit_bias) {
    RETURN_IF_ERROR(CheckIds(names.prefix + "logit_bias", {id}, limits.vocab_size));
    RETURN_IF_ERROR(CheckRange(names.prefix + "logit_bias", bias, {-100, 100}));
    generation.sampling.logit_bias.emplace_back(static_cast<int32_t>(id), static_cast<float>(bias));
  }
  std::sort(generation.sampling.logit_bias.begin(), generation.sampling.logit_bias.end());
  for (size_t i = 1; i < generation.sampling.logit_bias.size(); ++i) {
    if (generation.sampling.logit_bias[i].first == generation.sampling.logit_bias[i - 1].first) {
      return InvalidField(
          names.prefix + "logit_bias",
          absl::StrCat("id ", generation.sampling.logit_bias[i].first, " is named twice"));
    }
  }

  if (const auto* tokens = std::get_if<TokenPromptInput>(&input.prompt)) {
    RETURN_IF_ERROR(
        CheckIds(names.prompt, {tokens->ids.begin(), tokens->ids.end()}, limits.vocab_size));
  }
  const std::optional<int64_t> max_tokens = asked.max_tokens ? asked.max_tokens
                                            : model.defaults().max_new_tokens
                                                ? model.defaults().max_new_tokens
                                                : input.api_max_tokens;
  generation.max_tokens = max_tokens.value_or(INT64_MAX);
  generation.min_tokens = asked.min_tokens.value_or(0);
  generation.stop = asked.stop;
  generation.stop_ids.assign(asked.stop_ids.begin(), asked.stop_ids.end());
  if (!asked.ignore_eos) {
    const std::vector<int32_t>& eos = model.defaults().eos_ids;
    generation.stop_ids.insert(generation.stop_ids.end(), eos.begin(), eos.end());
  }
  std::sort(generation.stop_ids.begin(), generation.stop_ids.end());
  generation.stop_ids.erase(std::unique(generation.stop_ids.begin(), generation.stop_ids.end()),
                            generation.stop_ids.end());
  generation.seed = asked.seed         ? *asked.seed
                    : input.drawn_seed ? *input.drawn_seed
                                       : DrawSeed(input.largest_drawn_seed);
  generation.num_choices = static_cast<int32_t>(asked.num_choices.value_or(1));
  generation.api = std::move(input.api);
  generation.model = model.name();
  generation.qos = std::max(input.qos.value_or(QosClass::kInteractive), input.tenant.top_class);
  generation.tenant = std::move(input.tenant);
  generation.key_id = std::move(input.key_id);
  generation.traceparent = ValidTraceparent(input.traceparent);
  generation.cache = input.cache;
  generation.deadline = input.deadline;
  generation.arrival = input.arrival;
  checked.prompt = std::move(input.prompt);
  checked.seeded = asked.seed.has_value();
  checked.bounded = asked.max_tokens.has_value();
  return checked;
}

absl::Status SetPrompt(SharedIds ids, const EngineLimits& limits, const FieldNames& names,
                       Generation* generation) {
  const auto prompt_tokens = static_cast<int64_t>(ids.size());
  if (prompt_tokens == 0) return InvalidField(names.prompt, "is empty: give at least one token");
  if (prompt_tokens >= limits.context_tokens) {
    return ContextExceeded(names.prompt, prompt_tokens, /*at_least=*/false, limits.context_tokens);
  }
  generation->prompt_ids = std::move(ids);
  generation->max_tokens = std::min(generation->max_tokens, limits.context_tokens - prompt_tokens);
  generation->min_tokens = std::min(generation->min_tokens, generation->max_tokens);
  return absl::OkStatus();
}

absl::StatusOr<Generation> EncodePrompt(CheckedRequest checked, const TextModel& model,
                                        const EngineLimits& limits, const FieldNames& names,
                                        const text::Interrupt* interrupt) {
  absl::StatusOr<std::vector<int32_t>> ids =
      model.Encode(checked.prompt, {.max_ids = limits.context_tokens - 1, .interrupt = interrupt});
  if (!ids.ok()) {
    if (const std::optional<int64_t> at_least = text::AtLeastIds(ids.status())) {
      return ContextExceeded(names.prompt, *at_least, /*at_least=*/true, limits.context_tokens);
    }
    if (absl::IsInternal(ids.status()) || absl::IsCancelled(ids.status()) ||
        absl::IsDeadlineExceeded(ids.status())) {
      return ids.status();
    }
    // What else is wrong with a prompt is the client's to change, whatever the text library calls
    // it.
    return InvalidField(names.prompt, std::string(ids.status().message()));
  }
  RETURN_IF_ERROR(SetPrompt(*std::move(ids), limits, names, &checked.generation));
  return std::move(checked.generation);
}

}  // namespace conclave::gateway
