// Questions with one right answer each, and how many of them a model gives.
//
// Values; read once by `conclave eval`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "shared/text/model_text.h"

namespace conclave::cli {

class Exam {
 public:
  // A JSON object a line, with strings "question" and "answer". INVALID_ARGUMENT names the line
  // that is none; NOT_FOUND and the like as files are read.
  static absl::StatusOr<Exam> Read(const std::string& path);

  size_t size() const { return questions_.size(); }

  // The questions as chats of one turn: ids, by the model's template. Errors of rendering name the
  // question.
  absl::StatusOr<std::vector<std::vector<int32_t>>> Prompts(const text::ModelText& model) const;

  // Tokens that an answer may take: some more than the longest right one, so that what goes on is
  // wrong and ends soon.
  absl::StatusOr<int64_t> AnswerTokens(const text::ModelText& model) const;

  // How many of the answers, arrays of ids in the order of the questions, are right: the same text,
  // but for white space around it. INTERNAL for another number of answers than of questions.
  absl::StatusOr<int64_t> CountRight(const nlohmann::json& answers,
                                     const text::ModelText& model) const;

 private:
  struct Question {
    std::string question, answer;
  };
  std::string path_;
  std::vector<Question> questions_;
};

}  // namespace conclave::cli
