#include "services/gateway/cache/response_cache.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <unordered_map>
#include <utility>

#include "services/gateway/cache/frequency_sketch.h"
#include "shared/base/mutex.h"

namespace conclave::gateway {

namespace {

// Shares of a part's bytes.
constexpr double kWindowShare = 0.01;
constexpr double kProtectedShare = 0.8;  // of the main part
// For the sketch's size: short answers.
constexpr size_t kLeastEntryBytes = 1024;
// Of an entry beside its answer: list node, index, key.
constexpr size_t kEntryOverhead = 200;

uint64_t WordOf(const CacheKey& key, size_t index) {
  uint64_t word = 0;
  std::memcpy(&word, key.data() + 8 * index, sizeof word);
  return word;
}

struct KeyHash {
  size_t operator()(const CacheKey& key) const { return WordOf(key, 0); }
};

template <typename T>
size_t BytesOf(const std::vector<T>& values) {
  return values.capacity() * sizeof(T);
}

}  // namespace

size_t RecordedGeneration::bytes() const {
  size_t total =
      sizeof *this + system_fingerprint.capacity() + prompt_ids.bytes() + BytesOf(choices);
  for (const RecordedChoice& choice : choices) {
    total += BytesOf(choice.ids) + choice.text.capacity() + BytesOf(choice.logprobs) +
             choice.stop.capacity() + choice.last_text.capacity() + BytesOf(choice.counted_ids);
    for (const PositionLogprobs& position : choice.logprobs) total += BytesOf(position.top);
  }
  return total;
}

// One lock's worth of the cache.
class ResponseCache::Part {
 public:
  Part(size_t capacity_bytes, Duration ttl, const Clock* clock)
      : ttl_(ttl),
        clock_(clock),
        window_capacity_(static_cast<size_t>(kWindowShare * static_cast<double>(capacity_bytes))),
        main_capacity_(capacity_bytes - window_capacity_),
        protected_capacity_(
            static_cast<size_t>(kProtectedShare * static_cast<double>(main_capacity_))),
        sketch_(capacity_bytes / kLeastEntryBytes) {}

  std::shared_ptr<const RecordedGeneration> Find(const CacheKey& key) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    sketch_.Count(WordOf(key, 1));
    const auto found = index_.find(key);
    if (found == index_.end()) return nullptr;
    const Entry entry = found->second;
    if (clock_->Now() >= entry->expires) {
      ++counts_.expired;
      Drop(entry);
      return nullptr;
    }
    switch (entry->where) {
      case Where::kWindow:
        window_.entries.splice(window_.entries.begin(), window_.entries, entry);
        break;
      case Where::kProtected:
        protected_.entries.splice(protected_.entries.begin(), protected_.entries, entry);
        break;
      case Where::kProbation:
        Move(entry, Where::kProtected);
        while (protected_.bytes > protected_capacity_) {
          Move(std::prev(protected_.entries.end()), Where::kProbation);
        }
        break;
    }
    return entry->answer;
  }

  void Put(const CacheKey& key, std::shared_ptr<const RecordedGeneration> answer) EXCLUDES(mutex_) {
    const size_t bytes = answer->bytes() + kEntryOverhead;
    MutexLock lock(mutex_);
    if (const auto found = index_.find(key); found != index_.end()) Drop(found->second);
    if (bytes > main_capacity_) {
      ++counts_.rejected;
      return;
    }
    window_.entries.push_front({.key = key,
                                .answer = std::move(answer),
                                .bytes = bytes,
                                .expires = clock_->Now() + ttl_,
                                .where = Where::kWindow});
    window_.bytes += bytes;
    index_[key] = window_.entries.begin();
    while (window_.bytes > window_capacity_) LeaveWindow(std::prev(window_.entries.end()));
  }

  Counts counts() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    Counts counts = counts_;
    counts.entries = static_cast<int64_t>(index_.size());
    counts.bytes = static_cast<int64_t>(window_.bytes + probation_.bytes + protected_.bytes);
    return counts;
  }

 private:
  enum class Where { kWindow, kProbation, kProtected };
  struct Held {
    CacheKey key;
    std::shared_ptr<const RecordedGeneration> answer;
    size_t bytes = 0;
    TimePoint expires;
    Where where = Where::kWindow;
  };
  using Entry = std::list<Held>::iterator;
  struct Segment {
    std::list<Held> entries;  // used last first
    size_t bytes = 0;
  };

  Segment& SegmentOf(Where where) REQUIRES(mutex_) {
    return where == Where::kWindow ? window_ : where == Where::kProbation ? probation_ : protected_;
  }

  void Move(Entry entry, Where to) REQUIRES(mutex_) {
    Segment& from = SegmentOf(entry->where);
    Segment& into = SegmentOf(to);
    into.entries.splice(into.entries.begin(), from.entries, entry);
    from.bytes -= entry->bytes;
    into.bytes += entry->bytes;
    entry->where = to;
  }

  void Drop(Entry entry) REQUIRES(mutex_) {
    Segment& in = SegmentOf(entry->where);
    in.bytes -= entry->bytes;
    index_.erase(entry->key);
    in.entries.erase(entry);
  }

  // Into the main part, if it was asked for more often than all that would have to make room.
  void LeaveWindow(Entry candidate) REQUIRES(mutex_) {
    const int32_t frequency = sketch_.Frequency(WordOf(candidate->key, 1));
    size_t used = probation_.bytes + protected_.bytes;
    int32_t victims_frequency = 0;
    std::vector<Entry> victims;
    const TimePoint now = clock_->Now();
    const auto collect = [&](Segment& from) REQUIRES(mutex_) {
      for (auto it = from.entries.end();
           used + candidate->bytes > main_capacity_ && it != from.entries.begin();) {
        --it;
        victims.push_back(it);
        used -= it->bytes;
        if (now < it->expires) victims_frequency += sketch_.Frequency(WordOf(it->key, 1));
      }
    };
    collect(probation_);
    collect(protected_);
    if (victims_frequency > 0 && frequency <= victims_frequency) {
      ++counts_.rejected;
      Drop(candidate);
      return;
    }
    counts_.evicted += static_cast<int64_t>(victims.size());
    for (const Entry victim : victims) Drop(victim);
    Move(candidate, Where::kProbation);
  }

  const Duration ttl_;
  const Clock* const clock_;
  const size_t window_capacity_, main_capacity_, protected_capacity_;
  mutable Mutex mutex_;
  FrequencySketch sketch_ GUARDED_BY(mutex_);
  Segment window_ GUARDED_BY(mutex_), probation_ GUARDED_BY(mutex_), protected_ GUARDED_BY(mutex_);
  std::unordered_map<CacheKey, Entry, KeyHash> index_ GUARDED_BY(mutex_);
  Counts counts_ GUARDED_BY(mutex_);
};

ResponseCache::ResponseCache(ResponseCacheOptions options, const Clock* clock) : options_(options) {
  const size_t num_parts = std::max<size_t>(options_.num_parts, 1);
  for (size_t i = 0; i < num_parts; ++i) {
    parts_.push_back(
        std::make_unique<Part>(options_.capacity_bytes / num_parts, options_.ttl, clock));
  }
}

ResponseCache::~ResponseCache() = default;

std::shared_ptr<const RecordedGeneration> ResponseCache::Find(const CacheKey& key) {
  return PartOf(key).Find(key);
}

void ResponseCache::Put(const CacheKey& key, std::shared_ptr<const RecordedGeneration> answer) {
  PartOf(key).Put(key, std::move(answer));
}

ResponseCache::Counts ResponseCache::counts() const {
  Counts total;
  for (const auto& part : parts_) {
    const Counts counts = part->counts();
    total.entries += counts.entries;
    total.bytes += counts.bytes;
    total.evicted += counts.evicted;
    total.rejected += counts.rejected;
    total.expired += counts.expired;
  }
  return total;
}

ResponseCache::Part& ResponseCache::PartOf(const CacheKey& key) {
  return *parts_[WordOf(key, 2) % parts_.size()];
}

}  // namespace conclave::gateway
