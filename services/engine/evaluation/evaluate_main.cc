#include "services/engine/evaluation/evaluate_main.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>

#include "services/engine/evaluation/evaluation.h"
#include "shared/base/json_file.h"
#include "shared/base/limits.h"
#include "shared/base/log.h"
#include "shared/base/status_macros.h"

namespace conclave::engine {
namespace {

using std::chrono::steady_clock;

// "computing in int8: 61 %" in one line of a terminal, else in a line each two seconds.
class ProgressLine {
 public:
  void Tell(std::string_view what, int64_t done, int64_t total) {
    const auto now = steady_clock::now();
    if (now - told_ < (terminal_ ? std::chrono::milliseconds(500) : std::chrono::seconds(2))) {
      return;
    }
    told_ = now;
    open_ = terminal_;
    std::fprintf(stderr, "%s%s: %d %%%s", terminal_ ? "\r\033[K" : "", std::string(what).c_str(),
                 static_cast<int>(100 * done / std::max<int64_t>(1, total)), terminal_ ? "" : "\n");
  }
  ~ProgressLine() {
    if (open_) std::fprintf(stderr, "\r\033[K");
  }

 private:
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  steady_clock::time_point told_ = steady_clock::now();
  bool open_ = false;
};

absl::StatusOr<nlohmann::json> Run() {
  RETURN_IF_ERROR(CheckProcessLimits(ReadProcessLimits(), kServiceAddressSpace, kServiceOpenFiles));
  RETURN_IF_ERROR(StartLog("evaluate", "warning", "text"));
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson("standard input", text));
  ASSIGN_OR_RETURN(const EvaluationRequest request, ParseEvaluationRequest(json));
  ProgressLine line;
  return Evaluate(request, [&](std::string_view what, int64_t done, int64_t total) {
    line.Tell(what, done, total);
  });
}

}  // namespace

int EvaluateMain() {
  const absl::StatusOr<nlohmann::json> result = Run();
  nlohmann::json told;
  if (result.ok()) {
    told = *result;
  } else {
    told["error"] = {{"code", result.status().raw_code()},
                     {"message", std::string(result.status().message())}};
  }
  std::printf("%s\n", told.dump().c_str());
  return result.ok() && std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace conclave::engine
