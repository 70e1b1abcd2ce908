// Requests to /v1/chat/completions and /v1/completions, from their arrival until they are submitted
// or refused.
//
// A small request is begun on the HTTP server's I/O thread, and ends there if all of its answers
// are kept and short: that takes less than a change of threads. Prompts are encoded on a worker
// thread, those of larger requests in a prompt lane. Thread-safe.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "services/gateway/frontend.h"
#include "services/gateway/openai_fields.h"
#include "shared/base/mutex.h"
#include "shared/http/server.h"

namespace conclave::gateway {

class HttpGenerations : public std::enable_shared_from_this<HttpGenerations> {
 public:
  // The frontend outlives this.
  HttpGenerations(Frontend* frontend, Duration heartbeat_period);

  // On the I/O thread, for bodies of at most http::kQuickBodyBytes.
  http::Server::Rest Begin(const std::shared_ptr<http::Exchange>& exchange, Endpoint endpoint);
  // On a worker thread.
  void Run(const std::shared_ptr<http::Exchange>& exchange, Endpoint endpoint);

 private:
  struct Job;

  // Before the wait for a thread: who is one too many hears it at once. Null: refused.
  std::shared_ptr<Job> Admit(const std::shared_ptr<http::Exchange>& exchange, Endpoint endpoint);
  void Refuse(Job& job, const absl::Status& status) const;

  // The steps of a job, in this order.
  absl::Status Parse(Job& job) EXCLUDES(mutex_);
  absl::Status Check(Job& job) const;
  absl::Status Submit(Job& job) const;

  // Each name once, so that a client's typo shows and its traffic does not fill the log.
  void LogUnknown(const std::vector<std::string>& names, const char* api) EXCLUDES(mutex_);

  Frontend* const frontend_;
  const Duration heartbeat_period_;
  Mutex mutex_;
  std::set<std::string> logged_names_ GUARDED_BY(mutex_);
};

// On a worker thread. Runs `work` at once for a small request, else when it is the turn of the
// request, and of its tenant, in a prompt lane, unless its client goes away first.
void RunInLane(Frontend* frontend, const std::shared_ptr<http::Exchange>& exchange,
               std::string tenant, std::shared_ptr<text::Interrupt> interrupt,
               std::function<void(const absl::Status&)> work);

}  // namespace conclave::gateway
