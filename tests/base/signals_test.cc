#include "shared/base/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

namespace conclave {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(StopSignalsTest, ReturnsEachSignalOnce) {
  StopSignals signals;
  EXPECT_EQ(signals.WaitFor(milliseconds(0)), std::nullopt);
  kill(getpid(), SIGTERM);
  EXPECT_EQ(signals.WaitFor(seconds(10)), SIGTERM);
  kill(getpid(), SIGINT);
  EXPECT_EQ(signals.WaitFor(seconds(10)), SIGINT);
  kill(getpid(), SIGHUP);
  EXPECT_EQ(signals.WaitFor(seconds(10)), SIGHUP);
  EXPECT_EQ(signals.WaitFor(milliseconds(0)), std::nullopt);
  StopSignals::Restore();
}

}  // namespace
}  // namespace conclave
