#include "services/cli/generation.h"

#include <openssl/sha.h>

#include <algorithm>
#include <charconv>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace conclave::cli {
namespace {

constexpr std::chrono::nanoseconds kShortestSpan = std::chrono::milliseconds(2);

double Seconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration<double>(duration).count();
}

// The shortest text that reads back as the same number: the same on every machine. Parameters
// travel as float.
void Append(const char* name, const std::optional<double>& value, std::string* text) {
  if (!value) return;
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof(digits), static_cast<float>(*value)).ptr;
  absl::StrAppend(text, name, " ", std::string(digits, end), "\n");
}

void Append(const char* name, const std::optional<int32_t>& value, std::string* text) {
  if (value) absl::StrAppend(text, name, " ", *value, "\n");
}

}  // namespace

double GenerationResult::first_token_seconds() const {
  return arrivals.empty() ? 0 : Seconds(arrivals.front().at);
}

double GenerationResult::seconds_per_output_token() const {
  // What came in one burst, because this process was not scheduled, says nothing about speed.
  if (arrivals.size() < 2 || arrivals.back().at - arrivals.front().at < kShortestSpan) return 0;
  int64_t later = 0;
  for (size_t i = 1; i < arrivals.size(); ++i) later += arrivals[i].num_tokens;
  return later == 0
             ? 0
             : Seconds(arrivals.back().at - arrivals.front().at) / static_cast<double>(later);
}

double GenerationResult::tokens_per_second() const {
  const double seconds = seconds_per_output_token();
  return seconds > 0 ? 1 / seconds : 0;
}

double GenerationResult::longest_gap_seconds() const {
  std::chrono::nanoseconds longest{};
  for (size_t i = 1; i < arrivals.size(); ++i) {
    longest = std::max(longest, arrivals[i].at - arrivals[i - 1].at);
  }
  return Seconds(longest);
}

std::string CanonicalText(const Parameters& parameters, const GenerationResult& result) {
  std::string text = "conclave digest 1\n";
  absl::StrAppend(&text, "prompt ", absl::StrJoin(result.prompt_ids, ","), "\n");
  // Greedy output does not depend on the seed: a drawn one must not make the digest differ.
  if (parameters.temperature != 0.0) absl::StrAppend(&text, "seed ", result.seed, "\n");
  Append("temperature", parameters.temperature, &text);
  Append("top_p", parameters.top_p, &text);
  Append("top_k", parameters.top_k, &text);
  Append("min_p", parameters.min_p, &text);
  Append("repetition_penalty", parameters.repetition_penalty, &text);
  Append("presence_penalty", parameters.presence_penalty, &text);
  Append("frequency_penalty", parameters.frequency_penalty, &text);
  Append("max_tokens", parameters.max_tokens, &text);
  Append("min_tokens", parameters.min_tokens, &text);
  for (const std::string& stop : parameters.stop) {
    absl::StrAppend(&text, "stop ", absl::BytesToHexString(stop), "\n");
  }
  if (parameters.ignore_eos) absl::StrAppend(&text, "ignore_eos\n");
  absl::StrAppend(&text, "output ", absl::StrJoin(result.ids, ","), "\n");
  return text;
}

std::string Digest(const Parameters& parameters, const GenerationResult& result) {
  const std::string text = CanonicalText(parameters, result);
  unsigned char hash[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), hash);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash), 4));
}

}  // namespace conclave::cli
