#include "services/cli/cluster_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "services/cli/cluster_state.h"
#include "services/cli/port_owner.h"

namespace conclave::cli {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

// A context as main() fills it from these flags. Ports are taken from what is free unless a test
// says otherwise.
Context MakeContext(std::vector<const char*> flags) {
  Context context;
  Settings settings("conclave up", "*", "");
  context.options.Bind(settings);
  flags.insert(flags.begin(), "up");
  bool exit_now = false;
  EXPECT_EQ(settings.Parse(static_cast<int>(flags.size()), flags.data(), &exit_now),
            absl::OkStatus());
  context.rows = settings.Rows();
  context.state_dir = "/state";
  return context;
}

TEST(PlanClusterTest, HasAllProcessesWithPortsOfTheirOwn) {
  const auto plan =
      PlanCluster(MakeContext({"--up-auto-ports", "--up-workers=3", "--up-engines=2"}), 4);
  ASSERT_TRUE(plan.ok()) << plan.status();
  std::vector<std::string> names;
  std::set<std::string> addresses = {plan->grpc_address};
  for (const PlannedProcess& process : plan->processes) {
    names.push_back(process.name);
    EXPECT_TRUE(addresses.insert(process.address).second) << process.address;
    if (process.ops_address != process.address) {
      EXPECT_TRUE(addresses.insert(process.ops_address).second) << process.ops_address;
    }
    EXPECT_THAT(process.flags, Contains("--controller-address=" + plan->controller_address));
    EXPECT_THAT(process.flags, Contains("--state-dir=/state"));
  }
  EXPECT_EQ(names, (std::vector<std::string>{"controller", "expert-0", "expert-1", "expert-2",
                                             "engine-0", "engine-1", "gateway"}));
}

TEST(PlanClusterTest, SharesOutTheCores) {
  const auto plan = PlanCluster(MakeContext({"--up-auto-ports"}), 8);
  ASSERT_TRUE(plan.ok());
  // Two workers, each of which may use all cores while the other one has nothing to do.
  EXPECT_THAT(plan->processes[1].flags, Contains("--threads=8"));
  const auto four = PlanCluster(MakeContext({"--up-auto-ports", "--up-workers=4"}), 8);
  ASSERT_TRUE(four.ok());
  EXPECT_THAT(four->processes[1].flags, Contains("--threads=4"));
  EXPECT_THAT(plan->processes[3].flags, Contains("--threads=8"));  // the engine
  const auto given = PlanCluster(MakeContext({"--up-auto-ports", "--engine-threads=3"}), 8);
  EXPECT_THAT(given->processes[3].flags, Contains("--threads=3"));
  EXPECT_THAT(given->processes[3].flags, Not(Contains("--threads=8")));
}

TEST(PlanClusterTest, SharesOutTheMemoryOfKvCaches) {
  const auto plan =
      PlanCluster(MakeContext({"--up-auto-ports", "--up-workers=1", "--up-engines=4"}), 8);
  ASSERT_TRUE(plan.ok());
  for (const PlannedProcess& process : plan->processes) {
    if (process.kind == "engine") {
      EXPECT_THAT(process.flags, Contains("--kv-memory-share=0.1"));
    }
  }
}

TEST(PlanClusterTest, HandsOnFlagsToThoseTheyAreFor) {
  const auto plan = PlanCluster(
      MakeContext({"--up-auto-ports", "--model=m", "--engine-kv-memory=1GiB", "--insecure"}), 2);
  ASSERT_TRUE(plan.ok());
  for (const PlannedProcess& process : plan->processes) {
    EXPECT_THAT(process.flags, Contains("--model=m"));
    EXPECT_THAT(process.flags, Contains("--insecure=true"));
    if (process.kind == "engine") {
      EXPECT_THAT(process.flags, Contains("--kv-memory=1024MiB"));
    } else {
      EXPECT_THAT(process.flags, Not(Contains("--kv-memory=1024MiB")));
    }
  }
}

// The id that all processes are given.
std::string ClusterIdOf(const absl::StatusOr<ClusterPlan>& plan) {
  EXPECT_TRUE(plan.ok()) << plan.status();
  for (const PlannedProcess& process : plan->processes) {
    EXPECT_THAT(process.flags, Contains("--cluster-id=" + plan->cluster_id)) << process.name;
  }
  return plan->cluster_id;
}

TEST(PlanClusterTest, ANewClusterDrawsAnIdAndTheFolderKeepsIt) {
  const std::string folder = ::testing::TempDir() + "cluster_plan_test_id";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  Context context = MakeContext({"--up-auto-ports"});
  context.state_dir = folder;
  const std::string drawn = ClusterIdOf(PlanCluster(context, 2));
  EXPECT_EQ(drawn.size(), 16u);
  EXPECT_NE(drawn, ClusterIdOf(PlanCluster(context, 2)));  // nothing was started yet
  ClusterState before;
  before.cluster_id = drawn;
  ASSERT_TRUE(WriteClusterState(folder, before).ok());
  EXPECT_EQ(ClusterIdOf(PlanCluster(context, 2)), drawn);
  context = MakeContext({"--up-auto-ports", "--cluster-id=east"});
  context.state_dir = folder;
  EXPECT_EQ(ClusterIdOf(PlanCluster(context, 2)), "east");
  std::filesystem::remove_all(folder);
}

TEST(PlanClusterTest, WithoutWorkersEnginesHoldTheExperts) {
  const auto plan = PlanCluster(MakeContext({"--up-auto-ports", "--up-workers=0"}), 2);
  ASSERT_TRUE(plan.ok());
  ASSERT_EQ(plan->processes.size(), 3u);
  EXPECT_THAT(plan->processes[1].flags, Contains("--experts=local"));
}

TEST(PlanClusterTest, NamesAreAsSet) {
  const auto plan =
      PlanCluster(MakeContext({"--up-auto-ports", "--gateway-name=front", "--engine-name=big"}), 2);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->processes.back().name, "front");
  EXPECT_THAT(plan->processes.back().flags, Contains("--name=front"));
  EXPECT_EQ(plan->processes[3].name, "big");
  EXPECT_THAT(plan->processes[3].flags, Contains("--name=big"));
}

TEST(PlanClusterTest, RefusesNamesThatCannotBeHad) {
  const auto many = PlanCluster(MakeContext({"--up-auto-ports", "--expert-name=worker"}), 2);
  EXPECT_THAT(std::string(many.status().message()),
              HasSubstr("expert.name is \"worker\", and conclave up starts 2 of that kind"));
  const auto taken = PlanCluster(MakeContext({"--up-auto-ports", "--gateway-name=engine-0"}), 2);
  EXPECT_THAT(std::string(taken.status().message()), HasSubstr("as another process is called"));
}

TEST(PlanClusterTest, RefusesTheAddressOfAnotherController) {
  const auto plan =
      PlanCluster(MakeContext({"--up-auto-ports", "--controller-address=10.0.0.1:8010"}), 2);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("--controller-listen"));
}

TEST(PlanClusterTest, PortZeroIsResolved) {
  const auto plan =
      PlanCluster(MakeContext({"--up-auto-ports", "--gateway-http-listen=127.0.0.1:0"}), 2);
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(plan->http_address, Not(HasSubstr(":0")));
}

TEST(PlanClusterTest, NamesABusyPortItsOwnerAndTheRemedy) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const int port = ntohs(address.sin_port);
  const std::string flag = "--gateway-http-listen=127.0.0.1:" + std::to_string(port);
  const auto plan = PlanCluster(MakeContext({flag.c_str()}), 2);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(plan.status().message());
  EXPECT_THAT(message, HasSubstr("port " + std::to_string(port)));
  EXPECT_THAT(message, HasSubstr("PID " + std::to_string(getpid())));
  EXPECT_THAT(message, HasSubstr("--auto-ports"));
  EXPECT_THAT(PortOwner(port), HasSubstr(std::to_string(getpid())));
  close(fd);
  EXPECT_EQ(PortOwner(port), "");
}

}  // namespace
}  // namespace conclave::cli
