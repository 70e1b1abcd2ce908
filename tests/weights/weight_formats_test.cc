#include "shared/weights/weight_formats.h"

#include <gtest/gtest.h>

namespace conclave::weights {
namespace {

using kernels::NumericsClass;
using kernels::WeightFormat;
using kernels::WeightType;

TEST(WeightFormatsTest, LabelsAndFormatsAreOneAnothersReverse) {
  for (const char* label : {"f32", "bf16", "int8", "int4", "int8:32", "int4:128", "int8+int4",
                            "bf16+int4:32", "int4:32+int8:128", "int8+bf16"}) {
    const auto formats = ParseWeightFormats(label);
    ASSERT_TRUE(formats.has_value()) << label;
    EXPECT_EQ(formats->Label(), label);
  }
}

TEST(WeightFormatsTest, ALabelSaysWhatIsStored) {
  const auto mixed = ParseWeightFormats("int8+int4:32");
  ASSERT_TRUE(mixed.has_value());
  EXPECT_EQ(mixed->numerics, NumericsClass::kInt8);
  EXPECT_EQ(mixed->dense, WeightFormat::kInt8);
  EXPECT_EQ(mixed->experts, (WeightFormat{WeightType::kInt4, 32}));
  EXPECT_EQ(*ParseWeightFormats("int8:64+int8"), WeightFormats(NumericsClass::kInt8));
}

TEST(WeightFormatsTest, OtherLabelsAreNone) {
  for (const char* label : {"", "auto", "int3", "int8:", "int8:16", "int8:64x", "bf16:64",
                            "f32+int8", "int8+f32", "int8+", "+int8", "int8+int4+int4", "INT8"}) {
    EXPECT_FALSE(ParseWeightFormats(label).has_value()) << label;
  }
}

}  // namespace
}  // namespace conclave::weights
