#include "shared/weights/safetensors_header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave::weights {
namespace {

using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

absl::StatusOr<std::vector<TensorInfo>> Parse(const std::string& json, uint64_t data_bytes) {
  return ParseHeader(json, 8 + json.size() + data_bytes, "m.safetensors");
}

TEST(ParseHeaderLengthTest, ReadsLittleEndian) {
  const std::string bytes("\x10\x02\0\0\0\0\0\0", 8);
  EXPECT_EQ(*ParseHeaderLength(bytes, 10'000, "f"), 0x210u);
}

TEST(ParseHeaderLengthTest, RefusesALengthBeyondTheFile) {
  const std::string bytes("\x10\0\0\0\0\0\0\0", 8);
  EXPECT_TRUE(ParseHeaderLength(bytes, 24, "f").ok());
  const auto status = ParseHeaderLength(bytes, 23, "dir/f.safetensors").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Message(status),
            "dir/f.safetensors: says its header has 16 bytes, but only 15 follow: truncated; the "
            "file is damaged or was not written by safetensors: download or convert it again");
}

TEST(ParseHeaderLengthTest, RefusesHugeLengthsAndShortFiles) {
  EXPECT_THAT(Message(ParseHeaderLength(std::string(8, '\xff'), UINT64_MAX, "f").status()),
              HasSubstr("18446744073709551615 bytes, over the limit of 100000000"));
  const std::string limit("\x01\xe1\xf5\x05\0\0\0\0", 8);  // 100 000 001
  EXPECT_THAT(Message(ParseHeaderLength(limit, UINT64_MAX, "f").status()),
              HasSubstr("over the limit"));
  EXPECT_THAT(Message(ParseHeaderLength("abc", 3, "f").status()), HasSubstr("is 3 bytes long"));
  EXPECT_THAT(Message(ParseHeaderLength("", 0, "f").status()), HasSubstr("is 0 bytes long"));
}

TEST(ParseHeaderTest, ReadsTensorsInTheOrderOfTheirData) {
  const std::string json = R"({"__metadata__":{"format":"pt","a":"b"},)"
                           R"("b":{"data_offsets":[8,20],"shape":[2,3],"dtype":"BF16"},)"
                           R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                           R"("empty":{"dtype":"F32","shape":[0,7],"data_offsets":[8,8]},)"
                           R"("scalar":{"dtype":"U8","shape":[],"data_offsets":[20,21]}}   )";
  const auto tensors = Parse(json, 21);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 4u);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_EQ((*tensors)[1].name, "empty");
  EXPECT_EQ((*tensors)[2].name, "b");
  EXPECT_EQ((*tensors)[2].dtype, DType::kBf16);
  EXPECT_EQ((*tensors)[2].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ((*tensors)[2].begin, 8 + json.size() + 8);
  EXPECT_EQ((*tensors)[2].bytes(), 12u);
  EXPECT_TRUE((*tensors)[3].shape.empty());
}

TEST(ParseHeaderTest, AcceptsAFileWithoutTensors) {
  EXPECT_TRUE(Parse("{}", 0)->empty());
  EXPECT_THAT(Message(Parse("{}", 1).status()), HasSubstr("1 bytes after the last tensor"));
}

struct BadHeader {
  const char* name;
  std::string json;
  uint64_t data_bytes;
  const char* message;
};

std::string OneTensor(const std::string& fields) { return R"({"t":{)" + fields + "}}"; }

class RefusesHeader : public ::testing::TestWithParam<BadHeader> {};

TEST_P(RefusesHeader, NamingFileAndTensor) {
  const auto result = Parse(GetParam().json, GetParam().data_bytes);
  ASSERT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
  EXPECT_THAT(Message(result.status()), HasSubstr(GetParam().message));
  EXPECT_THAT(Message(result.status()), HasSubstr("m.safetensors: "));
  EXPECT_THAT(Message(result.status()), HasSubstr("download or convert it again"));
}

INSTANTIATE_TEST_SUITE_P(
    Header, RefusesHeader,
    ::testing::Values(
        BadHeader{"Empty", "", 0, "does not begin with {"},
        BadHeader{"LeadingSpace", " {}", 0, "does not begin with {"},
        BadHeader{"Array", "[]", 0, "does not begin with {"},
        BadHeader{"Truncated", R"({"t":{"dtype":"F32")", 0, "not JSON at byte"},
        BadHeader{"TrailingText", "{}x", 0, "not JSON"},
        BadHeader{"ZeroBytePadding", std::string("{}\0", 3), 0, "not JSON"},
        BadHeader{"InvalidUtf8", "{\"\xff\":{}}", 0, "not JSON"},
        BadHeader{"TensorIsNumber", R"({"t":1})", 0, "tensor t is a number, wanted an object"},
        BadHeader{"TensorIsNull", R"({"t":null})", 0, "tensor t is null"},
        BadHeader{"MetadataIsArray", R"({"__metadata__":[]})", 0, "__metadata__ is an array"},
        BadHeader{"MetadataOfNumbers", R"({"__metadata__":{"a":1}})", 0, "wanted strings only"},
        BadHeader{"NestedMetadata", R"({"__metadata__":{"a":{}}})", 0, "wanted strings only"},
        BadHeader{"DuplicateMetadata", R"({"__metadata__":{"a":"","a":""}})", 0,
                  "duplicate metadata key a"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Fields, RefusesHeader,
    ::testing::Values(
        BadHeader{"Missing", OneTensor(R"("dtype":"F32","shape":[1])"), 4,
                  "tensor t lacks dtype, shape or data_offsets"},
        BadHeader{"UnknownKey", OneTensor(R"("dtype":"F32","strides":[1])"), 4,
                  "tensor t has the unknown key strides"},
        BadHeader{"TwoDtypes", OneTensor(R"("dtype":"F32","dtype":"F32")"), 4,
                  "tensor t has two values of dtype"},
        BadHeader{"UnknownDtype", OneTensor(R"("dtype":"F12","shape":[1],"data_offsets":[0,4])"), 4,
                  "tensor t has the unknown dtype F12"},
        BadHeader{"DtypeIsNumber", OneTensor(R"("dtype":7)"), 4,
                  "dtype holds a number, wanted a string"},
        BadHeader{"ShapeIsString", OneTensor(R"("shape":"1")"), 4,
                  "shape holds a string, wanted unsigned integers"},
        BadHeader{"NegativeDimension", OneTensor(R"("shape":[-1])"), 4, "a negative number"},
        BadHeader{"FractionalDimension", OneTensor(R"("shape":[1.0])"), 4, "a fraction"},
        BadHeader{"DimensionBeyond64Bits", OneTensor(R"("shape":[18446744073709551616])"), 4,
                  "beyond 64 bits"},
        BadHeader{"DimensionBeyond63Bits", OneTensor(R"("shape":[9223372036854775808])"), 4,
                  "overflows"},
        BadHeader{"NestedShape", OneTensor(R"("shape":[[1]])"), 4, "shape holds an array"},
        BadHeader{"TooManyDimensions", OneTensor(R"("shape":[1,1,1,1,1,1,1,1,1])"), 4,
                  "9 dimensions, wanted at most 8"},
        BadHeader{"EndlessShape", OneTensor(R"("shape":[1,1,1,1,1,1,1,1,1,1,1,1])"), 4,
                  "array too long"},
        BadHeader{"OneOffset", OneTensor(R"("data_offsets":[0])"), 4, "1 data_offsets, wanted 2"},
        BadHeader{"ThreeOffsets", OneTensor(R"("data_offsets":[0,4,8])"), 4,
                  "3 data_offsets, wanted 2"},
        BadHeader{"ObjectInTensor", OneTensor(R"("dtype":{})"), 4, "dtype holds an object"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Layout, RefusesHeader,
    ::testing::Values(
        BadHeader{"DuplicateTensor",
                  R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                  R"("t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                  8, "duplicate tensor t"},
        BadHeader{"EndsBeforeItBegins",
                  OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4,
                  "tensor t ends before it begins: data_offsets [4, 0)"},
        BadHeader{"BeyondTheData", OneTensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"),
                  7, "tensor t has data_offsets [0, 8), beyond the data of 7 bytes: truncated"},
        BadHeader{"HugeOffsets",
                  OneTensor(R"("dtype":"F32","shape":[1],)"
                            R"("data_offsets":[18446744073709551611,18446744073709551615])"),
                  4, "beyond the data of 4 bytes"},
        BadHeader{"SizeAgainstShape",
                  OneTensor(R"("dtype":"BF16","shape":[3,2],"data_offsets":[0,10])"), 10,
                  "tensor t takes 10 bytes, but BF16 [3, 2] needs 12"},
        BadHeader{
            "ProductOverflows",
            OneTensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0,
            "[4294967296, 4294967296], whose size overflows"},
        BadHeader{"ProductOverflowsToTheRightSize",
                  OneTensor(R"("dtype":"U8","shape":[2305843009213693952,8],"data_offsets":[0,0])"),
                  0, "whose size overflows"},
        BadHeader{"HalfAByte", OneTensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,1])"), 1,
                  "no whole number of bytes"},
        BadHeader{"Overlap",
                  R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                  R"("t":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
                  7, "tensor t at [3, 7) overlaps the tensor before it, which ends at 4"},
        BadHeader{"SameRange",
                  R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                  R"("t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
                  4, "overlaps"},
        BadHeader{"Hole",
                  R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                  R"("t":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                  3, "bytes [1, 2) before tensor t belong to no tensor"},
        BadHeader{"HoleAtTheStart", OneTensor(R"("dtype":"U8","shape":[1],"data_offsets":[1,2])"),
                  2, "bytes [0, 1) before tensor t"},
        BadHeader{"TrailingData", OneTensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1])"), 9,
                  "has 8 bytes after the last tensor"}),
    [](const auto& info) { return info.param.name; });

TEST(ParseHeaderTest, NamesInMessagesArePrintableAndShort) {
  const std::string name = std::string("bad\\u0007\\u001b[31m") + std::string(5000, 'x');
  const auto status = Parse("{\"" + name + "\":1}", 0).status();
  EXPECT_THAT(Message(status), HasSubstr("tensor bad??[31mxxx"));
  EXPECT_LT(status.message().size(), 500u);
}

TEST(ParseHeaderTest, DeepNestingIsRefusedAtOnce) {
  std::string json = "{\"t\":";
  for (int i = 0; i < 1'000'000; ++i) json += '[';
  EXPECT_THAT(Message(Parse(json, 0).status()), HasSubstr("tensor t is an array"));
}

}  // namespace
}  // namespace conclave::weights
