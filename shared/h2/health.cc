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
  google::protobuf::io::CodedInputStream input(reinterpret_cast<const uint8_t*>(bytes.data()),
                                               static_cast<int>(bytes.size()));
  constexpr uint32_t kName = WireFormatLite::MakeTag(1, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
  std::string name;
  while (const uint32_t tag = input.ReadTag()) {
    if (tag == kName ? !WireFormatLite::ReadBytes(&input, &name)
                     : !WireFormatLite::SkipField(&input, tag)) {
      return absl::InvalidArgumentError("the request is not a grpc.health.v1.HealthCheckRequest");
    }
  }
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
  void OnMessage(std::string_view bytes) override {
    const absl::StatusOr<std::string> name = ServiceIn(bytes);
    if (!name.ok() || std::exchange(watches_, true)) {
      Finish(name.ok() ? absl::InvalidArgumentError("the call has several messages")
                       : name.status());
      return;
    }
    states_->Follow(*name, std::static_pointer_cast<WatchCall>(shared_from_this()));
  }
  void OnHalfClose() override {
    if (!watches_) Finish(absl::InvalidArgumentError("the call has no message"));
  }
  void OnCancel() override {}
  void OnState(std::optional<bool> serving) override { WriteBytes(ResponseOf(serving)); }

 private:
  HealthStates* const states_;
  bool watches_ = false;
};

}  // namespace

void HealthStates::Declare(const std::vector<std::string>& names) {
  MutexLock lock(mutex_);
  for (const std::string& name : names) serving_.emplace(name, false);
}

void HealthStates::SetServing(bool serving) {
  MutexLock lock(mutex_);
  for (auto& [name, state] : serving_) {
    if (std::exchange(state, serving) == serving) continue;
    // To write is only to queue, so the lock may be held: states arrive in their order.
    for (const auto& [watched, weak] : watchers_) {
      if (watched != name) continue;
      if (const auto watcher = weak.lock()) watcher->OnState(serving);
    }
  }
}

std::optional<bool> HealthStates::Of(const std::string& name) const {
  MutexLock lock(mutex_);
  const auto found = serving_.find(name);
  if (found == serving_.end()) return std::nullopt;
  return found->second;
}

void HealthStates::Follow(const std::string& name, std::weak_ptr<Watcher> watcher) {
  MutexLock lock(mutex_);
  std::erase_if(watchers_, [](const auto& entry) { return entry.second.expired(); });
  const auto found = serving_.find(name);
  if (const auto alive = watcher.lock()) {
    alive->OnState(found == serving_.end() ? std::nullopt : std::optional(found->second));
  }
  watchers_.emplace_back(name, std::move(watcher));
}

Service HealthService(HealthStates* states) {
  return {
      .name = "grpc.health.v1.Health",
      .methods = {
          {"Check", [states](const CallStart&) { return std::make_shared<CheckCall>(states); }},
          {"Watch", [states](const CallStart&) { return std::make_shared<WatchCall>(states); }}}};
}

}  // namespace conclave::h2
