// Requests that engines have to compute: never kept, never alike, all of the same length.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "conclave/v1/inference.pb.h"
#include "services/cli/bench_cluster/bench_cluster.h"
#include "services/cli/gateway_bench/load.h"
#include "services/cli/gateway_bench/senders.h"

namespace conclave::cli {

// Greedy, of exactly `tokens` tokens.
v1::GenerateRequest Computed(int64_t number, int32_t tokens, v1::QosClass qos);

// Sends such requests of one tenant and class, each another one.
class ComputedLoad {
 public:
  struct Options {
    size_t tenant = 0;
    int32_t tokens = 0;
    v1::QosClass qos = v1::QOS_CLASS_UNSPECIFIED;
    std::chrono::milliseconds timeout{0};  // 0: none
  };
  ComputedLoad(const BenchCluster& cluster, const Options& options);
  // Valid as long as this.
  Sender sender();

 private:
  const Options options_;
  Connections connections_;
  CompleteSender complete_;
  std::atomic<int64_t> next_{0};
};

}  // namespace conclave::cli
