#include "shared/base/command_line.h"

#include <algorithm>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

// The flag that a word names, "--flag" or "-f"; null for any other word.
const CLI::Option* FindFlag(const CLI::App& app, const std::string& word) {
  return word.size() > 1 && word[0] == '-' ? app.get_option_no_throw(word) : nullptr;
}

bool TakesValue(const CLI::Option& flag) { return flag.get_items_expected_min() > 0; }

}  // namespace

absl::StatusOr<std::vector<std::string>> CheckedWords(const CLI::App& app,
                                                      const std::vector<std::string>& words) {
  std::vector<std::string> checked;
  bool flags_ended = false;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const CLI::Option* const flag = flags_ended ? nullptr : FindFlag(app, name);
    flags_ended |= word == "--";
    if (flag == nullptr || (equals != std::string::npos && equals + 1 < word.size())) {
      checked.push_back(word);
      continue;
    }
    if (equals != std::string::npos) {
      if (!TakesValue(*flag)) {
        return absl::InvalidArgumentError(
            absl::StrCat("flag ", name, " has an empty value; leave the \"=\" out"));
      }
      checked.push_back(name);
      checked.emplace_back();
      continue;
    }
    checked.push_back(word);
    if (!TakesValue(*flag)) continue;
    if (i + 1 == words.size()) {
      return absl::InvalidArgumentError(absl::StrCat("flag ", name, " wants a value"));
    }
    if (FindFlag(app, words[i + 1].substr(0, words[i + 1].find('='))) != nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag ", name, " wants a value and is followed by the flag ", words[i + 1],
                       "; if that is the value, write ", name, "=", words[i + 1]));
    }
    checked.push_back(words[++i]);
  }
  return checked;
}

void ParseWords(CLI::App& app, std::vector<std::string> words) {
  std::reverse(words.begin(), words.end());  // CLI11 takes them from the back
  app.parse(std::move(words));
}

absl::Status ParseErrorStatus(const CLI::ParseError& error) {
  const std::string message = error.what();
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr &&
      absl::StrContains(message, "At Most 1 ")) {
    return absl::InvalidArgumentError(absl::StrCat("flag ", message.substr(0, message.find(':')),
                                                   " is given more than once; give it once"));
  }
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("too many arguments; this is one: ", message.substr(message.find(':') + 2)));
  }
  return absl::InvalidArgumentError(message);
}

}  // namespace conclave
