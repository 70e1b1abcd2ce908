// What the clients of `conclave bench serve` measured, and how it is told.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "services/cli/generation.h"
#include "services/cli/serve_bench/serve_bench.h"

namespace conclave::cli {

// Not thread-safe.
class Measurements {
 public:
  explicit Measurements(const ServeBenchOptions& options) : options_(options) {}

  // An answer to turn `turn` (0: the first) that was asked `late` seconds after it was due.
  void Add(int turn, double late, const GenerationResult& result);
  void AddFailure(const std::string& error);

  int64_t finished() const { return static_cast<int64_t>(whole_.size()); }
  int64_t failed() const { return failed_; }
  int64_t output_tokens() const { return output_tokens_; }
  const std::string& first_error() const { return first_error_; }

  void PrintTable(double seconds) const;
  void PrintJson(double seconds) const;

 private:
  struct Quantity {
    const char* name;
    const char* label;
    const std::vector<double>* values;
  };
  std::vector<Quantity> Quantities() const;
  bool has_goal() const { return options_.first_token_ms || options_.per_token_ms; }

  const ServeBenchOptions& options_;
  // In seconds; of the first turns, of later ones, and of all.
  std::vector<double> first_token_, first_token_later_, per_token_, between_tokens_, whole_;
  int64_t prompt_tokens_ = 0, output_tokens_ = 0, cached_tokens_ = 0;
  int64_t good_ = 0, failed_ = 0;
  std::string first_error_;
};

}  // namespace conclave::cli
