#include "shared/h2/grpc_wire.h"

#include <gtest/gtest.h>

namespace conclave::h2 {
namespace {

TEST(GrpcWireTest, ReadsTimeoutsOfEveryUnit) {
  EXPECT_EQ(ParseTimeout("2H"), std::chrono::hours(2));
  EXPECT_EQ(ParseTimeout("3M"), std::chrono::minutes(3));
  EXPECT_EQ(ParseTimeout("15S"), std::chrono::seconds(15));
  EXPECT_EQ(ParseTimeout("99999999m"), std::chrono::milliseconds(99'999'999));
  EXPECT_EQ(ParseTimeout("7u"), std::chrono::microseconds(7));
  EXPECT_EQ(ParseTimeout("0n"), std::chrono::nanoseconds(0));
  EXPECT_GT(*ParseTimeout("99999999H"), std::chrono::hours(999'999));
}

TEST(GrpcWireTest, OtherTimeoutsAreNone) {
  for (const char* text : {"", "S", "1", "1s", "-1S", "+1S", " 1S", "1 S", "1.5S", "123456789S"}) {
    EXPECT_EQ(ParseTimeout(text), std::nullopt) << text;
  }
}

TEST(GrpcWireTest, KnowsGrpcsContentTypes) {
  for (const char* type :
       {"application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"}) {
    EXPECT_TRUE(IsGrpc(type)) << type;
  }
  for (const char* type : {"", "application/json", "application/grpc-web", "application/grp"}) {
    EXPECT_FALSE(IsGrpc(type)) << type;
  }
}

TEST(GrpcWireTest, EncodesWhatAHeaderCannotCarry) {
  EXPECT_EQ(PercentEncode("plain, ~text!"), "plain, ~text!");
  EXPECT_EQ(PercentEncode("100 %\n\x7F\xC3\xA4"), "100 %25%0A%7F%C3%A4");
  EXPECT_EQ(BinaryValue(""), "");
  EXPECT_EQ(BinaryValue(std::string_view("\0\xFF", 2)), "AP8");
  EXPECT_EQ(BinaryValue("abc"), "YWJj");
}

TEST(GrpcWireTest, ReadsLengthsAfterTheirFlag) {
  EXPECT_EQ(LengthIn(std::string_view("\x01\x00\x01\x02\xFF", 5)), 0x102FFU);
  EXPECT_EQ(LengthIn(std::string_view("\x00\xFF\xFF\xFF\xFF", 5)), 0xFFFFFFFFU);
}

}  // namespace
}  // namespace conclave::h2
