// Loads configs of the golden checkpoints, changed or not, for the tests of what reads config.json.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "shared/weights/model_config.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/stored_checkpoint.h"

namespace conclave::weights {

inline nlohmann::json GoldenConfig(const std::string& model) {
  return nlohmann::json::parse(testing::ReadText(testing::GoldenDir(model) / "config.json"));
}

class ModelConfigTest : public ::testing::Test {
 protected:
  absl::StatusOr<ModelConfig> LoadText(const std::string& text, bool strict = false) {
    testing::WriteText(dir_.path() / "config.json", text);
    warnings_.clear();
    return LoadModelConfig(dir_.path(), {.strict = strict}, &warnings_);
  }
  absl::StatusOr<ModelConfig> Load(const nlohmann::json& config, bool strict = false) {
    return LoadText(config.dump(), strict);
  }
  // The config must be refused with this code, naming the file and holding `message`.
  void ExpectRefused(const nlohmann::json& config, absl::StatusCode code,
                     const std::string& message) {
    const absl::Status status = Load(config).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(message));
    EXPECT_THAT(std::string(status.message()),
                ::testing::HasSubstr((dir_.path() / "config.json").string()));
  }
  void ExpectUnsupported(const std::string& model, const std::string& field,
                         const nlohmann::json& value, const std::string& supported) {
    nlohmann::json config = GoldenConfig(model);
    config[field] = value;
    ExpectRefused(config, absl::StatusCode::kUnimplemented, field + " is " + value.dump());
    ExpectRefused(config, absl::StatusCode::kUnimplemented, "supported: " + supported);
  }
  void ExpectInvalid(const std::string& model, const std::string& field,
                     const nlohmann::json& value, const std::string& wanted) {
    nlohmann::json config = GoldenConfig(model);
    config[field] = value;
    ExpectRefused(config, absl::StatusCode::kInvalidArgument, field + " is " + value.dump());
    ExpectRefused(config, absl::StatusCode::kInvalidArgument, "wanted " + wanted);
  }

  testing::TempDir dir_;
  std::vector<std::string> warnings_;
};

}  // namespace conclave::weights
