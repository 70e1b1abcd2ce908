#include "services/expert/compute_loop.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "services/expert/answer_parts.h"
#include "shared/base/thread_name.h"

namespace conclave::expert {
namespace {

constexpr Duration kIdleWait = std::chrono::milliseconds(100);
constexpr Duration kRatePeriod = std::chrono::milliseconds(500);

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

// The result rows of one frame in one unit, cut into blocks.
struct FrameRows {
  PendingFrame* frame = nullptr;
  std::vector<uint32_t> references;      // in the unit's order
  std::vector<rpc::FrameBuffer> blocks;  // RowsPerBlock rows each, the last one fewer
};

}  // namespace

ComputeLoop::ComputeLoop(const ComputeOptions& options, const experts::ExpertSet* experts,
                         const Clock* clock, WorkerMetrics* metrics)
    : options_(options),
      experts_(*experts),
      clock_(*clock),
      metrics_(*metrics),
      arrivals_(options.max_arrivals) {
  thread_ = std::thread([this] { Run(); });
}

ComputeLoop::~ComputeLoop() {
  stopping_ = true;
  doorbell_->Ring();
  thread_.join();
}

bool ComputeLoop::Submit(std::unique_ptr<PendingFrame>&& frame) {
  Arrival arrival = std::move(frame);
  ++pending_;
  ++num_frames_;
  if (Push(std::move(arrival))) return true;
  --pending_;
  frame = std::move(std::get<std::unique_ptr<PendingFrame>>(arrival));
  return false;
}

void ComputeLoop::Cancel(uint64_t stream, uint64_t call_id) {
  // A full queue loses the cancellation; the rows are then computed and thrown away by the engine.
  Push(CancelCall{stream, call_id});
}

void ComputeLoop::CloseStream(uint64_t stream) { Push(CancelStream{stream}); }

bool ComputeLoop::Push(Arrival&& arrival) {
  const bool pushed = arrivals_.TryPush(std::move(arrival));
  doorbell_->Ring();
  return pushed;
}

void ComputeLoop::AddSource(std::shared_ptr<FrameSource> source) {
  {
    MutexLock lock(mutex_);
    sources_.push_back(std::move(source));
  }
  doorbell_->Ring();
}

void ComputeLoop::RemoveSource(const FrameSource* source) {
  std::shared_ptr<FrameSource> removed;  // destroyed after the lock
  MutexLock lock(mutex_);
  const auto at = std::find_if(sources_.begin(), sources_.end(),
                               [source](const auto& entry) { return entry.get() == source; });
  if (at == sources_.end()) return;
  removed = std::move(*at);
  sources_.erase(at);
}

void ComputeLoop::PollSources() {
  {
    MutexLock lock(mutex_);
    polled_ = sources_;
  }
  for (const auto& source : polled_) source->Poll();
  polled_.clear();
}

void ComputeLoop::Run() {
  SetThreadName("expert-compute");
  context_ = std::make_unique<kernels::Context>(options_.cpu_level, options_.num_threads);
  rate_since_ = clock_.Now();
  while (!stopping_) {
    const uint32_t seen = doorbell_->Look();
    PollSources();
    TakeArrivals();
    DropExpired();
    if (queue_.Plannable()) {
      RunUnit();
    } else {
      doorbell_->Wait(seen, kIdleWait);
    }
    MeasureRate(0);
  }
}

void ComputeLoop::TakeArrivals() {
  for (Arrival& arrival : arrivals_.PopAll()) {
    if (auto* frame = std::get_if<std::unique_ptr<PendingFrame>>(&arrival)) {
      metrics_.frames.Increment();
      queue_.Add(std::move(*frame));
    } else if (const auto* call = std::get_if<CancelCall>(&arrival)) {
      if (auto dropped = queue_.RemoveCall(call->stream, call->call_id)) Drop(std::move(dropped));
    } else {
      for (auto& dropped : queue_.RemoveStream(std::get<CancelStream>(arrival).stream))
        Drop(std::move(dropped));
    }
  }
  metrics_.queue_bytes.Set(static_cast<double>(queue_.message_bytes()));
}

void ComputeLoop::Drop(std::unique_ptr<PendingFrame> frame) {
  --pending_;
  frame->sink->RequestDone(frame->message_bytes);
}

void ComputeLoop::DropExpired() {
  for (auto& frame : queue_.RemoveExpired(clock_.Now())) {
    AnswerRest(*frame, rpc::AnswerStatus::kDeadlineExceeded);
    Drop(std::move(frame));
  }
}

void ComputeLoop::RunUnit() {
  Unit unit = queue_.TakeUnit(rate_, options_.unit_budget_ns);
  const TimePoint now = clock_.Now();
  for (const UnitRow& row : unit.rows) {
    if (row.frame->started) continue;
    row.frame->started = true;
    row.frame->queue_ns = static_cast<uint64_t>((now - row.frame->arrival).count());
    metrics_.queue_seconds.Observe(Seconds(now - row.frame->arrival));
    queue_ms_ = Seconds(now - row.frame->arrival) * 1e3;
  }
  const std::vector<UnitRow> planned = unit.rows;
  AnswerNotHeld(unit);
  if (!unit.rows.empty()) Compute(unit);
  unit.rows = planned;
  FinishAnswered(unit);
}

void ComputeLoop::AnswerNotHeld(Unit& unit) {
  Unit held{unit.layer, {}, {0}, {}};
  for (size_t e = 0; e < unit.experts.size(); ++e) {
    const bool holds = experts_.Holds({unit.layer, unit.experts[e]});
    for (int32_t row = unit.first_row[e]; row < unit.first_row[e + 1]; ++row) {
      const UnitRow& entry = unit.rows[row];
      if (holds) {
        held.rows.push_back(entry);
      } else {
        AddAnswers(*entry.frame, {&entry.reference, 1}, rpc::AnswerStatus::kNotHeld, {});
      }
    }
    if (!holds) continue;
    held.experts.push_back(unit.experts[e]);
    held.first_row.push_back(static_cast<int32_t>(held.rows.size()));
  }
  unit = std::move(held);
}

void ComputeLoop::Compute(const Unit& unit) {
  const rpc::RequestHeader& header =
      unit.rows.front().frame->header;  // layer, hidden and type are equal in all frames of a model
  const size_t row_bytes = header.hidden * kernels::RowTypeBytes(header.row_type);
  const size_t block_rows = RowsPerBlock(row_bytes);

  std::vector<FrameRows> frames;
  const auto rows_of = [&](PendingFrame* frame) -> FrameRows& {
    const auto found = std::find_if(frames.begin(), frames.end(),
                                    [&](const FrameRows& f) { return f.frame == frame; });
    if (found != frames.end()) return *found;
    frames.push_back({frame, {}, {}});
    return frames.back();
  };
  for (const UnitRow& row : unit.rows) rows_of(row.frame).references.push_back(row.reference);
  for (FrameRows& rows : frames) {
    for (size_t first = 0; first < rows.references.size(); first += block_rows) {
      rows.blocks.emplace_back(std::min(block_rows, rows.references.size() - first) * row_bytes);
    }
  }

  std::vector<const std::byte*> inputs;
  std::vector<std::byte*> outputs;
  inputs.reserve(unit.rows.size());
  outputs.reserve(unit.rows.size());
  std::vector<size_t> next(frames.size(), 0);
  for (const UnitRow& row : unit.rows) {
    FrameRows& rows = rows_of(row.frame);
    const size_t index = next[&rows - frames.data()]++;
    inputs.push_back(row.frame->rows[row.frame->references[row.reference].row]);
    outputs.push_back(rows.blocks[index / block_rows].data.get() + index % block_rows * row_bytes);
  }

  const TimePoint start = clock_.Now();
  const absl::Status computed = experts::ComputeExpertRows(experts_,
                                                           {.layer = unit.layer,
                                                            .type = header.row_type,
                                                            .hidden = header.hidden,
                                                            .experts = unit.experts,
                                                            .first_row = unit.first_row,
                                                            .inputs = inputs,
                                                            .outputs = outputs},
                                                           scratch_, *context_);
  const Duration took = clock_.Now() - start;
  const int64_t num_rows = static_cast<int64_t>(unit.rows.size());
  if (computed.ok()) {
    rate_.Observe(static_cast<int64_t>(unit.experts.size()), num_rows,
                  static_cast<double>(took.count()));
    metrics_.unit_seconds.Observe(Seconds(took));
    metrics_.unit_rows.Observe(static_cast<double>(num_rows));
    for (size_t e = 0; e < unit.experts.size(); ++e) {
      metrics_.AddRows(unit.layer, unit.experts[e], unit.first_row[e + 1] - unit.first_row[e]);
    }
    MeasureRate(num_rows);
  }

  for (FrameRows& rows : frames) {
    rows.frame->compute_ns +=
        static_cast<uint64_t>(took.count()) * rows.references.size() / unit.rows.size();
    for (size_t block = 0; block < rows.blocks.size(); ++block) {
      const auto references = std::span(rows.references).subspan(block * block_rows);
      const auto of_block = references.first(std::min(block_rows, references.size()));
      if (computed.ok()) {
        AddAnswers(*rows.frame, of_block, rpc::AnswerStatus::kOk, std::move(rows.blocks[block]));
      } else {  // an expert was released between the check and now
        AddAnswers(*rows.frame, of_block, rpc::AnswerStatus::kNotHeld, {});
      }
    }
  }
}

void ComputeLoop::FinishAnswered(const Unit& unit) {
  std::vector<PendingFrame*> frames;
  for (const UnitRow& row : unit.rows) frames.push_back(row.frame);
  std::sort(frames.begin(), frames.end());
  frames.erase(std::unique(frames.begin(), frames.end()), frames.end());
  for (PendingFrame* frame : frames) {
    if (frame->answered()) Drop(queue_.Remove(frame));
  }
}

void ComputeLoop::MeasureRate(int64_t rows) {
  rate_rows_ += rows;
  const Duration since = clock_.Now() - rate_since_;
  if (since < kRatePeriod) return;
  rows_per_second_ = static_cast<double>(rate_rows_) / Seconds(since);
  if (rate_rows_ == 0) queue_ms_ = 0;
  rate_rows_ = 0;
  rate_since_ = clock_.Now();
}

}  // namespace conclave::expert
