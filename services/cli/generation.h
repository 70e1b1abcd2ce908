// One generation as the command line asks for it and gets it: independent of how it travels.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace conclave::cli {

struct ChatTurn {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

// What is not set is the model's or the API's default.
struct Parameters {
  std::optional<double> temperature, top_p, min_p;
  std::optional<double> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int32_t> top_k, max_tokens, min_tokens;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  std::optional<double> pace;  // tokens per second at most
};

struct GenerationRequest {
  std::vector<ChatTurn> chat;  // empty: `ids` or, without them, `text` is completed as it is
  std::vector<int32_t> ids;
  std::string text;
  Parameters parameters;
  std::chrono::milliseconds timeout{0};  // for the whole answer; 0: none
};

struct GenerationResult {
  std::string request_id, model, fingerprint, text;
  std::string finish_reason;  // "stop", "length", "cancelled"
  uint64_t seed = 0;
  std::vector<int32_t> prompt_ids, ids;
  int64_t cached_tokens = 0;
  // From sending the request to each event with tokens, and how many tokens it had.
  struct Arrival {
    std::chrono::nanoseconds at{};
    int64_t num_tokens = 0;
    int64_t unix_ms = 0;  // the same moment on the clock that events are told by
  };
  std::vector<Arrival> arrivals;
  std::chrono::nanoseconds total{};

  double first_token_seconds() const;       // 0 without tokens
  double tokens_per_second() const;         // after the first event; 0 when that is not known
  double seconds_per_output_token() const;  // mean, after the first event; 0 when not known
  double longest_gap_seconds() const;       // between two events
};

// The first 8 hexadecimal digits of the SHA-256 of (prompt ids, parameters that choose the output,
// the seed really used, output ids). Equal on every machine and in every release as long as the
// text below `CanonicalText` is: docs/operations.md, "Digest".
std::string Digest(const Parameters& parameters, const GenerationResult& result);
std::string CanonicalText(const Parameters& parameters, const GenerationResult& result);

}  // namespace conclave::cli
