// The reference checkpoints of tests/golden, as they are and packed.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "shared/base/json_file.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/packed_model.h"
#include "shared/weights/packer.h"

namespace conclave::engine {

inline std::filesystem::path GoldenDir(const std::string& family) {
  return std::filesystem::path(CONCLAVE_SOURCE_DIR) / "tests/golden" / family;
}

inline std::shared_ptr<const weights::Checkpoint> OpenGolden(const std::string& family) {
  auto checkpoint = weights::Checkpoint::Open(GoldenDir(family), {});
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return *std::move(checkpoint);
}

inline std::shared_ptr<const weights::PackedModel> PackGolden(const weights::Checkpoint& checkpoint,
                                                              const std::string& label,
                                                              const std::filesystem::path& path) {
  const weights::PackInput input = {
      .config = &checkpoint.config(),
      .tensors = &checkpoint,
      .fingerprint = checkpoint.Fingerprint(label),
      .texts = {{"config.json", *ReadFile((checkpoint.path() / "config.json").string())}}};
  weights::PackOptions options;
  options.formats = *weights::ParseWeightFormats(label);
  const absl::Status packed = weights::Pack(input, path, options);
  EXPECT_TRUE(packed.ok()) << packed;
  auto model = weights::PackedModel::Open(path, {});
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

}  // namespace conclave::engine
