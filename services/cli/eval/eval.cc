// `conclave eval`: what a number format does to a model: perplexity and KL divergence on a text,
// and the error of its weights, against another format of the same checkpoint.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/cli/command.h"
#include "services/cli/eval/evaluator.h"
#include "services/cli/eval/exam.h"
#include "services/cli/eval/report.h"
#include "services/cli/format_flags.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"
#include "shared/text/model_text.h"
#include "shared/weights/model_files.h"
#include "shared/weights/stored_model.h"

namespace conclave::cli {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxTextBytes = 64u << 20;

class EvalCommand final : public Command {
 public:
  const char* name() const override { return "eval"; }
  const char* summary() const override { return "measure what a number format does to a model"; }
  void AddFlags(CLI::App& app) override {
    app_ = &app;
    app.add_option(
           "MODEL", model_,
           "checkpoint folder, packed file, or org/name in the Hugging Face cache; default: "
           "the setting model")
        ->type_name("");
    AddFormatFlags(app, &formats_);
    app.add_option("--text", text_, "predict this text; without it the weights alone are compared")
        ->type_name("FILE");
    app.add_option("--context", context_tokens_,
                   "tokens of a window, each predicted from those before it")
        ->check(CLI::Range(2, 10'000'000))
        ->option_text("N [512]");
    app.add_option("--tokens", tokens_, "of the text at most")
        ->check(CLI::Range(2, 100'000'000))
        ->option_text("N [4096]");
    app.add_option("--against", against_, "format of the reference: bf16 or f32")
        ->check(CLI::IsMember({"bf16", "f32"}))
        ->option_text("FORMAT [bf16]");
    app.add_option("--checkpoint", checkpoint_, "that a packed file was made from: the reference")
        ->type_name("DIR");
    app.add_option("--threads", threads_, "0: one a core")
        ->check(CLI::Range(0, 1024))
        ->option_text("N [0]");
    app.add_option(
           "--exam", exam_file_,
           "file with a question and its one right answer a line, as JSON, to be put as chats")
        ->type_name("FILE");
    app.add_flag("--json", json_, "print one JSON object");
  }
  int Run(const Context& context) override;

 private:
  absl::StatusOr<nlohmann::json> Request(const Context& context);
  absl::Status AddFormat(nlohmann::json& request) const;
  absl::Status AddText(nlohmann::json& request) const;
  absl::Status AddExam(nlohmann::json& request);
  absl::Status MarkExam(nlohmann::json& told) const;

  CLI::App* app_ = nullptr;
  std::string model_, text_, against_ = "bf16", checkpoint_, exam_file_;
  FormatFlags formats_;
  int64_t context_tokens_ = 512;
  int64_t tokens_ = 4096;
  int threads_ = 0;
  bool json_ = false;
  fs::path path_;  // of the model
  std::optional<Exam> exam_;
  std::optional<text::ModelText> model_text_;  // with an exam
};

absl::Status EvalCommand::AddFormat(nlohmann::json& request) const {
  ASSIGN_OR_RETURN(const weights::ModelFiles files, weights::ModelFiles::Open(path_));
  if (!files.packed()) {
    if (!checkpoint_.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--checkpoint goes with a packed file, and ",
                                                     path_.string(), " is a checkpoint itself"));
    }
    ASSIGN_OR_RETURN(const weights::WeightFormats formats, ParseFormats(formats_));
    request["format"] = formats.Label();
    return absl::OkStatus();
  }
  for (const char* flag : {"--format", "--experts", "--group"}) {
    if (app_->count(flag) == 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(path_.string(), " is packed already: leave out ", flag,
                     ", or evaluate the checkpoint it was made from"));
  }
  if (checkpoint_.empty() && text_.empty() && exam_file_.empty()) {
    return absl::InvalidArgumentError(
        "without --text FILE, --exam FILE and --checkpoint DIR there is nothing to say of a packed "
        "file; give one of them");
  }
  request["checkpoint"] = checkpoint_;
  return absl::OkStatus();
}

absl::Status EvalCommand::AddText(nlohmann::json& request) const {
  if (text_.empty()) {
    for (const char* flag : {"--context", "--tokens"}) {
      if (app_->count(flag) == 0) continue;
      return absl::InvalidArgumentError(absl::StrCat(flag, " goes with --text FILE alone"));
    }
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::string text, ReadRegularFile(text_, kMaxTextBytes));
  ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::Load(path_));
  auto encoded = tokenizer->Encode(text, {.parse_special_tokens = false});
  if (!encoded.ok()) {
    return absl::Status(encoded.status().code(),
                        absl::StrCat(text_, ": ", std::string(encoded.status().message())));
  }
  if (encoded->size() < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        text_, " has ", encoded->size() == 0 ? "no tokens" : "a single token",
        ": there is nothing to predict; give a longer text, some thousand words at best"));
  }
  if (encoded->size() > static_cast<size_t>(tokens_)) encoded->resize(static_cast<size_t>(tokens_));
  request["ids"] = *std::move(encoded);
  request["context"] = context_tokens_;
  // As prompts begin, where the model wants it.
  ASSIGN_OR_RETURN(const std::vector<int32_t> added,
                   tokenizer->Encode("", {.add_special_tokens = true}));
  const auto bos = tokenizer->bos_token_id();
  if (bos && !added.empty() && added.front() == *bos) request["bos"] = *bos;
  return absl::OkStatus();
}

absl::Status EvalCommand::AddExam(nlohmann::json& request) {
  if (exam_file_.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(exam_, Exam::Read(exam_file_));
  ASSIGN_OR_RETURN(model_text_, text::LoadModelText(path_));
  ASSIGN_OR_RETURN(request["prompts"], exam_->Prompts(*model_text_));
  ASSIGN_OR_RETURN(request["answer_tokens"], exam_->AnswerTokens(*model_text_));
  request["stop_ids"] = model_text_->defaults.eos_ids;
  return absl::OkStatus();
}

// Puts how many were right in place of the answers.
absl::Status EvalCommand::MarkExam(nlohmann::json& told) const {
  const nlohmann::json answers = std::move(told["answers"]);
  const nlohmann::json reference = std::move(told["reference_answers"]);
  told.erase("answers");
  told.erase("reference_answers");
  told["exam"] = nullptr;
  if (!exam_) return absl::OkStatus();
  nlohmann::json exam = {{"questions", exam_->size()}, {"reference_right", nullptr}};
  ASSIGN_OR_RETURN(exam["right"], exam_->CountRight(answers, *model_text_));
  if (!reference.is_null()) {
    ASSIGN_OR_RETURN(exam["reference_right"], exam_->CountRight(reference, *model_text_));
  }
  told["exam"] = std::move(exam);
  return absl::OkStatus();
}

absl::StatusOr<nlohmann::json> EvalCommand::Request(const Context& context) {
  const std::string& model = model_.empty() ? context.options.common.model : model_;
  if (model.empty()) {
    return absl::InvalidArgumentError(
        "no model is named: conclave eval MODEL, with a checkpoint's folder or a packed file");
  }
  ASSIGN_OR_RETURN(path_, weights::ResolveModel(model));
  nlohmann::json request = {{"model", path_.string()},
                            {"against", against_},
                            {"threads", threads_},
                            {"cpu_level", context.options.engine.cpu_level},
                            {"strict_config", context.options.common.strict_config}};
  RETURN_IF_ERROR(AddFormat(request));
  RETURN_IF_ERROR(AddText(request));
  RETURN_IF_ERROR(AddExam(request));
  return request;
}

int EvalCommand::Run(const Context& context) {
  const auto request = Request(context);
  if (!request.ok()) return Fail(request.status());
  StopSignals signals;  // from here on: what comes before ends by itself
  auto told = RunEvaluation(*request, signals);
  if (absl::IsCancelled(told.status())) {
    std::fprintf(stderr, "interrupted\n");
    return kExitInterrupted;
  }
  if (absl::IsFailedPrecondition(told.status())) {  // of other commands: that no cluster runs
    Fail(told.status());
    return kExitFailed;
  }
  if (!told.ok()) return Fail(told.status());
  if (const absl::Status marked = MarkExam(*told); !marked.ok()) return Fail(marked);
  (*told)["model"] = weights::DefaultServedName(path_);
  std::fputs((json_ ? told->dump(2) + "\n" : EvaluationTable(*told)).c_str(), stdout);
  return kExitOk;
}

}  // namespace

std::unique_ptr<Command> MakeEvalCommand() { return std::make_unique<EvalCommand>(); }

}  // namespace conclave::cli
