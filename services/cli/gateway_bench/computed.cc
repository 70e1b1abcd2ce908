#include "services/cli/gateway_bench/computed.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cli/gateway_bench/kept_answer.h"

namespace conclave::cli {

v1::GenerateRequest Computed(int64_t number, int32_t tokens, v1::QosClass qos) {
  v1::GenerateRequest request = Question(static_cast<int32_t>(number % INT32_MAX), tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  request.set_qos(qos);
  request.set_cache(v1::CACHE_MODE_OFF);
  return request;
}

ComputedLoad::ComputedLoad(const BenchCluster& cluster, const Options& options)
    : options_(options),
      connections_(cluster.grpc_address(), 1),
      complete_(&connections_, cluster.key(options.tenant)) {}

Sender ComputedLoad::sender() {
  return [this](SentDone done) {
    complete_.Send(BufferOf(Computed(next_.fetch_add(1), options_.tokens, options_.qos)),
                   options_.timeout, nullptr, std::move(done));
  };
}

}  // namespace conclave::cli
