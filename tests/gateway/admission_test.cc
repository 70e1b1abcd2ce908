#include "services/gateway/admission.h"

#include <gtest/gtest.h>

namespace conclave::gateway {
namespace {

using Taken = Places::Taken;

int32_t TakeAll(Places& places, const std::string& tenant, int32_t capacity) {
  int32_t taken = 0;
  while (places.TryTake(capacity, tenant) == Taken::kYes) ++taken;
  return taken;
}

TEST(Places, ATenantLeavesSomeToNewcomers) {
  Places places;
  EXPECT_EQ(TakeAll(places, "loud", 900), 800);
  EXPECT_EQ(places.TryTake(900, "loud"), Taken::kShare);
  EXPECT_EQ(TakeAll(places, "quiet", 900), 89);
  EXPECT_EQ(TakeAll(places, "late", 900), 10);
  EXPECT_EQ(TakeAll(places, "last", 900), 1);
  EXPECT_EQ(places.TryTake(900, "none"), Taken::kFull);
  EXPECT_EQ(places.taken(), 900);
}

TEST(Places, AShareGrowsWithWhatIsFree) {
  Places places;
  TakeAll(places, "loud", 90);
  for (int i = 0; i < 80; ++i) places.GiveBack("loud");
  EXPECT_EQ(places.taken(), 0);
  EXPECT_EQ(TakeAll(places, "loud", 90), 80);
  EXPECT_EQ(TakeAll(places, "quiet", 90), 9);
}

TEST(Places, TheLastPlaceIsAPlaceToo) {
  Places places;
  EXPECT_EQ(places.TryTake(1, "t"), Taken::kYes);
  EXPECT_EQ(places.TryTake(1, "other"), Taken::kFull);
  places.GiveBack("t");
  places.Close();
  EXPECT_EQ(places.TryTake(1, "t"), Taken::kFull);
}

}  // namespace
}  // namespace conclave::gateway
