#include "services/expert/holdings.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shared/base/byte_size.h"
#include "shared/base/log.h"
#include "shared/base/thread_name.h"

namespace conclave::expert {
namespace {

constexpr std::chrono::milliseconds kIdleWait{500};
// Each report of what is held makes the controller tell everybody.
constexpr std::chrono::milliseconds kReportPeriod{500};
// An expert that could not be loaded is tried again after this.
constexpr std::chrono::milliseconds kRetryDelay{1000};

weights::ExpertId IdOf(const placement::ExpertKey& key) { return {key.layer, key.expert}; }

}  // namespace

Holdings::Holdings(Options options, experts::ExpertSet* experts)
    : options_(std::move(options)), experts_(*experts) {
  thread_ = std::thread([this] { Run(); });
}

Holdings::~Holdings() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void Holdings::SetTarget(placement::ExpertKeys target) {
  {
    MutexLock lock(mutex_);
    if (has_target_ && target == target_) return;
    target_ = std::move(target);
    has_target_ = true;
    settled_ = false;
  }
  changed_.NotifyAll();
}

void Holdings::Freeze() {
  MutexLock lock(mutex_);  // Step releases under it
  frozen_ = true;
}

placement::ExpertKeys Holdings::Held() const {
  placement::ExpertKeys held;
  for (const weights::ExpertId& id : experts_.Held()) held.insert({id.layer, id.expert});
  return held;
}

bool Holdings::settled() const {
  MutexLock lock(mutex_);
  return has_target_ && settled_;
}

std::string Holdings::Note() const {
  const size_t held = experts_.Held().size();
  MutexLock lock(mutex_);
  if (!problem_.empty()) return problem_;
  if (!has_target_) return "waiting for a placement";
  if (settled_ || target_.empty()) return "";
  return absl::StrCat("loading ", std::min<size_t>(100, held * 100 / target_.size()), " %");
}

bool Holdings::Step(const placement::ExpertKeys& target, kernels::ThreadPool* pool) {
  const placement::ExpertKeys held = Held();
  // Releasing first makes room. By the target of this moment: once SetTarget has returned, nothing
  // that it names goes any more.
  for (const placement::ExpertKey& key : held) {
    if (target.contains(key)) continue;
    MutexLock lock(mutex_);
    if (frozen_ || target_.contains(key)) return true;
    experts_.Release(IdOf(key));
    return true;
  }
  const size_t most = experts::NumAtOnce(options_.expert_bytes);
  // From those on that were tried last, so that some that cannot be loaded do not stop the others.
  std::vector<weights::ExpertId> missing;
  const auto first = target.upper_bound(last_tried_);
  const auto collect = [&](auto from, auto to) {
    for (auto key = from; key != to && missing.size() < most; ++key) {
      if (!held.contains(*key)) missing.push_back(IdOf(*key));
    }
  };
  collect(first, target.end());
  collect(target.begin(), first);
  if (missing.empty()) return false;
  last_tried_ = {missing.back().layer, missing.back().expert};
  absl::Status loaded;
  if (options_.capacity_bytes > 0) {
    const int64_t room = options_.capacity_bytes - static_cast<int64_t>(experts_.bytes());
    const int64_t fit = room / std::max<int64_t>(options_.expert_bytes, 1);
    if (fit < 1) {
      loaded = absl::ResourceExhaustedError(absl::StrCat(
          "layer ", missing[0].layer, " expert ", missing[0].expert,
          " does not fit: ", FormatBytes(static_cast<int64_t>(experts_.bytes())), " of ",
          FormatBytes(options_.capacity_bytes), " are taken; raise expert.memory or add a worker"));
    }
    missing.resize(static_cast<size_t>(
        std::min<int64_t>(std::max<int64_t>(fit, 0), static_cast<int64_t>(missing.size()))));
  }
  if (loaded.ok()) loaded = experts_.LoadAll(missing, pool);
  const bool changed = experts_.Held().size() > held.size();
  MutexLock lock(mutex_);
  if (!loaded.ok() && problem_.empty())
    LogError("cannot load an expert", {{"reason", std::string(loaded.message())}});
  problem_ = std::string(loaded.message());
  return changed;
}

void Holdings::Run() {
  SetThreadName("expert-loader");
  auto reported = std::chrono::steady_clock::now();
  bool unreported = false;
  std::unique_ptr<kernels::ThreadPool> pool;  // while there is something to do
  while (true) {
    placement::ExpertKeys target;
    bool idle;
    {
      MutexLock lock(mutex_);
      if (stopping_) return;
      idle = !has_target_ || settled_ || frozen_;
      if (idle && pool == nullptr) changed_.WaitFor(mutex_, kIdleWait);
      target = target_;
    }
    if (idle) {
      pool.reset();
      continue;
    }
    if (pool == nullptr) pool = std::make_unique<kernels::ThreadPool>(options_.num_threads);
    const bool changed = Step(target, pool.get());
    unreported |= changed;
    bool failed = false;
    if (!changed) {
      MutexLock lock(mutex_);
      failed = !problem_.empty();
      settled_ = !failed && target == target_;
      unreported |= settled_;
    }
    const auto now = std::chrono::steady_clock::now();
    if (unreported && (!changed || now - reported >= kReportPeriod)) {
      if (options_.on_change) options_.on_change();
      reported = now;
      unreported = false;
    }
    if (failed) {
      MutexLock lock(mutex_);
      if (!stopping_ && target == target_) changed_.WaitFor(mutex_, kRetryDelay);
    }
  }
}

}  // namespace conclave::expert
