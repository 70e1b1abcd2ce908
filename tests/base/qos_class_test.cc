#include "shared/base/qos_class.h"

#include <gtest/gtest.h>

namespace conclave {
namespace {

constexpr PerClass<double> kDefaults = {64, 16, 4, 1};

TEST(QosClassTest, NamesAndReadsEachClass) {
  for (const QosClass qos : kQosClasses) EXPECT_EQ(QosClassOf(QosClassName(qos)), qos);
  EXPECT_FALSE(QosClassOf("urgent"));
  EXPECT_FALSE(QosClassOf(""));
}

TEST(QosClassTest, ReadsWeights) {
  EXPECT_EQ(*ParseClassWeights("", kDefaults), kDefaults);
  EXPECT_EQ(*ParseClassWeights("batch=2, realtime = 0.5", kDefaults),
            (PerClass<double>{0.5, 16, 2, 1}));
}

TEST(QosClassTest, SaysWhatIsWrongWithWeights) {
  const auto message = [](const char* text) {
    return std::string(ParseClassWeights(text, kDefaults).status().message());
  };
  EXPECT_NE(message("urgent=1").find("\"urgent\" is no class; classes are realtime"),
            std::string::npos);
  for (const char* text :
       {"batch", "batch=", "batch=0", "batch=-1", "batch=nan", "batch=inf", "batch=1e7", "batch=x",
        "batch=1e-4", "batch=1;realtime=2", "batch=2 realtime=3", "batch=1=2"}) {
    EXPECT_NE(message(text).find("the weight of batch is"), std::string::npos) << text;
  }
  for (const char* text : {"Batch=1", "=1", "1", "batch 1", "batch:1", "batch=1,\tbatches=2"}) {
    EXPECT_NE(message(text).find("is no class"), std::string::npos) << text;
  }
  EXPECT_EQ(message("batch=1,realtime=2,batch=1"), "batch has more than one weight");
}

}  // namespace
}  // namespace conclave
