#include "shared/weights/packer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>

#include "shared/weights/checkpoint.h"
#include "shared/weights/engine_weights.h"
#include "shared/weights/expert_weights.h"
#include "shared/weights/matrix_loader.h"
#include "shared/weights/model_files.h"
#include "shared/weights/packed_model.h"
#include "shared/weights/packed_source.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/stored_checkpoint.h"

namespace conclave::weights {
namespace {

namespace fs = std::filesystem;
using kernels::PackedMatrix;
using kernels::WeightFormat;
using ::testing::AllOf;
using testing::GoldenDir;
using ::testing::HasSubstr;
using testing::StoredCheckpoint;
using testing::TempDir;

constexpr const char* kLabels[] = {"f32", "bf16", "int8", "int4", "int8+int4:32", "int4:128"};

std::shared_ptr<const Checkpoint> OpenCheckpoint(const fs::path& dir) {
  auto checkpoint = Checkpoint::Open(dir, {});
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return *std::move(checkpoint);
}

// Turns over a bit of a file.
void Damage(const fs::path& path, uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const auto byte = static_cast<char>(file.get() ^ 4);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
}

PackInput InputOf(const Checkpoint& checkpoint, std::string_view label) {
  PackInput input = {.config = &checkpoint.config(),
                     .tensors = &checkpoint,
                     .fingerprint = checkpoint.Fingerprint(label),
                     .texts = {}};
  const ModelFiles files = *ModelFiles::Open(checkpoint.path());
  const auto names = FilesToPack(checkpoint.path());
  EXPECT_TRUE(names.ok()) << names.status();
  for (const std::string& name : *names) {
    input.texts.emplace_back(name, *files.Read(name, 64 << 20));
  }
  return input;
}

PackOptions Pieces(uint64_t batch_bytes, kernels::ThreadPool* pool) {
  PackOptions options;
  options.batch_bytes = batch_bytes;
  options.pool = pool;
  return options;
}

std::string Bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::shared_ptr<const PackedModel> PackAndOpen(const Checkpoint& checkpoint,
                                               const std::string& label, const fs::path& path,
                                               PackOptions options = {}) {
  options.formats = *ParseWeightFormats(label);
  const absl::Status packed = Pack(InputOf(checkpoint, label), path, options);
  EXPECT_TRUE(packed.ok()) << packed;
  auto model = PackedModel::Open(path, {});
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

// Asks two sources for the same and compares what they make.
class Compared : public MatrixSource {
 public:
  Compared(MatrixSource& one, MatrixSource& other) : one_(one), other_(other) {}

  PackedMatrix Add(WeightFormat format, std::string_view name, int64_t first_row,
                   int64_t num_outputs, int64_t num_inputs) override {
    return Note(name, one_.Add(format, name, first_row, num_outputs, num_inputs),
                other_.Add(format, name, first_row, num_outputs, num_inputs));
  }
  PackedMatrix AddTransposed(WeightFormat format, std::string_view name, int64_t first_row,
                             int64_t num_outputs, int64_t num_inputs) override {
    return Note(name, one_.AddTransposed(format, name, first_row, num_outputs, num_inputs),
                other_.AddTransposed(format, name, first_row, num_outputs, num_inputs));
  }
  std::span<const std::byte> AddRowMajor(WeightFormat format, std::string_view name,
                                         int64_t first_row, int64_t num_rows,
                                         int64_t num_columns) override {
    const auto one = one_.AddRowMajor(format, name, first_row, num_rows, num_columns);
    const auto other = other_.AddRowMajor(format, name, first_row, num_rows, num_columns);
    pairs_.push_back({std::string(name), one, other});
    return one;
  }
  std::vector<float> LoadVector(std::string_view name, int64_t elements) override {
    const std::vector<float> one = one_.LoadVector(name, elements);
    EXPECT_EQ(one, other_.LoadVector(name, elements)) << name;
    return one;
  }
  absl::Status Run() override {
    EXPECT_TRUE(one_.Run().ok());
    const absl::Status status = other_.Run();
    EXPECT_TRUE(status.ok()) << status;
    if (!status.ok()) return status;
    for (const Pair& pair : pairs_) {
      EXPECT_EQ(pair.one.size(), pair.other.size()) << pair.name;
      EXPECT_EQ(std::memcmp(pair.one.data(), pair.other.data(), pair.one.size()), 0) << pair.name;
      ++num_compared;
    }
    pairs_.clear();
    return absl::OkStatus();
  }

  int num_compared = 0;

 private:
  struct Pair {
    std::string name;
    std::span<const std::byte> one, other;
  };
  PackedMatrix Note(std::string_view name, const PackedMatrix& one, const PackedMatrix& other) {
    const auto bytes = [](const PackedMatrix& matrix) {
      return std::span(matrix.data,
                       kernels::PackedBytes(matrix.format, matrix.num_outputs, matrix.num_inputs));
    };
    EXPECT_EQ(reinterpret_cast<uintptr_t>(other.data) % 64, 0u) << name;
    pairs_.push_back({std::string(name), bytes(one), bytes(other)});
    return one;
  }
  MatrixSource& one_;
  MatrixSource& other_;
  std::vector<Pair> pairs_;
};

// Everything that engines and workers hold, from both, is the same bytes.
void ExpectSame(const Checkpoint& checkpoint, const PackedModel& packed,
                const WeightFormats& formats) {
  const ModelConfig& config = checkpoint.config();
  PackedBuffer buffer(EngineBytes(config, formats));
  MatrixLoader made(checkpoint, buffer, nullptr);
  PackedSource stored(packed.file(), nullptr);
  Compared compared(made, stored);
  EngineWeights weights;
  EXPECT_TRUE(WalkEngine(config, formats, compared, weights, nullptr).ok());
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (int32_t expert = 0; config.IsMoe(layer) && expert < config.moe.num_experts; ++expert) {
      PackedBuffer memory(ExpertBytes(config, formats));
      MatrixLoader loader(checkpoint, memory, nullptr);
      Compared both(loader, stored);
      AddExpert(config, formats, {layer, expert}, both);
      EXPECT_TRUE(both.Run().ok());
      EXPECT_EQ(both.num_compared, 3);
    }
  }
  EXPECT_GT(compared.num_compared, 4 * config.num_layers);
}

TEST(PackerTest, WhatIsPackedIsWhatLoadingMakes) {
  const TempDir dir;
  for (const char* name : testing::kGoldenModels) {
    const auto checkpoint = OpenCheckpoint(GoldenDir(name));
    for (const char* label : kLabels) {
      SCOPED_TRACE(std::string(name) + " " + label);
      const fs::path path = dir.path() / (std::string(name) + label);
      const auto packed = PackAndOpen(*checkpoint, label, path);
      EXPECT_EQ(packed->formats(), label);
      EXPECT_EQ(packed->Fingerprint(label), checkpoint->Fingerprint(label));
      EXPECT_EQ(NormalisedConfigText(packed->config()), NormalisedConfigText(checkpoint->config()));
      EXPECT_TRUE(packed->file().VerifyAll(2, nullptr).ok());
      ExpectSame(*checkpoint, *packed, *ParseWeightFormats(label));
    }
  }
}

TEST(PackerTest, ThreadsAndBatchesMakeTheSameFile) {
  const TempDir dir;
  const auto checkpoint = OpenCheckpoint(GoldenDir("deepseek_v2_lite"));
  PackAndOpen(*checkpoint, "int8+int4", dir.path() / "one");
  kernels::ThreadPool pool(3);
  PackAndOpen(*checkpoint, "int8+int4", dir.path() / "threads", Pieces(128 << 20, &pool));
  PackAndOpen(*checkpoint, "int8+int4", dir.path() / "pieces", Pieces(3000, &pool));
  const std::string one = Bytes(dir.path() / "one");
  EXPECT_GT(one.size(), 100'000u);
  EXPECT_TRUE(one == Bytes(dir.path() / "threads"));
  EXPECT_TRUE(one == Bytes(dir.path() / "pieces"));
}

TEST(PackerTest, LoadedWeightsKeepTheFileOpen) {
  const TempDir dir;
  const auto checkpoint = OpenCheckpoint(GoldenDir("mixtral"));
  auto packed = PackAndOpen(*checkpoint, "int8", dir.path() / "m");
  const auto made = *LoadEngineWeights(*checkpoint, *ParseWeightFormats("int8"), nullptr);
  const auto mapped = *LoadEngineWeights(*packed, *ParseWeightFormats("int8"), nullptr);
  const auto expert = *LoadExpert(*packed, *ParseWeightFormats("int8"), {0, 1});
  packed.reset();
  fs::remove(dir.path() / "m");
  EXPECT_EQ(made->bytes, mapped->bytes);
  EXPECT_EQ(mapped->buffer.capacity_bytes(), 0u);
  EXPECT_EQ(std::memcmp(made->embedding.data(), mapped->embedding.data(), made->embedding.size()),
            0);
  for (const TensorKind kind : kTensorKinds) {
    EXPECT_EQ(made->errors.Of(kind).errors, mapped->errors.Of(kind).errors);
    EXPECT_EQ(made->errors.Of(kind).weights, mapped->errors.Of(kind).weights);
  }
  EXPECT_GT(mapped->errors.Of(TensorKind::kAttention).Relative(), 0.001);
  EXPECT_EQ(expert->bytes, ExpertBytes(made->config, *ParseWeightFormats("int8")));
  const auto expect_same = [](const PackedMatrix& one, const PackedMatrix& other) {
    const size_t bytes = kernels::PackedBytes(one.format, one.num_outputs, one.num_inputs);
    EXPECT_EQ(std::memcmp(one.data, other.data, bytes), 0);
  };
  expect_same(made->lm_head, mapped->lm_head);
  const auto made_expert = *LoadExpert(*checkpoint, *ParseWeightFormats("int8"), {0, 1});
  expect_same(made_expert->ffn.gate, expert->ffn.gate);
  expect_same(made_expert->ffn.down, expert->ffn.down);
  EXPECT_GT(expert->error.Relative(), 0.001);
  EXPECT_EQ(expert->error.Relative(), made_expert->error.Relative());
}

TEST(PackerTest, DamagedTensorsAreNeverComputedWith) {
  const TempDir dir;
  const auto checkpoint = OpenCheckpoint(GoldenDir("olmoe"));
  const WeightFormats formats = *ParseWeightFormats("int8");
  const auto damaged = [&](const char* tensor) {
    const fs::path path = dir.path() / tensor;
    const PackedEntry entry = *PackAndOpen(*checkpoint, "int8", path)->file().Find(tensor);
    Damage(path, entry.offset + entry.bytes / 2);
    return *PackedModel::Open(path, {});
  };
  const auto expect_told = [](const absl::Status& status, const char* tensor) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr(tensor));
  };
  const char* expert = "model.layers.1.mlp.experts.2.up_proj.weight";
  const auto one = damaged(expert);
  EXPECT_TRUE(LoadEngineWeights(*one, formats, nullptr).ok());
  EXPECT_TRUE(LoadExpert(*one, formats, {1, 1}).ok());
  expect_told(LoadExpert(*one, formats, {1, 2}).status(), expert);
  kernels::ThreadPool pool(2);
  for (const char* tensor :
       {"model.embed_tokens.weight^R", "model.layers.0.self_attn.o_proj.weight",
        "model.norm.weight", "lm_head.weight"}) {
    const auto other = damaged(tensor);
    EXPECT_TRUE(LoadExpert(*other, formats, {1, 2}).ok());
    expect_told(LoadEngineWeights(*other, formats, nullptr).status(), tensor);
    expect_told(LoadEngineWeights(*other, formats, nullptr, &pool).status(), tensor);
  }
}

TEST(PackerTest, ACheckpointThatChangesMeanwhileIsNotPacked) {
  const TempDir dir, source;
  StoredCheckpoint::Read(GoldenDir("mixtral")).Write(source.path());
  const auto checkpoint = OpenCheckpoint(source.path());
  PackInput input = InputOf(*checkpoint, "int8");
  input.check_unchanged = [&] { return checkpoint->CheckUnchanged(); };
  PackOptions options = Pieces(10'000, nullptr);
  options.progress = [&](uint64_t, uint64_t) {
    fs::last_write_time(source.path() / "model.safetensors", fs::file_time_type::clock::now());
    return true;
  };
  const absl::Status status = Pack(input, dir.path() / "m", options);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

// A file whose config.json was changed after it was packed.
TEST(PackerTest, TensorsOfAnotherConfigAreRefused) {
  const TempDir dir;
  const auto checkpoint = OpenCheckpoint(GoldenDir("olmoe"));
  PackInput input = InputOf(*checkpoint, "bf16");
  for (auto& [name, text] : input.texts) {
    if (name != "config.json") continue;
    const size_t at = text.find("\"vocab_size\": ") + 14;
    text.replace(at, text.find_first_of(",\n", at) - at, "64");
  }
  ASSERT_TRUE(Pack(input, dir.path() / "m", {}).ok());
  const auto packed = PackedModel::Open(dir.path() / "m", {});
  ASSERT_TRUE(packed.ok()) << packed.status();
  const auto weights = LoadEngineWeights(**packed, kernels::NumericsClass::kBf16, nullptr);
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("model.embed_tokens.weight"));
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("pack the checkpoint again"));
}

// What is finite as it is stored, and not in the format, would have an error that no reader takes.
TEST(PackerTest, WeightsThatAFormatCannotHoldAreRefused) {
  const TempDir dir;
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  const auto pack = [&](float weight, const std::string& label) {
    StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
    testing::RawTensor& tensor = stored.tensors.at(name);
    std::vector<float> values = testing::Values(tensor);
    values[static_cast<size_t>(64 * tensor.shape[1] + 3)] = weight;  // in a row that is sampled
    tensor = testing::FloatTensor(tensor.shape, values);
    stored.Write(dir.path() / "c");
    const auto checkpoint = OpenCheckpoint(dir.path() / "c");
    PackOptions options;
    options.formats = *ParseWeightFormats(label);
    options.replace = true;
    const fs::path path = dir.path() / "p";
    fs::remove(path);
    const absl::Status status = Pack(InputOf(*checkpoint, label), path, options);
    EXPECT_EQ(fs::exists(path), status.ok());
    if (status.ok()) {
      EXPECT_TRUE(PackedModel::Open(path, {}).ok());
    } else {
      EXPECT_THAT(std::string(status.message()), HasSubstr("tensor " + name + " has "));
    }
    return status;
  };
  EXPECT_THAT(std::string(pack(-0x1.ffp127f, "bf16").message()),
              AllOf(HasSubstr("a weight of magnitude 3.3961"), HasSubstr("use f32")));
  EXPECT_THAT(std::string(pack(HUGE_VALF, "f32").message()), HasSubstr("an infinity or a NaN"));
  EXPECT_FALSE(pack(std::numeric_limits<float>::max(), "int8").ok());
  EXPECT_FALSE(pack(0x1p127f, "int4").ok());
  EXPECT_TRUE(pack(std::numeric_limits<float>::max(), "f32").ok());
  EXPECT_TRUE(pack(-0x1.fefffep127f, "bf16").ok());
  EXPECT_TRUE(pack(0x1.fefffep127f, "int8").ok());
  EXPECT_TRUE(pack(0x1.fffffep126f, "int4").ok());
}

TEST(PackerTest, StoppedOrRefusedItLeavesNothing) {
  const TempDir dir;
  const auto checkpoint = OpenCheckpoint(GoldenDir("mixtral"));
  PackOptions stopped = Pieces(10'000, nullptr);
  stopped.progress = [](uint64_t done, uint64_t) { return done < 50'000; };
  EXPECT_EQ(Pack(InputOf(*checkpoint, "bf16"), dir.path() / "m", stopped).code(),
            absl::StatusCode::kCancelled);
  EXPECT_TRUE(fs::is_empty(dir.path()));

  const TempDir source;
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  testing::RawTensor& norm = stored.tensors.at("model.norm.weight");
  norm.data[1] = 0x7f;
  norm.data[0] = static_cast<char>(0xc0);
  stored.Write(source.path());
  const auto broken = OpenCheckpoint(source.path());
  const absl::Status status = Pack(InputOf(*broken, "int8"), dir.path() / "m", {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.norm.weight"));
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

}  // namespace
}  // namespace conclave::weights
