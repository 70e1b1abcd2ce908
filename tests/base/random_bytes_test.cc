#define OPENSSL_SUPPRESS_DEPRECATED  // a generator of one's own is set by an old function alone
#include "shared/base/random_bytes.h"

#include <gtest/gtest.h>
#include <openssl/rand.h>

#include <set>

namespace conclave {
namespace {

TEST(RandomBytesTest, DrawsOthersEachTime) {
  std::set<std::string> drawn;
  for (int i = 0; i < 100; ++i) drawn.insert(RandomBytes(16));
  EXPECT_EQ(drawn.size(), 100U);
  EXPECT_EQ(drawn.begin()->size(), 16U);
  EXPECT_EQ(RandomBytes(0), "");
}

TEST(RandomBytesDeathTest, EndsAProcessThatCannotDraw) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        static RAND_METHOD broken = {};
        broken.bytes = [](unsigned char*, int) { return 0; };
        RAND_set_rand_method(&broken);
        RandomBytes(16);
      },
      "check failed: RAND_bytes");
}

}  // namespace
}  // namespace conclave
