#include "services/cli/eval/exam.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

constexpr uint64_t kMaxExamBytes = 16u << 20;
// An answer may be cut into other tokens than the tokenizer would, and ends with one of its own.
constexpr int64_t kSpareTokens = 16;

}  // namespace

absl::StatusOr<Exam> Exam::Read(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadRegularFile(path, kMaxExamBytes));
  Exam exam;
  exam.path_ = path;
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const std::string where = absl::StrCat(path, ", line ", number);
    ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(where, std::string(line)));
    const auto text_of = [&](const char* name) -> const std::string* {
      const auto found = json.is_object() ? json.find(name) : json.end();
      return found != json.end() ? found->get_ptr<const std::string*>() : nullptr;
    };
    const std::string* question = text_of("question");
    const std::string* answer = text_of("answer");
    if (question == nullptr || answer == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, R"( is no question; write lines as {"question": "...", "answer": "..."})"));
    }
    exam.questions_.push_back({*question, *answer});
  }
  if (exam.questions_.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has no questions"));
  }
  return exam;
}

absl::StatusOr<std::vector<std::vector<int32_t>>> Exam::Prompts(
    const text::ModelText& model) const {
  std::vector<std::vector<int32_t>> prompts;
  for (const Question& question : questions_) {
    const std::string messages =
        nlohmann::json::array({{{"role", "user"}, {"content", question.question}}}).dump();
    auto prompt = model.chat_template->Render({.messages_json = messages});
    if (!prompt.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ", question ", prompts.size() + 1, ": ",
                                                     std::string(prompt.status().message())));
    }
    prompts.push_back(std::move(prompt->ids));
  }
  return prompts;
}

absl::StatusOr<int64_t> Exam::AnswerTokens(const text::ModelText& model) const {
  size_t longest = 0;
  for (const Question& question : questions_) {
    ASSIGN_OR_RETURN(const auto ids, model.tokenizer->Encode(question.answer));
    longest = std::max(longest, ids.size());
  }
  return static_cast<int64_t>(longest) + kSpareTokens;
}

absl::StatusOr<int64_t> Exam::CountRight(const nlohmann::json& answers,
                                         const text::ModelText& model) const {
  if (!answers.is_array() || answers.size() != questions_.size()) {
    return absl::InternalError("the engine's program gave another number of answers than asked");
  }
  int64_t right = 0;
  for (size_t i = 0; i < questions_.size(); ++i) {
    const auto ids = answers[i].get<std::vector<int32_t>>();
    ASSIGN_OR_RETURN(
        const std::string text,
        model.tokenizer->Decode(ids, {.skip_special_tokens = true, .allow_unknown_ids = true}));
    right += absl::StripAsciiWhitespace(text) == absl::StripAsciiWhitespace(questions_[i].answer);
  }
  return right;
}

}  // namespace conclave::cli
