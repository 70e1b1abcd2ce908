// Whether a tenant can tell by status or by time what another one has asked: it asks the other's
// questions and new ones in random order, and the times of both are told apart or not.
#include <algorithm>
#include <cmath>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cli/bench_cluster/bench_cluster.h"
#include "services/cli/gateway_bench/computed.h"
#include "services/cli/gateway_bench/kept_answer.h"
#include "services/cli/gateway_bench/row.h"
#include "services/cli/percentiles.h"
#include "shared/base/mutex.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

// Of either kind, for each second asked for. The AUC of equal times has a standard deviation of
// sqrt(1 / (6 n)): 0.0065 with 4000.
constexpr double kQuestionsASecond = 800;
constexpr int32_t kAtOnce = 2;
constexpr int32_t kTokens = 2;
constexpr std::chrono::seconds kPatience{60};

// Long enough to fill blocks of the KV cache, where a shared beginning could be found, and
// different from its first words on.
v1::GenerateRequest LongQuestion(int64_t number) {
  v1::GenerateRequest request = Question(0, kTokens);
  request.mutable_chat()->mutable_messages(0)->set_content(absl::StrCat(
      number,
      " times a fox, who had never seen a lion, met one by chance in the forest and was so "
      "frightened that it nearly died with fear. Tell what it said the next time."));
  return request;
}

struct Asked {
  int64_t number = 0;
  bool known = false;  // the other tenant has asked it
  double seconds = 0;
  v1::CacheStatus cache = v1::CACHE_STATUS_UNSPECIFIED;
};

// Asks all, a few at once, and fills in what came.
absl::Status AskAll(const RowContext& context, const BenchCluster& cluster, size_t tenant,
                    std::vector<Asked>* questions) {
  Connections connections(cluster.grpc_address(), 1);
  CompleteSender sender(&connections, cluster.key(tenant));
  std::atomic<size_t> next{0};
  Mutex mutex;
  absl::Status first_error;
  std::vector<std::thread> threads;
  for (int32_t i = 0; i < kAtOnce; ++i) {
    threads.emplace_back([&] {
      for (size_t at = next++; at < questions->size() && !context.interrupted->load();
           at = next++) {
        Asked& asked = (*questions)[at];
        const grpc::ByteBuffer bytes = BufferOf(LongQuestion(asked.number));
        const auto start = std::chrono::steady_clock::now();
        const absl::Status status = Await([&](SentDone done) {
          sender.Send(
              bytes, kPatience,
              [&](const grpc::ByteBuffer& got) {
                const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
                asked.seconds = took.count();
                v1::CompleteResponse response;
                if (response.ParseFromString(BytesOf(got))) {
                  asked.cache = response.started().cache();
                }
              },
              std::move(done));
        });
        if (!status.ok()) {
          MutexLock lock(mutex);
          first_error = status;
          return;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return first_error;
}

}  // namespace

absl::StatusOr<std::vector<Figure>> MeasureIsolation(const RowContext& context) {
  context.progress("starts a cluster");
  ASSIGN_OR_RETURN(const auto cluster,
                   BenchCluster::Start({.model = context.model,
                                        .tenants = {{.name = "one"}, {.name = "other"}},
                                        .flags = {"--workers", "0"},
                                        .interrupted = context.interrupted}));
  const auto count = static_cast<int64_t>(std::ceil(kQuestionsASecond * context.seconds));
  std::vector<Asked> of_one, of_other;
  for (int64_t i = 0; i < count; ++i) {
    of_one.push_back({.number = i});
    of_other.push_back({.number = i, .known = true});
    of_other.push_back({.number = count + i});
  }
  std::shuffle(of_other.begin(), of_other.end(), std::mt19937_64(7));
  context.progress(absl::StrCat("one tenant asks ", count, " questions"));
  RETURN_IF_ERROR(AskAll(context, *cluster, 0, &of_one));
  context.progress(absl::StrCat("the other asks them, and ", count, " of its own"));
  RETURN_IF_ERROR(AskAll(context, *cluster, 1, &of_other));
  context.progress("the first asks again: what could be told without isolation");
  std::vector<Asked> again = of_one;
  RETURN_IF_ERROR(AskAll(context, *cluster, 0, &again));
  std::vector<double> known, fresh, kept;
  int64_t crossed = 0, hits = 0;
  for (const Asked& asked : of_other) {
    (asked.known ? known : fresh).push_back(asked.seconds);
    crossed += asked.cache != v1::CACHE_STATUS_MISS;
  }
  for (const Asked& asked : again) {
    kept.push_back(asked.seconds);
    hits += asked.cache == v1::CACHE_STATUS_HIT;
  }
  return std::vector<Figure>{
      {.name = "the other's answers not computed for it",
       .value = static_cast<double>(crossed),
       .unit = "answers",
       .most = 0},
      {.name = "AUC of times, known to one or new",
       .value = AreaUnderCurve(fresh, known),
       .unit = "",
       .least = 0.48,
       .most = 0.52},
      {.name = "AUC of times, its own kept answers or new",
       .value = AreaUnderCurve(fresh, kept),
       .unit = ""},
      {.name = "its own questions again, kept",
       .value = 100.0 * static_cast<double>(hits) / static_cast<double>(again.size()),
       .unit = "%"},
      {.name = "questions of each kind", .value = static_cast<double>(count), .unit = "questions"}};
}

}  // namespace conclave::cli
