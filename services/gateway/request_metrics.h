// The metrics of requests that wait and run, found once: they are counted at every token.
//
// Owned by the core thread. The registry outlives it.
#pragma once

#include "services/gateway/qos/fair_queue.h"
#include "services/gateway/running_request.h"
#include "shared/base/clock.h"
#include "shared/base/qos_class.h"
#include "shared/metrics/registry.h"

namespace conclave::gateway {

class RequestMetrics {
 public:
  explicit RequestMetrics(metrics::Registry* registry);

  metrics::Counter& prompt_tokens;
  metrics::Counter& generated_tokens;

  // A request has been given to an engine after so long in the queue.
  void Waited(QosClass qos, Duration waited);
  // Its first token came so long after its arrival.
  void FirstToken(QosClass qos, Duration took);
  // A request that an engine worked on is over.
  void Ended(const RunningRequest& request);
  // What waits now.
  void Show(const FairQueue& queue, TimePoint now);

 private:
  struct OfClass {
    metrics::Histogram* wait_seconds;
    metrics::Histogram* first_token_seconds;
    metrics::Gauge* requests;
    metrics::Gauge* tokens;
    metrics::Gauge* oldest_seconds;
  };

  metrics::Registry& registry_;
  metrics::Histogram& time_per_output_token_seconds_;
  PerClass<OfClass> of_class_;
};

}  // namespace conclave::gateway
