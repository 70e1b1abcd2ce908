#include "services/cli/child_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/support/wait.h"

namespace conclave::cli {
namespace {

class ChildProcessTest : public ::testing::Test {
 protected:
  ChildProcessTest()
      : log_(::testing::TempDir() + "child_process_test_" +
             ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".log") {
    std::filesystem::remove(log_);
  }
  ~ChildProcessTest() override { std::filesystem::remove(log_); }

  // Runs a shell script to its end.
  ChildEnd RunScript(const std::string& script) {
    const auto pid = StartChild({.program = "/bin/sh", .flags = {"-c", script}, .log = log_});
    EXPECT_TRUE(pid.ok()) << pid.status();
    return Wait(*pid);
  }

  static ChildEnd Wait(pid_t pid) {
    std::optional<ChildEnd> end;
    EXPECT_TRUE(testing::WaitFor([&] { return (end = PollChild(pid)).has_value(); }));
    return end.value_or(ChildEnd{});
  }

  const std::string log_;
};

TEST_F(ChildProcessTest, KeepsBothOutputsInTheLog) {
  EXPECT_TRUE(RunScript("echo one; echo two >&2").clean());
  EXPECT_EQ(LastLogLine(log_), "two");
  EXPECT_TRUE(RunScript("echo three").clean());
  std::ifstream file(log_);
  std::string first;
  std::getline(file, first);
  EXPECT_EQ(first, "one") << "a restart appends";
}

TEST_F(ChildProcessTest, TellsHowItEnded) {
  EXPECT_EQ(RunScript("exit 3").ToString(), "ended with exit code 3");
  EXPECT_EQ(RunScript("kill -9 $$").ToString(), "ended by SIGKILL");
  EXPECT_EQ(RunScript("kill -SEGV $$").ToString(), "ended by SIGSEGV");
}

TEST_F(ChildProcessTest, StartsWithDefaultSignals) {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto pid =
      StartChild({.program = "/bin/sh", .flags = {"-c", "while :; do :; done"}, .log = log_});
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ASSERT_TRUE(pid.ok());
  EXPECT_FALSE(PollChild(*pid).has_value());
  kill(*pid, SIGTERM);
  EXPECT_EQ(Wait(*pid).signal, SIGTERM);
}

TEST_F(ChildProcessTest, SaysWhichProgramIsMissing) {
  const auto pid = StartChild({.program = "/nowhere/conclave-engine", .flags = {}, .log = log_});
  EXPECT_EQ(pid.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(pid.status().message()),
              ::testing::HasSubstr("/nowhere/conclave-engine"));
}

TEST_F(ChildProcessTest, LastLineIsNotBlankAndNotEndless) {
  std::ofstream(log_) << "first\n" << std::string(5000, 'x') << "\n\n  \n";
  EXPECT_LE(LastLogLine(log_).size(), 410u);
  EXPECT_EQ(LastLogLine(log_)[0], 'x');
  EXPECT_EQ(LastLogLine("/nowhere.log"), "");
}

TEST_F(ChildProcessTest, TheLastErrorIsAnErrorAndNothingElse) {
  const std::string before = "2026-01-31T12:04:31.402Z error engine-0: before\n";
  for (const auto& [line, wanted] :
       {std::pair<std::string, std::string>{
            "2026-01-31T12:04:31.402Z error engine-0: no memory bytes=7", "no memory bytes=7"},
        {"2026-01-31T12:04:31.402Z info gateway: request ended api=grpc code=OK", ""},
        {"2026-01-31T12:04:31.402Z warning gateway: slow", ""},
        {R"({"time":"2026-01-31T12:04:31.402Z","level":"error","process":"e","message":"no room"})",
         "no room"},
        {R"({"time":"2026-01-31T12:04:31.402Z","level":"info","process":"e","message":"ok"})", ""},
        {"conclave-engine: error: model is not set", "conclave-engine: error: model is not set"},
        {"terminate called after throwing an instance of 'std::bad_alloc'",
         "terminate called after throwing an instance of 'std::bad_alloc'"}}) {
    std::ofstream(log_) << before << line << "\n";
    EXPECT_EQ(LastError(log_), wanted) << line;
  }
  EXPECT_EQ(LastError("/nowhere.log"), "");
}

}  // namespace

}  // namespace conclave::cli
