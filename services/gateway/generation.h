// A request as the gateway keeps it: what a transport was asked for (GenerationInput), and the
// canonical request that follows from it (Generation), whose output depends on nothing else.
//
// Plain values, no transport and no protobuf.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "services/gateway/shared_ids.h"
#include "shared/base/clock.h"
#include "shared/base/qos_class.h"

namespace conclave::gateway {

// What a request wants of the response cache: what suits it; an answer even to a question without a
// seed; a fresh answer, which is kept; nothing.
enum class CacheMode : uint8_t { kAuto, kUse, kRefresh, kOff };
// What it got: nothing to do with the cache, a fresh answer, a kept one, a share in one that was
// being made.
enum class CacheStatus : uint8_t { kNone, kMiss, kHit, kJoined };
using CacheKey = std::array<uint8_t, 32>;  // SHA-256; cache/cache_key.h
enum class FinishReason : uint8_t { kStop, kLength, kCancelled };

// "", "miss", "hit", "joined".
const char* CacheStatusName(CacheStatus status);
// "stop", "length", "cancelled".
const char* FinishReasonName(FinishReason reason);

struct TextPromptInput {
  std::string text;
  bool add_special_tokens = true;
  bool parse_special_tokens = true;
};
struct ChatPromptInput {
  std::string messages_json;  // an array of {role, content}, checked by the transport
  bool add_generation_prompt = true;
  std::string variables_json = "";  // an object, or empty
};
struct TokenPromptInput {
  std::vector<int32_t> ids;
};
using PromptInput = std::variant<TextPromptInput, ChatPromptInput, TokenPromptInput>;

// Sampling parameters as asked for; absent ones get defaults.
struct SamplingInput {
  std::optional<double> temperature, top_p, min_p;
  std::optional<double> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k;
  std::vector<std::pair<int64_t, double>> logit_bias;
  std::optional<uint64_t> seed;
  std::optional<int64_t> max_tokens, min_tokens;
  std::vector<std::string> stop;
  std::vector<int64_t> stop_ids;
  bool ignore_eos = false;
  std::optional<int64_t> top_logprobs;
  std::optional<double> pace;
  std::optional<int64_t> num_choices;
};

class HashEncoder;
class TokenReservation;
struct RecordedGeneration;

// For whom a request runs. Without identities everybody is one tenant, whose name is empty.
struct Tenant {
  std::string name;
  double weight = 1;                         // of its share among tenants that wait, > 0
  QosClass top_class = QosClass::kRealtime;  // requests for a more urgent one run as this
  int32_t max_running = 0;                   // requests at once; 0: no limit of its own
  bool shares_cache = false;                 // takes kept answers of other such tenants

  // Who takes what has been computed for one of them: kept answers, and the KV cache's blocks.
  std::string cache_scope() const { return shares_cache ? "" : name; }
};

struct GenerationInput {
  std::string api;         // for metrics: "grpc", "chat", "completions"
  std::string request_id;  // empty: drawn
  std::string model;       // empty: the served one
  PromptInput prompt;
  SamplingInput sampling;
  std::optional<uint64_t> drawn_seed;  // in place of one of its own, where the client gives none
  std::optional<QosClass> qos;         // absent: left to the gateway
  Tenant tenant;
  std::string key_id;  // of the API key; empty: nobody has to show one
  CacheMode cache = CacheMode::kAuto;
  std::string traceparent;  // as received
  std::optional<TimePoint> deadline;
  TimePoint arrival;
  std::optional<int64_t> api_max_tokens;     // the API's own default, where neither request nor
                                             // checkpoint says; absent: what the context holds
  uint64_t largest_drawn_seed = UINT64_MAX;  // JSON clients lose bits beyond 2^53
};

// What the engine's sampler gets.
struct Sampling {
  float temperature = 1;
  float top_p = 1;
  int32_t top_k = 0;  // 0: off
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;  // ascending ids, each once
  std::optional<int32_t> top_logprobs;                // absent: no logprobs
  double pace = 0;                                    // tokens a second; 0: unlimited
};

// The canonical request: every default filled in, every value checked.
struct Generation {
  std::string api;
  std::string request_id;
  std::string model;        // served name
  std::string fingerprint;  // of the engines that it was checked for
  SharedIds prompt_ids;
  Sampling sampling;
  uint64_t seed = 0;
  int32_t num_choices = 1;
  int64_t max_tokens = 0;  // > 0; prompt and output fit the context
  int64_t min_tokens = 0;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_ids;          // ascending; end-of-sequence ids included unless ignored
  QosClass qos = QosClass::kInteractive;  // no more urgent than the tenant may
  Tenant tenant;
  std::string key_id;  // of the API key; empty: nobody has to show one
  CacheMode cache = CacheMode::kAuto;
  std::shared_ptr<TokenReservation> reservation;     // of its key's tokens; null: no limit
  std::string definition_hash;                       // DefinitionHash of all this
  std::optional<CacheKey> cache_key;                 // where its answer is kept, if it may be
  std::shared_ptr<const RecordedGeneration> answer;  // the kept one: nothing is to be computed
  std::string traceparent;                           // W3C, or empty
  std::optional<TimePoint> deadline;
  TimePoint arrival;
};

// A canonical request but for its prompt's ids: everything is checked and filled in, and
// `generation.max_tokens` is INT64_MAX where only the context bounds it.
struct CheckedRequest {
  Generation generation;
  PromptInput prompt;
  bool seeded = false;   // by the client
  bool bounded = false;  // the client says how long the answer may be
};

// SHA-256 (32 bytes) over everything in `generation` that decides its output but the seed and the
// model: prompt ids, sampling, limits, stops, number of choices. A resumed request must repeat it.
std::string DefinitionHash(const Generation& generation);
// The same values but the prompt's ids, for other hashes.
void AddDefinition(const Generation& generation, HashEncoder& encoder);

}  // namespace conclave::gateway
