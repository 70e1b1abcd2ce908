#include "services/gateway/shared_answer.h"

#include <algorithm>
#include <utility>

namespace conclave::gateway {

namespace {

// Of somebody for whom nothing was computed.
Usage WithoutCost(const Usage& usage) {
  return {.prompt_tokens = usage.prompt_tokens,
          .completion_tokens = usage.completion_tokens,
          .cached_tokens = usage.cached_tokens};
}

void SendTokens(int32_t index, const RecordedChoice& choice, GenerationSink& sink) {
  if (choice.ids.empty()) return;
  sink.OnTokens({.choice_index = index,
                 .token_index = 0,
                 .ids = choice.ids,
                 .text = choice.text,
                 .logprobs = choice.logprobs});
}

void SendFinish(int32_t index, const RecordedChoice& choice, GenerationSink& sink) {
  sink.OnFinished({.choice_index = index,
                   .reason = choice.reason,
                   .stop = choice.stop,
                   .text = choice.last_text,
                   .ids = choice.counted_ids});
}

}  // namespace

SharedAnswer::SharedAnswer(int32_t num_choices, Keep keep)
    : keep_(std::move(keep)), choices_(static_cast<size_t>(num_choices)) {}

void SharedAnswer::Attach(uint64_t listener, std::shared_ptr<GenerationSink> sink,
                          const Started& started) {
  sink->OnStarted(started);
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    const auto index = static_cast<int32_t>(i);
    SendTokens(index, choice.recorded, *sink);
    if (choice.finished) SendFinish(index, choice.recorded, *sink);
  }
  listeners_.push_back({.key = listener, .sink = std::move(sink), .charged = listeners_.empty()});
}

void SharedAnswer::Detach(uint64_t listener) {
  const auto found = Find(listener);
  const bool charged = found->charged;
  listeners_.erase(found);
  if (charged && !listeners_.empty()) listeners_.front().charged = true;
}

void SharedAnswer::Cancel(uint64_t listener) {
  GenerationSink& sink = *Find(listener)->sink;
  Usage usage{.prompt_tokens = static_cast<int64_t>(head_.prompt_ids.size())};
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    usage.completion_tokens += static_cast<int64_t>(
        choice.finished ? choice.recorded.counted_ids.size() : choice.recorded.ids.size());
    if (choice.finished) continue;
    sink.OnFinished({.choice_index = static_cast<int32_t>(i),
                     .reason = FinishReason::kCancelled,
                     .stop = "",
                     .text = "",
                     .ids = choice.recorded.ids});
  }
  sink.OnDone(usage);
  Detach(listener);
}

void SharedAnswer::Fail(uint64_t listener, const absl::Status& status) {
  Find(listener)->sink->OnFailed(status);
  Detach(listener);
}

void SharedAnswer::OnStarted(const Started& started) {
  head_.seed = started.seed;
  head_.system_fingerprint = started.system_fingerprint;
  head_.prompt_ids = started.prompt_ids;
}

void SharedAnswer::OnTokens(const ChoiceTokens& tokens) {
  RecordedChoice& choice = choices_[static_cast<size_t>(tokens.choice_index)].recorded;
  choice.ids.insert(choice.ids.end(), tokens.ids.begin(), tokens.ids.end());
  if (keep_) {
    choice.text += tokens.text;
    choice.logprobs.insert(choice.logprobs.end(), tokens.logprobs.begin(), tokens.logprobs.end());
    recorded_bytes_ += tokens.ids.size() * sizeof(int32_t) + tokens.text.size();
    for (const PositionLogprobs& position : tokens.logprobs) {
      recorded_bytes_ += sizeof position + position.top.size() * sizeof position.top[0];
    }
    if (recorded_bytes_ > kMostKeptBytes) StopRecording();
  }
  for (const Listener& listener : listeners_) listener.sink->OnTokens(tokens);
}

void SharedAnswer::OnFinished(const ChoiceFinished& finished) {
  Choice& choice = choices_[static_cast<size_t>(finished.choice_index)];
  choice.finished = true;
  choice.recorded.reason = finished.reason;
  choice.recorded.counted_ids = finished.ids;
  if (keep_) {
    choice.recorded.stop = finished.stop;
    choice.recorded.last_text = finished.text;
  }
  for (const Listener& listener : listeners_) listener.sink->OnFinished(finished);
}

void SharedAnswer::StopRecording() {
  keep_ = nullptr;
  for (Choice& choice : choices_) {
    choice.recorded.text.clear();
    choice.recorded.logprobs = {};
  }
}

void SharedAnswer::OnDone(const Usage& usage) {
  head_.usage = WithoutCost(usage);
  if (keep_ && whole()) {
    auto answer = std::make_shared<RecordedGeneration>(head_);
    for (const Choice& choice : choices_) answer->choices.push_back(choice.recorded);
    keep_(std::move(answer));
  }
  for (const Listener& listener : listeners_) {
    listener.sink->OnDone(listener.charged ? usage : head_.usage);
  }
}

void SharedAnswer::OnFailed(const absl::Status& status) {
  for (const Listener& listener : listeners_) listener.sink->OnFailed(status);
}

bool SharedAnswer::whole() const {
  return std::all_of(choices_.begin(), choices_.end(), [](const Choice& choice) {
    return choice.finished && choice.recorded.reason != FinishReason::kCancelled;
  });
}

std::vector<SharedAnswer::Listener>::iterator SharedAnswer::Find(uint64_t listener) {
  return std::find_if(listeners_.begin(), listeners_.end(),
                      [listener](const Listener& each) { return each.key == listener; });
}

void Replay(const RecordedGeneration& answer, const Started& started, GenerationSink& sink) {
  sink.OnStarted(started);
  for (size_t i = 0; i < answer.choices.size(); ++i) {
    SendTokens(static_cast<int32_t>(i), answer.choices[i], sink);
    SendFinish(static_cast<int32_t>(i), answer.choices[i], sink);
  }
  sink.OnDone(answer.usage);
}

}  // namespace conclave::gateway
