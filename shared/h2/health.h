// grpc.health.v1.Health: what is served, asked once (Check) or followed (Watch).
//
// Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shared/base/mutex.h"
#include "shared/h2/server.h"

namespace conclave::h2 {

class HealthStates {
 public:
  // A call that follows one service's state.
  class Watcher {
   public:
    virtual ~Watcher() = default;
    virtual void OnState(std::optional<bool> serving) = 0;
  };

  // Services besides "", the process; they begin as not serving.
  void Declare(const std::vector<std::string>& names) EXCLUDES(mutex_);
  void SetServing(bool serving) EXCLUDES(mutex_);
  // Nothing: no such service.
  std::optional<bool> Of(const std::string& name) const EXCLUDES(mutex_);
  // Tells the watcher the state now and each change, while it lives.
  void Follow(const std::string& name, std::weak_ptr<Watcher> watcher) EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  std::map<std::string, bool> serving_ GUARDED_BY(mutex_) = {{"", false}};
  std::vector<std::pair<std::string, std::weak_ptr<Watcher>>> watchers_ GUARDED_BY(mutex_);
};

// `states` outlives the server's calls.
Service HealthService(HealthStates* states);

}  // namespace conclave::h2
