// What CLI11 reads otherwise than people mean it, put right before it parses.
//
// Used by Settings and by the program `conclave`, each for its own flags.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace CLI {
class App;
class ParseError;
}  // namespace CLI

namespace conclave {

// The words of a command line without the program's name, for `app` to parse: "--flag=" becomes the
// flag with an empty value, which it would otherwise take from the next word, and "--" is kept for
// the words behind it to be no flags. INVALID_ARGUMENT names a flag without a value, be it the last
// word or followed by another flag of `app`, and a switch with an empty one.
absl::StatusOr<std::vector<std::string>> CheckedWords(const CLI::App& app,
                                                      const std::vector<std::string>& words);

// Parses the words in their order; throws what CLI::App::parse throws.
void ParseWords(CLI::App& app, std::vector<std::string> words);

// What CLI11 found wrong, in our words.
absl::Status ParseErrorStatus(const CLI::ParseError& error);

}  // namespace conclave
