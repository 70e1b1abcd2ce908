#include "services/cli/serve_bench/serve_bench.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <thread>
#include <utility>

#include "services/cli/gateway_client.h"
#include "services/cli/interrupt.h"
#include "services/cli/serve_bench/measurements.h"
#include "shared/base/mutex.h"

namespace conclave::cli {
namespace {

using std::chrono::steady_clock;

constexpr Duration kProgressPeriod = std::chrono::seconds(2);
constexpr Duration kPoll = std::chrono::milliseconds(20);
// Open loop: chats at once. More are begun late, which their times say.
constexpr int kMostAtOnce = 2048;

class ServeBench {
 public:
  ServeBench(const ServeBenchOptions& options, const GatewayClient& client,
             const std::atomic<bool>& interrupted)
      : options_(options), client_(client), interrupted_(interrupted), measured_(options) {}

  void Run() {
    start_ = steady_clock::now();
    next_progress_ = start_ + kProgressPeriod;
    const int num_chats = (options_.requests + options_.turns - 1) / options_.turns;
    options_.chats_a_second > 0 ? BeginWhenDue(num_chats) : BeginWhenFree(num_chats);
    while (running_.load() > 0) {
      Wait(steady_clock::now() + kPoll);
      if (interrupted_.load()) std::this_thread::sleep_for(kPoll);
    }
  }

  // After Run.
  Measurements measured() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return measured_;
  }

 private:
  // Open loop.
  void BeginWhenDue(int num_chats) {
    for (int chat = 0; chat < num_chats && !interrupted_.load(); ++chat) {
      const auto due = start_ + std::chrono::duration_cast<Duration>(
                                    std::chrono::duration<double>(chat / options_.chats_a_second));
      Wait(due);
      while (running_.load() >= kMostAtOnce) Wait(steady_clock::now() + kPoll);
      Begin([this, chat, due] {
        Chat(chat, std::chrono::duration<double>(steady_clock::now() - due).count());
      });
    }
  }

  // Closed loop: clients that take one chat after the other.
  void BeginWhenFree(int num_chats) {
    for (int client = 0; client < std::min(num_chats, options_.clients); ++client) {
      Begin([this, num_chats] {
        for (int chat = next_.fetch_add(1); chat < num_chats; chat = next_.fetch_add(1)) {
          Chat(chat, 0);
        }
      });
    }
  }

  // Runs it on a thread of its own, which Run waits for.
  void Begin(std::function<void()> client) {
    running_.fetch_add(1);
    std::thread([this, client = std::move(client)] {
      SetThreadName("bench-client");
      client();
      running_.fetch_sub(1);
    }).detach();
  }

  // Until then, or an interrupt; says now and then how far all is.
  void Wait(steady_clock::time_point until) EXCLUDES(mutex_) {
    for (auto now = steady_clock::now(); now < until && !interrupted_.load();
         now = steady_clock::now()) {
      std::this_thread::sleep_until(std::min(until, now + kPoll));
      if (now < next_progress_) continue;
      next_progress_ += kProgressPeriod;
      MutexLock lock(mutex_);
      std::fprintf(stderr, "%lld of %d requests, %lld tokens\n",
                   static_cast<long long>(measured_.finished() + measured_.failed()),
                   options_.requests, static_cast<long long>(measured_.output_tokens()));
    }
  }

  // All turns of a chat, until one fails; it begins so many seconds after it was due.
  void Chat(int chat, double late) EXCLUDES(mutex_) {
    GenerationRequest request;
    if (!options_.system.empty()) request.chat.push_back({"system", options_.system});
    for (int turn = 0; turn < options_.turns; ++turn) {
      const int index = chat * options_.turns + turn;
      if (index >= options_.requests || interrupted_.load()) return;
      const std::string& prompt =
          options_.prompts[static_cast<size_t>(index) % options_.prompts.size()];
      if (options_.raw) {
        request.text = prompt;
      } else {
        request.chat.push_back({"user", prompt});
      }
      request.parameters = options_.parameters;
      // Equal seeds for equal runs: the work of a run does not depend on chance.
      if (!request.parameters.seed) request.parameters.seed = static_cast<uint64_t>(index);
      const auto result = client_.Generate(
          request, [](const std::string&) {}, interrupted_);
      if (interrupted_.load()) return;
      MutexLock lock(mutex_);
      if (!result.ok()) {
        measured_.AddFailure(result.status().ToString());
        return;
      }
      measured_.Add(turn, late, *result);
      late = 0;
      request.chat.push_back({"assistant", result->text});
    }
  }

  const ServeBenchOptions& options_;
  const GatewayClient& client_;
  const std::atomic<bool>& interrupted_;
  steady_clock::time_point start_, next_progress_;
  std::atomic<int> next_{0}, running_{0};
  mutable Mutex mutex_;
  Measurements measured_ GUARDED_BY(mutex_);
};

}  // namespace

int RunServeBench(const Context& context, const ServeBenchOptions& options) {
  StopSignals signals;  // before any thread: gRPC's must not take them
  const auto gateway = FindGateway(context, options.gateway);
  if (!gateway.ok()) return Fail(gateway.status());
  signal(SIGPIPE, SIG_DFL);  // nobody reads the output any more: end, which cancels what runs
  const InterruptFlag interrupt(signals);
  const auto start = steady_clock::now();
  ServeBench bench(options, **gateway, interrupt.interrupted());
  bench.Run();
  const double seconds = std::chrono::duration<double>(steady_clock::now() - start).count();
  const bool interrupted = interrupt.interrupted().load();
  const Measurements measured = bench.measured();
  if (interrupted && measured.finished() + measured.failed() == 0) {
    std::fprintf(stderr,
                 "error: interrupted before a request was answered; nothing was measured\n");
    return kExitInterrupted;
  }
  if (interrupted) {
    std::fprintf(stderr, "interrupted; this is what the requests answered until then measured\n");
  }
  options.json ? measured.PrintJson(seconds) : measured.PrintTable(seconds);
  if (measured.failed() > 0) {
    std::fprintf(stderr, "error: %lld requests failed, the first with %s\n",
                 static_cast<long long>(measured.failed()), measured.first_error().c_str());
    return interrupted ? kExitInterrupted : kExitFailed;
  }
  return interrupted ? kExitInterrupted : kExitOk;
}

}  // namespace conclave::cli
