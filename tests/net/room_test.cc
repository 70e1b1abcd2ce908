#include "shared/net/room.h"

#include <gtest/gtest.h>

#include <optional>

namespace conclave::net {
namespace {

TEST(RoomTest, TheOldestGivesWay) {
  Room room(10);
  int first_gone = 0, second_gone = 0;
  std::optional<Room::Holder> first, second, third;
  first.emplace(&room, [&] { ++first_gone; });
  second.emplace(&room, [&] { ++second_gone; });
  third.emplace(&room, [] {});
  EXPECT_TRUE(second->Hold(4));  // the first is older all the same
  EXPECT_TRUE(first->Hold(4));
  EXPECT_TRUE(third->Hold(2));
  EXPECT_EQ(room.held(), 10u);
  EXPECT_TRUE(third->Hold(3));
  EXPECT_EQ(first_gone, 1);
  EXPECT_FALSE(first->Hold(1));
  EXPECT_EQ(room.held(), 7u);
  EXPECT_TRUE(third->Hold(10));
  EXPECT_EQ(second_gone, 1);
  EXPECT_EQ(first_gone, 1);
  first.reset();
  second.reset();
  EXPECT_EQ(room.held(), 10u);
  third.reset();
  EXPECT_EQ(room.held(), 0u);
}

TEST(RoomTest, WhoWantsMoreThanThereIsGivesWayItself) {
  Room room(10);
  int gone = 0;
  Room::Holder holder(&room, [&] { ++gone; });
  EXPECT_TRUE(holder.Hold(10));
  EXPECT_TRUE(holder.Hold(3));
  EXPECT_EQ(room.held(), 3u);
  EXPECT_FALSE(holder.Hold(11));
  EXPECT_FALSE(holder.Hold(1));
  EXPECT_EQ(gone, 0);
  EXPECT_EQ(room.held(), 0u);
}

}  // namespace
}  // namespace conclave::net
