#include "shared/base/byte_size.h"

#include <gtest/gtest.h>

namespace conclave {
namespace {

TEST(ParseByteSizeTest, ReadsUnits) {
  EXPECT_EQ(*ParseByteSize("0"), 0);
  EXPECT_EQ(*ParseByteSize("auto"), 0);
  EXPECT_EQ(*ParseByteSize("4096"), 4096);
  EXPECT_EQ(*ParseByteSize("1e9"), 1'000'000'000);
  EXPECT_EQ(*ParseByteSize("1KB"), 1000);
  EXPECT_EQ(*ParseByteSize("512MiB"), 512 << 20);
  EXPECT_EQ(*ParseByteSize("1.5 GiB"), 1'610'612'736);
}

TEST(ParseByteSizeTest, RefusesTheRest) {
  for (const char* text :
       {"", "MiB", "-1", "1e30", "nan", "inf", "2 gigs", "1  MiB", "1mib", "0x10"}) {
    EXPECT_FALSE(ParseByteSize(text).ok()) << text;
  }
}

TEST(FormatBytesTest, IsShort) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(24 << 20), "24 MiB");
  EXPECT_EQ(FormatBytes((int64_t{1} << 30) - 1), "1.0 GiB");
  EXPECT_EQ(FormatBytes(int64_t{57} << 30), "57.0 GiB");
  EXPECT_EQ(FormatBytes(int64_t{700} << 30), "700 GiB");
}

}  // namespace
}  // namespace conclave
