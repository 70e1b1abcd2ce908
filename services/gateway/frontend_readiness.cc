// What Frontend says of itself to those who ask whether it can serve.
#include "services/gateway/frontend.h"
#include "services/gateway/missing_parts.h"

namespace conclave::gateway {

void Frontend::SetNote(std::string note) {
  MutexLock lock(mutex_);
  note_ = std::move(note);
}

http::Readiness Frontend::readiness() const {
  http::Readiness readiness;
  {
    MutexLock lock(mutex_);
    readiness.missing = snapshot_.missing;
    if (!note_.empty()) readiness.notes.push_back(note_);
  }
  if (leaving_ || draining_)
    readiness.missing.insert(readiness.missing.begin(), "the gateway is shutting down");
  readiness.ready = readiness.missing.empty();
  return readiness;
}

void Frontend::RefreshSnapshot() {
  std::optional<EngineIdentity> identity = engines_.CommonIdentity();
  Snapshot snapshot{
      .identity = identity ? std::make_shared<const EngineIdentity>(*std::move(identity)) : nullptr,
      .num_engines = engines_.num_connected(),
      .missing = WhatIsMissing(engines_, options_.clock->Now())};
  MutexLock lock(mutex_);
  snapshot_ = std::move(snapshot);
}

}  // namespace conclave::gateway
