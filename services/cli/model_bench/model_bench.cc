#include "services/cli/model_bench/model_bench.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/cli/interrupt.h"
#include "services/cli/model_bench/model_run.h"
#include "services/cli/model_bench/report.h"
#include "services/cli/model_bench/step_bound.h"
#include "services/cli/percentiles.h"
#include "services/cli/table.h"
#include "shared/base/limits.h"
#include "shared/base/status_macros.h"
#include "shared/model/served_model.h"
#include "shared/weights/model_files.h"

namespace conclave::cli {
namespace {

namespace fs = std::filesystem;

constexpr double kRateSeconds = 1;
constexpr double kReadRateSeconds = 0.5;
// Tokens of a decode, so that its first and last ones weigh little and none takes minutes.
constexpr int kFewestTokens = 12;
constexpr int kMostTokens = 4096;
constexpr double kUsualShare = 0.7;  // of a bound: how long a decode will probably take

void Tell(const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); }

// A file is in the page cache when it has been read.
void ReadThrough(const fs::path& path, const std::atomic<bool>& interrupted) {
  std::vector<char> part(size_t{8} << 20);
  std::ifstream file(path, std::ios::binary);
  while (file && !interrupted.load()) {
    file.read(part.data(), static_cast<std::streamsize>(part.size()));
  }
}

class ModelBench {
 public:
  ModelBench(const Context& context, const ModelBenchOptions& options,
             const std::atomic<bool>& interrupted)
      : context_(context), options_(options), interrupted_(interrupted) {}

  // What ended it early is told after what was measured until then.
  absl::Status Run() {
    RETURN_IF_ERROR(Open());
    RETURN_IF_ERROR(MeasureMachine());
    RETURN_IF_ERROR(StartClusters());
    for (const int64_t tokens : options_.prefill) RETURN_IF_ERROR(MeasurePrefill(tokens));
    for (const int64_t context : options_.contexts) {
      for (const int batch : options_.batches) RETURN_IF_ERROR(MeasureDecode(batch, context));
    }
    return absl::OkStatus();
  }
  ModelBenchReport& report() { return report_; }

 private:
  absl::Status Open() {
    ASSIGN_OR_RETURN(path_, weights::ResolveModel(options_.model));
    ASSIGN_OR_RETURN(const auto stored,
                     weights::OpenModel(path_, {.strict = context_.options.common.strict_config}));
    ASSIGN_OR_RETURN(const weights::WeightFormats formats,
                     model::ChooseFormats(*stored, context_.options.common.numerics));
    const weights::ModelConfig& config = stored->config();
    vocab_size_ = config.vocab_size;
    most_context_ = config.max_positions;
    work_ = ModelWorkOf(config, formats);
    report_.model = weights::DefaultServedName(path_);
    report_.formats = formats.Label();
    report_.model_bytes = stored->weight_bytes();
    report_.rounds = options_.rounds;
    report_.active_bytes = work_.head.bytes;
    for (const ModelWork::Matrix& matrix : work_.matrices) report_.active_bytes += matrix.bytes;
    report_.active_bytes += work_.moe_layers * work_.experts_a_row * work_.expert.bytes;
    Tell("reading the model into the page cache ...");
    if (!fs::is_directory(path_)) {
      ReadThrough(path_, interrupted_);
    } else {
      std::error_code error;
      for (const auto& entry : fs::directory_iterator(path_, error)) {
        ReadThrough(entry.path(), interrupted_);
      }
    }
    return absl::OkStatus();
  }

  absl::Status MeasureMachine() {
    Tell("measuring the machine ...");
    ASSIGN_OR_RETURN(level_,
                     model::ChooseCpuLevel("engine.cpu_level", context_.options.engine.cpu_level));
    report_.cpu_level = kernels::CpuLevelName(level_);
    report_.threads = ThreadsOf(context_.options.engine.threads);
    ASSIGN_OR_RETURN(report_.rates, MeasureRates(level_, report_.threads, kRateSeconds));
    rates_ = report_.rates;
    return absl::OkStatus();
  }

  // The settings that were given for engines and workers are those of the clusters, too.
  std::vector<std::string> Flags() const {
    std::vector<std::string> flags;
    for (const Settings::Row& row : context_.rows) {
      if (row.source == "default") continue;
      const bool of_members =
          absl::StartsWith(row.key, "engine.") || absl::StartsWith(row.key, "expert.");
      if (row.key != "numerics" && (!of_members || IsOwn(row.key))) continue;
      std::string name = row.key;
      for (char& c : name) c = c == '.' || c == '_' ? '-' : c;
      flags.push_back(absl::StrCat("--", name, "=", row.value));
    }
    flags.push_back(absl::StrCat("--engine-threads=", report_.threads));
    return flags;
  }

  // Settings that the benchmark chooses itself.
  static bool IsOwn(const std::string& key) {
    constexpr std::string_view kOwn[] = {"experts",    "name",      "listen",
                                         "ops_listen", "advertise", "threads"};
    return std::ranges::find(kOwn, std::string_view(key).substr(key.find('.') + 1)) !=
           std::end(kOwn);
  }

  int ThreadsOf(int setting) const {
    if (options_.threads > 0) return options_.threads;
    return setting > 0 ? setting : ReadCpuLimit().cores;
  }

  absl::StatusOr<std::unique_ptr<ModelRun>> StartOne(int workers, ModelBenchCost* cost) const {
    Tell(absl::StrCat("starting a cluster, ",
                      workers == 0 ? "experts in the engine" : Count(workers, "worker"), " ..."));
    ModelRunOptions options = {.model = path_.string(),
                               .workers = workers,
                               .vocab_size = vocab_size_,
                               .flags = Flags(),
                               .interrupted = &interrupted_};
    if (workers > 0) {
      options.flags.push_back(
          absl::StrCat("--expert-threads=", ThreadsOf(context_.options.expert.threads)));
    }
    ASSIGN_OR_RETURN(auto run, ModelRun::Start(options));
    ASSIGN_OR_RETURN(const ResidentMemory memory, run->Memory());
    *cost = {.start_seconds = run->start_seconds(),
             .resident_bytes = memory.all,
             .private_bytes = memory.private_};
    return run;
  }

  // One after the other, so that each is told how soon it is ready and what it takes alone; then
  // both, so that they can be measured in turn.
  absl::Status StartClusters() {
    if (options_.workers > 0) {
      report_.num_workers = options_.workers;
      RETURN_IF_ERROR(StartOne(options_.workers, &report_.workers.emplace()).status());
    }
    ASSIGN_OR_RETURN(in_process_, StartOne(0, &report_.in_process));
    if (options_.workers == 0) return absl::OkStatus();
    ModelBenchCost unused;
    ASSIGN_OR_RETURN(workers_, StartOne(options_.workers, &unused));
    return absl::OkStatus();
  }

  // The median of what `measure` gives for each cluster, in turn. On shared machines the memory is
  // not equally fast from one second to the next: it is measured in each round again.
  absl::Status InTurn(const std::function<absl::StatusOr<SpeedOf>(ModelRun&)>& measure,
                      ModelBenchRow* row) {
    std::vector<double> rates[2], bounds[2];
    for (int round = 0; round < options_.rounds; ++round) {
      ASSIGN_OR_RETURN(rates_.read, ReadRate(level_, report_.threads, kReadRateSeconds));
      read_rates_.push_back(rates_.read);
      for (size_t i = 0; i < 2; ++i) {
        ModelRun* const run = i == 0 ? in_process_.get() : workers_.get();
        if (run == nullptr) continue;
        ASSIGN_OR_RETURN(const SpeedOf speed, measure(*run));
        rates[i].push_back(speed.tokens_per_second);
        bounds[i].push_back(speed.bound_tokens_per_second);
      }
    }
    const auto told = [](const std::vector<double>& rate, const std::vector<double>& bound) {
      std::vector<double> shares;
      for (size_t i = 0; i < rate.size(); ++i) shares.push_back(rate[i] / bound[i]);
      return SpeedOf{Median(rate), Median(bound), Median(shares)};
    };
    row->in_process = told(rates[0], bounds[0]);
    if (workers_ != nullptr) row->workers = told(rates[1], bounds[1]);
    report_.rates.read = Median(read_rates_);
    return absl::OkStatus();
  }

  absl::Status LeaveOut(const std::string& row, const std::string& reason) const {
    Tell(absl::StrCat(row, " is left out: ", reason));
    return absl::OkStatus();
  }
  std::string ContextReason() const {
    return absl::StrCat("the model's context is ", most_context_, " tokens");
  }

  absl::Status MeasurePrefill(int64_t tokens) {
    if (tokens + 1 > most_context_)
      return LeaveOut(absl::StrCat("prefill ", tokens), ContextReason());
    Tell(absl::StrCat("prefill, ", tokens, " tokens ..."));
    const auto count = static_cast<double>(tokens);
    const auto bound_of = [&] {
      return BoundOf(work_,
                     {.rows = count,
                      .head_rows = 1,
                      .active_expert_ratio = ExpectedRatio(count),
                      .attended = 0.5 * count * (count + 1)},
                     rates_);
    };
    ModelBenchRow row = {.what = "prefill", .tokens = tokens};
    const absl::Status measured = InTurn(
        [&](ModelRun& run) -> absl::StatusOr<SpeedOf> {
          ASSIGN_OR_RETURN(const double seconds, run.Prefill(tokens));
          const StepBound bound = bound_of();
          row.bound_by_memory = bound.by_memory();
          return SpeedOf{count / seconds, count / bound.seconds};
        },
        &row);
    // Of a context that settings or memory make shorter than the model's.
    if (absl::IsInvalidArgument(measured)) {
      return LeaveOut(absl::StrCat("prefill ", tokens), std::string(measured.message()));
    }
    RETURN_IF_ERROR(measured);
    report_.rows.push_back(row);
    return absl::OkStatus();
  }

  absl::Status MeasureDecode(int batch, int64_t context) {
    const std::string name = absl::StrCat("decode, batch ", batch, ", context ", context);
    if (context + kFewestTokens + 1 > most_context_) return LeaveOut(name, ContextReason());
    Tell(name + " ...");
    const double rows = batch;
    const auto bound_of = [&](double ratio, double length) {
      return BoundOf(work_,
                     {.rows = rows,
                      .head_rows = rows,
                      .active_expert_ratio = ratio,
                      .attended = rows * length},
                     rates_);
    };
    const StepBound guess = bound_of(ExpectedRatio(rows), static_cast<double>(context));
    const int tokens =
        std::clamp(static_cast<int>(options_.seconds * kUsualShare / guess.seconds), kFewestTokens,
                   static_cast<int>(std::min<int64_t>(kMostTokens, most_context_ - context - 1)));
    ModelBenchRow row = {.what = "decode", .batch = batch, .context = context};
    const absl::Status measured = InTurn(
        [&](ModelRun& run) -> absl::StatusOr<SpeedOf> {
          ASSIGN_OR_RETURN(const Decoded decoded, run.Decode(batch, context, tokens));
          const double ratio =
              decoded.active_expert_ratio > 0 ? decoded.active_expert_ratio : ExpectedRatio(rows);
          const StepBound bound = bound_of(ratio, decoded.context);
          if (&run == in_process_.get()) {
            row.active_expert_ratio = decoded.active_expert_ratio;
            row.bound_by_memory = bound.by_memory();
          }
          return SpeedOf{decoded.tokens_per_second, rows / bound.seconds};
        },
        &row);
    if (absl::IsOutOfRange(measured)) {
      return LeaveOut(name, absl::StrCat(std::string(measured.message()),
                                         "; their KV caches may be more than engine.kv_memory"));
    }
    if (absl::IsInvalidArgument(measured)) return LeaveOut(name, std::string(measured.message()));
    RETURN_IF_ERROR(measured);
    report_.rows.push_back(row);
    return absl::OkStatus();
  }

  // Of a layer's experts, those that some of so many rows choose if each chooses without favour.
  double ExpectedRatio(double rows) const {
    return 1 - std::pow(1 - work_.experts_a_row / work_.experts, rows);
  }

  const Context& context_;
  const ModelBenchOptions& options_;
  const std::atomic<bool>& interrupted_;
  fs::path path_;
  int32_t vocab_size_ = 0;
  int64_t most_context_ = 0;
  ModelWork work_;
  kernels::CpuLevel level_ = kernels::CpuLevel::kReference;
  MachineRates rates_;  // of the round
  std::vector<double> read_rates_;
  ModelBenchReport report_;
  std::unique_ptr<ModelRun> in_process_, workers_;
};

}  // namespace

int RunModelBench(const Context& context, const ModelBenchOptions& options) {
  StopSignals signals;
  const InterruptFlag interrupt(signals);
  ModelBench bench(context, options, interrupt.interrupted());
  const absl::Status ended = bench.Run();
  ModelBenchReport& report = bench.report();
  report.complete = ended.ok();
  if (ended.ok() || !report.rows.empty()) {
    std::fputs((options.json ? report.ToJson() : report.ToTable()).c_str(), stdout);
  }
  if (absl::IsCancelled(ended)) {
    std::fprintf(stderr, "interrupted\n");
    return kExitInterrupted;
  }
  return ended.ok() ? kExitOk : Fail(ended);
}

}  // namespace conclave::cli
