#include "services/engine/evaluation/evaluation.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>

#include "absl/strings/str_cat.h"
#include "services/engine/evaluation/evaluated_model.h"
#include "services/engine/evaluation/logits_file.h"
#include "services/engine/evaluation/quantization_error.h"
#include "services/engine/evaluation/text_windows.h"
#include "services/engine/evaluation/token_scores.h"
#include "shared/base/limits.h"
#include "shared/base/status_macros.h"
#include "shared/model/served_model.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/model_files.h"
#include "shared/weights/packed_model.h"
#include "shared/weights/weight_formats.h"

namespace conclave::engine {
namespace {

using StoredModel = std::shared_ptr<const weights::StoredModel>;
using Windows = std::vector<std::vector<int32_t>>;

absl::StatusOr<StoredModel> Open(const std::string& name, bool strict) {
  ASSIGN_OR_RETURN(const std::filesystem::path path, weights::ResolveModel(name));
  return weights::OpenModel(path, {.strict = strict});
}

absl::StatusOr<weights::WeightFormats> Parse(const char* what, const std::string& label) {
  if (const auto formats = weights::ParseWeightFormats(label)) return *formats;
  return absl::InvalidArgumentError(absl::StrCat(what, " is \"", label, "\"; it may be ",
                                                 std::string(weights::kWeightFormatsText)));
}

class Evaluation {
 public:
  Evaluation(const EvaluationRequest& request, const EvaluationProgress& progress)
      : request_(request), progress_(progress) {}

  absl::StatusOr<nlohmann::json> Run() {
    RETURN_IF_ERROR(OpenModels());
    RETURN_IF_ERROR(CutText());
    RETURN_IF_ERROR(CheckPrompts());
    ASSIGN_OR_RETURN(const kernels::CpuLevel level,
                     model::ChooseCpuLevel("cpu_level", request_.cpu_level));
    const int threads = request_.threads > 0 ? request_.threads : ReadCpuLimit().cores;
    context_ = std::make_unique<kernels::Context>(level, threads);
    nlohmann::json text, weights;
    Answers answers, reference_answers;
    if (!windows_.empty() || !request_.prompts.empty()) {
      ASSIGN_OR_RETURN(text, Compare(answers, reference_answers));
    }
    if (checkpoint_ != nullptr) {
      ASSIGN_OR_RETURN(weights, EvaluateWeights());
    }
    return nlohmann::json{
        {"format", formats_.Label()}, {"reference", ReferenceLabel()},
        {"text", std::move(text)},    {"weights", std::move(weights)},
        {"answers", OrNull(answers)}, {"reference_answers", OrNull(reference_answers)}};
  }

 private:
  using Answers = std::vector<std::vector<int32_t>>;
  static nlohmann::json OrNull(const Answers& answers) {
    return answers.empty() ? nlohmann::json() : nlohmann::json(answers);
  }

  absl::Status OpenModels() {
    ASSIGN_OR_RETURN(model_, Open(request_.model, request_.strict_config));
    ASSIGN_OR_RETURN(reference_formats_, Parse("the reference's format", request_.against));
    if (const weights::PackedModel* packed = model_->packed()) return OpenCheckpointOf(*packed);
    if (!request_.checkpoint.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(request_.model,
                       " is a checkpoint itself; a checkpoint beside it is named "
                       "for packed files alone"));
    }
    ASSIGN_OR_RETURN(formats_, Parse("the format", request_.format));
    checkpoint_ = model_;
    return absl::OkStatus();
  }

  absl::Status OpenCheckpointOf(const weights::PackedModel& packed) {
    ASSIGN_OR_RETURN(formats_, model::ChooseFormats(packed, "auto"));
    if (!request_.format.empty() && request_.format != packed.formats()) {
      return absl::InvalidArgumentError(
          absl::StrCat(request_.model, " is packed as ", packed.formats(), ", not as ",
                       request_.format, "; leave the format out, or name the checkpoint"));
    }
    if (request_.checkpoint.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(checkpoint_, Open(request_.checkpoint, request_.strict_config));
    if (checkpoint_->checkpoint() == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(request_.checkpoint, " is a packed file; name the checkpoint's folder"));
    }
    if (checkpoint_->Fingerprint(formats_.Label()) != packed.Fingerprint(formats_.Label())) {
      return absl::InvalidArgumentError(
          absl::StrCat(request_.model, " was not made from ", request_.checkpoint,
                       ": their fingerprints differ; name the checkpoint that it was packed from"));
    }
    return absl::OkStatus();
  }

  // `what`: "the text".
  absl::Status CheckIds(const std::vector<int32_t>& ids, const std::string& what) const {
    const int32_t vocab_size = model_->config().vocab_size;
    for (const int32_t id : ids) {
      if (id >= 0 && id < vocab_size) continue;
      return absl::InvalidArgumentError(absl::StrCat(what, " has the token ", id, " and the model ",
                                                     vocab_size,
                                                     " of them; name the tokenizer's own model"));
    }
    return absl::OkStatus();
  }

  absl::Status CheckPrompts() {
    const int64_t most = model_->config().max_positions;
    for (size_t i = 0; i < request_.prompts.size(); ++i) {
      const auto tokens = static_cast<int64_t>(request_.prompts[i].size()) + request_.answer_tokens;
      if (request_.prompts[i].empty() || request_.answer_tokens < 1 || tokens > most) {
        return absl::InvalidArgumentError(
            absl::StrCat("question ", i + 1, " of the exam has ", request_.prompts[i].size(),
                         " tokens and its answer at most ", request_.answer_tokens,
                         "; each wants one at least, and together ", most, " at most"));
      }
      RETURN_IF_ERROR(CheckIds(request_.prompts[i], absl::StrCat("question ", i + 1)));
      window_tokens_ = std::max(window_tokens_, tokens);
    }
    return absl::OkStatus();
  }

  absl::Status CutText() {
    if (request_.ids.empty()) return absl::OkStatus();
    const weights::ModelConfig& config = model_->config();
    if (request_.context < 2 || request_.context > config.max_positions) {
      return absl::InvalidArgumentError(absl::StrCat("the context is ", request_.context,
                                                     " tokens; it may be from 2 to the model's ",
                                                     config.max_positions));
    }
    std::vector<int32_t> all = request_.ids;
    if (request_.bos) all.push_back(*request_.bos);
    RETURN_IF_ERROR(CheckIds(all, "the text"));
    window_tokens_ = std::max(window_tokens_, request_.context);
    windows_ = TextWindows(request_.ids, request_.context, request_.bos);
    if (!windows_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "the text is a single token: there is nothing to predict; give a longer one");
  }

  nlohmann::json ReferenceLabel() const {
    if (checkpoint_ == nullptr) return nullptr;
    return reference_formats_.Label();
  }

  // The tokens that are predicted.
  int64_t NumTokens() const {
    int64_t tokens = 0;
    for (const auto& window : windows_) tokens += static_cast<int64_t>(window.size()) - 1;
    return tokens;
  }

  // Loads the model in the formats and hands `take` the logits of each token that is predicted:
  // rows in their order, and their tokens; then has it answer the exam's questions.
  using TakeRows =
      std::function<absl::Status(std::span<const float> rows, std::span<const int32_t> tokens)>;
  absl::Status Compute(const StoredModel& model, const weights::WeightFormats& formats,
                       const TakeRows& take, Answers& answers) {
    const std::string label = formats.Label();
    ASSIGN_OR_RETURN(const std::unique_ptr<EvaluatedModel> loaded,
                     EvaluatedModel::Load(model, formats, window_tokens_, context_.get(),
                                          [&](int64_t done, int64_t total) {
                                            progress_("loading " + label, done, total);
                                          }));
    const auto vocab = static_cast<size_t>(loaded->vocab_size());
    const int64_t total = NumTokens();
    int64_t done = 0;
    for (const std::vector<int32_t>& window : windows_) {
      RETURN_IF_ERROR(loaded->Run(window, [&](int64_t first, std::span<const float> logits) {
        // The last of a window has nothing after it.
        const auto next = std::span(window).subspan(static_cast<size_t>(first) + 1);
        const auto tokens = next.first(std::min(next.size(), logits.size() / vocab));
        done += static_cast<int64_t>(tokens.size());
        progress_("computing in " + label, done, total);
        return take(logits.first(tokens.size() * vocab), tokens);
      }));
    }
    const auto questions = static_cast<int64_t>(request_.prompts.size());
    ASSIGN_OR_RETURN(answers, loaded->Continue(request_.prompts, request_.stop_ids,
                                               request_.answer_tokens, [&](int64_t answered) {
                                                 progress_("answering in " + label, answered,
                                                           questions);
                                               }));
    return absl::OkStatus();
  }

  // What there is to say of the text: null without one.
  absl::StatusOr<nlohmann::json> Compare(Answers& answers, Answers& reference_answers) {
    const bool compared = checkpoint_ != nullptr;
    std::unique_ptr<LogitsFile> reference;
    if (compared) {
      ASSIGN_OR_RETURN(reference, LogitsFile::Create());
      RETURN_IF_ERROR(Compute(
          checkpoint_, reference_formats_,
          [&](std::span<const float> rows, std::span<const int32_t>) {
            return reference->Append(rows);
          },
          reference_answers));
    }
    std::vector<TokenScore> scores;
    std::vector<float> reference_rows;
    RETURN_IF_ERROR(Compute(
        model_, formats_,
        [&](std::span<const float> rows, std::span<const int32_t> tokens) {
          reference_rows.resize(compared ? rows.size() : 0);
          if (compared) RETURN_IF_ERROR(reference->ReadNext(reference_rows));
          return Score(rows, reference_rows, tokens, scores);
        },
        answers));
    if (scores.empty()) return nlohmann::json();
    const ScoreSummary sum = Summarize(scores);
    nlohmann::json told = {{"windows", windows_.size()},
                           {"context", request_.context},
                           {"tokens", sum.tokens},
                           {"perplexity", sum.perplexity}};
    const auto tell = [&](const char* name, double value) {
      told[name] = compared ? nlohmann::json(value) : nlohmann::json();
    };
    tell("reference_perplexity", sum.reference_perplexity);
    tell("perplexity_ratio", sum.perplexity_ratio);
    tell("mean_kl_nats", sum.mean_kl);
    tell("p99_kl_nats", sum.p99_kl);
    tell("same_argmax_ratio", sum.same_argmax_ratio);
    return told;
  }

  // Appends the scores of the tokens. `reference` is empty, or as `rows`.
  absl::Status Score(std::span<const float> rows, std::span<const float> reference,
                     std::span<const int32_t> tokens, std::vector<TokenScore>& scores) {
    if (tokens.empty()) return absl::OkStatus();
    const size_t vocab = rows.size() / tokens.size();
    const size_t before = scores.size();
    scores.resize(before + tokens.size());
    const auto score = [&](int64_t begin, int64_t end, int) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        const auto row = rows.subspan(i * vocab, vocab);
        scores[before + i] = reference.empty()
                                 ? ScoreToken(row, tokens[i])
                                 : ScoreToken(row, reference.subspan(i * vocab, vocab), tokens[i]);
      }
    };
    context_->pool().ParallelFor(static_cast<int64_t>(tokens.size()), 1, score);
    for (size_t i = before; i < scores.size(); ++i) {
      const TokenScore& one = scores[i];
      if (std::isfinite(one.nll) && std::isfinite(one.reference_nll) && std::isfinite(one.kl)) {
        continue;
      }
      return absl::DataLossError(
          absl::StrCat("the logits of token ", i,
                       " are no finite numbers; the weights or the format's range "
                       "are to blame"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<nlohmann::json> EvaluateWeights() {
    const std::string what = "comparing the weights";
    ASSIGN_OR_RETURN(
        const std::vector<TensorError> tensors,
        MeasureQuantization(*model_, formats_, *checkpoint_->checkpoint(), context_->pool(),
                            [&](int64_t done, int64_t total) { progress_(what, done, total); }));
    nlohmann::json kinds = nlohmann::json::array(), list = nlohmann::json::array();
    for (const TensorError& tensor : tensors) {
      list.push_back({{"tensor", tensor.name},
                      {"kind", weights::TensorKindName(tensor.kind)},
                      {"relative_error", tensor.error.Relative()}});
    }
    TensorError worst;
    for (const KindError& kind : ByKind(tensors)) {
      if (worst.name.empty() || kind.worst.error.Relative() > worst.error.Relative()) {
        worst = kind.worst;
      }
      kinds.push_back({{"kind", weights::TensorKindName(kind.kind)},
                       {"tensors", kind.tensors},
                       {"relative_error", kind.error.Relative()},
                       {"worst_tensor", kind.worst.name},
                       {"worst_relative_error", kind.worst.error.Relative()}});
    }
    return nlohmann::json{{"kinds", std::move(kinds)},
                          {"worst_tensor", worst.name},
                          {"worst_relative_error", worst.error.Relative()},
                          {"tensors", std::move(list)}};
  }

  const EvaluationRequest& request_;
  const EvaluationProgress& progress_;
  StoredModel model_;
  StoredModel checkpoint_;  // of the reference; null: there is none
  weights::WeightFormats formats_, reference_formats_;
  Windows windows_;
  int64_t window_tokens_ = 0;  // the longest sequence
  std::unique_ptr<kernels::Context> context_;
};

}  // namespace

absl::StatusOr<EvaluationRequest> ParseEvaluationRequest(const nlohmann::json& json) {
  EvaluationRequest request;
  const auto get = [&json](const char* name, auto& value) {
    if (const auto found = json.find(name); found != json.end()) found->get_to(value);
  };
  try {
    json.at("model").get_to(request.model);
    get("checkpoint", request.checkpoint);
    get("format", request.format);
    get("against", request.against);
    get("ids", request.ids);
    if (json.contains("bos")) request.bos = json["bos"].get<int32_t>();
    get("context", request.context);
    get("prompts", request.prompts);
    get("stop_ids", request.stop_ids);
    get("answer_tokens", request.answer_tokens);
    get("threads", request.threads);
    get("cpu_level", request.cpu_level);
    get("strict_config", request.strict_config);
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("the request is not understood: ", error.what()));
  }
  return request;
}

absl::StatusOr<nlohmann::json> Evaluate(const EvaluationRequest& request,
                                        const EvaluationProgress& progress) {
  return Evaluation(request, progress).Run();
}

}  // namespace conclave::engine
