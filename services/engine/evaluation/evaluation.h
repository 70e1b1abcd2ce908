// What a number format does to a model: perplexity and KL divergence on a text against a reference
// format, and the error of the weights themselves.
//
// For `conclave-engine evaluate`, on its main thread. One model is in memory at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace conclave::engine {

struct EvaluationRequest {
  std::string model;       // checkpoint folder, packed file, or org/name in the Hugging Face cache
  std::string checkpoint;  // that a packed file was made from; empty: without a reference
  std::string format;      // the label of weight formats; empty: a packed file's own
  std::string against = "bf16";               // the reference's
  std::vector<int32_t> ids;                   // of the text; empty: the weights alone
  std::optional<int32_t> bos;                 // that the model's prompts begin with
  int64_t context = 512;                      // ids of a window
  std::vector<std::vector<int32_t>> prompts;  // of an exam, to be continued greedily; or none
  std::vector<int32_t> stop_ids;              // that end an answer
  int64_t answer_tokens = 24;                 // of an answer at most
  int threads = 0;                            // 0: one a core
  std::string cpu_level = "auto";
  bool strict_config = false;
};

// From an object of these members, those with a default optional; INVALID_ARGUMENT names the member
// that is missing or of another type.
absl::StatusOr<EvaluationRequest> ParseEvaluationRequest(const nlohmann::json& json);

// Called with what is being done ("loading int8") and how much of it is.
using EvaluationProgress = std::function<void(std::string_view what, int64_t done, int64_t total)>;

// {"format", "reference", "text": {...}, "weights": {...}, "answers", "reference_answers"};
// docs/operations.md, "Evaluating a format", has the members of the first ones. "text" is null
// without ids, what is of the reference, and "weights", without one. Answers are arrays of ids, in
// the order of the prompts; null without prompts. INVALID_ARGUMENT for a request that contradicts
// the model; DATA_LOSS when logits are no finite numbers; errors of loading.
absl::StatusOr<nlohmann::json> Evaluate(const EvaluationRequest& request,
                                        const EvaluationProgress& progress);

}  // namespace conclave::engine
