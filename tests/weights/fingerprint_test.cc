#include "shared/weights/fingerprint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/sha.h>

#include <cstdio>
#include <map>
#include <set>

#include "shared/weights/checkpoint.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/stored_checkpoint.h"

namespace conclave::weights {
namespace {

using ::testing::ElementsAre;
using testing::GoldenDir;
using testing::StoredCheckpoint;

std::string Sha256Hex(const std::string& text) {
  unsigned char sum[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), sum);
  std::string hex;
  for (unsigned char byte : sum) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", byte);
    hex += digits;
  }
  return hex;
}

std::string FingerprintOf(const StoredCheckpoint& stored, const char* numerics = "bf16") {
  testing::TempDir dir;
  stored.Write(dir.path());
  const auto checkpoint = Checkpoint::Open(dir.path(), {});
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return (*checkpoint)->Fingerprint(numerics);
}

TEST(SampleRangesTest, TakesSmallTensorsWhole) {
  EXPECT_THAT(SampleRanges(0), ElementsAre(ByteRange{0, 0}));
  EXPECT_THAT(SampleRanges(65536), ElementsAre(ByteRange{0, 65536}));
}

TEST(SampleRangesTest, SpreadsFourPiecesFromStartToEnd) {
  EXPECT_THAT(SampleRanges(65537), ElementsAre(ByteRange{0, 16384}, ByteRange{16384, 32768},
                                               ByteRange{32768, 49152}, ByteRange{49153, 65537}));
  EXPECT_THAT(SampleRanges(3'016'384),
              ElementsAre(ByteRange{0, 16384}, ByteRange{1'000'000, 1'016'384},
                          ByteRange{2'000'000, 2'016'384}, ByteRange{3'000'000, 3'016'384}));
}

// The definition of docs/formats.md, followed step by step over the stored file.
TEST(FingerprintTest, IsTheHashThatTheDocumentDefines) {
  const StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
  const auto checkpoint = *Checkpoint::Open(GoldenDir("olmoe"), {});
  std::string text = NormalisedConfigText(checkpoint->config());
  for (const auto& [name, tensor] : stored.tensors) {  // OLMoE's names are canonical
    text += "tensor " + name + " BF16 " + std::to_string(tensor.shape[0]) + " " +
            std::to_string(tensor.shape.size() == 2 ? tensor.shape[1] : 1) + "\n";
    const size_t size = tensor.data.size();
    if (size <= 65536) {
      text += tensor.data;
    } else {
      for (size_t i = 0; i < 4; ++i) text += tensor.data.substr((size - 16384) * i / 3, 16384);
    }
  }
  for (const auto& [label, told] : {std::pair{"f32", "f32"},
                                    {"bf16+int4:32", "bf16+int4:32"},
                                    {"int8", "int8 revision 2"},
                                    {"int8+int4:32", "int8+int4:32 revision 2"}}) {
    EXPECT_EQ(checkpoint->Fingerprint(label),
              Sha256Hex(std::string("conclave fingerprint 1\nnumerics=") + told + "\n" + text));
  }
}

TEST(FingerprintTest, TellsModelsAndClassesApart) {
  std::set<std::string> seen;
  for (const char* model : testing::kGoldenModels) {
    const auto checkpoint = *Checkpoint::Open(GoldenDir(model), {});
    for (const char* numerics : {"f32", "bf16"}) {
      const std::string fingerprint = checkpoint->Fingerprint(numerics);
      EXPECT_EQ(fingerprint.size(), 64u);
      EXPECT_EQ(fingerprint.find_first_not_of("0123456789abcdef"), std::string::npos);
      EXPECT_TRUE(seen.insert(fingerprint).second) << model << " " << numerics;
      EXPECT_EQ(checkpoint->Fingerprint(numerics), fingerprint);
    }
  }
}

TEST(FingerprintTest, BothConfigLayoutsGiveTheSame) {
  for (const char* model : testing::kGoldenModels) {
    StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir(model));
    const std::string four = FingerprintOf(stored);
    stored.config =
        nlohmann::json::parse(testing::ReadText(GoldenDir(model) / "transformers5/config.json"));
    EXPECT_EQ(FingerprintOf(stored), four) << model;
  }
}

TEST(FingerprintTest, InertFieldsAndLimitsDoNotMatter) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  const std::string before = FingerprintOf(stored);
  stored.config["max_position_embeddings"] = 100;
  stored.config["use_cache"] = false;
  stored.config["note"] = "mine";
  EXPECT_EQ(FingerprintOf(stored), before);
  stored.config["rms_norm_eps"] = 2e-5;
  EXPECT_NE(FingerprintOf(stored), before);
}

TEST(FingerprintTest, OneChangedBitInASampleMatters) {
  for (const char* model : {"mixtral", "deepseek_v3_fp8"}) {
    StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir(model));
    const std::string before = FingerprintOf(stored);
    for (auto& [name, tensor] : stored.tensors) {
      if (name.find("layers.1.") == std::string::npos && name.find("layers") != std::string::npos) {
        continue;  // one layer of each kind is enough
      }
      tensor.data.back() = static_cast<char>(tensor.data.back() ^ 1);
      EXPECT_NE(FingerprintOf(stored), before) << name;
      tensor.data.back() = static_cast<char>(tensor.data.back() ^ 1);
    }
    EXPECT_EQ(FingerprintOf(stored), before);
  }
}

}  // namespace
}  // namespace conclave::weights
