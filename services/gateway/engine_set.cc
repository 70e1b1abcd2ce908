#include "services/gateway/engine_set.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {
constexpr size_t kShownDigits = 12;  // of a fingerprint's 64
// To compute so many of a prompt is taken to delay a request as much as one more that runs beside
// it.
constexpr int64_t kTokensPerSequence = 256;
// A cached prefix counts as so many sequences at most: new engines get their part of what all begin
// with.
constexpr int64_t kMostSequences = 4;
}  // namespace

absl::Status NoEngine() {
  return rpc::WithDetails(
      absl::UnavailableError("no engine is connected; /readyz says what is missing"),
      {.reason = "NO_ENGINE", .metadata = {}, .retry_after_ms = 1000, .fields = {}});
}

EngineSet::Engine* EngineSet::Find(const std::string& name) {
  const auto found = engines_.find(name);
  return found == engines_.end() ? nullptr : &found->second;
}

EngineSet::Engine& EngineSet::Add(std::string name, std::string address,
                                  std::unique_ptr<EngineLink> link) {
  Engine& engine = engines_[name];
  engine.name = std::move(name);
  engine.address = std::move(address);
  engine.link = std::move(link);
  return engine;
}

void EngineSet::Remove(const std::string& name) {
  const auto found = engines_.find(name);
  if (found == engines_.end()) return;
  found->second.link->Close();
  closing_.push_back(std::move(found->second.link));
  engines_.erase(found);
}

void EngineSet::DestroyClosed() {
  std::erase_if(closing_, [](const auto& link) { return link->closed(); });
}

void EngineSet::FinishIdle(Engine* engine) {
  if (!engine->leaving || engine->finished || engine->own_sequences > 0) return;
  engine->finished = true;
  engine->link->Finish();
}

EngineSet::Binding EngineSet::Bind(TimePoint now, Duration hold) {
  Binding binding;
  std::map<std::string, int32_t> offers;
  for (const auto& [name, engine] : engines_) {
    if (engine.offered) ++offers[engine.offered->fingerprint];
  }
  if (!fingerprint_.empty() && offers.count(fingerprint_)) {
    last_offered_ = now;
  } else if (!offers.empty() && (fingerprint_.empty() || now - last_offered_ >= hold)) {
    const auto fewer = [](const auto& a, const auto& b) { return a.second < b.second; };
    fingerprint_ = std::max_element(offers.begin(), offers.end(), fewer)->first;
    last_offered_ = now;
    binding.changed = true;
  }
  for (auto& [name, engine] : engines_) {
    if (!engine.offered) continue;
    if (engine.offered->fingerprint == fingerprint_) {
      engine.identity = engine.offered;
      engine.refusal.clear();
      continue;
    }
    engine.identity.reset();
    std::string refusal =
        absl::StrCat(name, " serves \"", engine.offered->served_name, "\" with fingerprint ",
                     engine.offered->fingerprint.substr(0, kShownDigits), " (",
                     engine.offered->system_fingerprint, "), but this gateway's engines have ",
                     fingerprint_.substr(0, kShownDigits),
                     "; give it the same checkpoint and numerics, or another served_name");
    if (engine.refusal != refusal) binding.refused.push_back(name);
    engine.refusal = std::move(refusal);
  }
  return binding;
}

EngineSet::Engine* EngineSet::Choose(const Demand& demand, const Engine* set_aside) {
  const auto sequences_on = [](const Engine& engine) {
    const int32_t others =
        std::max(0, engine.load.running + engine.load.waiting - engine.own_at_report);
    return others + engine.own_sequences;
  };
  const auto rank = [&](const Engine& engine) {
    const int64_t cached = engine.prefixes.LongestPrefix(demand.prefix_hashes);
    const int64_t delay = sequences_on(engine) * kTokensPerSequence -
                          std::min(cached, kMostSequences * kTokensPerSequence);
    return std::make_tuple(engine.load.draining, engine.silent, !engine.missing.empty(), delay,
                           engine.load.kv_used_ratio);
  };
  const auto has_room = [&](const Engine& engine) {
    const int32_t sequences = sequences_on(engine);
    if (sequences == 0) return true;
    const auto within = [&](double used, double wanted, double limit) {
      return limit <= 0 || used + wanted <= limit * demand.share;
    };
    return within(sequences, demand.sequences, engine.identity->max_running) &&
           within(static_cast<double>(engine.own_tokens), static_cast<double>(demand.kv_tokens),
                  static_cast<double>(engine.identity->kv_tokens));
  };
  Engine* best = nullptr;
  std::optional<decltype(rank(*best))> best_rank;
  for (auto& [name, engine] : engines_) {
    if (&engine == set_aside || !engine.identity || engine.leaving || !has_room(engine)) continue;
    const auto own_rank = rank(engine);
    if (best_rank && !(own_rank < *best_rank)) continue;
    best = &engine;
    best_rank = own_rank;
  }
  return best;
}

EngineSet::Engine* EngineSet::Emptiest() {
  Engine* best = nullptr;
  for (auto& [name, engine] : engines_) {
    if (!engine.identity || engine.leaving || engine.load.draining) continue;
    if (!best || engine.own_tokens < best->own_tokens) best = &engine;
  }
  return best;
}

std::optional<EngineIdentity> EngineSet::CommonIdentity() const {
  std::optional<EngineIdentity> common;
  for (const auto& [name, engine] : engines_) {
    if (!engine.identity) continue;
    if (!common) {
      common = *engine.identity;
      continue;
    }
    common->context_tokens = std::min(common->context_tokens, engine.identity->context_tokens);
    common->vocab_size = std::min(common->vocab_size, engine.identity->vocab_size);
  }
  return common;
}

int32_t EngineSet::num_refused() const {
  return static_cast<int32_t>(
      std::count_if(engines_.begin(), engines_.end(),
                    [](const auto& entry) { return !entry.second.refusal.empty(); }));
}

int32_t EngineSet::num_connected() const {
  return static_cast<int32_t>(
      std::count_if(engines_.begin(), engines_.end(),
                    [](const auto& entry) { return entry.second.identity.has_value(); }));
}

}  // namespace conclave::gateway
