// `conclave chat`: a conversation on the terminal. Ctrl-C stops the answer, Ctrl-D ends.
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <optional>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/cli/command.h"
#include "services/cli/gateway_client.h"
#include "services/cli/generation_flags.h"
#include "services/cli/incidents.h"
#include "services/cli/interrupt.h"
#include "services/cli/table.h"

namespace conclave::cli {
namespace {

constexpr const char* kHelp =
    "  /set NAME VALUE   a sampling parameter, such as: /set temperature 0.7; VALUE \"default\" "
    "takes it back\n"
    "  /set              what is set\n"
    "  /system TEXT      a system message; begins anew\n"
    "  /clear            begin anew\n"
    "  /help, /quit      (Ctrl-D ends too; Ctrl-C stops an answer)\n";
constexpr int kPollMs = 100;

// Reads lines from standard input, while Ctrl-C does not end the program.
class LineReader {
 public:
  explicit LineReader(StopSignals& signals) : signals_(signals) {}

  // nullopt at the end of the input.
  std::optional<std::string> Read(const std::string& prompt) {
    if (isatty(STDIN_FILENO)) {
      std::printf("%s", prompt.c_str());
      std::fflush(stdout);
    }
    for (;;) {
      const size_t newline = buffer_.find('\n');
      if (newline != std::string::npos) {
        std::string line = buffer_.substr(0, newline);
        buffer_.erase(0, newline + 1);
        return line;
      }
      if (const auto number = signals_.WaitFor(Duration(0))) {
        if (*number != SIGINT) return std::nullopt;
        std::printf("\n(Ctrl-D or /quit ends)\n%s", prompt.c_str());
        std::fflush(stdout);
      }
      pollfd input = {STDIN_FILENO, POLLIN, 0};
      if (poll(&input, 1, kPollMs) <= 0) continue;
      char bytes[4096];
      const ssize_t count = read(STDIN_FILENO, bytes, sizeof(bytes));
      if (count <= 0) {
        if (buffer_.empty()) return std::nullopt;
        buffer_ += '\n';  // the last line may lack its end
        continue;
      }
      buffer_.append(bytes, static_cast<size_t>(count));
    }
  }

 private:
  StopSignals& signals_;
  std::string buffer_;
};

class ChatCommand final : public Command {
 public:
  const char* name() const override { return "chat"; }
  const char* summary() const override {
    return "talk on the terminal; /help there shows the commands";
  }
  void AddFlags(CLI::App& app) override {
    app.add_option("--gateway", gateway_, "its gRPC port; default: the cluster that runs here")
        ->type_name("HOST:PORT");
    app.add_option("--system", system_, "system message");
    AddParameterFlags(app, &request_.parameters);
  }
  int Run(const Context& context) override;

 private:
  void Clear() {
    request_.chat.clear();
    if (!system_.empty()) request_.chat.push_back({"system", system_});
  }
  // Does what a line that starts with '/' says. False: the program shall end.
  bool Obey(const std::string& line);
  void Answer(const Context& context, const std::string& gateway, StopSignals& signals,
              const std::string& question);

  std::string gateway_, system_;
  GenerationRequest request_;
  std::unique_ptr<GatewayClient> client_;
};

bool ChatCommand::Obey(const std::string& line) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipWhitespace());
  if (words[0] == "/quit" || words[0] == "/exit") return false;
  if (words[0] == "/help") {
    std::printf("%s", kHelp);
  } else if (words[0] == "/clear") {
    Clear();
    std::printf("(anew)\n");
  } else if (words[0] == "/system") {
    system_ = std::string(absl::StripAsciiWhitespace(line.substr(words[0].size())));
    Clear();
    std::printf("(anew)\n");
  } else if (words[0] == "/set" && words.size() == 1) {
    std::printf("%s\n", DescribeParameters(request_.parameters).c_str());
  } else if (words[0] == "/set" && words.size() == 3) {
    const absl::Status status = SetParameter(words[1], words[2], &request_.parameters);
    std::printf("%s\n", status.ok() ? DescribeParameters(request_.parameters).c_str()
                                    : std::string(status.message()).c_str());
  } else {
    std::printf("not a command: %s\n%s", line.c_str(), kHelp);
  }
  return true;
}

void ChatCommand::Answer(const Context& context, const std::string& gateway, StopSignals& signals,
                         const std::string& question) {
  const int64_t began_unix_ms = UnixMs();
  request_.chat.push_back({"user", question});
  absl::StatusOr<GenerationResult> result;
  {
    const InterruptFlag interrupt(signals);
    result = client_->Generate(
        request_,
        [](const std::string& text) {
          std::fwrite(text.data(), 1, text.size(), stdout);
          std::fflush(stdout);
        },
        interrupt.interrupted());
  }
  if (!result.ok()) {
    request_.chat.pop_back();  // so that the question can be asked again
    std::printf("\n");
    Fail(result.status());
    if (absl::IsUnavailable(result.status())) {
      const std::string line = FailureLine(context, gateway, began_unix_ms);
      if (!line.empty()) std::fprintf(stderr, "  %s\n", line.c_str());
    }
    return;
  }
  std::printf("%s\n", result->finish_reason == "cancelled" ? " (stopped)" : "");
  request_.chat.push_back({"assistant", result->text});
}

int ChatCommand::Run(const Context& context) {
  StopSignals signals;  // before any thread: gRPC's must not take them
  auto gateway = FindGateway(context, gateway_);
  if (!gateway.ok()) return Fail(gateway.status());
  client_ = *std::move(gateway);
  LineReader reader(signals);
  Clear();
  if (isatty(STDIN_FILENO)) std::printf("Ask something; /help shows the commands, Ctrl-D ends.\n");
  while (const std::optional<std::string> line = reader.Read("> ")) {
    const std::string question(absl::StripAsciiWhitespace(*line));
    if (question.empty()) continue;
    if (question[0] != '/') {
      Answer(context, client_->address(), signals, question);
    } else if (!Obey(question)) {
      break;
    }
  }
  return kExitOk;
}

}  // namespace

std::unique_ptr<Command> MakeChatCommand() { return std::make_unique<ChatCommand>(); }

}  // namespace conclave::cli
