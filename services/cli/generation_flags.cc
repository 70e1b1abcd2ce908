#include "services/cli/generation_flags.h"

#include <algorithm>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shared/base/nearest.h"

namespace conclave::cli {
namespace {

// One number of Parameters, by name.
struct Number {
  const char* name;
  const char* help;
  std::optional<double> Parameters::*real = nullptr;
  std::optional<int32_t> Parameters::*whole = nullptr;
};

constexpr Number kNumbers[] = {
    {.name = "temperature", .help = "0: greedy; up to 2", .real = &Parameters::temperature},
    {.name = "top_p", .help = "share of probability kept, (0, 1]", .real = &Parameters::top_p},
    {.name = "top_k", .help = "most likely tokens kept; 0: all", .whole = &Parameters::top_k},
    {.name = "min_p",
     .help = "least share of the best token's probability, [0, 1]",
     .real = &Parameters::min_p},
    {.name = "repetition_penalty",
     .help = "(0, 10], 1: none",
     .real = &Parameters::repetition_penalty},
    {.name = "presence_penalty", .help = "[-2, 2]", .real = &Parameters::presence_penalty},
    {.name = "frequency_penalty", .help = "[-2, 2]", .real = &Parameters::frequency_penalty},
    {.name = "max_tokens", .help = "tokens at most", .whole = &Parameters::max_tokens},
    {.name = "min_tokens", .help = "tokens at least", .whole = &Parameters::min_tokens},
    {.name = "pace", .help = "tokens a second at most", .real = &Parameters::pace},
};

std::string Flag(const char* name) {
  std::string flag = absl::StrCat("--", name);
  std::replace(flag.begin() + 2, flag.end(), '_', '-');
  return flag;
}

}  // namespace

void AddParameterFlags(CLI::App& app, Parameters* parameters) {
  for (const Number& number : kNumbers) {
    if (number.real != nullptr) {
      app.add_option(Flag(number.name), parameters->*number.real, number.help);
    } else {
      app.add_option(Flag(number.name), parameters->*number.whole, number.help);
    }
  }
  app.add_option("--seed", parameters->seed, "of the random numbers; drawn and shown when absent");
  app.add_option("--stop", parameters->stop, "end before this text; may be repeated")
      ->take_all()
      ->expected(1);
  app.add_flag("--ignore-eos", parameters->ignore_eos, "go on after the end token");
}

absl::Status SetParameter(const std::string& name, const std::string& value,
                          Parameters* parameters) {
  const bool reset = value == "default";
  const auto wrong = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " wants a number or \"default\", not \"", value, "\""));
  };
  if (name == "seed") {
    uint64_t seed = 0;
    if (!reset && !absl::SimpleAtoi(value, &seed)) return wrong();
    parameters->seed = reset ? std::nullopt : std::optional<uint64_t>(seed);
    return absl::OkStatus();
  }
  std::vector<std::string> names = {"seed"};
  for (const Number& number : kNumbers) {
    names.emplace_back(number.name);
    if (name != number.name) continue;
    if (number.real != nullptr) {
      double real = 0;
      if (!reset && !absl::SimpleAtod(value, &real)) return wrong();
      parameters->*number.real = reset ? std::nullopt : std::optional<double>(real);
    } else {
      int32_t whole = 0;
      if (!reset && !absl::SimpleAtoi(value, &whole)) return wrong();
      parameters->*number.whole = reset ? std::nullopt : std::optional<int32_t>(whole);
    }
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", name, "\" is not a parameter; the nearest is ", NearestOf(name, names),
                   ", all are ", absl::StrJoin(names, ", ")));
}

std::string DescribeParameters(const Parameters& parameters) {
  std::vector<std::string> parts;
  for (const Number& number : kNumbers) {
    if (number.real != nullptr && parameters.*number.real) {
      parts.push_back(absl::StrCat(number.name, " ", *(parameters.*number.real)));
    } else if (number.whole != nullptr && parameters.*number.whole) {
      parts.push_back(absl::StrCat(number.name, " ", *(parameters.*number.whole)));
    }
  }
  if (parameters.seed) parts.push_back(absl::StrCat("seed ", *parameters.seed));
  return parts.empty() ? "all defaults" : absl::StrJoin(parts, ", ");
}

}  // namespace conclave::cli
