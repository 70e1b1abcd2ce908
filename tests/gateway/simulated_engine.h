// An engine under a simulated clock, as the scheduler of requests sees it: it computes so many
// tokens a second, and the more urgent classes' first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "services/gateway/engine_set.h"

namespace conclave::gateway {

class SimulatedEngine {
 public:
  // What it was asked to do, in order; read by tests.
  std::vector<SequenceStart> started;
  std::vector<uint64_t> cancelled;

  // A connected engine of this name in the set.
  void Join(EngineSet* engines, const std::string& name, int32_t max_running, int64_t kv_tokens) {
    EngineSet::Engine& engine = engines->Add(name, "127.0.0.1:1", std::make_unique<Link>(this));
    engine.offered = EngineIdentity{.fingerprint = std::string(64, 'a'),
                                    .served_name = "tales",
                                    .numerics_class = "bf16",
                                    .system_fingerprint = "tales-bf16-aaaa",
                                    .context_tokens = 4096,
                                    .vocab_size = 4096,
                                    .max_running = max_running,
                                    .kv_tokens = kv_tokens,
                                    .prefix_cache = true};
    engines->Bind(TimePoint(), Duration(0));
  }

  // Its stream breaks: nothing runs any more.
  void Lose() { running_.clear(); }
  // It drains: one that has not begun is given back.
  std::optional<SequenceEvent> Refuse() {
    for (const auto& [id, sequence] : running_) {
      if (sequence.given > 0) continue;
      const SequenceEvent refusal{
          id, SequenceFailed{.status = absl::UnavailableError("draining"), .refused = true}};
      running_.erase(id);
      return refusal;
    }
    return std::nullopt;
  }

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }

  // Tokens of `tokens_per_step` sequences, one each, the more urgent and older ones first. Each
  // answers with max_tokens tokens.
  std::vector<SequenceEvent> Step(int64_t tokens_per_step) {
    std::vector<std::pair<int, uint64_t>> order;
    for (const auto& [id, sequence] : running_) {
      order.emplace_back(static_cast<int>(sequence.start.qos), id);
    }
    std::sort(order.begin(), order.end());
    std::vector<SequenceEvent> events;
    for (const auto& [qos, id] : order) {
      if (tokens_per_step-- <= 0) break;
      Running& sequence = running_.at(id);
      events.push_back(
          {id, SequenceTokens{.token_index = sequence.given, .ids = {5}, .logprobs = {}}});
      if (++sequence.given < sequence.start.max_tokens) continue;
      events.push_back(
          {id, SequenceFinished{
                   .reason = FinishReason::kLength, .stop_id = std::nullopt, .engine_us = 100}});
      running_.erase(id);
    }
    return events;
  }

 private:
  struct Running {
    SequenceStart start;
    int64_t given = 0;
  };
  class Link final : public EngineLink {
   public:
    explicit Link(SimulatedEngine* engine) : engine_(engine) {}
    void Start(const SequenceStart& start) override {
      engine_->started.push_back(start);
      engine_->running_[start.sequence_id] = {.start = start};
    }
    void Cancel(uint64_t sequence_id) override {
      engine_->cancelled.push_back(sequence_id);
      engine_->running_.erase(sequence_id);
    }
    void Finish() override {}
    void Tick() override {}
    void Close() override {}
    bool closed() const override { return true; }

   private:
    SimulatedEngine* const engine_;
  };

  std::map<uint64_t, Running> running_;
};

}  // namespace conclave::gateway
