// grpc.health.v1.Health: what is served, asked once (Check) or followed (Watch).
//
// Thread-safe.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
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
  // Tells the watcher the state now and each change, until Unfollow, which is to come once.
  using Watchers = std::list<std::pair<std::string, std::weak_ptr<Watcher>>>;
  Watchers::iterator Follow(const std::string& name, const std::shared_ptr<Watcher>& watcher)
      EXCLUDES(mutex_);
  void Unfollow(Watchers::iterator watcher) EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  std::map<std::string, bool> serving_ GUARDED_BY(mutex_) = {{"", false}};
  Watchers watchers_ GUARDED_BY(mutex_);
};

// `states` outlives the server's calls.
Service HealthService(HealthStates* states);

}  // namespace conclave::h2
