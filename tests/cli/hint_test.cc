#include "services/cli/hint.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace conclave::cli {
namespace {

// Where a call without --state-dir looks, for the life of the object.
class ScopedStateDir {
 public:
  explicit ScopedStateDir(const char* folder) { setenv("CONCLAVE_STATE_DIR", folder, 1); }
  ~ScopedStateDir() { unsetenv("CONCLAVE_STATE_DIR"); }
};

TEST(HintTest, NamesTheStateFolderUnlessAPlainCallFindsIt) {
  const ScopedStateDir plain("/var/lib/conclave");
  EXPECT_EQ(Hint("down", "/var/lib/conclave"), "conclave down");
  EXPECT_EQ(Hint("down", "/var/lib/other/../conclave"), "conclave down");
  EXPECT_EQ(Hint("logs gateway", "/tmp/two"), "conclave logs gateway --state-dir /tmp/two");
}

TEST(HintTest, IsOneLineOfAShell) {
  const ScopedStateDir plain("/var/lib/conclave");
  EXPECT_EQ(Hint("ps", "/tmp/my state"), "conclave ps --state-dir '/tmp/my state'");
  EXPECT_EQ(Hint("ps", "here"),
            "conclave ps --state-dir " + std::filesystem::absolute("here").string());
}

TEST(ShellWordTest, QuotesWhatAShellWouldRead) {
  EXPECT_EQ(ShellWord("/a/b-c_d.e"), "/a/b-c_d.e");
  EXPECT_EQ(ShellWord(""), "''");
  EXPECT_EQ(ShellWord("it's"), "'it'\\''s'");
  EXPECT_EQ(ShellWord("$HOME"), "'$HOME'");
}

}  // namespace
}  // namespace conclave::cli
