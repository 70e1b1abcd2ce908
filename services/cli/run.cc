// `conclave run "prompt"`: one answer, streamed, and a line that says what it took and its digest.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <iterator>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/cli/command.h"
#include "services/cli/gateway_client.h"
#include "services/cli/generation_flags.h"
#include "services/cli/hint.h"
#include "services/cli/incidents.h"
#include "services/cli/interrupt.h"
#include "services/cli/table.h"

namespace conclave::cli {
namespace {

// Fewer tokens than this say nothing about speed.
constexpr size_t kFewTokens = 10;

// "187 tokens, first after 11 ms, 520 tokens/s, stop, seed 7, digest 5c1e9a04"
std::string Summary(const Parameters& parameters, const GenerationResult& result) {
  std::string line = absl::StrCat(Count(static_cast<int64_t>(result.ids.size()), "token"));
  if (!result.arrivals.empty()) {
    absl::StrAppend(&line, ", first after ",
                    static_cast<int64_t>(std::lround(result.first_token_seconds() * 1000)), " ms");
  }
  const double speed = result.tokens_per_second();
  if (result.ids.size() >= kFewTokens && speed > 0) {
    char text[32];
    std::snprintf(text, sizeof(text), speed < 9.95 ? ", %.1f tokens/s" : ", %.0f tokens/s", speed);
    absl::StrAppend(&line, text, parameters.pace ? " (paced)" : "");
  }
  // A greedy answer draws no random numbers: its seed would say nothing.
  const std::string seed =
      parameters.temperature == 0.0 ? "greedy" : absl::StrCat("seed ", result.seed);
  return absl::StrCat(line, ", ", result.finish_reason, ", ", seed, ", digest ",
                      Digest(parameters, result));
}

class RunCommand final : public Command {
 public:
  const char* name() const override { return "run"; }
  const char* summary() const override { return "ask one thing and stream the answer"; }
  void AddFlags(CLI::App& app) override {
    prompt_flag_ =
        app.add_option("prompt", prompt_, "what to ask; - or nothing reads standard input");
    prompt_flag_->type_name("");
    app.add_option("--gateway", gateway_, "its gRPC port; default: the cluster that runs here")
        ->type_name("HOST:PORT");
    app.add_option("--system", system_, "system message");
    app.add_flag("--raw", raw_, "complete the text as it is, without the chat template");
    app.add_flag("--json", json_, "print one JSON object instead");
    app.add_option("--expect", expect_, "fail unless the digest is this one")
        ->type_name("DIGEST")
        ->check([](const std::string& text) {
          const bool digest =
              text.size() == 8 && std::all_of(text.begin(), text.end(), absl::ascii_isxdigit);
          return digest ? std::string()
                        : absl::StrCat("wants 8 hexadecimal digits, not \"", text, "\"");
        });
    AddParameterFlags(app, &request_.parameters);
  }
  int Run(const Context& context) override;

 private:
  void PrintJson(const GenerationResult& result) const;

  CLI::Option* prompt_flag_ = nullptr;
  std::string prompt_, gateway_, system_, expect_;
  bool raw_ = false, json_ = false;
  GenerationRequest request_;
};

void RunCommand::PrintJson(const GenerationResult& result) const {
  const nlohmann::json object = {{"text", result.text},
                                 {"request_id", result.request_id},
                                 {"model", result.model},
                                 {"fingerprint", result.fingerprint},
                                 {"finish_reason", result.finish_reason},
                                 {"seed", result.seed},
                                 {"digest", Digest(request_.parameters, result)},
                                 {"prompt_tokens", result.prompt_ids.size()},
                                 {"completion_tokens", result.ids.size()},
                                 {"cached_tokens", result.cached_tokens},
                                 {"ids", result.ids},
                                 {"prompt_ids", result.prompt_ids},
                                 {"first_token_seconds", result.first_token_seconds()},
                                 {"seconds", std::chrono::duration<double>(result.total).count()},
                                 {"tokens_per_second", result.tokens_per_second()},
                                 {"longest_gap_seconds", result.longest_gap_seconds()}};
  std::printf("%s\n", object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

int RunCommand::Run(const Context& context) {
  const bool from_input = prompt_flag_->count() == 0 || prompt_ == "-";
  if (from_input) {
    if (isatty(STDIN_FILENO)) {
      return Fail(absl::InvalidArgumentError(
          absl::StrCat("no prompt: ", Hint("run \"PROMPT\"", context.state_dir),
                       ", or send it to standard input")));
    }
    prompt_.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  if (prompt_.empty()) {
    return Fail(absl::InvalidArgumentError(absl::StrCat(
        from_input ? "standard input" : "the prompt",
        " is empty; give at least one character: ", Hint("run \"PROMPT\"", context.state_dir))));
  }
  StopSignals signals;  // before any thread: gRPC's must not take them
  const auto gateway = FindGateway(context, gateway_);
  if (!gateway.ok()) return Fail(gateway.status());
  if (raw_) {
    request_.text = prompt_;
  } else {
    if (!system_.empty()) request_.chat.push_back({"system", system_});
    request_.chat.push_back({"user", prompt_});
  }
  signal(SIGPIPE, SIG_DFL);  // nobody reads the output any more: end, which cancels what runs
  const InterruptFlag interrupt(signals);
  bool line_open = false;
  const int64_t began_unix_ms = UnixMs();
  const auto result = (*gateway)->Generate(
      request_,
      [&](const std::string& text) {
        if (json_) return;
        std::fwrite(text.data(), 1, text.size(), stdout);
        std::fflush(stdout);
        line_open = text.back() != '\n';
      },
      interrupt.interrupted());
  if (line_open) std::printf("\n");
  if (!result.ok()) {
    const int code = Fail(result.status());
    if (absl::IsUnavailable(result.status())) {
      const std::string line = FailureLine(context, (*gateway)->address(), began_unix_ms);
      if (!line.empty()) std::fprintf(stderr, "  %s\n", line.c_str());
    }
    return code == kExitNotRunning ? kExitFailed : code;  // the cluster runs, and said no
  }
  const std::string digest = Digest(request_.parameters, *result);
  const bool cancelled = interrupt.interrupted().load();
  const bool expected = expect_.empty() || absl::AsciiStrToLower(expect_) == digest;
  if (json_) {
    PrintJson(*result);
  } else {
    std::printf("%s%s\n", Summary(request_.parameters, *result).c_str(),
                expect_.empty() ? ""
                : expected      ? ": as expected"
                                : ": not as expected");
    if (const std::string line = PauseLine(context, (*gateway)->address(), *result);
        !line.empty()) {
      std::printf("  %s\n", line.c_str());
    }
  }
  if (cancelled) return kExitInterrupted;
  if (!expected) {
    std::fprintf(stderr,
                 "error: the digest is %s, not %s: prompt, parameters, seed or output differ\n",
                 digest.c_str(), expect_.c_str());
    return kExitFailed;
  }
  return kExitOk;
}

}  // namespace

std::unique_ptr<Command> MakeRunCommand() { return std::make_unique<RunCommand>(); }

}  // namespace conclave::cli
