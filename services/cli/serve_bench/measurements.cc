#include "services/cli/serve_bench/measurements.h"

#include <cstdio>

#include "nlohmann/json.hpp"
#include "services/cli/percentiles.h"
#include "services/cli/table.h"

namespace conclave::cli {

void Measurements::Add(int turn, double late, const GenerationResult& result) {
  prompt_tokens_ += static_cast<int64_t>(result.prompt_ids.size());
  output_tokens_ += static_cast<int64_t>(result.ids.size());
  cached_tokens_ += result.cached_tokens;
  whole_.push_back(late + std::chrono::duration<double>(result.total).count());
  const double per_token = result.seconds_per_output_token();
  const double first = late + result.first_token_seconds();
  const auto within = [](double seconds, const std::optional<double>& most_ms) {
    return !most_ms || 1e3 * seconds <= *most_ms;
  };
  good_ += within(first, options_.first_token_ms) && within(per_token, options_.per_token_ms);
  if (result.arrivals.empty()) return;
  (turn == 0 ? first_token_ : first_token_later_).push_back(first);
  if (per_token > 0) per_token_.push_back(per_token);
  for (size_t i = 1; i < result.arrivals.size(); ++i) {
    between_tokens_.push_back(
        std::chrono::duration<double>(result.arrivals[i].at - result.arrivals[i - 1].at).count());
  }
}

void Measurements::AddFailure(const std::string& error) {
  ++failed_;
  if (first_error_.empty()) first_error_ = error;
}

std::vector<Measurements::Quantity> Measurements::Quantities() const {
  std::vector<Quantity> quantities = {{"time_to_first_token", "first token", &first_token_}};
  if (options_.turns > 1) {
    quantities.push_back(
        {"time_to_first_token_later_turns", "first token, later turns", &first_token_later_});
  }
  quantities.push_back({"time_per_output_token", "per token", &per_token_});
  quantities.push_back({"inter_token", "between tokens", &between_tokens_});
  quantities.push_back({"end_to_end", "whole request", &whole_});
  return quantities;
}

void Measurements::PrintTable(double seconds) const {
  const double of_all = finished() + failed_ > 0 ? 100.0 * static_cast<double>(good_) /
                                                       static_cast<double>(finished() + failed_)
                                                 : 0;
  if (options_.chats_a_second > 0) {
    std::printf("%lld requests in %s, %g chats a second", static_cast<long long>(finished()),
                FormatSeconds(seconds).c_str(), options_.chats_a_second);
  } else {
    std::printf("%lld requests by %d clients in %s", static_cast<long long>(finished()),
                options_.clients, FormatSeconds(seconds).c_str());
  }
  if (failed_ > 0) std::printf(", %lld failed", static_cast<long long>(failed_));
  std::printf(
      "\n%.1f tokens/s out, %.1f tokens/s in (%lld %% cached), %.2f requests/s\n",
      static_cast<double>(output_tokens_) / seconds, static_cast<double>(prompt_tokens_) / seconds,
      static_cast<long long>(prompt_tokens_ == 0 ? 0 : 100 * cached_tokens_ / prompt_tokens_),
      static_cast<double>(finished()) / seconds);
  if (has_goal()) {
    std::printf("goodput %.2f requests/s: %.1f %% within the limits\n",
                static_cast<double>(good_) / seconds, of_all);
  }
  std::vector<std::vector<std::string>> table = {{"MILLISECONDS", "P50", "P90", "P99", "MOST"}};
  for (const Quantity& quantity : Quantities()) {
    std::vector<std::string> row = {quantity.label};
    for (const double percent : {50.0, 90.0, 99.0, 100.0}) {
      char text[32];
      std::snprintf(text, sizeof(text), "%.2f", 1000 * Percentile(*quantity.values, percent));
      row.emplace_back(text);
    }
    table.push_back(row);
  }
  std::printf("%s", FormatTable(table).c_str());
}

void Measurements::PrintJson(double seconds) const {
  nlohmann::json object = {
      {"requests", finished()},
      {"failed", failed_},
      {"turns", options_.turns},
      {"seconds", seconds},
      {"prompt_tokens", prompt_tokens_},
      {"cached_tokens", cached_tokens_},
      {"output_tokens", output_tokens_},
      {"output_tokens_per_second", static_cast<double>(output_tokens_) / seconds}};
  if (options_.chats_a_second > 0) {
    object["chats_per_second"] = options_.chats_a_second;
  } else {
    object["concurrency"] = options_.clients;
  }
  if (has_goal()) {
    object["good_requests"] = good_;
    object["goodput_requests_per_second"] = static_cast<double>(good_) / seconds;
  }
  for (const Quantity& quantity : Quantities()) {
    object[std::string(quantity.name) + "_seconds"] = {{"p50", Percentile(*quantity.values, 50)},
                                                       {"p90", Percentile(*quantity.values, 90)},
                                                       {"p99", Percentile(*quantity.values, 99)},
                                                       {"max", Percentile(*quantity.values, 100)}};
  }
  if (failed_ > 0) object["first_error"] = first_error_;
  std::printf("%s\n", object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

}  // namespace conclave::cli
