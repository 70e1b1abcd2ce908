#include "services/engine/stepper.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "shared/base/log.h"

namespace conclave::engine {
namespace {

constexpr int64_t kWarmUpPrompt = 32;
constexpr int64_t kWarmUpTokens = 8;
// A slow model's warm-up ends with the first token after this.
constexpr Duration kWarmUpTime = std::chrono::milliseconds(100);

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

RowOrigin OriginOf(const Sequence& sequence, TimePoint now) {
  RowOrigin origin;
  origin.qos = sequence.request.qos;
  origin.tenant_weight = sequence.request.tenant_weight;
  if (sequence.deadline != TimePoint::max()) {
    // Up, so that no dispatch gives a row up before its time.
    origin.remaining_ms = std::max<int64_t>(
        1, std::chrono::ceil<std::chrono::milliseconds>(sequence.deadline - now).count());
  }
  return origin;
}

}  // namespace

Stepper::Stepper(const Options& options, const Parts& parts)
    : parts_(parts),
      vocab_size_(options.vocab_size),
      step_times_(options.costs),
      scheduler_(options.scheduler, parts.cache, &step_times_, parts.clock),
      sampler_(parts.context),
      missing_(parts.dispatch->Missing()) {
  SetGauges();
}

void Stepper::Start(SequenceRequest request) {
  const SequenceKey key = request.key;
  if (const absl::Status added = scheduler_.Add(std::move(request)); !added.ok()) {
    parts_.metrics->CountError(added.code());
    Emit(key, {key.id, FailedEvent{added}});
    return;
  }
  Sequence* sequence = scheduler_.Find(key);
  if (UsesPenalties(sequence->request.sampling)) {
    sequence->penalties.Start(sequence->request.prompt_ids, sequence->request.generated_ids);
  }
  if (static_cast<int64_t>(sequence->ids.size()) >= sequence->length_limit)
    Finish(key, EndReason::kLength, {});
}

void Stepper::Cancel(const SequenceKey& key) {
  if (scheduler_.Find(key) != nullptr) Finish(key, EndReason::kCancelled, {});
}

void Stepper::CancelStream(uint64_t stream) {
  for (const SequenceKey& key : scheduler_.KeysOfStream(stream)) scheduler_.Remove(key);
  events_.erase(stream);
}

void Stepper::FailAll(const absl::Status& status) {
  for (const SequenceKey& key : scheduler_.Keys()) Fail(key, status);
  DeliverEvents();
}

bool Stepper::Step() {
  const TimePoint begin = parts_.clock->Now();
  NoticeExperts();
  for (const EndedSequence& ended : scheduler_.TakeExpired())
    ReportFailure(*ended.sequence, ended.status);
  const StepPlan plan = scheduler_.Plan();
  if (!plan.sequences.empty()) {
    const TimePoint scheduled = parts_.clock->Now();
    RunForward(plan);
    TakeResults(plan, parts_.clock->Now() - scheduled);
    const TimePoint end = parts_.clock->Now();
    EngineMetrics& metrics = *parts_.metrics;
    metrics.schedule_seconds.Observe(Seconds(scheduled - begin));
    metrics.step_seconds.Observe(Seconds(end - begin));
    metrics.batch_rows.Observe(plan.shape.decode_rows + plan.shape.prefill_tokens);
    metrics.batch_sequences.Observe(static_cast<double>(plan.sequences.size()));
    metrics.prefill_tokens.Increment(plan.shape.prefill_tokens);
    metrics.decode_tokens.Increment(plan.shape.decode_rows);
    const bool all_served = std::all_of(output_.status.begin(), output_.status.end(),
                                        [](const absl::Status& s) { return s.ok(); });
    const double elapsed_ms = Seconds(end - scheduled) * 1e3;
    if (all_served && elapsed_ms > 0) {
      step_times_.any.Observe(plan.shape, elapsed_ms);
      if (plan.undisturbed) step_times_.urgent.Observe(plan.shape, elapsed_ms);
    }
  }
  SetGauges();
  DeliverEvents();
  return !plan.sequences.empty();
}

// Parked sequences need not wait for their next try when workers have come.
void Stepper::NoticeExperts() {
  if (scheduler_.num_parked() == 0) return;
  std::vector<std::pair<int32_t, int32_t>> missing = parts_.dispatch->Missing();
  if (missing == missing_) return;
  missing_ = std::move(missing);
  scheduler_.RetryParked();
}

void Stepper::RunForward(const StepPlan& plan) {
  const TimePoint begin = parts_.clock->Now();
  inputs_.clear();
  for (const PlannedSequence& planned : plan.sequences) {
    const Sequence& sequence = *planned.sequence;
    if (planned.first) {
      parts_.metrics->queue_wait_seconds.Observe(Seconds(begin - sequence.request.arrived));
      const int64_t missed = sequence.num_prompt() - sequence.cached_tokens;
      parts_.metrics->prefix_hit_tokens.Increment(static_cast<double>(sequence.cached_tokens));
      parts_.metrics->prefix_miss_tokens.Increment(static_cast<double>(missed));
    }
    inputs_.push_back(
        {.ids = std::span(sequence.ids).subspan(sequence.num_computed, planned.num_tokens),
         .first_position = sequence.num_computed,
         .blocks = sequence.blocks,
         .num_logits = planned.samples ? 1 : 0,
         .origin = OriginOf(sequence, begin),
         .traceparent = sequence.request.traceparent});
  }
  parts_.forward->Run(inputs_, &output_);
  parts_.metrics->forward_seconds.Observe(Seconds(parts_.clock->Now() - begin));
  parts_.metrics->experts_seconds.Observe(static_cast<double>(output_.expert_us) * 1e-6);
}

void Stepper::TakeResults(const StepPlan& plan, Duration elapsed) {
  const int64_t rows = plan.shape.decode_rows + plan.shape.prefill_tokens;
  const TimePoint begin = parts_.clock->Now();
  sample_rows_.clear();
  size_t logits_row = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    Sequence* const sequence = plan.sequences[i].sequence;
    const int64_t num_tokens = plan.sequences[i].num_tokens;
    const bool samples = plan.sequences[i].samples;
    const double share = static_cast<double>(num_tokens) / static_cast<double>(rows);
    sequence->engine_us += Seconds(elapsed) * 1e6 * share;
    sequence->expert_us += static_cast<double>(output_.expert_us) * share;
    const absl::Status& status = output_.status[i];
    if (status.ok()) {
      scheduler_.Computed(sequence, num_tokens);
      if (samples) {
        sample_rows_.push_back(
            {sequence, std::span(output_.logits).subspan(logits_row * vocab_size_, vocab_size_)});
      }
    } else if (absl::IsUnavailable(status)) {
      scheduler_.Park(sequence, status);
    } else {
      Fail(sequence->request.key, status);
    }
    if (samples) ++logits_row;
  }
  const auto results = sampler_.Run(sample_rows_);
  for (size_t i = 0; i < results.size(); ++i) {
    TakeToken(scheduler_.Find(sample_rows_[i].sequence->request.key), results[i]);
  }
  parts_.metrics->sample_seconds.Observe(Seconds(parts_.clock->Now() - begin));
}

void Stepper::TakeToken(Sequence* sequence, const kernels::SampleResult& result) {
  const SequenceRequest& request = sequence->request;
  const SequenceKey key = request.key;
  ++num_generated_tokens_;
  if (std::find(request.stop_ids.begin(), request.stop_ids.end(), result.id) !=
      request.stop_ids.end()) {
    Finish(key, EndReason::kStop, result.id);
    return;
  }
  TokensEvent tokens{.token_index = sequence->num_generated(), .ids = {result.id}, .logprobs = {}};
  if (request.sampling.top_logprobs.has_value())
    tokens.logprobs.push_back({result.logprob, result.top_logprobs});
  Emit(key, {key.id, std::move(tokens)});
  scheduler_.Append(sequence, result.id);
  if (UsesPenalties(request.sampling)) sequence->penalties.Add(result.id);
  if (static_cast<int64_t>(sequence->ids.size()) >= sequence->length_limit)
    Finish(key, EndReason::kLength, {});
}

void Stepper::Finish(const SequenceKey& key, EndReason reason, std::optional<int32_t> stop_id) {
  const std::unique_ptr<Sequence> sequence = scheduler_.Remove(key);
  FinishedEvent finished;
  finished.reason = reason;
  finished.stop_id = stop_id;
  finished.cached_tokens = sequence->cached_tokens;
  finished.engine_us = std::llround(sequence->engine_us);
  finished.expert_us = std::llround(sequence->expert_us);
  finished.kv_byte_seconds = static_cast<int64_t>(sequence->kv_block_seconds *
                                                  static_cast<double>(parts_.cache->block_bytes()));
  LogDebug("sequence finished", {{"request_id", sequence->request.request_id},
                                 {"prompt_tokens", sequence->num_prompt()},
                                 {"generated_tokens", sequence->num_generated()},
                                 {"preemptions", sequence->preemptions}});
  Emit(key, {key.id, finished});
}

void Stepper::Fail(const SequenceKey& key, const absl::Status& status) {
  ReportFailure(*scheduler_.Remove(key), status);
}

void Stepper::ReportFailure(const Sequence& sequence, const absl::Status& status) {
  LogInfo("sequence failed", {{"request_id", sequence.request.request_id},
                              {"code", absl::StatusCodeToString(status.code())},
                              {"reason", std::string(status.message())}});
  parts_.metrics->CountError(status.code());
  Emit(sequence.request.key, {sequence.request.key.id, FailedEvent{status}});
}

void Stepper::Emit(const SequenceKey& key, SequenceEvent event) {
  if (key.stream != kOwnStream) events_[key.stream].push_back(std::move(event));
}

void Stepper::DeliverEvents() {
  for (auto& [stream, events] : events_) parts_.sink->Deliver(stream, std::move(events));
  events_.clear();
}

void Stepper::SetGauges() {
  EngineMetrics& metrics = *parts_.metrics;
  metrics.queue_depth.Set(scheduler_.num_waiting());
  metrics.queued_tokens.Set(static_cast<double>(scheduler_.queued_tokens()));
  metrics.sequences_running.Set(scheduler_.num_running());
  metrics.parked_sequences.Set(scheduler_.num_parked());
  metrics.kv_used_ratio.Set(static_cast<double>(parts_.cache->used_blocks()) /
                            parts_.cache->num_blocks());
  metrics.kv_blocks_used.Set(parts_.cache->used_blocks());
  metrics.kv_blocks_cached.Set(parts_.cache->cached_blocks());
  metrics.kv_blocks_empty.Set(parts_.cache->free_blocks() - parts_.cache->cached_blocks());
  metrics.preemptions.Increment(
      static_cast<double>(scheduler_.num_preemptions() - preemptions_counted_));
  preemptions_counted_ = scheduler_.num_preemptions();
}

absl::Status Stepper::WarmUp() {
  const SequenceKey key{kOwnStream, 0};
  const int64_t room = std::min(scheduler_.context_tokens(), parts_.cache->capacity_tokens());
  SequenceRequest request;
  request.key = key;
  request.max_tokens = std::min(kWarmUpTokens, room - 1);
  for (int64_t i = 0; i < std::min(kWarmUpPrompt, room - request.max_tokens); ++i) {
    request.prompt_ids.push_back(static_cast<int32_t>(i * 7919 % vocab_size_));
  }
  request.arrived = parts_.clock->Now();
  Start(std::move(request));
  const TimePoint enough = parts_.clock->Now() + kWarmUpTime;
  while (const Sequence* sequence = scheduler_.Find(key)) {
    Step();
    if (parts_.clock->Now() >= enough && sequence == scheduler_.Find(key) &&
        sequence->num_generated() >= 2) {
      scheduler_.Remove(key);
      break;
    }
    if (scheduler_.Find(key) == sequence && sequence->missing_since.has_value()) {
      const absl::Status missing = sequence->missing;
      scheduler_.Remove(key);
      return missing;
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave::engine
