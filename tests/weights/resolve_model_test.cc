#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "shared/weights/model_files.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/stored_checkpoint.h"

namespace conclave::weights {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr const char* kVariables[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME",
                                      "XDG_CACHE_HOME", "HOME"};

class ResolveModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : kVariables) unsetenv(name);
    setenv("HOME", home_.path().c_str(), 1);
  }

  // Adds a snapshot of org/name to the cache at `hub`.
  fs::path AddSnapshot(const fs::path& hub, const std::string& commit, bool complete = true) {
    const fs::path snapshot = hub / "models--org--my.Model-1" / "snapshots" / commit;
    fs::create_directories(snapshot);
    if (complete) testing::WriteText(snapshot / "config.json", "{}");
    return snapshot;
  }
  void SetMain(const fs::path& hub, const std::string& commit) {
    const fs::path refs = hub / "models--org--my.Model-1" / "refs";
    fs::create_directories(refs);
    testing::WriteText(refs / "main", commit);
  }
  absl::StatusOr<fs::path> Resolve() { return ResolveModel("org/my.Model-1"); }

  testing::TempDir home_;
};

TEST_F(ResolveModelTest, TakesAFolderAsItIs) {
  EXPECT_EQ(*ResolveModel(home_.path().string()), home_.path());
  fs::create_directory(home_.path() / "m");
  EXPECT_EQ(*ResolveModel("~/m"), home_.path() / "m");
}

TEST_F(ResolveModelTest, FollowsRefsMain) {
  const fs::path hub = home_.path() / ".cache" / "huggingface" / "hub";
  const fs::path wanted = AddSnapshot(hub, "aaaa");
  AddSnapshot(hub, "bbbb");
  SetMain(hub, "aaaa\n");
  EXPECT_EQ(*Resolve(), wanted);
}

TEST_F(ResolveModelTest, HonoursTheVariablesInTheirOrder) {
  const fs::path explicit_hub = home_.path() / "explicit";
  const fs::path hf_home = home_.path() / "hf";
  const fs::path xdg = home_.path() / "xdg";
  const fs::path in_xdg = AddSnapshot(xdg / "huggingface" / "hub", "c");
  const fs::path in_home = AddSnapshot(hf_home / "hub", "c");
  const fs::path in_hub = AddSnapshot(explicit_hub, "c");
  setenv("XDG_CACHE_HOME", xdg.c_str(), 1);
  EXPECT_EQ(*Resolve(), in_xdg);
  setenv("HF_HOME", hf_home.c_str(), 1);
  EXPECT_EQ(*Resolve(), in_home);
  setenv("HF_HUB_CACHE", explicit_hub.c_str(), 1);
  EXPECT_EQ(*Resolve(), in_hub);
}

TEST_F(ResolveModelTest, FallsBackToTheNewestCompleteSnapshot) {
  setenv("HF_HOME", home_.path().c_str(), 1);
  const fs::path hub = home_.path() / "hub";
  const fs::path older = AddSnapshot(hub, "zzzz");
  const fs::path newer = AddSnapshot(hub, "aaaa");
  const fs::path broken = AddSnapshot(hub, "cccc", /*complete=*/false);
  const auto now = fs::file_time_type::clock::now();
  fs::last_write_time(older, now - std::chrono::hours(2));
  fs::last_write_time(newer, now - std::chrono::hours(1));
  fs::last_write_time(broken, now);
  EXPECT_EQ(*Resolve(), newer);
  SetMain(hub, "gone");
  EXPECT_EQ(*Resolve(), newer);
  SetMain(hub, "../../../etc");
  EXPECT_EQ(*Resolve(), newer);
}

TEST_F(ResolveModelTest, SaysWhereItLooked) {
  setenv("HF_HOME", "/nonexistent", 1);
  const auto status = Resolve().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent/hub/models--org--my.Model-1"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("HF_HOME"));
  for (const char* odd : {"org/../etc", "a/b/c", "../m", "noslash", "/no/such", "org/"}) {
    const auto result = ResolveModel(odd);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kNotFound) << odd;
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(odd));
  }
  EXPECT_EQ(ResolveModel("").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ResolveModelTest, RefusesFiles) {
  const fs::path file = home_.path() / "m.gguf";
  testing::WriteText(file, "GGUF");
  EXPECT_EQ(ResolveModel(file.string()).status().code(), absl::StatusCode::kUnimplemented);
  const fs::path other = home_.path() / "model.safetensors";
  testing::WriteText(other, "");
  EXPECT_THAT(std::string(ResolveModel(other.string()).status().message()),
              HasSubstr("or the checkpoint folder"));
}

}  // namespace
}  // namespace conclave::weights
