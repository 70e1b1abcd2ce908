// `conclave bench serve`: a closed loop of clients against a gateway; each sends its next request
// when the last is answered. `conclave bench gateway` is in gateway_bench/.
#include <signal.h>

#include <cstdio>
#include <thread>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/cli/command.h"
#include "services/cli/gateway_bench/echo.h"
#include "services/cli/gateway_bench/gateway_bench.h"
#include "services/cli/gateway_client.h"
#include "services/cli/generation_flags.h"
#include "services/cli/interrupt.h"
#include "services/cli/percentiles.h"
#include "services/cli/table.h"
#include "shared/base/json_file.h"
#include "shared/base/mutex.h"

namespace conclave::cli {
namespace {

using std::chrono::steady_clock;

constexpr Duration kProgressPeriod = std::chrono::seconds(2);

// What all clients measured, in seconds.
struct Measurements {
  std::vector<double> first_token, per_token, between_tokens, whole;
  int64_t prompt_tokens = 0, output_tokens = 0, cached_tokens = 0;
  int64_t finished = 0, failed = 0;
  std::string first_error;
};

struct Quantity {
  const char* name;
  const char* label;
  const std::vector<double>* values;
};

class BenchCommand final : public Command {
 public:
  const char* name() const override { return "bench"; }
  const char* summary() const override { return "measure serving: bench serve, bench gateway"; }
  void AddFlags(CLI::App& app) override {
    app_ = &app;
    app.add_option("serve|gateway", what_, "a running cluster, or what the gateway costs")
        ->type_name("");
    app.add_option("--rows", rows_, GatewayBenchRows())->type_name("ROW,...")->delimiter(',');
    app.add_option("--echo-answers", echo_answers_)->group("");  // what RunGatewayBench starts
    app.add_option("--seconds", seconds_, "gateway: of each measurement")
        ->check(CLI::Range(0.1, 600.0))
        ->option_text("N [5]");
    app.add_option("--streams", streams_, "gateway: open at once in the row \"streams\"")
        ->check(CLI::Range(1, 50'000))
        ->option_text("N [10000]");
    app.add_option("--gateway", gateway_, "its gRPC port; default: the cluster that runs here")
        ->type_name("HOST:PORT");
    app.add_option("-c,--concurrency", concurrency_, "clients at once")
        ->check(CLI::Range(1, 1024))
        ->option_text("N [8]");
    app.add_option("-n,--requests", requests_, "requests in all")
        ->check(CLI::Range(1, 1'000'000))
        ->option_text("N [64]");
    app.add_option("--prompt", prompt_, "the question of every request");
    app.add_option("--prompts", prompts_file_, "file with a prompt a line, taken in turn")
        ->type_name("FILE");
    app.add_flag("--raw", raw_, "complete the text as it is, without the chat template");
    app.add_flag("--json", json_, "print one JSON object");
    AddParameterFlags(app, &parameters_);
  }
  int Run(const Context& context) override;

 private:
  int Serve(const Context& context);
  absl::Status ReadPrompts();
  void Client(const GatewayClient& client, const std::atomic<bool>& interrupted);
  void Add(const absl::StatusOr<GenerationResult>& result) EXCLUDES(mutex_);
  void PrintTable(double seconds) const;
  void PrintJson(double seconds) const;
  std::vector<Quantity> Quantities() const {
    return {{"time_to_first_token", "first token", &measured_.first_token},
            {"time_per_output_token", "per token", &measured_.per_token},
            {"inter_token", "between tokens", &measured_.between_tokens},
            {"end_to_end", "whole request", &measured_.whole}};
  }

  CLI::App* app_ = nullptr;
  std::string what_, gateway_, prompt_ = "Tell me a story.", prompts_file_;
  int concurrency_ = 8, requests_ = 64;
  bool raw_ = false, json_ = false;
  Parameters parameters_;
  std::vector<std::string> rows_;
  std::string echo_answers_;
  double seconds_ = 5;
  int32_t streams_ = 10'000;
  std::vector<std::string> prompts_;
  std::atomic<int> next_{0};
  Mutex mutex_;
  Measurements measured_;  // guarded by mutex_ while clients run
};

absl::Status BenchCommand::ReadPrompts() {
  if (prompts_file_.empty()) {
    prompts_ = {prompt_};
    return absl::OkStatus();
  }
  const auto text = ReadFile(prompts_file_);
  if (!text.ok()) return text.status();
  size_t begin = 0;
  while (begin < text->size()) {
    const size_t end = std::min(text->find('\n', begin), text->size());
    if (end > begin) prompts_.push_back(text->substr(begin, end - begin));
    begin = end + 1;
  }
  if (!prompts_.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(prompts_file_, " is empty; write a prompt a line"));
}

void BenchCommand::Add(const absl::StatusOr<GenerationResult>& result) {
  MutexLock lock(mutex_);
  if (!result.ok()) {
    ++measured_.failed;
    if (measured_.first_error.empty()) measured_.first_error = result.status().ToString();
    return;
  }
  ++measured_.finished;
  measured_.prompt_tokens += static_cast<int64_t>(result->prompt_ids.size());
  measured_.output_tokens += static_cast<int64_t>(result->ids.size());
  measured_.cached_tokens += result->cached_tokens;
  measured_.whole.push_back(std::chrono::duration<double>(result->total).count());
  if (result->arrivals.empty()) return;
  measured_.first_token.push_back(result->first_token_seconds());
  if (result->seconds_per_output_token() > 0) {
    measured_.per_token.push_back(result->seconds_per_output_token());
  }
  for (size_t i = 1; i < result->arrivals.size(); ++i) {
    measured_.between_tokens.push_back(
        std::chrono::duration<double>(result->arrivals[i].at - result->arrivals[i - 1].at).count());
  }
}

void BenchCommand::Client(const GatewayClient& client, const std::atomic<bool>& interrupted) {
  SetThreadName("bench-client");
  for (;;) {
    const int index = next_.fetch_add(1);
    if (index >= requests_ || interrupted.load()) return;
    GenerationRequest request;
    const std::string& prompt = prompts_[static_cast<size_t>(index) % prompts_.size()];
    if (raw_) {
      request.text = prompt;
    } else {
      request.chat.push_back({"user", prompt});
    }
    request.parameters = parameters_;
    // Equal seeds for equal runs: the work of a run does not depend on chance.
    if (!request.parameters.seed) request.parameters.seed = static_cast<uint64_t>(index);
    const auto result = client.Generate(
        request, [](const std::string&) {}, interrupted);
    if (interrupted.load()) return;
    Add(result);
  }
}

void BenchCommand::PrintTable(double seconds) const {
  std::printf("%lld requests by %d clients in %s", static_cast<long long>(measured_.finished),
              concurrency_, FormatSeconds(seconds).c_str());
  if (measured_.failed > 0) std::printf(", %lld failed", static_cast<long long>(measured_.failed));
  std::printf("\n%.1f tokens/s out, %.1f tokens/s in (%lld %% cached), %.2f requests/s\n",
              static_cast<double>(measured_.output_tokens) / seconds,
              static_cast<double>(measured_.prompt_tokens) / seconds,
              static_cast<long long>(measured_.prompt_tokens == 0
                                         ? 0
                                         : 100 * measured_.cached_tokens / measured_.prompt_tokens),
              static_cast<double>(measured_.finished) / seconds);
  std::vector<std::vector<std::string>> table = {{"MILLISECONDS", "P50", "P90", "P99", "MOST"}};
  for (const Quantity& quantity : Quantities()) {
    std::vector<std::string> row = {quantity.label};
    for (const double percent : {50.0, 90.0, 99.0, 100.0}) {
      char text[32];
      std::snprintf(text, sizeof(text), "%.2f", 1000 * Percentile(*quantity.values, percent));
      row.emplace_back(text);
    }
    table.push_back(row);
  }
  std::printf("%s", FormatTable(table).c_str());
}

void BenchCommand::PrintJson(double seconds) const {
  nlohmann::json object = {
      {"requests", measured_.finished},
      {"failed", measured_.failed},
      {"concurrency", concurrency_},
      {"seconds", seconds},
      {"prompt_tokens", measured_.prompt_tokens},
      {"cached_tokens", measured_.cached_tokens},
      {"output_tokens", measured_.output_tokens},
      {"output_tokens_per_second", static_cast<double>(measured_.output_tokens) / seconds}};
  for (const Quantity& quantity : Quantities()) {
    object[std::string(quantity.name) + "_seconds"] = {{"p50", Percentile(*quantity.values, 50)},
                                                       {"p90", Percentile(*quantity.values, 90)},
                                                       {"p99", Percentile(*quantity.values, 99)},
                                                       {"max", Percentile(*quantity.values, 100)}};
  }
  if (measured_.failed > 0) object["first_error"] = measured_.first_error;
  std::printf("%s\n", object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

int BenchCommand::Run(const Context& context) {
  if (what_.empty()) {
    std::fputs(app_->help("conclave").c_str(), stderr);
    return Fail(absl::InvalidArgumentError(
        "what is to be measured: conclave bench serve or conclave bench gateway"));
  }
  if (what_ == "serve") {
    if (!rows_.empty()) {
      return Fail(absl::InvalidArgumentError("--rows is for conclave bench gateway"));
    }
    return Serve(context);
  }
  if (what_ == "gateway") {
    if (!echo_answers_.empty()) {
      StopSignals signals;
      const absl::Status served = ServeEcho(echo_answers_, signals);
      return served.ok() ? kExitOk : Fail(served);
    }
    if (!gateway_.empty()) {
      return Fail(absl::InvalidArgumentError(
          "conclave bench gateway measures clusters that it starts itself; leave --gateway out"));
    }
    return RunGatewayBench(
        context, {.rows = rows_, .seconds = seconds_, .streams = streams_, .json = json_});
  }
  return Fail(absl::InvalidArgumentError(absl::StrCat(
      "\"", what_, "\" cannot be measured; conclave bench serve and bench gateway can")));
}

int BenchCommand::Serve(const Context& context) {
  StopSignals signals;  // before any thread: gRPC's must not take them
  const auto gateway = FindGateway(context, gateway_);
  if (!gateway.ok()) return Fail(gateway.status());
  if (const absl::Status status = ReadPrompts(); !status.ok()) return Fail(status);
  signal(SIGPIPE, SIG_DFL);  // nobody reads the output any more: end, which cancels what runs
  const GatewayClient& client = **gateway;
  const auto start = steady_clock::now();
  bool interrupted = false;
  {
    const InterruptFlag interrupt(signals);
    std::vector<std::thread> clients;
    std::atomic<int> running{concurrency_};
    for (int i = 0; i < concurrency_; ++i) {
      clients.emplace_back([&] {
        Client(client, interrupt.interrupted());
        running.fetch_sub(1);
      });
    }
    auto next_progress = start + kProgressPeriod;
    while (running.load() > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      if (steady_clock::now() < next_progress) continue;
      next_progress += kProgressPeriod;
      MutexLock lock(mutex_);
      std::fprintf(stderr, "%lld of %d requests, %lld tokens\n",
                   static_cast<long long>(measured_.finished + measured_.failed), requests_,
                   static_cast<long long>(measured_.output_tokens));
    }
    for (std::thread& thread : clients) thread.join();
    interrupted = interrupt.interrupted().load();
  }
  const double seconds = std::chrono::duration<double>(steady_clock::now() - start).count();
  if (interrupted && measured_.finished + measured_.failed == 0) {
    std::fprintf(stderr,
                 "error: interrupted before a request was answered; nothing was measured\n");
    return kExitInterrupted;
  }
  if (interrupted) {
    std::fprintf(stderr, "interrupted; this is what the requests answered until then measured\n");
  }
  json_ ? PrintJson(seconds) : PrintTable(seconds);
  if (measured_.failed > 0) {
    std::fprintf(stderr, "error: %lld requests failed, the first with %s\n",
                 static_cast<long long>(measured_.failed), measured_.first_error.c_str());
    return interrupted ? kExitInterrupted : kExitFailed;
  }
  return interrupted ? kExitInterrupted : kExitOk;
}

}  // namespace

std::unique_ptr<Command> MakeBenchCommand() { return std::make_unique<BenchCommand>(); }

}  // namespace conclave::cli
