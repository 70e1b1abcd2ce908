// One generation's answer on its way to everybody who asked for it: a listener gets all of it,
// whenever it comes, and may leave without disturbing the others.
//
// Used on the gateway's core thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "services/gateway/cache/response_cache.h"
#include "services/gateway/generation_sink.h"

namespace conclave::gateway {

class SharedAnswer final : public GenerationSink {
 public:
  using Keep = std::function<void(std::shared_ptr<const RecordedGeneration>)>;

  // With `keep`, what passes is recorded, for listeners that come later, until it is larger than
  // kMostKeptBytes; a whole answer (no choice was cancelled) is given to `keep` before any listener
  // hears of its end. Further listeners may come while it is recorded.
  SharedAnswer(int32_t num_choices, Keep keep);

  bool recording() const { return keep_ != nullptr; }
  // Sends what there is so far, after `started`.
  void Attach(uint64_t listener, std::shared_ptr<GenerationSink> sink, const Started& started);
  // Forgets a listener without another word.
  void Detach(uint64_t listener);
  // The listener's choices that still run end with reason kCancelled; then as Detach.
  void Cancel(uint64_t listener);
  // The listener is told, then forgotten.
  void Fail(uint64_t listener, const absl::Status& status);

  void OnStarted(const Started& started) override;
  void OnTokens(const ChoiceTokens& tokens) override;
  void OnFinished(const ChoiceFinished& finished) override;
  void OnDone(const Usage& usage) override;
  void OnFailed(const absl::Status& status) override;

 private:
  struct Listener {
    uint64_t key = 0;
    std::shared_ptr<GenerationSink> sink;
    bool charged = false;  // with the engine's work: the first of those who are left
  };
  struct Choice {
    RecordedChoice recorded;
    bool finished = false;
  };

  bool whole() const;
  void StopRecording();
  std::vector<Listener>::iterator Find(uint64_t listener);

  Keep keep_;  // null: nothing is recorded, or not any more
  size_t recorded_bytes_ = 0;
  std::vector<Listener> listeners_;
  RecordedGeneration head_;  // without its choices
  std::vector<Choice> choices_;
};

// Tells `sink` a kept answer from its beginning to its end.
void Replay(const RecordedGeneration& answer, const Started& started, GenerationSink& sink);

}  // namespace conclave::gateway
