// Real controllers, as processes, that share a Lease.
#include "services/controller/leadership.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <vector>

#include "shared/base/http_get.h"
#include "shared/base/json_file.h"
#include "tests/controller/lease_server.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace conclave::controller {
namespace {

using conclave::testing::WaitFor;
using ::testing::HasSubstr;

constexpr char kName[] = "conclave-controller";

// conclave-controller in a pod of its own.
class Pod {
 public:
  Pod(const std::filesystem::path& folder, const std::string& account, const std::string& api_port)
      : log_(folder / "log") {
    std::filesystem::create_directories(folder);
    const std::vector<std::string> arguments = {CONCLAVE_BINARY_DIR "/conclave-controller",
                                                "--listen",
                                                "127.0.0.1:0",
                                                "--ops-listen",
                                                "127.0.0.1:0",
                                                "--state-dir",
                                                folder / "state",
                                                "--lease-name",
                                                kName,
                                                "--service-account-dir",
                                                account};
    std::vector<char*> argv;
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    std::string host = "KUBERNETES_SERVICE_HOST=127.0.0.1";
    std::string port = "KUBERNETES_SERVICE_PORT=" + api_port;
    char* const environment[] = {host.data(), port.data(), nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log_.c_str(),
                                     O_CREAT | O_WRONLY | O_TRUNC, 0600);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(),
                          api_port.empty() ? environment + 2 : environment),
              0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Pod() {
    if (pid_ == 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  // Its exit code, or the negative signal.
  int End(int signal) {
    if (signal != 0) kill(pid_, signal);
    int status = 0;
    waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::string log() const { return ReadFile(log_).value_or(""); }
  // What follows the last `key` in the log, up to the next space.
  std::string Logged(const std::string& key) const {
    const std::string text = log();
    const size_t at = text.rfind(key);
    if (at == std::string::npos) return "";
    const size_t begin = at + key.size();
    return text.substr(begin, text.find_first_of(" \n", begin) - begin);
  }
  HttpAnswer readyz() const {
    const std::string address = Logged("started http=");
    if (address.empty()) return {};
    return HttpGet(address, "/readyz", std::chrono::seconds(5)).value_or(HttpAnswer{});
  }
  bool IsReady() const { return readyz().status == 200; }
  uint64_t term() const { return std::strtoull(Logged(" term=").c_str(), nullptr, 10); }

 private:
  const std::string log_;
  pid_t pid_ = 0;
};

class LeadershipTest : public ::testing::Test {
 protected:
  Pod Start(const std::string& name) { return Pod(dir_.path() / name, account_, server_.port()); }

  testing::TempDir dir_;
  const std::string account_ = dir_.path() / "account";
  testing::Authority authority_;
  LeaseServer server_{account_, authority_};
};

TEST_F(LeadershipTest, OfTwoControllersOneWorksAndTheOtherSaysForWhomItWaits) {
  Pod first = Start("a");
  ASSERT_TRUE(WaitFor([&] { return first.IsReady(); })) << first.log();
  const std::string holder = server_.holder(kName);
  Pod second = Start("b");
  ASSERT_TRUE(WaitFor([&] { return second.log().find("waiting") != std::string::npos; }));
  const HttpAnswer answer = second.readyz();
  EXPECT_EQ(answer.status, 503);
  EXPECT_THAT(answer.body, HasSubstr("held by " + holder));
  EXPECT_EQ(second.log().find("serving"), std::string::npos);
  EXPECT_TRUE(first.IsReady());

  // The first one ends as it should: the second takes over at once, with a higher term.
  const uint64_t term = first.term();
  EXPECT_EQ(first.End(SIGTERM), 0);
  ASSERT_TRUE(WaitFor([&] { return second.IsReady(); })) << second.log();
  EXPECT_GT(second.term(), term);
  EXPECT_NE(server_.holder(kName), holder);
  EXPECT_EQ(second.End(SIGTERM), 0);
  EXPECT_EQ(server_.holder(kName), "");
}

TEST_F(LeadershipTest, AKilledContainerThatIsStartedAgainTakesItsLeaseBackAtOnce) {
  uint64_t term = 0;
  {
    Pod first = Start("a");
    ASSERT_TRUE(WaitFor([&] { return first.IsReady(); })) << first.log();
    term = first.term();
    first.End(SIGKILL);
  }
  const std::string holder = server_.holder(kName);
  EXPECT_FALSE(holder.empty());
  const auto start = std::chrono::steady_clock::now();
  Pod again = Start("a");
  ASSERT_TRUE(WaitFor([&] { return again.IsReady(); })) << again.log();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(9));
  EXPECT_EQ(server_.holder(kName), holder);
  EXPECT_GT(again.term(), term);
}

TEST_F(LeadershipTest, OneThatLosesItsLeaseWaitsAgain) {
  Pod pod = Start("a");
  ASSERT_TRUE(WaitFor([&] { return pod.IsReady(); })) << pod.log();
  server_.Take(kName, "somebody", 70);
  ASSERT_TRUE(WaitFor([&] { return pod.readyz().status == 503; })) << pod.log();
  EXPECT_THAT(pod.readyz().body, HasSubstr("held by somebody"));
  EXPECT_THAT(pod.log(), HasSubstr("the lease is lost"));
  server_.Take(kName, "", 70);
  ASSERT_TRUE(WaitFor([&] { return pod.IsReady(); })) << pod.log();
  EXPECT_EQ(pod.term(), 71u);
  EXPECT_EQ(pod.End(SIGTERM), 0);
}

TEST_F(LeadershipTest, WithoutTheRightItIsNotReadyAndSaysWhatToChange) {
  server_.RefuseWrites(403);
  Pod pod = Start("a");
  ASSERT_TRUE(WaitFor([&] { return pod.readyz().body.find("Role") != std::string::npos; }));
  EXPECT_EQ(pod.readyz().status, 503);
  // Told once, however often it tries.
  server_.RefuseWrites(0);
  ASSERT_TRUE(WaitFor([&] { return pod.IsReady(); })) << pod.log();
  const std::string log = pod.log();
  EXPECT_EQ(log.find("the lease cannot be asked for"), log.rfind("the lease cannot be asked for"));
  EXPECT_EQ(pod.End(SIGTERM), 0);
}

// However the attempts lie: one finds the Lease held at the last moment, and only the next one does
// not.
TEST_F(LeadershipTest, TheEndComesBeforeAnotherMayTakeTheLease) {
  const Leadership::Options options;
  const Duration held = options.lease_duration - Leadership::SafetyMargin(options);
  EXPECT_LT(held + options.wait_period + Leadership::kLongestAttempt, options.lease_duration);
  // And a renewal that is late, or fails once, costs nothing.
  EXPECT_GT(held, options.renew_period + options.wait_period + 2 * Leadership::kLongestAttempt);
}

TEST_F(LeadershipTest, OutsideOfAPodItSaysSo) {
  Pod pod(dir_.path() / "a", account_, "");
  EXPECT_EQ(pod.End(0), 1);
  EXPECT_THAT(pod.log(), HasSubstr("KUBERNETES_SERVICE_HOST"));
  Pod other(dir_.path() / "b", dir_.path() / "none", server_.port());
  EXPECT_EQ(other.End(0), 1);
  EXPECT_THAT(other.log(), HasSubstr("automountServiceAccountToken"));
}

}  // namespace
}  // namespace conclave::controller
