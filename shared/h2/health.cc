#include "shared/h2/health.h"

#include <utility>

#include "absl/status/status.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"

namespace conclave::h2 {
namespace {

using google::protobuf::internal::WireFormatLite;

// HealthCheckRequest has one field, 1, the service's name; others are skipped.
absl::StatusOr<std::string> ServiceIn(std::string_view bytes) {
  const absl::Status malformed =
      absl::InvalidArgumentError("the request is not a grpc.health.v1.HealthCheckRequest");
  google::protobuf::io::CodedInputStream input(reinterpret_cast<const uint8_t*>(bytes.data()),
                                               static_cast<int>(bytes.size()));
  constexpr uint32_t kName = WireFormatLite::MakeTag(1, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
  std::string name;
  while (const uint32_t tag = input.ReadTag()) {
    if (tag == kName ? !WireFormatLite::ReadBytes(&input, &name)
                     : !WireFormatLite::SkipField(&input, tag)) {
      return malformed;
    }
  }
  if (!input.ConsumedEntireMessage()) return malformed;
  return name;
}

// HealthCheckResponse: field 1 is 1 for SERVING, 2 for NOT_SERVING, 3 for SERVICE_UNKNOWN.
std::string ResponseOf(std::optional<bool> serving) {
  return {1 << 3, static_cast<char>(!serving ? 3 : *serving ? 1 : 2)};
}

class CheckCall final : public ServerCall {
 public:
  explicit CheckCall(const HealthStates* states) : states_(states) {}
  void OnMessage(std::string_view bytes) override {
    const absl::StatusOr<std::string> name = ServiceIn(bytes);
    const std::optional<bool> serving = name.ok() ? states_->Of(*name) : std::nullopt;
    if (serving) WriteBytes(ResponseOf(serving));
    Finish(!name.ok() ? name.status()
           : serving  ? absl::OkStatus()
                      : absl::NotFoundError("no such service"));
  }
  void OnHalfClose() override { Finish(absl::InvalidArgumentError("the call has no message")); }
  void OnCancel() override {}

 private:
  const HealthStates* const states_;
};

class WatchCall final : public ServerCall, public HealthStates::Watcher {
 public:
  explicit WatchCall(HealthStates* states) : states_(states) {}
  ~WatchCall() override {
    if (watch_) states_->Unfollow(*watch_);
  }
  void OnMessage(std::string_view bytes) override {
    const absl::StatusOr<std::string> name = ServiceIn(bytes);
    if (!name.ok() || watch_) {
      Finish(name.ok() ? absl::InvalidArgumentError("the call has several messages")
                       : name.status());
      return;
    }
    watch_ = states_->Follow(*name, std::static_pointer_cast<WatchCall>(shared_from_this()));
  }
  bool idle() override { return true; }
  void OnHalfClose() override {
    if (!watch_) Finish(absl::InvalidArgumentError("the call has no message"));
  }
  void OnCancel() override {}
  void OnState(std::optional<bool> serving) override { WriteBytes(ResponseOf(serving)); }

 private:
  HealthStates* const states_;
  std::optional<HealthStates::Watchers::iterator> watch_;
};

}  // namespace

void HealthStates::Declare(const std::vector<std::string>& names) {
  MutexLock lock(mutex_);
  for (const std::string& name : names) serving_.emplace(name, false);
}

void HealthStates::SetServing(bool serving) {
  std::vector<std::shared_ptr<Watcher>> told;  // may end here, but not under the lock
  MutexLock lock(mutex_);
  for (auto& [name, state] : serving_) {
    if (std::exchange(state, serving) == serving) continue;
    // To write is only to queue, so the lock may be held: states arrive in their order.
    for (const auto& [watched, weak] : watchers_) {
      if (watched != name) continue;
      if (auto watcher = weak.lock()) {
        watcher->OnState(serving);
        told.push_back(std::move(watcher));
      }
    }
  }
}

std::optional<bool> HealthStates::Of(const std::string& name) const {
  MutexLock lock(mutex_);
  const auto found = serving_.find(name);
  if (found == serving_.end()) return std::nullopt;
  return found->second;
}

HealthStates::Watchers::iterator HealthStates::Follow(const std::string& name,
                                                      const std::shared_ptr<Watcher>& watcher) {
  MutexLock lock(mutex_);
  const auto found = serving_.find(name);
  watcher->OnState(found == serving_.end() ? std::nullopt : std::optional(found->second));
  return watchers_.emplace(watchers_.end(), name, watcher);
}

void HealthStates::Unfollow(Watchers::iterator watcher) {
  MutexLock lock(mutex_);
  watchers_.erase(watcher);
}

Service HealthService(HealthStates* states) {
  return {
      .name = "grpc.health.v1.Health",
      .methods = {
          {"Check", [states](const CallStart&) { return std::make_shared<CheckCall>(states); }},
          {"Watch", [states](const CallStart&) { return std::make_shared<WatchCall>(states); }}}};
}

}  // namespace conclave::h2
