#include "services/engine/dispatch/remote_dispatch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shared/base/check.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"

namespace conclave::engine {
namespace {

using std::chrono::milliseconds;

// Parts that may wait for the step thread: more than all workers can have under way.
constexpr size_t kInboxEvents = 1 << 16;
// How often a waiting Finish looks whether the streams of its calls still live, should an event
// have been lost.
constexpr milliseconds kStreamCheck{50};
constexpr milliseconds kLongestTick{500};
// A link waits this much longer than a call for a sign of life: the call knows better what failed.
constexpr milliseconds kAfterCalls{100};

TimePoint Now() { return std::chrono::steady_clock::now(); }

}  // namespace

absl::StatusOr<std::unique_ptr<RemoteDispatch>> RemoteDispatch::Create(const Options& options) {
  rpc::HelloFrame hello;
  ASSIGN_OR_RETURN(hello.fingerprint, rpc::ParseFingerprint(options.model.fingerprint));
  hello.numerics = options.numerics;
  hello.row_type = kernels::RowTypeOf(options.numerics);
  hello.name = options.engine_name;
  return std::unique_ptr<RemoteDispatch>(new RemoteDispatch(options, std::move(hello)));
}

RemoteDispatch::RemoteDispatch(const Options& options, rpc::HelloFrame hello)
    : options_(options),
      hello_(std::move(hello)),
      inbox_(std::make_shared<LinkInbox>(kInboxEvents)),
      metrics_(options.registry, options.model.num_experts),
      routes_(std::make_shared<ExpertRoutes>(options.model, nullptr, nullptr, nullptr)) {
  keeper_ = std::thread([this] { KeepLinks(); });
}

RemoteDispatch::~RemoteDispatch() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_.NotifyAll();
  keeper_.join();
  const std::shared_ptr<const ExpertRoutes> routes = Routes();
  for (const auto& link : routes->links()) link->Stop();
}

void RemoteDispatch::Apply(const placement::Topology& topology) {
  const std::shared_ptr<const ExpertRoutes> old = Routes();
  const auto link_to = [&](const placement::TopologyWorker& worker) {
    for (const auto& link : old->links()) {
      if (link->name() == worker.name && link->address() == worker.address &&
          link->host_path() == HostPathOf(worker)) {
        return link;
      }
    }
    return std::make_shared<WorkerLink>(
        WorkerLink::Options{.name = worker.name,
                            .address = worker.address,
                            .host_path = HostPathOf(worker),
                            .secret = options_.secret,
                            .tls = options_.tls,
                            .cluster = options_.cluster,
                            .hello = hello_,
                            .inbox = inbox_,
                            .silence_limit = options_.call_timeout + kAfterCalls,
                            .on_change = [this] {
                              MutexLock lock(mutex_);
                              links_changed_ = true;
                              wake_.NotifyAll();
                            }});
  };
  const auto routes = std::make_shared<const ExpertRoutes>(
      options_.model, topology.Find(options_.model.fingerprint), link_to, old.get());
  {
    MutexLock lock(mutex_);
    routes_ = routes;
    links_changed_ = true;
  }
  wake_.NotifyAll();
  for (const auto& link : old->links()) {
    if (std::find(routes->links().begin(), routes->links().end(), link) == routes->links().end())
      link->Stop();
  }
}

std::string RemoteDispatch::HostPathOf(const placement::TopologyWorker& worker) const {
  const bool here = !options_.host_id.empty() && worker.host_socket.host_id == options_.host_id &&
                    inbox_->doorbell().descriptor() >= 0;
  return here ? worker.host_socket.path : "";
}

void RemoteDispatch::KeepLinks() {
  SetThreadName("dispatch-links");
  std::optional<placement::ExpertKeys> told;
  while (true) {
    milliseconds wait = kLongestTick;
    const std::shared_ptr<const ExpertRoutes> routes = Routes();
    int64_t shared_memory = 0, grpc = 0;
    for (const auto& link : routes->links()) {
      wait = std::min(wait, link->Tick(Now()));
      const std::string_view transport = link->transport();
      if (transport.empty()) continue;
      ++(transport == "grpc" ? grpc : shared_memory);
    }
    metrics_.CountLinks(shared_memory, grpc);
    if (options_.on_missing) {
      placement::ExpertKeys missing;
      for (const auto& [layer, expert] : routes->Missing()) missing.insert({layer, expert});
      if (told != missing) {
        told = missing;
        options_.on_missing(missing);
      }
    }
    MutexLock lock(mutex_);
    if (stopping_) return;
    if (!links_changed_) wake_.WaitFor(mutex_, wait);
    links_changed_ = false;
    if (stopping_) return;
  }
}

std::shared_ptr<const ExpertRoutes> RemoteDispatch::Routes() const {
  MutexLock lock(mutex_);
  return routes_;
}

std::vector<std::pair<int32_t, int32_t>> RemoteDispatch::Missing() const {
  return Routes()->Missing();
}

// No longer than any of the call's requests still has.
milliseconds RemoteDispatch::TimeoutOf(const ExpertCall& call) const {
  int64_t longest_ms = 0;
  for (const RowOrigin& origin : call.origins) {
    if (origin.remaining_ms <= 0) return options_.call_timeout;
    longest_ms = std::max(longest_ms, origin.remaining_ms);
  }
  return longest_ms > 0 ? std::min(milliseconds(longest_ms), options_.call_timeout)
                        : options_.call_timeout;
}

// When the first of the rows of the most urgent class is due; without a deadline among them, never.
TimePoint RemoteDispatch::DueOf(const ExpertCall& call) const {
  QosClass most_urgent = QosClass::kSheddable;
  for (const RowOrigin& origin : call.origins) most_urgent = std::min(most_urgent, origin.qos);
  int64_t least_ms = 0;
  for (const RowOrigin& origin : call.origins) {
    if (origin.qos != most_urgent || origin.remaining_ms <= 0) continue;
    least_ms = least_ms == 0 ? origin.remaining_ms : std::min(least_ms, origin.remaining_ms);
  }
  return least_ms == 0 ? TimePoint::max() : Now() + milliseconds(least_ms);
}

void RemoteDispatch::Begin(const ExpertCall& call) {
  CONCLAVE_CHECK(call_.rows == nullptr);  // the call before has been finished
  call_ = call;
  call_routes_ = Routes();
  header_ = HeaderOf(call);
  outcome_ = {};
  failed_links_.clear();
  resend_.clear();
  token_failed_.assign(call.num_tokens, 0);
  const milliseconds timeout = TimeoutOf(call);
  ends_by_requests_ = timeout < options_.call_timeout;
  deadline_ = Now() + timeout;
  due_ = std::min(deadline_, DueOf(call));
  metrics_.CountRows(call.layer, call.expert_ids);

  std::vector<uint32_t> rows(call.expert_ids.size());
  for (uint32_t row = 0; row < rows.size(); ++row) rows[row] = row;
  SendRows(rows);
}

void RemoteDispatch::SendRows(const std::vector<uint32_t>& rows) {
  ChooseWorkers(rows);
  for (const uint32_t row : rows) {
    if (worker_of_[call_.expert_ids[row]] < 0) FailWithoutWorker(row);
  }
  // A token with one lost row leaves the batch: its other rows need not be computed.
  for (const uint32_t row : rows) {
    if (!token_failed_[row / call_.top_k])
      rows_of_worker_[worker_of_[call_.expert_ids[row]]].push_back(row);
  }
  for (size_t worker = 0; worker < rows_of_worker_.size(); ++worker) {
    if (rows_of_worker_[worker].empty()) continue;
    SendToWorker(call_routes_->links()[worker], rows_of_worker_[worker]);
    rows_of_worker_[worker].clear();
  }
}

// The worker of each expert: the live one with the fewest rows under way, these here included.
void RemoteDispatch::ChooseWorkers(const std::vector<uint32_t>& rows) {
  const std::vector<std::shared_ptr<WorkerLink>>& links = call_routes_->links();
  load_.clear();
  for (const auto& link : links) load_.push_back(link->outstanding_rows.load());
  rows_of_worker_.resize(links.size());
  rows_of_expert_.assign(options_.model.num_experts, 0);
  worker_of_.assign(options_.model.num_experts, -1);
  for (const uint32_t row : rows) ++rows_of_expert_[call_.expert_ids[row]];
  for (int32_t expert = 0; expert < options_.model.num_experts; ++expert) {
    if (rows_of_expert_[expert] == 0) continue;
    int32_t& best = worker_of_[expert];
    for (const int32_t worker : call_routes_->WorkersOf(call_.layer, expert)) {
      const auto& link = links[worker];
      if (!link->live() || failed_links_.contains(link.get())) continue;
      if (best < 0 || load_[worker] < load_[best]) best = worker;
    }
    if (best >= 0) load_[best] += rows_of_expert_[expert];
  }
}

rpc::RequestHeader RemoteDispatch::HeaderOf(const ExpertCall& call) const {
  rpc::RequestHeader header;
  header.fingerprint = hello_.fingerprint;
  header.numerics = hello_.numerics;
  header.row_type = call.row_type;
  header.layer = static_cast<uint32_t>(call.layer);
  header.hidden = static_cast<uint32_t>(call.hidden);
  header.traceparent = std::string(call.traceparent);
  // A frame is as urgent as its most urgent row.
  if (!call.origins.empty()) {
    QosClass most_urgent = QosClass::kSheddable;
    header.tenant_weight = 0;
    for (const RowOrigin& origin : call.origins) {
      most_urgent = std::min(most_urgent, origin.qos);
      if (std::isfinite(origin.tenant_weight))
        header.tenant_weight = std::max(header.tenant_weight, origin.tenant_weight);
    }
    header.qos = WireNumber(most_urgent);
    if (header.tenant_weight <= 0) header.tenant_weight = 1;
  }
  return header;
}

void RemoteDispatch::SendToWorker(const std::shared_ptr<WorkerLink>& link,
                                  const std::vector<uint32_t>& rows) {
  const size_t row_bytes = call_.hidden * kernels::RowTypeBytes(call_.row_type);
  const size_t fixed_bytes = rpc::RequestFrameBytes(header_, 0);

  std::vector<uint32_t> frame_rows;
  std::vector<rpc::RowReference> references;
  std::vector<int64_t> tokens;  // of the frame's rows
  for (const uint32_t row : rows) {
    const int64_t token = row / call_.top_k;
    const bool new_token = tokens.empty() || tokens.back() != token;
    const size_t bytes = fixed_bytes + (references.size() + 1) * sizeof(rpc::RowReference) +
                         (tokens.size() + new_token) * row_bytes;
    if (bytes > rpc::kMaxFrameBytes && !references.empty()) {
      SendFrame(link, std::move(frame_rows), references, tokens);
      frame_rows.clear();
      references.clear();
      tokens.clear();
    }
    if (tokens.empty() || tokens.back() != token) tokens.push_back(token);
    references.push_back(
        {static_cast<uint32_t>(tokens.size() - 1), static_cast<uint32_t>(call_.expert_ids[row])});
    frame_rows.push_back(row);
  }
  SendFrame(link, std::move(frame_rows), references, tokens);
}

void RemoteDispatch::SendFrame(const std::shared_ptr<WorkerLink>& link, std::vector<uint32_t> rows,
                               const std::vector<rpc::RowReference>& references,
                               const std::vector<int64_t>& tokens) {
  rpc::RequestHeader header = header_;
  header.call_id = next_call_id_++;
  header.num_rows = static_cast<uint32_t>(tokens.size());
  // Worth computing until we stop waiting for it.
  const TimePoint now = Now();
  const auto until = [now](TimePoint time) {
    return static_cast<uint32_t>(
        std::max<int64_t>(1, std::chrono::duration_cast<milliseconds>(time - now).count()));
  };
  header.remaining_ms = until(deadline_);
  header.due_ms = until(due_);
  rpc::FrameBuffer buffer(rpc::RequestFrameBytes(header, references.size()));
  std::byte* to = buffer.data.get() + rpc::EncodeRequest(header, references, buffer.span());
  const size_t row_bytes = call_.hidden * kernels::RowTypeBytes(call_.row_type);
  for (const int64_t token : tokens) {
    std::memcpy(to, call_.rows + token * row_bytes, row_bytes);
    to += row_bytes;
  }
  rpc::OutgoingFrame frame;
  frame.push_back(std::move(buffer));

  Call call;
  call.link = link;
  call.answered.assign(rows.size(), false);
  call.rows = std::move(rows);
  call.sent = Now();
  link->outstanding_rows += static_cast<int64_t>(call.rows.size());
  call.stream = link->Send(std::move(frame));
  const auto entry = open_.emplace(header.call_id, std::move(call)).first;
  if (entry->second.stream == 0)
    EndCall(entry, absl::UnavailableError(absl::StrCat(link->name(), " lost")));
}

ExpertOutcome RemoteDispatch::Finish() {
  while (true) {
    if (!resend_.empty()) {
      // A worker that does not hold it, or is gone, may have handed it over meanwhile.
      former_routes_.push_back(std::exchange(call_routes_, Routes()));
      SendRows(std::exchange(resend_, {}));
    }
    if (!resend_.empty()) continue;
    if (open_.empty()) break;
    const Duration left = deadline_ - Now();
    if (left <= Duration::zero()) {
      Timeout();
      continue;
    }
    if (auto event = inbox_->PopFor(std::min<Duration>(left, kStreamCheck))) {
      Handle(*std::move(event));
    } else {
      CheckStreams();
    }
  }
  call_ = {};
  call_routes_ = nullptr;
  former_routes_.clear();
  return std::move(outcome_);
}

void RemoteDispatch::Handle(LinkEvent event) {
  if (const auto* lost = std::get_if<StreamLost>(&event.what))
    return LoseStream(event.stream, lost->status);
  const auto* part = std::get_if<ResultsPart>(&event.what);
  const auto* error = std::get_if<rpc::ErrorFrame>(&event.what);
  const auto call = open_.find(part != nullptr ? part->results.header.call_id : error->call_id);
  if (call == open_.end() || call->second.stream != event.stream) return;  // given up before
  call->second.heard = true;
  if (part != nullptr) return HandleResults(*part, call);
  metrics_.CountError(absl::StatusCodeToString(error->code));
  EndCall(call,
          absl::Status(error->code, absl::StrCat(call->second.link->name(), ": ", error->message)));
}

void RemoteDispatch::HandleResults(const ResultsPart& part,
                                   std::map<uint64_t, Call>::iterator entry) {
  Call& call = entry->second;
  const rpc::ResultsHeader& header = part.results.header;
  const std::string& name = call.link->name();
  const bool fits = header.layer == static_cast<uint32_t>(call_.layer) &&
                    header.row_type == call_.row_type &&
                    header.hidden == static_cast<uint32_t>(call_.hidden);
  uint32_t row = 0;
  for (const rpc::Answer& answer : part.results.answers) {
    if (!fits || answer.reference >= call.rows.size() || call.answered[answer.reference]) {
      const absl::Status status =
          absl::InternalError(absl::StrCat(name, " answered what was not asked"));
      call.link->Reset(status);
      return EndCall(entry, status);
    }
    const uint32_t index = call.rows[answer.reference];
    call.answered[answer.reference] = true;
    ++call.num_answered;
    --call.link->outstanding_rows;
    if (answer.status == rpc::AnswerStatus::kOk) {
      const size_t bytes = part.results.rows.row_bytes;
      part.message.bytes().CopyTo(part.results.rows.offset + row++ * bytes,
                                  {call_.results + index * bytes, bytes});
    } else if (answer.status == rpc::AnswerStatus::kNotHeld) {
      metrics_.CountError("NOT_HELD");
      failed_links_.try_emplace(call.link.get(), absl::StrCat(name, " does not hold it"));
      resend_.push_back(index);
    } else {
      if (!ends_by_requests_) metrics_.CountError("DEADLINE_EXCEEDED");
      FailLate(index, absl::StrCat(name, " had no time for it"));
    }
  }
  outcome_.expert_us += static_cast<int64_t>(header.compute_ns / 1000);
  if (call.num_answered < call.rows.size() && !header.last) return;
  metrics_.CountCall(name, std::chrono::duration<double>(Now() - call.sent).count());
  EndCall(entry, absl::InternalError(absl::StrCat(name, " left rows unanswered")));
}

void RemoteDispatch::LoseStream(uint64_t stream, const absl::Status& status) {
  for (auto call = open_.begin(); call != open_.end();) {
    const auto next = std::next(call);
    if (call->second.stream == stream) {
      metrics_.CountError(absl::StatusCodeToString(status.code()));
      EndCall(call, absl::UnavailableError(absl::StrCat(call->second.link->name(), " lost")));
    }
    call = next;
  }
}

void RemoteDispatch::EndCall(std::map<uint64_t, Call>::iterator entry, const absl::Status& status) {
  Call& call = entry->second;
  for (size_t reference = 0; reference < call.rows.size(); ++reference) {
    if (call.answered[reference]) continue;
    --call.link->outstanding_rows;
    if (absl::IsUnavailable(status) || absl::IsResourceExhausted(status)) {
      failed_links_.try_emplace(call.link.get(), status.message());
      resend_.push_back(call.rows[reference]);
    } else {
      FailToken(call.rows[reference] / call_.top_k, status);
    }
  }
  open_.erase(entry);
}

void RemoteDispatch::Timeout() {
  while (!open_.empty()) {
    const auto entry = open_.begin();
    Call& call = entry->second;
    const std::string& name = call.link->name();
    const std::string late =
        ends_by_requests_
            ? absl::StrCat("the request's deadline passed before ", name, " answered")
            : absl::StrCat(name, " did not answer within ", options_.call_timeout.count(), " ms");
    if (!ends_by_requests_) metrics_.CountError("DEADLINE_EXCEEDED");
    // That a request had little time says nothing of the worker.
    if (ends_by_requests_ || call.heard) {
      rpc::OutgoingFrame cancel;
      cancel.push_back(rpc::FrameBuffer::CopyOf(rpc::EncodeCancel({entry->first})));
      call.link->Send(std::move(cancel));
    } else if (call.link->live_stream() == call.stream) {
      call.link->Reset(absl::UnavailableError(late));
    }
    for (size_t reference = 0; reference < call.rows.size(); ++reference) {
      if (!call.answered[reference]) FailLate(call.rows[reference], late);
    }
    // Nothing is sent elsewhere: the time is up.
    call.link->outstanding_rows -= static_cast<int64_t>(call.rows.size() - call.num_answered);
    open_.erase(entry);
  }
  for (const uint32_t row : std::exchange(resend_, {})) FailWithoutWorker(row);
}

void RemoteDispatch::CheckStreams() {
  std::set<uint64_t> lost;
  for (const auto& [id, call] : open_) {
    if (call.link->live_stream() != call.stream) lost.insert(call.stream);
  }
  for (const uint64_t stream : lost) LoseStream(stream, absl::UnavailableError("the stream ended"));
}

void RemoteDispatch::FailToken(int64_t token, const absl::Status& status) {
  if (std::exchange(token_failed_[token], 1) == 0) outcome_.failed.push_back({token, status});
}

void RemoteDispatch::FailLate(uint32_t row, const std::string& why) {
  const absl::StatusCode code =
      ends_by_requests_ ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kUnavailable;
  FailToken(row / call_.top_k, absl::Status(code, absl::StrCat("layer ", call_.layer, " expert ",
                                                               call_.expert_ids[row], ": ", why)));
}

void RemoteDispatch::FailWithoutWorker(uint32_t row) {
  if (token_failed_[row / call_.top_k]) return;  // its message would not be read
  const int32_t expert = call_.expert_ids[row];
  std::vector<std::string> workers;
  for (const int32_t worker : call_routes_->WorkersOf(call_.layer, expert)) {
    const auto& link = call_routes_->links()[worker];
    const auto failed = failed_links_.find(link.get());
    workers.push_back(failed != failed_links_.end() ? failed->second
                                                    : absl::StrCat(link->name(), " lost"));
  }
  FailToken(row / call_.top_k,
            absl::UnavailableError(absl::StrCat(
                "layer ", call_.layer, " expert ", expert, " has no live worker (",
                workers.empty() ? "none is placed" : absl::StrJoin(workers, ", "), ")")));
}

}  // namespace conclave::engine
