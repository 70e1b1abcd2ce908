#include "services/engine/scheduler.h"

#include <algorithm>
#include <cmath>
#include <ranges>
#include <span>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "kernels/attention.h"
#include "shared/base/check.h"

namespace conclave::engine {
namespace {

// How long a sequence without a deadline is served after those whose deadline is earlier.
constexpr Duration kPatience = std::chrono::seconds(30);
// A parked sequence is tried again after this long.
constexpr Duration kParkedRetry = std::chrono::milliseconds(50);
// A sequence of a lower class gets a row at least in every so manyth step, however busy the classes
// above are.
constexpr uint64_t kMostSkippedSteps = 4;
// How much longer than alone an urgent step may become by the rows of other classes, and every so
// manyth one.
constexpr double kUrgentStretch = 1.05;
constexpr double kRareStretch = 4;
constexpr uint64_t kRareStep = 512;  // well beyond the 99th percentile
// Of so many urgent steps this many, one after the other, are alone.
constexpr uint64_t kUrgentCycle = 128;
constexpr uint64_t kAloneSteps = 16;
// A step is undisturbed when so many have been alone before it.
constexpr uint64_t kSettlingSteps = 8;
// The first prefill of a step gets at least this many tokens, so that a budget below the cost of
// one still makes progress.
constexpr int64_t kLeastChunk = 16;

// What `count` rows from position `first` on attend to in all.
int64_t ContextOf(int64_t first, int64_t count) { return count * first + count * (count + 1) / 2; }

StepShape WithDecode(StepShape shape, const Sequence& sequence) {
  ++shape.decode_rows;
  shape.context_tokens += ContextOf(sequence.num_computed, 1);
  return shape;
}

StepShape WithPrefill(StepShape shape, const Sequence& sequence, int64_t count) {
  shape.prefill_tokens += static_cast<int32_t>(count);
  shape.context_tokens += ContextOf(sequence.num_computed, count);
  return shape;
}

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

bool Scheduler::InOrder::operator()(const Sequence* a, const Sequence* b) const {
  return std::tuple(a->request.qos, a->order_time, a->arrival) <
         std::tuple(b->request.qos, b->order_time, b->arrival);
}

Scheduler::Scheduler(SchedulerOptions options, KvCache* cache, const StepTimes* step_times,
                     const Clock* clock)
    : options_(std::move(options)), cache_(cache), step_times_(step_times), clock_(clock) {
  CONCLAVE_CHECK(options_.max_batch > 0 && options_.max_step_tokens > 0 &&
                 options_.context_tokens > 1);
}

Scheduler::~Scheduler() {
  for (auto& [key, sequence] : sequences_) FreeBlocks(sequence.get());
}

absl::Status Scheduler::Add(SequenceRequest request) {
  now_ = clock_->Now();
  if (sequences_.contains(request.key)) {
    return absl::AlreadyExistsError(absl::StrCat(
        "sequence ", request.key.id,
        " is running already on this stream: this start is refused, the first one goes on"));
  }
  const int64_t num_ids =
      static_cast<int64_t>(request.prompt_ids.size() + request.generated_ids.size());
  if (num_ids > options_.context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the sequence has ", num_ids, " tokens and the context ", options_.context_tokens));
  }
  if (num_ids > cache_->capacity_tokens()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the sequence has ", num_ids, " tokens and the KV cache holds ",
                     cache_->capacity_tokens(), ": raise kv_memory"));
  }
  const int64_t room = options_.max_waiting + std::max(0, options_.max_batch - num_running());
  if (num_waiting() >= room) {
    return absl::ResourceExhaustedError(
        absl::StrCat(num_waiting(), " sequences are waiting and at most ", options_.max_waiting,
                     " may: try again later"));
  }

  auto sequence = std::make_unique<Sequence>();
  sequence->ids = request.prompt_ids;
  sequence->ids.insert(sequence->ids.end(), request.generated_ids.begin(),
                       request.generated_ids.end());
  const int64_t num_prompt = static_cast<int64_t>(request.prompt_ids.size());
  const int64_t most = std::min(options_.context_tokens, cache_->capacity_tokens());
  sequence->length_limit =
      request.max_tokens < most - num_prompt ? num_prompt + request.max_tokens : most;
  sequence->arrival = next_arrival_++;
  sequence->order_time = request.arrived + kPatience;
  if (request.remaining.has_value()) {
    sequence->deadline = request.arrived + *request.remaining;
    sequence->order_time = std::min(sequence->order_time, sequence->deadline);
  }
  sequence->last_step = step_;
  sequence->request = std::move(request);
  waiting_.insert(sequence.get());
  sequences_.emplace(sequence->request.key, std::move(sequence));
  return absl::OkStatus();
}

std::unique_ptr<Sequence> Scheduler::Remove(const SequenceKey& key) {
  const auto at = sequences_.find(key);
  if (at == sequences_.end()) return nullptr;
  now_ = clock_->Now();
  std::unique_ptr<Sequence> sequence = std::move(at->second);
  sequences_.erase(at);
  (sequence->running ? running_ : waiting_).erase(sequence.get());
  FreeBlocks(sequence.get());
  return sequence;
}

std::vector<SequenceKey> Scheduler::Keys() const {
  std::vector<SequenceKey> keys;
  for (const auto& [key, sequence] : sequences_) keys.push_back(key);
  return keys;
}

std::vector<SequenceKey> Scheduler::KeysOfStream(uint64_t stream) const {
  std::vector<SequenceKey> keys;
  for (auto at = sequences_.lower_bound({stream, 0});
       at != sequences_.end() && at->first.stream == stream; ++at) {
    keys.push_back(at->first);
  }
  return keys;
}

Sequence* Scheduler::Find(const SequenceKey& key) const {
  const auto at = sequences_.find(key);
  return at == sequences_.end() ? nullptr : at->second.get();
}

std::vector<EndedSequence> Scheduler::TakeExpired() {
  now_ = clock_->Now();
  std::vector<std::pair<SequenceKey, absl::Status>> expired;
  for (const auto& [key, sequence] : sequences_) {
    if (sequence->deadline <= now_) {
      expired.emplace_back(
          key, absl::DeadlineExceededError(absl::StrCat(
                   "the deadline passed after ", sequence->num_generated(), " generated tokens")));
    } else if (sequence->missing_since &&
               now_ - *sequence->missing_since >= options_.missing_expert_wait) {
      expired.emplace_back(key, sequence->missing);
    }
  }
  std::vector<EndedSequence> ended;
  for (auto& [key, status] : expired) ended.push_back({Remove(key), std::move(status)});
  return ended;
}

StepPlan Scheduler::Plan() {
  now_ = clock_->Now();
  planned_at_ = now_;
  GiveDecodeBlocks();
  StepPlan plan;
  limit_ms_ = options_.step_budget_ms;
  may_be_long_ = !AnyGenerates();
  urgent_ = false;
  bool may_admit = true;
  bool first_class = true;
  for (QosClass qos : kQosClasses) {
    PlanDecodes(qos, first_class, &plan);
    may_admit = PlanPrefills(qos, may_admit, &plan);
    if (!plan.sequences.empty()) first_class = false;
    if (qos == QosClass::kRealtime && !plan.sequences.empty()) GuardUrgent(plan);
  }
  if (!plan.sequences.empty()) {
    ++step_;
    for (PlannedSequence& planned : plan.sequences) {
      planned.sequence->last_step = step_;
      planned.first = !planned.sequence->started;
      planned.sequence->started = true;
    }
  }
  const bool alone = urgent_ && plan.sequences.back().sequence->request.qos == QosClass::kRealtime;
  plan.undisturbed = alone && alone_steps_ >= kSettlingSteps;
  alone_steps_ = alone ? alone_steps_ + 1 : 0;
  return plan;
}

void Scheduler::GuardUrgent(const StepPlan& plan) {
  urgent_ = true;
  const uint64_t turn = urgent_steps_++;
  const double stretch = turn % kUrgentCycle < kAloneSteps   ? 0
                         : turn % kRareStep == kRareStep - 1 ? kRareStretch
                                                             : kUrgentStretch;
  limit_ms_ = stretch * step_times_->urgent.PredictMs(plan.shape);
}

bool Scheduler::AnyGenerates() const {
  // One that is paced or parked will soon be due.
  return std::ranges::any_of(
      running_, [](const Sequence* sequence) { return sequence->num_to_compute() == 1; });
}

// Blocks for the next row of every sequence that could have one, in the order of service: whoever
// is last makes room.
void Scheduler::GiveDecodeBlocks() {
  const std::vector<Sequence*> in_order(running_.begin(), running_.end());
  for (Sequence* sequence : in_order) {
    if (!sequence->running || !Runnable(*sequence)) continue;
    const int32_t missing = BlocksFor(static_cast<int64_t>(sequence->ids.size())) -
                            static_cast<int32_t>(sequence->blocks.size());
    if (missing <= 0) continue;
    CountBlocks(sequence);
    while (sequence->running && !cache_->Allocate(missing, &sequence->blocks))
      Preempt(*running_.rbegin());
  }
}

void Scheduler::PlanDecodes(QosClass qos, bool all, StepPlan* plan) {
  std::vector<Sequence*> rows;
  for (Sequence* sequence : running_) {
    if (sequence->request.qos == qos && sequence->num_to_compute() == 1 && Runnable(*sequence))
      rows.push_back(sequence);
  }
  // Who was served longest ago goes first, so that a budget that some of them exceed is shared.
  std::stable_sort(rows.begin(), rows.end(), [](const Sequence* a, const Sequence* b) {
    return a->last_step < b->last_step;
  });
  for (Sequence* sequence : rows) {
    const StepShape shape = WithDecode(plan->shape, *sequence);
    const bool due = !urgent_ && step_ - sequence->last_step >= kMostSkippedSteps;
    if (!all && !due && !plan->sequences.empty() && PredictMs(shape) > limit_ms_) continue;
    plan->shape = shape;
    plan->sequences.push_back({.sequence = sequence, .num_tokens = 1, .samples = true});
  }
}

// In the order of service: those of the class that hold blocks and are not done with their prompt,
// and as many waiting ones as could find a place in the batch.
std::vector<Sequence*> Scheduler::PrefillCandidates(QosClass qos, bool may_admit) const {
  std::vector<Sequence*> prefilling;
  int64_t places = options_.max_batch - num_running();
  for (Sequence* sequence : running_) {
    if (sequence->request.qos > qos) ++places;
    if (sequence->request.qos == qos && sequence->num_to_compute() > 1 && Runnable(*sequence)) {
      prefilling.push_back(sequence);
    }
  }
  std::vector<Sequence*> admissible;
  if (may_admit) {
    for (Sequence* sequence : waiting_) {
      if (static_cast<int64_t>(admissible.size()) >= places || sequence->request.qos > qos) break;
      if (sequence->request.qos == qos && Runnable(*sequence)) admissible.push_back(sequence);
    }
  }
  std::vector<Sequence*> merged(prefilling.size() + admissible.size());
  std::merge(prefilling.begin(), prefilling.end(), admissible.begin(), admissible.end(),
             merged.begin(), InOrder());
  return merged;
}

// Returns whether later classes may admit: not after a sequence that had to wait for blocks.
bool Scheduler::PlanPrefills(QosClass qos, bool may_admit, StepPlan* plan) {
  if (urgent_) {
    prefill_limit_ms_ = limit_ms_;
  } else if (plan->shape.prefill_tokens == 0) {
    // Not below what takes as long as reading all weights does: smaller parts would mostly read.
    prefill_limit_ms_ = std::max(limit_ms_, PredictMs(plan->shape) + PrefillWorthMs(plan->shape));
  }
  for (Sequence* sequence : PrefillCandidates(qos, may_admit)) {
    if (!sequence->running && !may_admit) continue;  // those that hold blocks already go on
    int64_t chunk = ChunkOf(*sequence, *plan);
    if (chunk == 0) break;
    if (!sequence->running) {
      if (!Admit(sequence)) {
        may_admit = false;
        continue;
      }
      chunk = ChunkOf(*sequence, *plan);  // from where its cached prefix ends
      if (chunk == 0) break;
    }
    plan->shape = WithPrefill(plan->shape, *sequence, chunk);
    plan->sequences.push_back({.sequence = sequence,
                               .num_tokens = chunk,
                               .samples = chunk == sequence->num_to_compute()});
    // Whose prompt is done waits for the step's end from here on.
    if (plan->sequences.back().samples) may_be_long_ = false;
  }
  return may_admit;
}

// How much longer a step becomes by prefill that takes as long as its weights: with the experts
// that the rows so far have not chosen.
double Scheduler::PrefillWorthMs(const StepShape& shape) const {
  const StepCosts costs = step_times_->any.costs();
  const double rows = shape.decode_rows + shape.prefill_tokens;
  return costs.fixed_ms + costs.experts_ms * (1 + std::pow(1 - costs.expert_share, rows));
}

// The longest chunk that keeps the step within its limit for prefill.
int64_t Scheduler::ChunkOf(const Sequence& sequence, const StepPlan& plan) const {
  const int64_t most =
      std::min(sequence.num_to_compute(), options_.max_step_tokens - plan.shape.prefill_tokens);
  if (most <= 0) return 0;
  const bool first = plan.shape.prefill_tokens == 0 && !urgent_;
  const double limit_ms = may_be_long_ && !urgent_
                              ? std::max(prefill_limit_ms_, options_.prefill_budget_ms)
                              : prefill_limit_ms_;
  int64_t fits = first ? std::min(most, kLeastChunk) : 0;
  int64_t too_many = most + 1;
  while (fits + 1 < too_many) {
    const int64_t middle = fits + (too_many - fits) / 2;
    if (PredictMs(WithPrefill(plan.shape, sequence, middle)) <= limit_ms) {
      fits = middle;
    } else {
      too_many = middle;
    }
  }
  return fits;
}

// The address of a full block of the sequence's ids.
const BlockAddress& Scheduler::AddressOf(Sequence* sequence, int64_t block) const {
  std::vector<BlockAddress>& addresses = sequence->addresses;
  while (std::ssize(addresses) <= block) {
    const std::span<const int32_t> ids(
        sequence->ids.data() + std::ssize(addresses) * kernels::kBlockTokens,
        kernels::kBlockTokens);
    addresses.push_back(NextAddress(
        addresses.empty() ? RootAddress(options_.fingerprint, sequence->request.tenant_salt)
                          : addresses.back(),
        ids));
  }
  return addresses[static_cast<size_t>(block)];
}

// The blocks of the longest prefix that the cache has. The last id is left over: what follows it is
// yet to be computed.
std::vector<int32_t> Scheduler::FindPrefix(Sequence* sequence) const {
  std::vector<int32_t> found;
  const int64_t most = (std::ssize(sequence->ids) - 1) / kernels::kBlockTokens;
  while (std::ssize(found) < most) {
    const auto block = cache_->Find(AddressOf(sequence, std::ssize(found)));
    if (!block.has_value()) break;
    found.push_back(*block);
  }
  return found;
}

// Gives a waiting sequence all its blocks, shared ones where the cache has its prefix, if need be
// those of lower classes. One block a running sequence stays free, so that an admission is not
// undone by the next few tokens of the others.
bool Scheduler::Admit(Sequence* sequence) {
  const std::vector<int32_t> prefix = FindPrefix(sequence);
  const int32_t missing =
      BlocksFor(std::ssize(sequence->ids)) - static_cast<int32_t>(prefix.size());
  const std::unordered_set<int32_t> shared(prefix.begin(), prefix.end());
  // What it takes of the free blocks: those to be computed, and of its prefix those without holder.
  const auto taken = missing + std::ranges::count_if(prefix, [this](int32_t block) {
                       return cache_->references(block) == 0;
                     });
  int32_t free = cache_->free_blocks();
  int32_t running = num_running();
  std::vector<Sequence*> victims;
  std::unordered_map<int32_t, int32_t> given_up;  // references, by block
  const auto fits = [&] { return free >= taken + running && running < options_.max_batch; };
  for (auto at = running_.rbegin(); at != running_.rend() && !fits(); ++at) {
    if ((*at)->request.qos <= sequence->request.qos) break;
    victims.push_back(*at);
    for (const int32_t block : (*at)->blocks) {
      // One of the prefix goes from its last holder to this sequence.
      if (shared.contains(block)) continue;
      if (++given_up[block] == cache_->references(block)) ++free;
    }
    --running;
  }
  if (!fits()) return false;
  for (Sequence* victim : victims) Preempt(victim);
  waiting_.erase(sequence);
  CountBlocks(sequence);
  for (const int32_t block : prefix) cache_->AddReference(block);  // before others are taken
  sequence->blocks = prefix;
  CONCLAVE_CHECK(cache_->Allocate(missing, &sequence->blocks));
  sequence->num_sealed = std::ssize(prefix);
  sequence->num_computed = sequence->num_sealed * kernels::kBlockTokens;
  if (!sequence->started) {
    sequence->cached_tokens = std::min(sequence->num_computed, sequence->num_prompt());
  }
  sequence->running = true;
  running_.insert(sequence);
  return true;
}

void Scheduler::Preempt(Sequence* sequence) {
  running_.erase(sequence);
  FreeBlocks(sequence);
  sequence->missing_since.reset();
  sequence->last_step = step_;
  ++sequence->preemptions;
  ++num_preemptions_;
  waiting_.insert(sequence);
}

void Scheduler::FreeBlocks(Sequence* sequence) {
  CountBlocks(sequence);
  // The last one first: of a prefix that is kept, its end goes before its beginning.
  for (const int32_t block : sequence->blocks | std::views::reverse) cache_->Release(block);
  sequence->blocks.clear();
  sequence->running = false;
  sequence->num_computed = 0;
  sequence->num_sealed = 0;
}

// Adds up what the blocks held until now; called before their number changes.
void Scheduler::CountBlocks(Sequence* sequence) {
  if (!sequence->blocks.empty()) {
    sequence->kv_block_seconds +=
        static_cast<double>(sequence->blocks.size()) * Seconds(now_ - sequence->blocks_changed);
  }
  sequence->blocks_changed = now_;
}

void Scheduler::Computed(Sequence* sequence, int64_t num_tokens) {
  sequence->num_computed += num_tokens;
  sequence->missing_since.reset();
  CONCLAVE_CHECK(sequence->num_computed <= static_cast<int64_t>(sequence->ids.size()));
  while ((sequence->num_sealed + 1) * kernels::kBlockTokens <= sequence->num_computed) {
    cache_->Seal(sequence->blocks[sequence->num_sealed], AddressOf(sequence, sequence->num_sealed));
    ++sequence->num_sealed;
  }
}

void Scheduler::Append(Sequence* sequence, int32_t id) {
  sequence->ids.push_back(id);
  if (sequence->request.sampling.pace <= 0) return;
  // Due times are a period apart; after a stall the sequence does not run after what it missed.
  now_ = clock_->Now();
  const Duration period(static_cast<int64_t>(1e9 / sequence->request.sampling.pace));
  sequence->due =
      sequence->due == TimePoint() ? now_ + period : std::max(sequence->due + period, now_);
}

void Scheduler::Park(Sequence* sequence, const absl::Status& missing) {
  now_ = clock_->Now();
  // The step itself may have waited for a worker that did not answer: that time counts.
  if (!sequence->missing_since) sequence->missing_since = planned_at_;
  sequence->missing = missing;
  sequence->retry_at = now_ + kParkedRetry;
}

void Scheduler::RetryParked() {
  for (auto& [key, sequence] : sequences_) sequence->retry_at = TimePoint();
}

bool Scheduler::Runnable(const Sequence& sequence) const {
  return sequence.due <= now_ && sequence.retry_at <= now_;
}

TimePoint Scheduler::NextWake() const {
  const TimePoint now = clock_->Now();
  TimePoint wake = TimePoint::max();
  for (const auto& [key, sequence] : sequences_) {
    wake = std::min(wake, sequence->deadline);
    if (sequence->missing_since)
      wake = std::min(wake, *sequence->missing_since + options_.missing_expert_wait);
    const TimePoint runnable = std::max(sequence->due, sequence->retry_at);
    if (runnable > now) wake = std::min(wake, runnable);
  }
  return wake;
}

int32_t Scheduler::num_parked() const {
  return static_cast<int32_t>(
      std::count_if(running_.begin(), running_.end(),
                    [](const Sequence* s) { return s->missing_since.has_value(); }));
}

int64_t Scheduler::queued_tokens() const {
  int64_t tokens = 0;
  for (const auto& [key, sequence] : sequences_) {
    if (sequence->num_to_compute() > 1) tokens += sequence->num_to_compute();
  }
  return tokens;
}

}  // namespace conclave::engine
