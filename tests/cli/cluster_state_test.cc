#include "services/cli/cluster_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "services/cli/leftovers.h"

namespace conclave::cli {
namespace {

namespace fs = std::filesystem;

class ClusterStateTest : public ::testing::Test {
 protected:
  ClusterStateTest()
      : dir_(::testing::TempDir() + "cluster_state_test_" +
             ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  ~ClusterStateTest() override { fs::remove_all(dir_); }

  static ClusterState StateOf(int64_t supervisor) {
    ClusterState state;
    state.cluster_id = "east";
    state.phase = "ready";
    state.model = "/models/tales";
    state.cluster_secret_file = "/secrets/cluster";
    state.supervisor_pid = supervisor;
    state.supervisor_start_ticks = StartTicks(supervisor);
    state.http_address = "127.0.0.1:8000";
    state.processes.push_back({.name = "engine-0",
                               .kind = "engine",
                               .address = "127.0.0.1:8020",
                               .ops_address = "127.0.0.1:9020",
                               .log = "/logs/engine-0.log",
                               .last_end = "ended by SIGKILL"});
    return state;
  }

  const std::string dir_;
};

TEST_F(ClusterStateTest, IsReadAsWritten) {
  ASSERT_TRUE(WriteClusterState(dir_, StateOf(getpid())).ok());
  const auto state = ReadRunningCluster(dir_);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->cluster_id, "east");
  EXPECT_EQ(state->phase, "ready");
  EXPECT_EQ(state->model, "/models/tales");
  EXPECT_EQ(state->cluster_secret_file, "/secrets/cluster");
  ASSERT_EQ(state->processes.size(), 1u);
  EXPECT_EQ(state->processes[0].name, "engine-0");
  EXPECT_EQ(state->processes[0].last_end, "ended by SIGKILL");
}

TEST_F(ClusterStateTest, SaysWhatTheDrainFound) {
  const auto text = [](int64_t drained, int64_t cut_off) {
    ClusterState state;
    state.drained_requests = drained;
    state.cut_off_requests = cut_off;
    return DescribeDrain(state);
  };
  EXPECT_EQ(text(-1, 0), "");
  EXPECT_EQ(text(0, 0), ", no request was running");
  EXPECT_EQ(text(1, 0), ", 1 request was running");
  EXPECT_EQ(text(1, 1), ", 1 request was running and was cut off");
  EXPECT_EQ(text(5, 0), ", 5 requests were running");
  EXPECT_EQ(text(5, 1), ", 5 requests were running, 1 was cut off");
  EXPECT_EQ(text(5, 5), ", 5 requests were running and were cut off");
}

TEST_F(ClusterStateTest, TheDrainIsKept) {
  ClusterState state = StateOf(getpid());
  state.drained_requests = 2;
  state.cut_off_requests = 1;
  ASSERT_TRUE(WriteClusterState(dir_, state).ok());
  const auto again = ReadClusterState(dir_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(DescribeDrain(*again), ", 2 requests were running, 1 was cut off");
}

TEST_F(ClusterStateTest, RoomIsTriedAndLeftAsItWas) {
  EXPECT_TRUE(CheckRoom(dir_).ok());
  EXPECT_TRUE(fs::is_empty(dir_));
  const absl::Status none = CheckRoom(dir_ + "/none");
  EXPECT_TRUE(absl::IsInvalidArgument(none)) << none;
  EXPECT_THAT(std::string(none.message()), ::testing::HasSubstr(dir_ + "/none"));
  EXPECT_THAT(std::string(none.message()), ::testing::HasSubstr("--state-dir"));
}

TEST_F(ClusterStateTest, NoFileMeansNoCluster) {
  const auto state = ReadRunningCluster(dir_);
  EXPECT_EQ(state.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(state.status().message()), ::testing::HasSubstr("conclave up"));
}

TEST_F(ClusterStateTest, ALaterProcessOfTheSamePidIsNotTheSupervisor) {
  ClusterState state = StateOf(getpid());
  state.supervisor_start_ticks -= 1;
  ASSERT_TRUE(WriteClusterState(dir_, state).ok());
  EXPECT_EQ(ReadRunningCluster(dir_).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ClusterStateTest, ProcessesWithoutTheirSupervisorAreStillACluster) {
  ClusterState state = StateOf(getpid());
  state.supervisor_start_ticks -= 1;
  state.processes.push_back(state.processes[0]);
  state.processes[0].pid = getpid();
  state.processes[0].start_ticks = StartTicks(getpid());
  state.processes[1].name = "engine-1";
  state.processes[1].pid = getpid();
  state.processes[1].start_ticks = StartTicks(getpid()) + 1;
  ASSERT_TRUE(WriteClusterState(dir_, state).ok());
  const auto found = ReadRunningCluster(dir_);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->phase, "unsupervised");
  EXPECT_FALSE(found->supervised);
  EXPECT_EQ(found->processes[0].pid, getpid());
  EXPECT_EQ(found->processes[1].pid, 0);
  EXPECT_EQ(found->processes[1].last_end, "ended");
}

TEST_F(ClusterStateTest, GarbageIsNamed) {
  std::ofstream(ClusterStatePath(dir_)) << "[1, 2]";
  EXPECT_THAT(std::string(ReadRunningCluster(dir_).status().message()),
              ::testing::HasSubstr("cluster.json"));
  std::ofstream(ClusterStatePath(dir_)) << "{\"phase\": ";
  EXPECT_EQ(ReadRunningCluster(dir_).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClusterStateTest, OneSupervisorAtATime) {
  {
    const auto lock = SupervisorLock::Take(dir_);
    ASSERT_TRUE(lock.ok());
    EXPECT_EQ(SupervisorLock::Take(dir_).status().code(), absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_TRUE(SupervisorLock::Take(dir_).ok());
}

TEST_F(ClusterStateTest, TheLockIsTakenAgainInAFolderThatWasDeleted) {
  auto lock = SupervisorLock::Take(dir_);
  ASSERT_TRUE(lock.ok());
  EXPECT_TRUE(lock->InPlace());
  fs::remove_all(dir_);
  EXPECT_FALSE(lock->InPlace());
  ASSERT_EQ(lock->Retake(), absl::OkStatus());
  EXPECT_TRUE(lock->InPlace());
  EXPECT_FALSE(SupervisorLock::Take(dir_).ok());
}

TEST_F(ClusterStateTest, EventsAreReadInOrderAndHalfLinesLeftOut) {
  ASSERT_TRUE(AppendEvent(dir_, {1, "expert-0", "ended by SIGKILL"}).ok());
  std::ofstream(dir_ + "/events.jsonl", std::ios::app) << "{\"unix_ms\": 2, \n";
  ASSERT_TRUE(AppendEvent(dir_, {3, "expert-0", "restarted"}).ok());
  const std::vector<Event> events = ReadEvents(dir_);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].text, "ended by SIGKILL");
  EXPECT_EQ(events[1].unix_ms, 3);
}

TEST_F(ClusterStateTest, NothingIsEndedWhileTheSupervisorLives) {
  ClusterState state = StateOf(getpid());
  state.processes[0].pid = getpid();
  state.processes[0].start_ticks = StartTicks(getpid());
  ASSERT_TRUE(WriteClusterState(dir_, state).ok());
  EXPECT_EQ(EndLeftovers(dir_).ended, 0);
}

TEST(StartTicksTest, KnowsThisProcessAndNoOther) {
  EXPECT_GT(StartTicks(getpid()), 0);
  EXPECT_TRUE(IsAlive(getpid(), StartTicks(getpid())));
  EXPECT_FALSE(IsAlive(getpid(), StartTicks(getpid()) + 1));
  EXPECT_FALSE(IsAlive(0, 0));
}

}  // namespace
}  // namespace conclave::cli
