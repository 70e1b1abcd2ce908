#include "services/cli/format_flags.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"

namespace conclave::cli {

void AddFormatFlags(CLI::App& app, FormatFlags* flags) {
  app.add_option("--format", flags->format,
                 "of the weights: f32, bf16, int8, int4; int4:128 in groups of its own")
      ->option_text("FORMAT [int8]");
  app.add_option("--experts", flags->experts, "of the routed experts, where it is another")
      ->option_text("FORMAT");
  app.add_option("--group", flags->group,
                 "inputs that share a scale, for int8 and int4: 32, 64, 128")
      ->check(CLI::IsMember({32, 64, 128}))
      ->option_text("N [64]");
}

absl::StatusOr<weights::WeightFormats> ParseFormats(const FormatFlags& flags) {
  if (flags.group > 0 && (flags.format + flags.experts).find(':') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--group is ", flags.group, " and ",
        flags.format.find(':') != std::string::npos ? "--format" : "--experts",
        " has a group of its own; leave --group out, and give each format its group (int4:128)"));
  }
  const auto with_group = [&](const std::string& format) {
    const bool integers = format == "int8" || format == "int4";
    return flags.group == 0 || !integers ? format : absl::StrCat(format, ":", flags.group);
  };
  const std::string label = flags.experts.empty() ? with_group(flags.format)
                                                  : absl::StrCat(with_group(flags.format), "+",
                                                                 with_group(flags.experts));
  const auto formats = weights::ParseWeightFormats(label);
  if (!formats || (flags.format + flags.experts).find('+') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--format is \"", flags.format, "\"",
        flags.experts.empty() ? "" : absl::StrCat(" and --experts \"", flags.experts, "\""),
        "; they may be bf16, int8 or int4, or f32 for both, and integers may have :32, :64 or "
        ":128 after them for groups of their own"));
  }
  if (flags.group > 0 && !formats->dense.integers() && !formats->experts.integers()) {
    return absl::InvalidArgumentError("--group goes with int8 and int4 alone");
  }
  return *formats;
}

}  // namespace conclave::cli
