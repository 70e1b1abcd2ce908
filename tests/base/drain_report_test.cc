#include "shared/base/drain_report.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace conclave {
namespace {

class DrainReportTest : public ::testing::Test {
 protected:
  DrainReportTest() : dir_(::testing::TempDir() + "drain_report_test") {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  ~DrainReportTest() override { std::filesystem::remove_all(dir_); }

  const std::string dir_;
};

TEST_F(DrainReportTest, IsReadAsWritten) {
  const std::string path = DrainReportPath(dir_, "gateway");
  EXPECT_EQ(path, dir_ + "/drained-gateway.json");
  ASSERT_TRUE(WriteDrainReport(path, {.pid = 41, .running = 3, .cut_off = 1}).ok());
  const auto report = ReadDrainReport(path);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->pid, 41);
  EXPECT_EQ(report->running, 3);
  EXPECT_EQ(report->cut_off, 1);
}

TEST_F(DrainReportTest, NoFileAndForeignFilesAreToldApart) {
  const std::string path = DrainReportPath(dir_, "gateway");
  EXPECT_TRUE(absl::IsNotFound(ReadDrainReport(path).status()));
  for (const char* text : {"{}", "[]", R"({"pid":"x","running":1,"cut_off":0})", "{"}) {
    std::ofstream(path) << text;
    EXPECT_TRUE(absl::IsInvalidArgument(ReadDrainReport(path).status())) << text;
  }
}

}  // namespace
}  // namespace conclave
