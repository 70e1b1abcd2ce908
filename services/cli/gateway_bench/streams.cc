// The gateway's memory while many streamed answers are open, each another request of its own that
// has begun: a token has come, the next one is far.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/cli/bench_cluster/bench_cluster.h"
#include "services/cli/bench_cluster/process_cost.h"
#include "services/cli/gateway_bench/http_sender.h"
#include "services/cli/gateway_bench/row.h"
#include "shared/base/address.h"
#include "shared/base/mutex.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/http/asio.h"

namespace conclave::cli {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using std::chrono::steady_clock;

// Opened at once: the system's queue of new connections is not much longer.
constexpr int32_t kAtOnce = 128;
constexpr std::chrono::seconds kPatience{180};
constexpr std::chrono::milliseconds kPoll{50};
// Files of a process beside its streams.
constexpr int32_t kOtherFiles = 200;
constexpr double kMiB = 1 << 20;

// Streams of one server. Its thread opens them, a few at a time; counts are for other threads.
class Streams {
 public:
  Streams(const std::string& address, std::string key, int32_t count)
      : key_(std::move(key)), count_(count) {
    error_code error;
    const auto parsed = ParseAddress(address);
    if (parsed.ok()) {
      endpoint_ = {asio::ip::make_address(parsed->host, error),
                   static_cast<uint16_t>(parsed->port)};
    }
    for (int32_t i = 0; i < std::min(kAtOnce, count_); ++i) OpenNext();
    thread_ = std::thread([this] {
      SetThreadName("bench-streams");
      io_.run();
    });
  }
  ~Streams() {
    io_.stop();
    thread_.join();
  }

  int32_t begun() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return begun_;
  }
  absl::Status error() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return error_;
  }

 private:
  struct Stream {
    explicit Stream(asio::io_context& io) : socket(io) {}
    asio::ip::tcp::socket socket;
    std::string request;
    std::string answer;  // until it has begun
    char buffer[512];
    bool begun = false;
  };

  void OpenNext() {
    if (next_ == count_) return;
    auto stream = std::make_shared<Stream>(io_);
    const nlohmann::json body = {
        {"messages", {{{"role", "user"}, {"content", absl::StrCat("Tell me story ", next_, ".")}}}},
        {"temperature", 0},
        {"max_tokens", 2},
        {"ignore_eos", true},
        {"pace", 0.01},
        {"stream", true}};
    stream->request = HttpRequest("/v1/chat/completions", key_, body.dump());
    ++next_;
    stream->socket.async_connect(endpoint_, [this, stream](error_code failed) {
      if (failed) return Fail("cannot connect: " + failed.message());
      asio::async_write(stream->socket, asio::buffer(stream->request),
                        [this, stream](error_code broken, size_t) {
                          broken ? Fail("cannot write: " + broken.message()) : Read(stream);
                        });
    });
  }

  void Read(std::shared_ptr<Stream> stream) {
    stream->socket.async_read_some(
        asio::buffer(stream->buffer), [this, stream](error_code failed, size_t size) {
          if (failed) {
            return Fail(absl::StrCat("a stream ended: ", failed.message(), " ",
                                     stream->answer.substr(0, 300)));
          }
          if (!stream->begun) {
            stream->answer.append(stream->buffer, size);
            if (stream->answer.size() > 15 && !stream->answer.starts_with("HTTP/1.1 200")) {
              return Fail(stream->answer.substr(0, 300));
            }
            if (stream->answer.find("\"content\":") != std::string::npos) Begin(*stream);
          }
          Read(stream);
        });
  }

  void Begin(Stream& stream) {
    stream.begun = true;
    stream.answer = {};
    stream.request = {};
    {
      MutexLock lock(mutex_);
      ++begun_;
    }
    OpenNext();
  }

  void Fail(const std::string& why) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (error_.ok()) error_ = absl::UnavailableError(why);
  }

  const std::string key_;
  const int32_t count_;
  asio::io_context io_{1};
  asio::ip::tcp::endpoint endpoint_;
  int32_t next_ = 0;
  mutable Mutex mutex_;
  int32_t begun_ GUARDED_BY(mutex_) = 0;
  absl::Status error_ GUARDED_BY(mutex_);
  std::thread thread_;
};

absl::Status AllowFiles(int32_t streams) {
  rlimit limit{};
  const auto wanted = static_cast<rlim_t>(streams) + kOtherFiles;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return absl::OkStatus();
  if (limit.rlim_max < wanted) {
    return absl::FailedPreconditionError(
        absl::StrCat(streams, " streams take as many open files, and this process may have ",
                     limit.rlim_max, " (ulimit -Hn); raise that, or ask for fewer: --streams ",
                     limit.rlim_max - std::min<rlim_t>(limit.rlim_max, kOtherFiles)));
  }
  limit.rlim_cur = wanted;
  setrlimit(RLIMIT_NOFILE, &limit);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Figure>> MeasureStreams(const RowContext& context) {
  RETURN_IF_ERROR(AllowFiles(context.streams));
  context.progress("starts a cluster");
  // A class may fill a part of the places only.
  const std::string places = absl::StrCat(2 * context.streams + kOtherFiles);
  ASSIGN_OR_RETURN(
      const auto cluster,
      BenchCluster::Start(
          {.model = context.model,
           .tenants = {{.name = "bench"}},
           // Every request runs: none only waits. Short contexts, so that the engine has memory.
           .flags = {"--workers", "0", "--gateway-max-running", places, "--gateway-max-connections",
                     places, "--engine-max-batch", places, "--engine-max-waiting", places,
                     "--engine-context", "64", "--engine-kv-memory", "1GiB"},
           .interrupted = context.interrupted}));
  ASSIGN_OR_RETURN(const int64_t before, ResidentBytes(cluster->gateway_pid()));
  const auto start = steady_clock::now();
  context.progress(absl::StrCat("opens ", context.streams, " streams"));
  int64_t open = 0;
  double cpu = 0;
  {
    Streams streams(cluster->http_address(), cluster->key(0), context.streams);
    auto told = start;
    while (streams.begun() < context.streams && !context.interrupted->load()) {
      RETURN_IF_ERROR(streams.error());
      const auto now = steady_clock::now();
      if (now - start > kPatience) {
        return absl::DeadlineExceededError(
            absl::StrCat("only ", streams.begun(), " of ", context.streams, " streams began"));
      }
      if (now - told > std::chrono::seconds(5)) {
        context.progress(absl::StrCat(streams.begun(), " are open"));
        told = now;
      }
      std::this_thread::sleep_for(kPoll);
    }
    const std::chrono::duration<double> opening = steady_clock::now() - start;
    context.progress(absl::StrCat("all are open after ", opening.count(), " s; holds them"));
    ASSIGN_OR_RETURN(const double cpu_before, CpuSeconds(cluster->gateway_pid()));
    std::this_thread::sleep_for(FromSeconds(context.seconds));
    ASSIGN_OR_RETURN(const double cpu_after, CpuSeconds(cluster->gateway_pid()));
    ASSIGN_OR_RETURN(open, ResidentBytes(cluster->gateway_pid()));
    RETURN_IF_ERROR(streams.error());
    cpu = (cpu_after - cpu_before) / context.seconds;
  }
  const std::chrono::duration<double> opening = steady_clock::now() - start;
  return std::vector<Figure>{
      {.name = absl::StrCat("memory with ", context.streams, " streams"),
       .value = static_cast<double>(open) / kMiB,
       .unit = "MiB",
       .most = 600},
      {.name = "memory before", .value = static_cast<double>(before) / kMiB, .unit = "MiB"},
      {.name = "memory for each stream",
       .value = static_cast<double>(open - before) / 1024 / context.streams,
       .unit = "KiB"},
      {.name = "processor while they are open", .value = 100 * cpu, .unit = "% of one"},
      {.name = "opening and holding them", .value = opening.count(), .unit = "s"}};
}

}  // namespace conclave::cli
