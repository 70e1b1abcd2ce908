#include "services/cli/model_bench/model_run.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/cli/bench_cluster/process_cost.h"
#include "shared/base/http_get.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"

namespace conclave::cli {
namespace {

using std::chrono::steady_clock;

constexpr int64_t kOwnIds = 1;  // of a sequence, after the common beginning
constexpr uint64_t kContextSeeds = uint64_t{1} << 32;
constexpr auto kScrapeTimeout = std::chrono::milliseconds(5000);

double Seconds(steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

// The value of a metric without labels in the Prometheus text format.
std::optional<double> MetricOf(const std::string& text, const std::string& name) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    double value = 0;
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    if (words.size() == 2 && words[0] == name && absl::SimpleAtod(words[1], &value)) return value;
  }
  return std::nullopt;
}

// A generation and when it was begun.
struct Timed {
  steady_clock::time_point start;
  absl::StatusOr<GenerationResult> result = absl::UnknownError("");
};

std::vector<Generation> Generations(const std::vector<Timed>& all) {
  std::vector<Generation> generations;
  for (const Timed& one : all) {
    Generation& generation = generations.emplace_back();
    for (const GenerationResult::Arrival& arrival : one.result->arrivals) {
      generation.push_back(
          {Seconds((one.start + arrival.at).time_since_epoch()), arrival.num_tokens});
    }
  }
  return generations;
}

}  // namespace

std::optional<double> CommonRate(const std::vector<Generation>& all) {
  double begin = -std::numeric_limits<double>::infinity();
  double end = std::numeric_limits<double>::infinity();
  for (const Generation& generation : all) {
    if (generation.empty()) return std::nullopt;
    begin = std::max(begin, generation.front().seconds);
    end = std::min(end, generation.back().seconds);
  }
  double sum = 0;
  for (const Generation& generation : all) {
    double first = 0, last = 0;
    int64_t tokens = -1;  // after those that came first
    for (const Arrived& arrived : generation) {
      if (arrived.seconds < begin || arrived.seconds > end) continue;
      if (tokens < 0) first = arrived.seconds;
      tokens = tokens < 0 ? 0 : tokens + arrived.tokens;
      last = arrived.seconds;
    }
    if (tokens <= 0) return std::nullopt;
    sum += static_cast<double>(tokens) / (last - first);
  }
  return sum;
}

absl::StatusOr<std::unique_ptr<ModelRun>> ModelRun::Start(const ModelRunOptions& options) {
  // Whatever settings files and the environment say.
  std::vector<std::string> flags = {
      absl::StrCat("--workers=", options.workers), "--engines=1",
      absl::StrCat("--engine-experts=", options.workers > 0 ? "remote" : "local"),
      "--gateway-keys-file=", "--gateway-server-cert-file="};
  flags.insert(flags.end(), options.flags.begin(), options.flags.end());
  const auto start = steady_clock::now();
  ASSIGN_OR_RETURN(auto cluster, BenchCluster::Start({.model = options.model,
                                                      .tenants = {},
                                                      .flags = std::move(flags),
                                                      .interrupted = options.interrupted}));
  const double seconds = Seconds(steady_clock::now() - start);
  return std::unique_ptr<ModelRun>(new ModelRun(options, std::move(cluster), seconds));
}

ModelRun::ModelRun(const ModelRunOptions& options, std::unique_ptr<BenchCluster> cluster,
                   double start_seconds)
    : options_(options),
      cluster_(std::move(cluster)),
      start_seconds_(start_seconds),
      client_(cluster_->grpc_address(), cluster_->folder(), "", nullptr) {}

std::vector<int32_t> ModelRun::RandomIds(uint64_t seed, int64_t count) const {
  std::mt19937_64 random(seed);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(options_.vocab_size)));
  }
  return ids;
}

absl::StatusOr<GenerationResult> ModelRun::Generate(std::vector<int32_t> ids,
                                                    int max_tokens) const {
  GenerationRequest request;
  request.ids = std::move(ids);
  // Drawn ids: those that a model of random weights likes best would soon repeat themselves.
  request.parameters.temperature = 1;
  request.parameters.seed = 1;
  request.parameters.max_tokens = max_tokens;
  request.parameters.ignore_eos = true;
  ASSIGN_OR_RETURN(GenerationResult result,
                   client_.Generate(
                       request, [](const std::string&) {}, *options_.interrupted));
  if (result.finish_reason == "cancelled") return absl::CancelledError("");
  return result;
}

absl::StatusOr<double> ModelRun::Prefill(int64_t tokens) {
  ASSIGN_OR_RETURN(const GenerationResult result, Generate(RandomIds(next_seed_++, tokens), 1));
  return result.first_token_seconds();
}

std::optional<ModelRun::ExpertUse> ModelRun::ReadExpertUse() const {
  for (const ProcessState& process : cluster_->processes()) {
    if (process.kind != "engine") continue;
    const auto answer = HttpGet(process.ops_address, "/metrics", kScrapeTimeout);
    if (!answer.ok()) return std::nullopt;
    const auto sum = MetricOf(answer->body, "conclave_active_expert_ratio_sum");
    const auto count = MetricOf(answer->body, "conclave_active_expert_ratio_count");
    if (sum && count) return ExpertUse{*sum, *count};
  }
  return std::nullopt;
}

absl::StatusOr<Decoded> ModelRun::Decode(int batch, int64_t context, int tokens) {
  const std::vector<int32_t> beginning =
      RandomIds(kContextSeeds + static_cast<uint64_t>(context), context);
  if (context > 0) RETURN_IF_ERROR(Generate(beginning, 1).status());
  const auto use_before = ReadExpertUse();
  std::vector<Timed> all(static_cast<size_t>(batch));
  std::vector<std::thread> clients;
  for (Timed& one : all) {
    std::vector<int32_t> ids = beginning;
    const std::vector<int32_t> own = RandomIds(next_seed_++, kOwnIds);
    ids.insert(ids.end(), own.begin(), own.end());
    clients.emplace_back([this, &one, tokens, ids = std::move(ids)]() mutable {
      SetThreadName("bench-client");
      one.start = steady_clock::now();
      one.result = Generate(std::move(ids), tokens);
    });
  }
  for (std::thread& client : clients) client.join();
  for (const Timed& one : all) RETURN_IF_ERROR(one.result.status());
  Decoded decoded;
  const std::optional<double> rate = CommonRate(Generations(all));
  if (!rate) {
    return absl::OutOfRangeError(
        absl::StrCat("there was no moment at which all of ", batch, " sequences generated"));
  }
  decoded.tokens_per_second = *rate;
  decoded.context = static_cast<double>(context + kOwnIds) + 0.5 * tokens;
  const auto use = ReadExpertUse();
  if (use_before && use && use->steps > use_before->steps) {
    decoded.active_expert_ratio =
        (use->ratios - use_before->ratios) / (use->steps - use_before->steps);
  }
  return decoded;
}

absl::StatusOr<ResidentMemory> ModelRun::Memory() const {
  ResidentMemory sum;
  for (const ProcessState& process : cluster_->processes()) {
    if (process.kind != "engine" && process.kind != "expert") continue;
    ASSIGN_OR_RETURN(const SharedMemoryUse use, MemoryUse(process.pid));
    sum.all += use.proportional;
    sum.private_ += use.anonymous;
  }
  return sum;
}

}  // namespace conclave::cli
