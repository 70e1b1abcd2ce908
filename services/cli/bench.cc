// `conclave bench WHAT`: serve_bench/ measures a running cluster, gateway_bench/ what the gateway
// costs, machine_bench/ what the machine can do, kernel_bench/ and model_bench/ how near the
// kernels and a model come to it.
#include <algorithm>
#include <cstdio>
#include <optional>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/cli/command.h"
#include "services/cli/gateway_bench/echo.h"
#include "services/cli/gateway_bench/gateway_bench.h"
#include "services/cli/generation_flags.h"
#include "services/cli/interrupt.h"
#include "services/cli/kernel_bench/kernel_bench.h"
#include "services/cli/machine_bench/machine_bench.h"
#include "services/cli/model_bench/model_bench.h"
#include "services/cli/serve_bench/serve_bench.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

class BenchCommand final : public Command {
 public:
  const char* name() const override { return "bench"; }
  const char* summary() const override {
    return "measure: bench serve, bench model, bench gateway, bench machine, bench kernels";
  }
  void AddFlags(CLI::App& app) override {
    app_ = &app;
    app.add_option(
           "serve|model|gateway|machine|kernels", what_,
           "a running cluster, a model by itself, what the gateway costs, what the machine can "
           "do, or how near the kernels come to it")
        ->type_name("");
    app.add_option("FILE", model_.model,
                   "model: packed file, checkpoint folder, or org/name in the Hugging Face cache; "
                   "default: the setting model")
        ->type_name("");
    app.add_option("--expert-workers", model_.workers,
                   "model: of the cluster beside the one in a single process; 0: without it")
        ->check(CLI::Range(0, 64))
        ->option_text("N [2]");
    app.add_option("--prefill", model_.prefill, "model: tokens of the prompts")
        ->check(CLI::Range(1, 1'000'000))
        ->type_name("N,...")
        ->delimiter(',')
        ->option_text("N,... [128,512,2048]");
    app.add_option("--batch", model_.batches, "model: sequences at once")
        ->check(CLI::Range(1, 1024))
        ->delimiter(',')
        ->option_text("N,... [1,4,8,32]");
    app.add_option("--context", model_.contexts, "model: tokens before those that are generated")
        ->check(CLI::Range(0, 1'000'000))
        ->delimiter(',')
        ->option_text("N,... [0,2048,8192]");
    app.add_option("--rounds", model_.rounds, "model: times that each is measured")
        ->check(CLI::Range(1, 100))
        ->option_text("N [3]");
    app.add_option("--rows", rows_, GatewayBenchRows())->type_name("ROW,...")->delimiter(',');
    app.add_option("--echo-answers", echo_answers_)->group("");  // what RunGatewayBench starts
    app.add_option("--seconds", seconds_, "gateway, model, machine, kernels: of each measurement")
        ->check(CLI::Range(0.1, 600.0))
        ->option_text("N [gateway 5, model 4, machine 1, kernels 0.5]");
    app.add_option("--threads", threads_, "model, machine, kernels: threads; 0: one a core")
        ->check(CLI::Range(0, 1024))
        ->option_text("N [0]");
    app.add_option("--cpu-level", cpu_level_, "kernels: instruction level, as engine.cpu_level")
        ->type_name("LEVEL")
        ->option_text("LEVEL [auto]");
    app.add_option("--only", only_, "kernels: those whose name contains it; may be repeated")
        ->type_name("TEXT")
        ->allow_extra_args(false);
    app.add_option("--streams", streams_, "gateway: open at once in the row \"streams\"")
        ->check(CLI::Range(1, 50'000))
        ->option_text("N [10000]");
    app.add_option("--gateway", serve_.gateway,
                   "serve: its gRPC port; default: the cluster that runs here")
        ->type_name("HOST:PORT");
    app.add_option("-c,--concurrency", serve_.clients, "serve: clients at once")
        ->check(CLI::Range(1, 1024))
        ->option_text("N [8]");
    app.add_option(
           "--rate", serve_.chats_a_second,
           "serve: begin so many chats a second, whatever is answered, instead of -c clients")
        ->check(CLI::Range(0.001, 10'000.0))
        ->option_text("R");
    app.add_option("-n,--requests", serve_.requests, "serve: requests in all")
        ->check(CLI::Range(1, 1'000'000))
        ->option_text("N [64]");
    app.add_option("--turns", serve_.turns,
                   "serve: requests of a chat, each with all that was said before")
        ->check(CLI::Range(1, 1000))
        ->option_text("N [1]");
    app.add_option("--system", system_file_, "serve: file with a system message of every chat")
        ->check(CLI::ExistingFile)
        ->type_name("FILE");
    app.add_option("--prompt", prompt_, "serve: the question of every request");
    app.add_option("--prompts", prompts_file_, "serve: file with a prompt a line, taken in turn")
        ->type_name("FILE");
    app.add_option("--first-token-ms", serve_.first_token_ms,
                   "serve: count as goodput what has its first token within so many ms")
        ->check(CLI::Range(0.001, 1e9))
        ->option_text("MS");
    app.add_option("--per-token-ms", serve_.per_token_ms,
                   "serve: and takes at most so many ms for each further one")
        ->check(CLI::Range(0.001, 1e9))
        ->option_text("MS");
    app.add_flag("--raw", serve_.raw,
                 "serve: complete the text as it is, without the chat template");
    app.add_flag("--json", json_, "print one JSON object");
    AddParameterFlags(app, &serve_.parameters);
  }
  int Run(const Context& context) override;

 private:
  absl::Status CheckFlags() const;
  int Serve(const Context& context);
  int Model(const Context& context);
  absl::StatusOr<std::vector<std::string>> Prompts() const;

  CLI::App* app_ = nullptr;
  std::string what_, prompts_file_, system_file_;
  ServeBenchOptions serve_;
  ModelBenchOptions model_;
  std::string prompt_ = serve_.prompts.front();
  bool json_ = false;
  std::string cpu_level_ = "auto";
  std::vector<std::string> rows_, only_;
  std::string echo_answers_;
  std::optional<double> seconds_;
  int threads_ = 0;
  int32_t streams_ = 10'000;
};

// A prompt a line of the file, or the one that was given.
absl::StatusOr<std::vector<std::string>> BenchCommand::Prompts() const {
  if (prompts_file_.empty()) return std::vector<std::string>{prompt_};
  ASSIGN_OR_RETURN(const std::string text, ReadFile(prompts_file_));
  std::vector<std::string> prompts = absl::StrSplit(text, '\n', absl::SkipEmpty());
  if (!prompts.empty()) return prompts;
  return absl::InvalidArgumentError(
      absl::StrCat(prompts_file_, " is empty; write a prompt a line"));
}

// Names a flag that was given and is of another measurement.
absl::Status BenchCommand::CheckFlags() const {
  struct Group {
    std::vector<std::string> whats;
    std::vector<const char*> flags;
  };
  const Group groups[] = {
      {{"serve"},
       {"--gateway", "--concurrency", "--rate", "--requests", "--turns", "--system", "--prompt",
        "--prompts", "--first-token-ms", "--per-token-ms", "--raw"}},
      {{"gateway"}, {"--rows", "--streams"}},
      {{"model"}, {"FILE", "--expert-workers", "--prefill", "--batch", "--context", "--rounds"}},
      {{"gateway", "model", "machine", "kernels"}, {"--seconds"}},
      {{"model", "machine", "kernels"}, {"--threads"}},
      {{"kernels"}, {"--only", "--cpu-level"}}};
  for (const Group& group : groups) {
    if (std::ranges::find(group.whats, what_) != group.whats.end()) continue;
    for (const char* flag : group.flags) {
      if (app_->count(flag) == 0) continue;
      return absl::InvalidArgumentError(absl::StrCat(flag, " is for conclave bench ",
                                                     absl::StrJoin(group.whats, " and bench "),
                                                     ": leave it out"));
    }
  }
  return absl::OkStatus();
}

int BenchCommand::Run(const Context& context) {
  if (what_.empty()) {
    std::fputs(app_->help("conclave").c_str(), stderr);
    return Fail(absl::InvalidArgumentError(
        "what is to be measured: conclave bench serve, bench model, bench gateway, bench machine "
        "or bench kernels"));
  }
  if (const absl::Status flags = CheckFlags(); !flags.ok()) return Fail(flags);
  if (what_ == "serve") return Serve(context);
  if (what_ == "gateway") {
    if (!echo_answers_.empty()) {
      StopSignals signals;
      const absl::Status served = ServeEcho(echo_answers_, signals);
      return served.ok() ? kExitOk : Fail(served);
    }
    return RunGatewayBench(
        context,
        {.rows = rows_, .seconds = seconds_.value_or(5), .streams = streams_, .json = json_});
  }
  if (what_ == "model") return Model(context);
  if (what_ == "machine") {
    return RunMachineBench({.threads = threads_, .seconds = seconds_.value_or(1), .json = json_});
  }
  if (what_ == "kernels") {
    return RunKernelBench({.threads = threads_,
                           .seconds = seconds_.value_or(0.5),
                           .only = only_,
                           .cpu_level = cpu_level_,
                           .json = json_});
  }
  return Fail(absl::InvalidArgumentError(
      absl::StrCat("\"", what_,
                   "\" cannot be measured; bench serve, bench model, bench gateway, bench machine "
                   "and bench kernels can")));
}

int BenchCommand::Model(const Context& context) {
  if (model_.model.empty()) model_.model = context.options.common.model;
  model_.threads = threads_;
  model_.seconds = seconds_.value_or(model_.seconds);
  model_.json = json_;
  return RunModelBench(context, model_);
}

int BenchCommand::Serve(const Context& context) {
  auto prompts = Prompts();
  if (!prompts.ok()) return Fail(prompts.status());
  serve_.prompts = *std::move(prompts);
  if (!system_file_.empty()) {
    auto system = ReadFile(system_file_);
    if (!system.ok()) return Fail(system.status());
    serve_.system = *std::move(system);
  }
  if (serve_.raw && (serve_.turns > 1 || !serve_.system.empty())) {
    return Fail(absl::InvalidArgumentError(
        "--raw completes prompts as they are: leave out --turns and --system, which make chats"));
  }
  serve_.json = json_;
  return RunServeBench(context, serve_);
}

}  // namespace

std::unique_ptr<Command> MakeBenchCommand() { return std::make_unique<BenchCommand>(); }

}  // namespace conclave::cli
