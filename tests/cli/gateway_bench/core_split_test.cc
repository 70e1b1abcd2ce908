#include "services/cli/gateway_bench/core_split.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <future>
#include <set>
#include <thread>
#include <vector>

#include "services/cli/child_process.h"
#include "tests/support/temp_dir.h"

namespace conclave::cli {
namespace {

using Cores = std::set<int>;

Cores CoresOf(pid_t thread) {
  cpu_set_t set;
  CPU_ZERO(&set);
  EXPECT_EQ(sched_getaffinity(thread, sizeof set, &set), 0);
  Cores cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.insert(core);
  }
  return cores;
}

void Use(const Cores& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  EXPECT_EQ(sched_setaffinity(0, sizeof set, &set), 0);
}

// Processes that do nothing, called as those of a cluster.
class CoreSplitTest : public ::testing::Test {
 protected:
  ~CoreSplitTest() override {
    Use(all_);
    for (const ProcessState& process : processes_) {
      kill(static_cast<pid_t>(process.pid), SIGKILL);
      waitpid(static_cast<pid_t>(process.pid), nullptr, 0);
    }
  }
  pid_t Start(const std::string& kind) {
    const auto pid = StartChild(
        {.program = "/bin/sleep", .flags = {"600"}, .log = (dir_.path() / "log").string()});
    EXPECT_TRUE(pid.ok()) << pid.status();
    ProcessState& process = processes_.emplace_back();
    process.kind = kind;
    process.pid = *pid;
    return *pid;
  }

  const testing::TempDir dir_;
  const Cores all_ = CoresOf(0);
  std::vector<ProcessState> processes_;
};

TEST_F(CoreSplitTest, WhatComputesGetsAHalfAndEverythingElseTheOther) {
  if (all_.size() < 2) GTEST_SKIP() << "one core cannot be split";
  const pid_t engine = Start("engine"), worker = Start("expert");
  const pid_t gateway = Start("gateway"), controller = Start("controller");
  // A thread of this process that is there before.
  std::promise<pid_t> id;
  std::promise<void> end;
  std::thread earlier([&] {
    id.set_value(gettid());
    end.get_future().wait();
  });
  const pid_t thread = id.get_future().get();
  {
    const CoreSplit split(EnginesApart(processes_));
    EXPECT_TRUE(split.status().ok()) << split.status();
    const Cores computing = CoresOf(engine), others = CoresOf(gateway);
    EXPECT_EQ(computing.size(), all_.size() / 2);
    EXPECT_EQ(CoresOf(worker), computing);
    EXPECT_EQ(CoresOf(controller), others);
    EXPECT_EQ(CoresOf(0), others);
    EXPECT_EQ(CoresOf(thread), others);
    Cores both = computing;
    both.insert(others.begin(), others.end());
    EXPECT_EQ(both, all_);
    EXPECT_EQ(computing.size() + others.size(), all_.size());
  }
  EXPECT_EQ(CoresOf(0), all_);
  EXPECT_EQ(CoresOf(thread), all_);
  end.set_value();
  earlier.join();
}

TEST_F(CoreSplitTest, OneCoreIsNotSplit) {
  const pid_t engine = Start("engine");
  const Cores one = {*all_.begin()};
  Use(one);
  const CoreSplit split(EnginesApart(processes_));
  EXPECT_TRUE(split.status().ok()) << split.status();
  EXPECT_EQ(CoresOf(0), one);
  EXPECT_EQ(CoresOf(engine), all_);
}

TEST_F(CoreSplitTest, AProcessThatHasEndedIsNamedAndTheOthersAreSplit) {
  if (all_.size() < 2) GTEST_SKIP() << "one core cannot be split";
  const pid_t ended = Start("gateway"), engine = Start("engine");
  kill(ended, SIGKILL);
  waitpid(ended, nullptr, 0);
  const CoreSplit split(EnginesApart(processes_));
  EXPECT_EQ(split.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(split.status().message().find(std::to_string(ended)), absl::string_view::npos)
      << split.status();
  EXPECT_EQ(CoresOf(engine).size(), all_.size() / 2);
  processes_.erase(processes_.begin());  // its id may be another process' by now
}

}  // namespace
}  // namespace conclave::cli
