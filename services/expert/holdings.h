// Keeps the experts that the topology names loaded, and nothing else.
//
// Owns one thread ("expert-loader") that loads, with a pool of further ones meanwhile, and
// releases; SetTarget is called on the membership's thread. What to release and when is the
// controller's decision: it names an expert until no engine asks this worker for it any more.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include "kernels/thread_pool.h"
#include "shared/base/mutex.h"
#include "shared/experts/expert_set.h"
#include "shared/placement/topology.h"

namespace conclave::expert {

class Holdings {
 public:
  struct Options {
    int64_t capacity_bytes = 0;       // experts beyond it are not loaded; 0: no limit
    int64_t expert_bytes = 0;         // of one expert
    int num_threads = 1;              // to load with
    std::function<void()> on_change;  // after holdings changed, on the loader thread; at most about
                                      // ten times a second
  };

  // Borrows the set, which outlives it.
  Holdings(Options options, experts::ExpertSet* experts);
  ~Holdings();  // stops after the expert being loaded

  // When it has returned, nothing of the target is released any more.
  void SetTarget(placement::ExpertKeys target) EXCLUDES(mutex_);

  // Releases nothing from now on, and loads nothing after the expert in work: who leaves serves
  // what it has to its end.
  void Freeze() EXCLUDES(mutex_);

  placement::ExpertKeys Held() const;
  bool settled() const EXCLUDES(mutex_);  // a target is set, and it is what is held
  std::string Note() const
      EXCLUDES(mutex_);  // "loading 41 %", why something cannot be loaded, or empty

 private:
  void Run();
  // Loads some experts or releases one; false when nothing is to be done, or could be.
  bool Step(const placement::ExpertKeys& target, kernels::ThreadPool* pool);

  const Options options_;
  experts::ExpertSet& experts_;
  placement::ExpertKey last_tried_{-1, -1};  // of the loading thread alone
  mutable Mutex mutex_;
  CondVar changed_;
  placement::ExpertKeys target_ GUARDED_BY(mutex_);
  bool has_target_ GUARDED_BY(mutex_) = false;
  bool settled_ GUARDED_BY(mutex_) = false;
  bool frozen_ GUARDED_BY(mutex_) = false;
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::string problem_ GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace conclave::expert
