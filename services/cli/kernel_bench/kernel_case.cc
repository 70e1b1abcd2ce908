#include "services/cli/kernel_bench/kernel_case.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"
#include "kernels/cpu/rounded_rows.h"
#include "kernels/elementwise.h"
#include "kernels/ffn.h"
#include "kernels/gate.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/quantize.h"
#include "kernels/rope.h"
#include "kernels/sample.h"

namespace conclave::cli {
namespace {

using kernels::Context;
using kernels::DenseView;
using kernels::PackedMatrix;
using kernels::WeightFormat;
using kernels::WeightType;

// Weights that are read in turn take so much at least, so that they come from memory as they do
// when a model is larger than the caches.
constexpr size_t kLeastBytes = size_t{256} << 20;
constexpr int64_t kHidden = 2048, kIntermediate = 1408, kDense = 10944, kVocabulary = 102400;

struct FreeBytes {
  void operator()(std::byte* p) const { std::free(p); }
};
using Bytes = std::unique_ptr<std::byte, FreeBytes>;

Bytes Allocate(size_t bytes) {
  return Bytes(static_cast<std::byte*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096)));
}

// Ordinary small numbers.
std::vector<float> Numbers(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  std::minstd_rand random(1);
  for (float& value : values) value = static_cast<float>(random() % 1000) / 5000 - 0.1f;
  return values;
}

// `copies` matrices of one shape; each panel of 16 outputs has the same numbers.
class Matrices {
 public:
  Matrices(WeightFormat format, int64_t outputs, int64_t inputs, size_t copies)
      : bytes_(kernels::PackedBytes(format, outputs, inputs)) {
    const size_t panel_bytes = kernels::PackedBytes(format, kernels::kPanelOutputs, inputs);
    const Bytes panel = Allocate(panel_bytes);
    std::memset(panel.get(), 0, panel_bytes);
    PackPanel(format, inputs, panel.get());
    data_ = Allocate(bytes_ * copies);
    for (size_t at = 0; at < bytes_ * copies; at += panel_bytes) {
      std::memcpy(data_.get() + at, panel.get(), panel_bytes);
    }
    for (size_t i = 0; i < copies; ++i) {
      views_.push_back({format, outputs, inputs, data_.get() + i * bytes_});
    }
  }

  size_t bytes() const { return bytes_; }  // of one
  size_t size() const { return views_.size(); }
  const PackedMatrix& operator[](size_t i) const { return views_[i % views_.size()]; }

 private:
  static void PackPanel(WeightFormat format, int64_t inputs, std::byte* panel) {
    constexpr int64_t kRows = kernels::kPanelOutputs;
    if (!format.zeros) {
      const std::vector<float> values = Numbers(kRows * inputs);
      kernels::PackRows(format, inputs, 0, DenseView(values.data(), kRows, inputs), panel);
      return;
    }
    const int64_t groups = (inputs + format.group - 1) / format.group;
    std::vector<uint8_t> integers, zeros;
    for (int64_t i = 0; i < kRows * inputs; ++i) integers.push_back(static_cast<uint8_t>(i % 16));
    for (int64_t i = 0; i < kRows * groups; ++i) zeros.push_back(static_cast<uint8_t>(i % 15));
    const std::vector<float> scales(zeros.size(), 0x1p-7f);
    kernels::PackInt4Rows(format, inputs, 0,
                          {DenseView<const uint8_t>(integers.data(), kRows, inputs),
                           DenseView<const float>(scales.data(), kRows, groups), zeros.data()},
                          panel);
  }

  size_t bytes_;
  Bytes data_;
  std::vector<PackedMatrix> views_;
};

std::string NameOf(WeightFormat format) {
  return absl::StrCat(std::string(kernels::WeightTypeName(format.type)),
                      format.zeros ? " with zeros" : "");
}

NamedCase MatmulCase(WeightFormat format, int64_t outputs, int64_t inputs, int64_t rows) {
  const std::string name =
      absl::StrCat("matmul ", NameOf(format), " [", outputs, ", ", inputs, "] x ", rows);
  return {name, [=] {
            const size_t bytes = kernels::PackedBytes(format, outputs, inputs);
            const auto weights =
                std::make_shared<Matrices>(format, outputs, inputs, kLeastBytes / bytes + 1);
            auto input = std::make_shared<std::vector<float>>(Numbers(rows * inputs));
            auto output = std::make_shared<std::vector<float>>(static_cast<size_t>(rows * outputs));
            return KernelCase{.name = name,
                              .bytes = static_cast<double>(bytes),
                              .operations = 2.0 * static_cast<double>(outputs * inputs * rows),
                              .type = format.type,
                              .run = [=, next = size_t{0}](Context& context) mutable {
                                kernels::Matmul((*weights)[next++],
                                                DenseView<const float>(input->data(), rows, inputs),
                                                DenseView(output->data(), rows, outputs), context);
                              }};
          }};
}

// `used` experts of a layer, with so many rows each, out of as many as fill kLeastBytes.
NamedCase ExpertsCase(WeightFormat format, int64_t used, int64_t rows_each) {
  const std::string name = absl::StrCat("experts ", NameOf(format), " ", used, " of [",
                                        kIntermediate, ", ", kHidden, "] x ", rows_each);
  return {name, [=] {
            const size_t bytes = kernels::PackedBytes(format, kIntermediate, kHidden);
            const size_t count = std::max(static_cast<size_t>(used), kLeastBytes / (3 * bytes) + 1);
            const auto up = std::make_shared<Matrices>(format, kIntermediate, kHidden, 2 * count);
            const auto down = std::make_shared<Matrices>(format, kHidden, kIntermediate, count);
            std::vector<kernels::FfnWeights> experts;
            for (size_t i = 0; i < count + static_cast<size_t>(used); ++i) {
              experts.push_back({(*up)[2 * i], (*up)[2 * i + 1], (*down)[i]});
            }
            std::vector<int32_t> first_row;
            for (int64_t e = 0; e <= used; ++e) {
              first_row.push_back(static_cast<int32_t>(e * rows_each));
            }
            const int64_t rows = used * rows_each;
            auto input = std::make_shared<std::vector<float>>(Numbers(rows * kHidden));
            auto output = std::make_shared<std::vector<float>>(input->size());
            return KernelCase{
                .name = name,
                .bytes = static_cast<double>(used) * static_cast<double>(2 * bytes + down->bytes()),
                .operations = 6.0 * static_cast<double>(kIntermediate * kHidden * rows),
                .type = format.type,
                .run = [=, next = size_t{0}](Context& context) mutable {
                  const auto chosen = std::span(experts).subspan(next, static_cast<size_t>(used));
                  next = (next + static_cast<size_t>(used)) % count;
                  kernels::ExpertFfn(
                      chosen,
                      {first_row, DenseView<const float>(input->data(), rows, kHidden),
                       DenseView(output->data(), rows, kHidden)},
                      context);
                  // The matrices live as long as this function.
                  (void)up, (void)down;
                }};
          }};
}

struct AttentionShape {
  std::string name;
  kernels::KvShape kv;
  int32_t num_heads = 0;
};

const AttentionShape& Latent() {
  static const AttentionShape shape = {.name = "latent attention",
                                       .kv = {.numerics = kernels::NumericsClass::kBf16,
                                              .num_kv_heads = 1,
                                              .key_dim = 576,
                                              .value_dim = 512,
                                              .value_is_key_prefix = true},
                                       .num_heads = 16};
  return shape;
}

// Of Qwen3-30B-A3B.
const AttentionShape& Grouped() {
  static const AttentionShape shape = {.name = "grouped attention",
                                       .kv = {.numerics = kernels::NumericsClass::kBf16,
                                              .num_kv_heads = 4,
                                              .key_dim = 128,
                                              .value_dim = 128,
                                              .value_is_key_prefix = false},
                                       .num_heads = 32};
  return shape;
}

// Of `rows` tokens after `before`.
NamedCase AttentionCase(const AttentionShape& shape, int64_t before, int64_t rows) {
  const std::string name = absl::StrCat(shape.name, " after ", before, " x ", rows);
  return {
      name, [=] {
        kernels::AttentionParameters parameters;
        parameters.kv = shape.kv;
        parameters.num_heads = shape.num_heads;
        parameters.scale = 0.05f;
        const int64_t blocks = (before + rows + kernels::kBlockTokens - 1) / kernels::kBlockTokens;
        const size_t block_bytes = kernels::KvBlockBytes(parameters.kv);
        // As many sequences as fill kLeastBytes, one after the other.
        const size_t sequence_bytes = block_bytes * static_cast<size_t>(blocks);
        const size_t sequences = kLeastBytes / sequence_bytes + 1;
        const std::shared_ptr<std::byte> pool(Allocate(sequence_bytes * sequences).release(),
                                              FreeBytes());
        std::memset(pool.get(), 0x3c, sequence_bytes * sequences);  // 0.0115 in bf16
        const int64_t query_cols = int64_t{shape.num_heads} * shape.kv.key_dim;
        const int64_t output_cols = int64_t{shape.num_heads} * shape.kv.value_dim;
        auto queries = std::make_shared<std::vector<float>>(Numbers(rows * query_cols));
        auto output = std::make_shared<std::vector<float>>(static_cast<size_t>(rows * output_cols));
        std::vector<int32_t> ids(static_cast<size_t>(blocks) * sequences);
        std::iota(ids.begin(), ids.end(), 0);
        const double pairs = static_cast<double>(rows) *
                             (static_cast<double>(before) + static_cast<double>(rows + 1) / 2);
        return KernelCase{
            .name = name,
            .bytes = static_cast<double>(sequence_bytes),
            .operations = 2 * pairs * static_cast<double>(query_cols + output_cols),
            .type = WeightType::kBf16,
            .run = [=, next = size_t{0}](Context& context) mutable {
              const auto own = std::span(ids).subspan(
                  next++ % sequences * static_cast<size_t>(blocks), static_cast<size_t>(blocks));
              const kernels::SequenceRows sequence{0, rows, before, own};
              kernels::Attention(parameters, {pool.get(), static_cast<int64_t>(block_bytes)},
                                 {&sequence, 1},
                                 DenseView<const float>(queries->data(), rows, query_cols),
                                 DenseView(output->data(), rows, output_cols), context);
            }};
      }};
}

// The absorbed factors of latent attention: a matrix [outputs, inputs] for each of 16 heads, of
// which each row's heads lie `stride` apart.
NamedCase HeadsCase(WeightFormat format, const std::string& what, int64_t outputs, int64_t inputs,
                    int64_t stride, int64_t rows) {
  constexpr size_t kHeads = 16;
  const std::string name = absl::StrCat(what, " ", NameOf(format), " ", kHeads, " of [", outputs,
                                        ", ", inputs, "] x ", rows);
  return {
      name, [=] {
        const size_t bytes = kHeads * kernels::PackedBytes(format, outputs, inputs);
        const size_t layers = kLeastBytes / bytes + 1;
        const auto matrices = std::make_shared<Matrices>(format, outputs, inputs, kHeads * layers);
        std::vector<PackedMatrix> weights;
        for (size_t i = 0; i < kHeads * layers; ++i) weights.push_back((*matrices)[i]);
        const int64_t input_cols = int64_t{kHeads} * stride;
        const int64_t output_cols = int64_t{kHeads} * outputs;
        auto input = std::make_shared<std::vector<float>>(Numbers(rows * input_cols));
        auto output = std::make_shared<std::vector<float>>(static_cast<size_t>(rows * output_cols));
        return KernelCase{.name = name,
                          .bytes = static_cast<double>(bytes),
                          .operations = 2.0 * static_cast<double>(output_cols * inputs * rows),
                          .type = format.type,
                          .run = [=, next = size_t{0}](Context& context) mutable {
                            kernels::HeadMatmul(
                                std::span(weights).subspan(kHeads * (next++ % layers), kHeads),
                                DenseView<const float>(input->data(), rows, input_cols), stride,
                                DenseView(output->data(), rows, output_cols), outputs, context);
                            (void)matrices;  // the weights live as long as this function
                          }};
      }};
}

// What the reference does instead of kernels::cpu::RoundRowsFor.
void RoundRowsPlainly(WeightFormat format, const std::vector<float>& rows, std::byte* output) {
  if (!format.integers()) {
    const auto num_values = static_cast<int64_t>(rows.size());
    kernels::RoundRows(kernels::RowType::kBf16, DenseView(rows.data(), 1, num_values), output);
    return;
  }
  const auto group = static_cast<size_t>(format.group);
  for (size_t first = 0; first < rows.size(); first += group) {
    kernels::QuantizeGroup(WeightType::kInt8, std::span(rows).subspan(first, group),
                           reinterpret_cast<int8_t*>(output + first));
  }
}

// Rows as a matmul of integers wants them; of bf16 rounded.
NamedCase QuantiseCase(WeightFormat format, int64_t rows) {
  const std::string name = absl::StrCat("rows to ", NameOf(format), " [", kHidden, "] x ", rows);
  return {name, [=] {
            auto input = std::make_shared<std::vector<float>>(Numbers(rows * kHidden));
            auto plain = std::make_shared<std::vector<std::byte>>(input->size() * sizeof(float));
            return KernelCase{.name = name,
                              .bytes = static_cast<double>(input->size() * sizeof(float)),
                              .bounded = false,
                              .run = [=](Context& context) {
                                if (context.level() == kernels::CpuLevel::kReference) {
                                  RoundRowsPlainly(format, *input, plain->data());
                                  return;
                                }
                                kernels::cpu::RoundRowsFor(
                                    format, DenseView<const float>(input->data(), rows, kHidden),
                                    kernels::ScratchSlot::kInput, context);
                              }};
          }};
}

// The last 64 of the 192 columns of each of 16 heads.
NamedCase RopeCase(int64_t rows) {
  const std::string name = absl::StrCat("rope 16 of 64 x ", rows);
  return {name, [=] {
            constexpr int64_t kHeads = 16, kStride = 192, kRotated = 64;
            auto table = std::make_shared<kernels::RopeTable>(
                kernels::MakeRopeTable(kernels::RopeFrequencies(1e4, kRotated), rows, 1));
            std::vector<int32_t> positions(static_cast<size_t>(rows));
            std::iota(positions.begin(), positions.end(), 0);
            auto values = std::make_shared<std::vector<float>>(Numbers(rows * kHeads * kStride));
            return KernelCase{
                .name = name,
                .bytes = static_cast<double>(rows * kHeads * kRotated) * sizeof(float),
                .operations = 3.0 * static_cast<double>(rows * kHeads * kRotated),
                .bounded = false,
                .run = [=](Context& context) {
                  const kernels::MatrixView<float> rotated{
                      values->data() + kStride - kRotated, rows,
                      kHeads * kStride - (kStride - kRotated), kHeads * kStride};
                  kernels::ApplyRope(*table, kernels::RopePairing::kInterleaved, positions, kHeads,
                                     kStride, rotated, context);
                }};
          }};
}

// What 6 experts made of each row, into one.
NamedCase CombineCase(int64_t rows) {
  const std::string name = absl::StrCat("combine 6 of [", kHidden, "] x ", rows);
  return {name, [=] {
            constexpr int64_t kTopK = 6;
            auto values = std::make_shared<std::vector<float>>(Numbers(rows * kTopK * kHidden));
            auto weights = std::make_shared<std::vector<float>>(Numbers(rows * kTopK));
            auto sums = std::make_shared<std::vector<float>>(static_cast<size_t>(rows * kHidden));
            return KernelCase{.name = name,
                              .bytes = static_cast<double>(values->size() * sizeof(float)),
                              .operations = 2.0 * static_cast<double>(values->size()),
                              .bounded = false,
                              .run = [=](Context& context) {
                                std::ranges::fill(*sums, 0.0f);
                                kernels::CombineExperts(
                                    DenseView<const float>(values->data(), rows * kTopK, kHidden),
                                    DenseView<const float>(weights->data(), rows, kTopK),
                                    DenseView(sums->data(), rows, kHidden), context);
                              }};
          }};
}

NamedCase NormCase(int64_t rows) {
  const std::string name = absl::StrCat("norm [", kHidden, "] x ", rows);
  return {name, [=] {
            auto values = std::make_shared<std::vector<float>>(Numbers((rows + 1) * kHidden));
            auto output = std::make_shared<std::vector<float>>(values->size());
            return KernelCase{.name = name, .bounded = false, .run = [=](Context& context) {
                                kernels::RmsNorm(
                                    DenseView<const float>(values->data(), rows, kHidden),
                                    values->data() + rows * kHidden, 1e-6f,
                                    DenseView(output->data(), rows, kHidden), context);
                              }};
          }};
}

NamedCase GateCase(int64_t rows) {
  const std::string name = absl::StrCat("gate 6 of 64 x ", rows);
  return {name, [=] {
            kernels::GateParameters parameters;
            parameters.num_experts = 64;
            parameters.top_k = 6;
            auto logits = std::make_shared<std::vector<float>>(Numbers(rows * 64));
            auto ids = std::make_shared<std::vector<int32_t>>(static_cast<size_t>(rows * 6));
            auto weights = std::make_shared<std::vector<float>>(ids->size());
            return KernelCase{.name = name, .bounded = false, .run = [=](Context& context) {
                                kernels::Gate(parameters,
                                              DenseView<const float>(logits->data(), rows, 64),
                                              DenseView(ids->data(), rows, 6),
                                              DenseView(weights->data(), rows, 6), context);
                              }};
          }};
}

// On the calling thread, as engines sample rows side by side.
NamedCase SampleCase(int32_t top_k, float top_p, float temperature) {
  const std::string name = absl::StrCat("sample of ", kVocabulary, ", temperature ", temperature,
                                        ", top-k ", top_k, ", top-p ", top_p);
  return {name, [=] {
            kernels::SampleParameters parameters;
            parameters.top_k = top_k;
            parameters.top_p = top_p;
            parameters.temperature = temperature;
            std::mt19937 random(3);
            std::normal_distribution<float> normal(0.0f, 3.0f);
            auto logits = std::make_shared<std::vector<float>>(static_cast<size_t>(kVocabulary));
            for (float& logit : *logits) logit = normal(random);
            auto scratch = std::make_shared<kernels::SampleScratch>();
            return KernelCase{
                .name = name, .bounded = false, .run = [=, index = uint32_t{0}](Context&) mutable {
                  kernels::Sample(parameters, {7, 0, index++}, {}, *logits, *scratch);
                }};
          }};
}

}  // namespace

std::vector<NamedCase> KernelCases() {
  std::vector<NamedCase> cases;
  for (const WeightFormat format :
       {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kInt4,
        WeightFormat{WeightType::kInt4, WeightFormat::kInt4.group, true}}) {
    for (const int64_t rows : {1, 8, 32, 512}) {
      cases.push_back(MatmulCase(format, kDense, kHidden, rows));
    }
    cases.push_back(ExpertsCase(format, 6, 1));
    cases.push_back(ExpertsCase(format, 64, 4));
    cases.push_back(ExpertsCase(format, 64, 48));
  }
  cases.push_back(MatmulCase(WeightFormat::kF32, kDense, kHidden, 1));
  cases.push_back(MatmulCase(WeightFormat::kF32, kDense, kHidden, 256));
  cases.push_back(MatmulCase(WeightFormat::kBf16, kVocabulary, kHidden, 1));
  for (const AttentionShape& shape : {Latent(), Grouped()}) {
    for (const int64_t before : {2047, 8191}) cases.push_back(AttentionCase(shape, before, 1));
    for (const int64_t before : {0, 1536}) cases.push_back(AttentionCase(shape, before, 512));
  }
  for (const WeightFormat format :
       {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (const int64_t rows : {1, 512}) {
      cases.push_back(HeadsCase(format, "queries to latent", 512, 128, 192, rows));
      cases.push_back(HeadsCase(format, "latent to values", 128, 512, 512, rows));
    }
  }
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kInt8}) {
    cases.push_back(QuantiseCase(format, 512));
  }
  cases.push_back(NormCase(512));
  cases.push_back(RopeCase(512));
  cases.push_back(CombineCase(512));
  cases.push_back(GateCase(512));
  cases.push_back(SampleCase(0, 1, 0));
  cases.push_back(SampleCase(0, 1, 1));
  cases.push_back(SampleCase(40, 0.9f, 1));
  return cases;
}

}  // namespace conclave::cli
