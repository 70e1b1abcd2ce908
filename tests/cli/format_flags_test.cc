#include "services/cli/format_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace conclave::cli {
namespace {

using ::testing::HasSubstr;

std::string Parsed(const FormatFlags& flags) {
  const auto formats = ParseFormats(flags);
  return formats.ok() ? formats->Label() : std::string(formats.status().message());
}

TEST(FormatFlagsTest, AGroupGoesToEachFormatOfIntegers) {
  EXPECT_EQ(Parsed({.format = "int8", .experts = ""}), "int8");
  EXPECT_EQ(Parsed({.format = "int8", .experts = "", .group = 32}), "int8:32");
  EXPECT_EQ(Parsed({.format = "int8", .experts = "int4", .group = 128}), "int8:128+int4:128");
  EXPECT_EQ(Parsed({.format = "bf16", .experts = "int4", .group = 32}), "bf16+int4:32");
  EXPECT_EQ(Parsed({.format = "int8:64", .experts = "int4:128"}), "int8+int4:128");
  EXPECT_EQ(Parsed({.format = "bf16", .experts = "", .group = 32}),
            "--group goes with int8 and int4 alone");
}

TEST(FormatFlagsTest, AGroupBesideOneOfAFormatsOwnIsRefused) {
  EXPECT_THAT(Parsed({.format = "int4:128", .experts = "", .group = 32}),
              HasSubstr("--group is 32 and --format has a group of its own; leave --group out"));
  EXPECT_THAT(Parsed({.format = "int8", .experts = "int4:128", .group = 32}),
              HasSubstr("--experts has a group of its own"));
}

TEST(FormatFlagsTest, AnUnknownFormatTellsThoseThereAre) {
  for (const char* format : {"int4:16", "int3", "int8+int4", "f32:32"}) {
    EXPECT_THAT(Parsed({.format = format, .experts = ""}),
                HasSubstr("may have :32, :64 or :128 after them"));
  }
}

}  // namespace
}  // namespace conclave::cli
