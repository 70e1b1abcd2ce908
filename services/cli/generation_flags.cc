#include "services/cli/generation_flags.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shared/base/nearest.h"

namespace conclave::cli {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

// One number of Parameters, by name. The ranges are the gateway's: a wrong value is refused where
// it is typed.
struct Number {
  const char* name;
  const char* help;
  double low = 0, high = kNoLimit;
  bool low_open = false;  // `low` itself is not in the range
  std::optional<double> Parameters::*real = nullptr;
  std::optional<int32_t> Parameters::*whole = nullptr;
};

constexpr Number kNumbers[] = {
    {.name = "temperature",
     .help = "0: greedy; up to 2",
     .high = 2,
     .real = &Parameters::temperature},
    {.name = "top_p",
     .help = "share of probability kept, (0, 1]",
     .high = 1,
     .low_open = true,
     .real = &Parameters::top_p},
    {.name = "top_k", .help = "most likely tokens kept; 0: all", .whole = &Parameters::top_k},
    {.name = "min_p",
     .help = "least share of the best token's probability, [0, 1]",
     .high = 1,
     .real = &Parameters::min_p},
    {.name = "repetition_penalty",
     .help = "[0.001, 10], 1: none",
     .low = 0.001,
     .high = 10,
     .real = &Parameters::repetition_penalty},
    {.name = "presence_penalty",
     .help = "[-2, 2]",
     .low = -2,
     .high = 2,
     .real = &Parameters::presence_penalty},
    {.name = "frequency_penalty",
     .help = "[-2, 2]",
     .low = -2,
     .high = 2,
     .real = &Parameters::frequency_penalty},
    {.name = "max_tokens", .help = "tokens at most", .low = 1, .whole = &Parameters::max_tokens},
    {.name = "min_tokens", .help = "tokens at least", .whole = &Parameters::min_tokens},
    {.name = "pace",
     .help = "tokens a second at most, [0.01, 1000000]",
     .low = 0.01,
     .high = 1e6,
     .real = &Parameters::pace},
};

// "wants a number from 0 to 2, not "9""; empty when `text` is one.
std::string WhyWrong(const Number& number, const std::string& text) {
  double value = 0;
  int32_t whole = 0;
  const bool read =
      number.whole != nullptr ? absl::SimpleAtoi(text, &whole) : absl::SimpleAtod(text, &value);
  if (number.whole != nullptr) value = whole;
  const bool above = number.low_open ? value > number.low : value >= number.low;
  if (read && above && value <= number.high && std::isfinite(value)) return "";
  return absl::StrCat(
      "wants a ", number.whole != nullptr ? "whole number" : "number",
      number.low_open ? " above " : " from ", number.low,
      number.high == kNoLimit ? std::string(" on") : absl::StrCat(" to ", number.high), ", not \"",
      text, "\"");
}

std::string WhyWrongSeed(const std::string& text) {
  uint64_t seed = 0;
  if (absl::SimpleAtoi(text, &seed)) return "";
  return absl::StrCat("wants a whole number from 0 to ", UINT64_MAX, ", not \"", text, "\"");
}

std::string Flag(const char* name) {
  std::string flag = absl::StrCat("--", name);
  std::replace(flag.begin() + 2, flag.end(), '_', '-');
  return flag;
}

}  // namespace

void AddParameterFlags(CLI::App& app, Parameters* parameters) {
  for (const Number& number : kNumbers) {
    CLI::Option* const option =
        number.real != nullptr
            ? app.add_option(Flag(number.name), parameters->*number.real, number.help)
            : app.add_option(Flag(number.name), parameters->*number.whole, number.help);
    option->type_name(number.whole != nullptr ? "N" : "NUMBER");
    option->check([&number](const std::string& text) { return WhyWrong(number, text); });
  }
  app.add_option("--seed", parameters->seed, "of the random numbers; drawn and shown when absent")
      ->type_name("N")
      ->check(WhyWrongSeed);
  app.add_option("--stop", parameters->stop, "end before this text; may be repeated")
      ->take_all()
      ->expected(1)
      ->check([](const std::string& text) {
        return std::string(text.empty() ? "wants a text of at least one character" : "");
      });
  app.footer(absl::StrCat(
      "A parameter that is not given is as the model's generation_config.json says, else "
      "as OpenAI's API has it.\n",
      app.get_footer()));
  app.add_flag("--ignore-eos", parameters->ignore_eos, "go on after the end token");
}

absl::Status SetParameter(const std::string& name, const std::string& value,
                          Parameters* parameters) {
  const bool reset = value == "default";
  const auto refuse = [&](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat(name, " ", why, "; \"default\" takes it back"));
  };
  if (name == "seed") {
    if (const std::string why = WhyWrongSeed(value); !reset && !why.empty()) return refuse(why);
    uint64_t seed = 0;
    parameters->seed =
        !reset && absl::SimpleAtoi(value, &seed) ? std::optional<uint64_t>(seed) : std::nullopt;
    return absl::OkStatus();
  }
  std::vector<std::string> names = {"seed"};
  for (const Number& number : kNumbers) {
    names.emplace_back(number.name);
    if (name != number.name) continue;
    if (const std::string why = WhyWrong(number, value); !reset && !why.empty()) {
      return refuse(why);
    }
    double real = 0;
    const bool set = !reset && absl::SimpleAtod(value, &real);
    if (number.real != nullptr) {
      parameters->*number.real = set ? std::optional<double>(real) : std::nullopt;
    } else {
      parameters->*number.whole =
          set ? std::optional<int32_t>(static_cast<int32_t>(real)) : std::nullopt;
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
