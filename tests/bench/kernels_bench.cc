// Speed of the kernels at the shapes of real models. Each line prints GB/s of weights or cache
// read, and GOP/s of arithmetic (a multiply-add is two). Not a test: run it on an idle machine,
// with --benchmark_filter=REGEX for a part.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "kernels/attention.h"
#include "kernels/ffn.h"
#include "kernels/gate.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/panel.h"
#include "kernels/sample.h"

namespace conclave::kernels {
namespace {

struct FreeBytes {
  void operator()(std::byte* p) const { std::free(p); }
};
using Bytes = std::unique_ptr<std::byte, FreeBytes>;

// Pages of small random numbers, so that neither zeros nor subnormals flatter a kernel.
Bytes RandomBytes(WeightFormat format, size_t bytes) {
  Bytes data(static_cast<std::byte*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096)));
  std::minstd_rand random(1);
  const auto small = [&] { return static_cast<float>(random() % 64) / 640 - 0.05f; };
  if (format == WeightFormat::kF32) {
    float* values = reinterpret_cast<float*>(data.get());
    std::generate_n(values, bytes / sizeof(float), small);
  } else if (format == WeightFormat::kBf16) {
    bf16* values = reinterpret_cast<bf16*>(data.get());
    std::generate_n(values, bytes / sizeof(bf16), [&] { return ToBf16(small()); });
  } else {
    std::generate_n(data.get(), bytes, [&] { return static_cast<std::byte>(random() >> 8); });
    const auto step_bytes = static_cast<size_t>(StepPanelBytes(format));
    for (size_t step = 0; step < bytes; step += step_bytes) {
      const GroupPanel group(format, data.get() + step);
      for (int64_t output = 0; output < kPanelOutputs; ++output) group.SetScale(output, 0.001f);
    }
  }
  return data;
}

struct Matrix {
  Matrix(WeightFormat format, int64_t outputs, int64_t inputs)
      : bytes(PackedBytes(format, outputs, inputs)),
        data(RandomBytes(format, bytes)),
        view{format, outputs, inputs, data.get()} {}
  size_t bytes;
  Bytes data;
  PackedMatrix view;
};

std::vector<float> Rows(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  std::minstd_rand random(2);
  for (float& value : values) value = static_cast<float>(random() % 1000) / 500 - 1;
  return values;
}

int Threads() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }

void Report(benchmark::State& state, double bytes, double operations) {
  const double iterations = static_cast<double>(state.iterations());
  state.counters["GB/s"] =
      benchmark::Counter(bytes * iterations * 1e-9, benchmark::Counter::kIsRate);
  state.counters["GOP/s"] =
      benchmark::Counter(operations * iterations * 1e-9, benchmark::Counter::kIsRate);
}

WeightFormat FormatOf(int64_t bits) {
  switch (bits) {
    case 32:
      return WeightFormat::kF32;
    case 16:
      return WeightFormat::kBf16;
    case 8:
      return WeightFormat::kInt8;
    default:
      return WeightFormat::kInt4;
  }
}

// Arguments: bits of the class, outputs, inputs, rows. Several copies are used in turn, so that
// weights come from memory as they do when a model is larger than the caches.
void BM_Matmul(benchmark::State& state) {
  const WeightFormat format = FormatOf(state.range(0));
  const int64_t outputs = state.range(1), inputs = state.range(2), rows = state.range(3);
  std::deque<Matrix> copies;
  do {
    copies.emplace_back(format, outputs, inputs);
  } while (copies.size() * copies[0].bytes < (96u << 20) && rows <= 8);
  const std::vector<float> input = Rows(rows * inputs);
  std::vector<float> output(static_cast<size_t>(rows * outputs));
  Context context(BestCpuLevel(), Threads());
  size_t next = 0;
  for (auto _ : state) {
    Matmul(copies[next++ % copies.size()].view, DenseView(input.data(), rows, inputs),
           DenseView(output.data(), rows, outputs), context);
  }
  Report(state, static_cast<double>(copies[0].bytes),
         2.0 * static_cast<double>(outputs * inputs * rows));
}
BENCHMARK(BM_Matmul)
    ->ArgNames({"bits", "outputs", "inputs", "rows"})
    ->Args({16, 2048, 2048, 1})   // DeepSeek-V2-Lite: o_proj
    ->Args({16, 10944, 2048, 1})  // its dense layer
    ->Args({16, 10944, 2048, 8})
    ->Args({16, 10944, 2048, 256})
    ->Args({16, 2048, 10944, 256})
    ->Args({16, 102400, 2048, 1})  // its LM head
    ->ArgsProduct({{8, 4}, {10944}, {2048}, {1, 8, 32, 256}})
    ->Args({8, 2048, 2048, 1})
    ->Args({4, 2048, 2048, 1})
    ->Args({32, 10944, 2048, 1})
    ->Args({32, 10944, 2048, 256})
    ->Args({16, 640, 256, 1})  // Tales
    ->Args({16, 4096, 256, 8})
    ->UseRealTime();

// Arguments: bits, experts, intermediate, hidden, rows per expert.
void BM_ExpertFfn(benchmark::State& state) {
  const WeightFormat format = FormatOf(state.range(0));
  const int64_t experts = state.range(1), intermediate = state.range(2), hidden = state.range(3);
  const int64_t rows = experts * state.range(4);
  std::deque<Matrix> matrices;
  std::vector<FfnWeights> weights;
  for (int64_t e = 0; e < experts; ++e) {
    matrices.emplace_back(format, intermediate, hidden);
    matrices.emplace_back(format, intermediate, hidden);
    matrices.emplace_back(format, hidden, intermediate);
    const size_t last = matrices.size() - 1;
    weights.push_back({matrices[last - 2].view, matrices[last - 1].view, matrices[last].view});
  }
  std::vector<int32_t> first_row;
  for (int64_t e = 0; e <= experts; ++e) {
    first_row.push_back(static_cast<int32_t>(e * state.range(4)));
  }
  const std::vector<float> input = Rows(rows * hidden);
  std::vector<float> output(input.size());
  Context context(BestCpuLevel(), Threads());
  for (auto _ : state) {
    ExpertFfn(weights,
              {first_row, DenseView<const float>(input.data(), rows, hidden),
               DenseView(output.data(), rows, hidden)},
              context);
  }
  const double bytes = 3.0 * static_cast<double>(experts) * static_cast<double>(matrices[0].bytes);
  Report(state, bytes, 6.0 * static_cast<double>(intermediate * hidden * rows));
}
BENCHMARK(BM_ExpertFfn)
    ->ArgNames({"bits", "experts", "intermediate", "hidden", "rows"})
    ->Args({16, 6, 1408, 2048, 1})  // DeepSeek-V2-Lite: one token
    ->Args({16, 16, 1408, 2048, 4})
    ->Args({16, 16, 1408, 2048, 24})
    ->Args({8, 24, 1408, 2048, 1})
    ->Args({4, 48, 1408, 2048, 1})
    ->Args({8, 16, 1408, 2048, 24})
    ->Args({4, 16, 1408, 2048, 24})
    ->Args({16, 2, 128, 256, 1})  // Tales
    ->Args({16, 16, 128, 256, 8})
    ->UseRealTime();

// Arguments: bits, query heads, KV heads, key dim, value dim, context before, new tokens. KV heads
// 0: latent attention.
void BM_Attention(benchmark::State& state) {
  AttentionParameters parameters;
  KvShape& kv = parameters.kv;
  kv.numerics = state.range(0) == 32 ? NumericsClass::kF32 : NumericsClass::kBf16;
  parameters.num_heads = static_cast<int32_t>(state.range(1));
  kv.value_is_key_prefix = state.range(2) == 0;
  kv.num_kv_heads = std::max<int32_t>(1, static_cast<int32_t>(state.range(2)));
  kv.key_dim = static_cast<int32_t>(state.range(3));
  kv.value_dim = static_cast<int32_t>(state.range(4));
  parameters.scale = 0.05f;
  const int64_t before = state.range(5), rows = state.range(6);
  const int64_t blocks = (before + rows + kBlockTokens - 1) / kBlockTokens;
  const size_t block_bytes = KvBlockBytes(kv);
  const Bytes pool =
      RandomBytes(TableFormatOf(kv.numerics), block_bytes * static_cast<size_t>(blocks));
  std::vector<int32_t> ids(static_cast<size_t>(blocks));
  std::iota(ids.begin(), ids.end(), 0);
  const SequenceRows sequence{0, rows, before, ids};
  const std::vector<float> queries = Rows(rows * parameters.num_heads * kv.key_dim);
  std::vector<float> output(static_cast<size_t>(rows * parameters.num_heads * kv.value_dim));
  Context context(BestCpuLevel(), Threads());
  for (auto _ : state) {
    Attention(parameters, {pool.get(), static_cast<int64_t>(block_bytes)}, {&sequence, 1},
              DenseView<const float>(queries.data(), rows, parameters.num_heads * kv.key_dim),
              DenseView(output.data(), rows, parameters.num_heads * kv.value_dim), context);
  }
  const double pairs =
      static_cast<double>(rows) * (static_cast<double>(before) + static_cast<double>(rows + 1) / 2);
  Report(state, static_cast<double>(block_bytes) * static_cast<double>(blocks),
         2.0 * pairs * parameters.num_heads * (kv.key_dim + kv.value_dim));
}
BENCHMARK(BM_Attention)
    ->ArgNames({"bits", "heads", "kv", "key", "value", "before", "rows"})
    ->Args({16, 16, 0, 576, 512, 8191, 1})  // DeepSeek-V2-Lite: decode at 8k
    ->Args({16, 16, 0, 576, 512, 0, 256})   // and prefill
    ->Args({16, 32, 8, 128, 128, 4095, 1})  // Mixtral
    ->Args({16, 32, 8, 128, 128, 0, 256})
    ->Args({32, 32, 8, 128, 128, 4095, 1})
    ->Args({16, 4, 0, 128, 96, 511, 1})  // Tales
    ->Args({16, 4, 0, 128, 96, 0, 256})
    ->UseRealTime();

void BM_Gate(benchmark::State& state) {
  GateParameters parameters;
  parameters.num_experts = static_cast<int32_t>(state.range(0));
  parameters.top_k = static_cast<int32_t>(state.range(1));
  const int64_t rows = state.range(2);
  const std::vector<float> logits = Rows(rows * parameters.num_experts);
  std::vector<int32_t> ids(static_cast<size_t>(rows * parameters.top_k));
  std::vector<float> weights(ids.size());
  Context context(BestCpuLevel(), 1);
  for (auto _ : state) {
    Gate(parameters, DenseView<const float>(logits.data(), rows, parameters.num_experts),
         DenseView(ids.data(), rows, parameters.top_k),
         DenseView(weights.data(), rows, parameters.top_k), context);
  }
  state.SetItemsProcessed(state.iterations() * rows);
}
BENCHMARK(BM_Gate)->ArgNames({"experts", "top_k", "rows"})->Args({64, 6, 64})->Args({256, 8, 64});

void BM_RmsNorm(benchmark::State& state) {
  const int64_t hidden = state.range(0), rows = state.range(1);
  const std::vector<float> input = Rows(rows * hidden);
  const std::vector<float> weight = Rows(hidden);
  std::vector<float> output(input.size());
  Context context(BestCpuLevel(), 1);
  for (auto _ : state) {
    RmsNorm(DenseView<const float>(input.data(), rows, hidden), weight.data(), 1e-6f,
            DenseView(output.data(), rows, hidden), context);
  }
  state.SetItemsProcessed(state.iterations() * rows);
}
BENCHMARK(BM_RmsNorm)->ArgNames({"hidden", "rows"})->Args({2048, 64});

// Arguments: vocabulary, top-k, top-p in percent, temperature in percent.
void BM_Sample(benchmark::State& state) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(static_cast<size_t>(state.range(0)));
  for (float& logit : logits) logit = normal(random);
  SampleParameters parameters;
  parameters.top_k = static_cast<int32_t>(state.range(1));
  parameters.top_p = static_cast<float>(state.range(2)) / 100;
  parameters.temperature = static_cast<float>(state.range(3)) / 100;
  SampleScratch scratch;
  uint32_t index = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(Sample(parameters, {7, 0, index++}, {}, logits, scratch));
  }
}
BENCHMARK(BM_Sample)
    ->ArgNames({"vocabulary", "top_k", "top_p", "temperature"})
    ->Args({102400, 0, 100, 0})
    ->Args({102400, 0, 100, 100})
    ->Args({102400, 40, 100, 100})
    ->Args({102400, 0, 90, 100})
    ->Args({102400, 40, 90, 100});

}  // namespace
}  // namespace conclave::kernels

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::cerr << "level " << conclave::kernels::CpuLevelName(conclave::kernels::BestCpuLevel())
            << ", threads " << std::thread::hardware_concurrency() << "\n";
  benchmark::RunSpecifiedBenchmarks();
}
