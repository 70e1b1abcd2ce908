#include "shared/base/limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <filesystem>
#include <fstream>

namespace conclave {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;

// A made-up /proc and /sys below a temporary folder.
class LimitsTest : public ::testing::Test {
 protected:
  LimitsTest()
      : root_(::testing::TempDir() + "limits_test_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(root_);
    Write("/proc/meminfo",
          "MemTotal:       16777216 kB\nMemFree:         1 kB\nMemAvailable:    8388608 kB\n");
  }
  ~LimitsTest() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }

  void UseVersion2(const std::string& group, const std::string& mount_root = "/") {
    Write("/proc/self/cgroup", "0::" + group + "\n");
    Write(
        "/proc/self/mountinfo",
        "31 23 0:28 " + mount_root + " /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw\n");
  }

  void UseVersion1(const std::string& group, const std::string& mount_root = "/") {
    Write("/proc/self/cgroup", "4:memory:" + group + "\n1:cpu,cpuacct:" + group + "\n0::/\n");
    Write("/proc/self/mountinfo",
          "32 31 0:29 " + mount_root + " /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n" +
              "35 31 0:32 " + mount_root + " /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
  }

  static int Affinity() {
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof(set), &set);
    return CPU_COUNT(&set);
  }

  const std::string root_;
};

TEST_F(LimitsTest, WithoutGroupsTheMachineIsTheLimit) {
  const CpuLimit cpu = ReadCpuLimit(root_);
  EXPECT_EQ(cpu.cores, Affinity());
  EXPECT_EQ(cpu.quota, 0);
  const MemoryLimit memory = ReadMemoryLimit(root_);
  EXPECT_EQ(memory.total_bytes, 16384 * kMiB);
  EXPECT_EQ(memory.available_bytes, 8192 * kMiB);
  EXPECT_EQ(memory.reason, "machine");
}

TEST_F(LimitsTest, TakesTheSmallestOfTheGroupsAbove) {
  UseVersion2("/a/b");
  Write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  Write("/sys/fs/cgroup/a/cpu.max", "100000 100000\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "4294967296\n");
  Write("/sys/fs/cgroup/a/b/memory.current", "1073741824\n");
  Write("/sys/fs/cgroup/a/b/memory.stat", "anon 5\ninactive_file 536870912\n");
  Write("/sys/fs/cgroup/a/memory.max", "max\n");
  const CpuLimit cpu = ReadCpuLimit(root_);
  EXPECT_EQ(cpu.cores, 1);
  EXPECT_EQ(cpu.quota, 1.0);
  const MemoryLimit memory = ReadMemoryLimit(root_);
  EXPECT_EQ(memory.total_bytes, 4096 * kMiB);
  EXPECT_EQ(memory.available_bytes, 3584 * kMiB);
  EXPECT_THAT(memory.reason, HasSubstr("/a/b/memory.max"));
}

TEST_F(LimitsTest, AFractionOfACoreIsOneThread) {
  UseVersion2("/");
  Write("/sys/fs/cgroup/cpu.max", "50000 100000\n");
  const CpuLimit cpu = ReadCpuLimit(root_);
  EXPECT_EQ(cpu.cores, 1);
  EXPECT_EQ(cpu.quota, 0.5);
}

TEST_F(LimitsTest, QuotasRoundDown) {
  UseVersion2("/");
  Write("/sys/fs/cgroup/cpu.max", "190000 100000\n");
  EXPECT_EQ(ReadCpuLimit(root_).cores, 1);
}

TEST_F(LimitsTest, AQuotaAboveTheCpuSetChangesNothing) {
  UseVersion2("/");
  Write("/sys/fs/cgroup/cpu.max", "409600000 100000\n");
  EXPECT_EQ(ReadCpuLimit(root_).cores, Affinity());
}

TEST_F(LimitsTest, ReadsVersion1) {
  UseVersion1("/box");
  Write("/sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "100000\n");
  Write("/sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  Write("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "2147483648\n");
  Write("/sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1073741824\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(ReadCpuLimit(root_).cores, 1);
  const MemoryLimit memory = ReadMemoryLimit(root_);
  EXPECT_EQ(memory.total_bytes, 2048 * kMiB);
  EXPECT_EQ(memory.available_bytes, 1024 * kMiB);
}

TEST_F(LimitsTest, ReadsAContainersPartOfTheTree) {
  UseVersion1("/docker/1234", "/docker/1234");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n");
  EXPECT_EQ(ReadMemoryLimit(root_).total_bytes, 2048 * kMiB);
}

TEST_F(LimitsTest, GarbageInTheFilesIsNoLimit) {
  UseVersion2("/a");
  Write("/sys/fs/cgroup/a/cpu.max", "zero\n");
  Write("/sys/fs/cgroup/a/memory.max", "-3\n");
  Write("/proc/self/mountinfo",
        "short line\n31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  EXPECT_EQ(ReadCpuLimit(root_).cores, Affinity());
  EXPECT_EQ(ReadMemoryLimit(root_).reason, "machine");
}

TEST(RealLimitsTest, ThisMachineHasSome) {
  EXPECT_GE(ReadCpuLimit().cores, 1);
  const MemoryLimit memory = ReadMemoryLimit();
  EXPECT_GT(memory.total_bytes, 0);
  EXPECT_GT(memory.available_bytes, 0);
  EXPECT_LE(memory.available_bytes, memory.total_bytes);
}

TEST(ProcessLimitsTest, NamesTheLimitThatIsTooSmallAndHowToRaiseIt) {
  EXPECT_EQ(CheckProcessLimits({0, 64, 64}, 1 << 30, 64), absl::OkStatus());
  const absl::Status space = CheckProcessLimits({100 << 20, 64, 64}, 512 << 20, 64);
  EXPECT_EQ(space.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(space.message()), ::testing::HasSubstr("limited to 100 MiB"));
  EXPECT_THAT(std::string(space.message()), ::testing::HasSubstr("ulimit -v"));
  const absl::Status files = CheckProcessLimits({0, 10, 10}, 0, 64);
  EXPECT_THAT(std::string(files.message()), ::testing::HasSubstr("may have 10 files open"));
  EXPECT_GT(ReadProcessLimits().open_files, 0);
}

}  // namespace
}  // namespace conclave
