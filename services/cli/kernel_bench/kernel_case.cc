#include "services/cli/kernel_bench/kernel_case.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"
#include "kernels/ffn.h"
#include "kernels/gate.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
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

// Latent attention of 16 heads after `before` tokens.
NamedCase AttentionCase(int64_t before, int64_t rows) {
  const std::string name = absl::StrCat("latent attention after ", before, " x ", rows);
  return {
      name, [=] {
        kernels::AttentionParameters parameters;
        parameters.kv = {.numerics = kernels::NumericsClass::kBf16,
                         .num_kv_heads = 1,
                         .key_dim = 576,
                         .value_dim = 512,
                         .value_is_key_prefix = true};
        parameters.num_heads = 16;
        parameters.scale = 0.05f;
        const int64_t blocks = (before + rows + kernels::kBlockTokens - 1) / kernels::kBlockTokens;
        const size_t block_bytes = kernels::KvBlockBytes(parameters.kv);
        // As many sequences as fill kLeastBytes, one after the other.
        const size_t sequence_bytes = block_bytes * static_cast<size_t>(blocks);
        const size_t sequences = kLeastBytes / sequence_bytes + 1;
        const std::shared_ptr<std::byte> pool(Allocate(sequence_bytes * sequences).release(),
                                              FreeBytes());
        std::memset(pool.get(), 0x3c, sequence_bytes * sequences);  // 0.0115 in bf16
        auto queries = std::make_shared<std::vector<float>>(Numbers(rows * 16 * 576));
        auto output = std::make_shared<std::vector<float>>(static_cast<size_t>(rows * 16 * 512));
        std::vector<int32_t> ids(static_cast<size_t>(blocks) * sequences);
        std::iota(ids.begin(), ids.end(), 0);
        const double pairs = static_cast<double>(rows) *
                             (static_cast<double>(before) + static_cast<double>(rows + 1) / 2);
        return KernelCase{
            .name = name,
            .bytes = static_cast<double>(sequence_bytes),
            .operations = 2 * pairs * 16 * (576 + 512),
            .type = WeightType::kBf16,
            .run = [=, next = size_t{0}](Context& context) {
              const auto own = std::span(ids).subspan(
                  next % sequences * static_cast<size_t>(blocks), static_cast<size_t>(blocks));
              const kernels::SequenceRows sequence{0, rows, before, own};
              kernels::Attention(parameters, {pool.get(), static_cast<int64_t>(block_bytes)},
                                 {&sequence, 1},
                                 DenseView<const float>(queries->data(), rows, 16 * 576),
                                 DenseView(output->data(), rows, 16 * 512), context);
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
  for (const int64_t before : {2047, 8191}) cases.push_back(AttentionCase(before, 1));
  for (const int64_t before : {0, 1536}) cases.push_back(AttentionCase(before, 512));
  cases.push_back(NormCase(512));
  cases.push_back(GateCase(512));
  cases.push_back(SampleCase(0, 1, 0));
  cases.push_back(SampleCase(0, 1, 1));
  cases.push_back(SampleCase(40, 0.9f, 1));
  return cases;
}

}  // namespace conclave::cli
