#include "services/gateway/running_request.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace conclave::gateway {

RunningRequest::RunningRequest(Generation generation,
                               std::shared_ptr<const text::Tokenizer> tokenizer,
                               std::shared_ptr<GenerationSink> sink)
    : generation_(std::move(generation)), sink_(std::move(sink)) {
  choices_.reserve(static_cast<size_t>(generation_.num_choices));
  for (int32_t i = 0; i < generation_.num_choices; ++i) {
    choices_.emplace_back(
        ChoiceStream(tokenizer, {.stop = generation_.stop, .min_tokens = generation_.min_tokens}));
  }
  usage_.prompt_tokens = static_cast<int64_t>(generation_.prompt_ids.size());
}

RunningRequest::Actions RunningRequest::OnTokens(int32_t index, const SequenceTokens& tokens,
                                                 TimePoint now) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  if (choice.reason) return {};  // after a stop: neither sent nor counted
  const auto next_index = static_cast<int64_t>(choice.ids.size());
  if (tokens.ids.empty()) return {};
  if (tokens.token_index != next_index) {
    return Fail(absl::InternalError(absl::StrCat("the engine sent token ", tokens.token_index,
                                                 " of choice ", index, " where token ", next_index,
                                                 " was due")));
  }
  absl::StatusOr<ChoiceStream::Piece> piece = choice.stream.Push(tokens.ids);
  if (!piece.ok()) return Fail(piece.status());

  if (!first_token_time_) first_token_time_ = now;
  if (choice.ids.empty()) choice.first_token = now;
  choice.last_token = now;
  ChoiceTokens event{.choice_index = index,
                     .token_index = next_index,
                     .ids = {},
                     .text = std::move(piece->text),
                     .logprobs = {}};
  event.ids.assign(tokens.ids.begin(),
                   tokens.ids.begin() + static_cast<ptrdiff_t>(piece->num_taken));
  choice.ids.insert(choice.ids.end(), event.ids.begin(), event.ids.end());
  if (!tokens.logprobs.empty()) {
    const size_t count = std::min(piece->num_taken, tokens.logprobs.size());
    event.logprobs.assign(tokens.logprobs.begin(),
                          tokens.logprobs.begin() + static_cast<ptrdiff_t>(count));
  }
  sink_->OnTokens(event);

  Actions actions;
  if (piece->stop) {
    actions.cancel_choices.push_back(index);
    FinishChoice(index, FinishReason::kStop, *piece->stop, "", now);
    MaybeFinish(&actions);
  }
  return actions;
}

RunningRequest::Actions RunningRequest::OnSequenceFinished(int32_t index,
                                                           const SequenceFinished& finished,
                                                           TimePoint now) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  if (choice.engine_done) return {};
  choice.engine_done = true;
  usage_.cached_tokens = std::max(usage_.cached_tokens, finished.cached_tokens);
  usage_.engine_us += finished.engine_us;
  usage_.expert_us += finished.expert_us;
  usage_.kv_byte_seconds += finished.kv_byte_seconds;
  if (!choice.reason) {
    absl::StatusOr<std::string> rest = choice.stream.Finish();
    if (!rest.ok()) return Fail(rest.status());
    if (finished.stop_id) choice.ids.push_back(*finished.stop_id);
    FinishChoice(index, finished.reason, "", *std::move(rest), now);
  }
  Actions actions;
  MaybeFinish(&actions);
  return actions;
}

RunningRequest::Actions RunningRequest::Fail(const absl::Status& status) {
  Actions actions{.cancel_choices = {}, .over = true};
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (!choices_[i].engine_done) actions.cancel_choices.push_back(static_cast<int32_t>(i));
  }
  sink_->OnFailed(status);
  return actions;
}

RunningRequest::Actions RunningRequest::Cancel(TimePoint now) {
  Actions actions;
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (choices_[i].reason) continue;
    const auto index = static_cast<int32_t>(i);
    actions.cancel_choices.push_back(index);
    absl::StatusOr<std::string> rest = choices_[i].stream.Finish();
    FinishChoice(index, FinishReason::kCancelled, "", rest.ok() ? *std::move(rest) : "", now);
  }
  MaybeFinish(&actions);
  return actions;
}

RunningRequest::Actions RunningRequest::StopWaitingForUsage() {
  for (Choice& choice : choices_) choice.engine_done = true;
  Actions actions;
  MaybeFinish(&actions);
  return actions;
}

void RunningRequest::FinishChoice(int32_t index, FinishReason reason, std::string stop,
                                  std::string text, TimePoint now) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  choice.reason = reason;
  sink_->OnFinished({.choice_index = index,
                     .reason = reason,
                     .stop = std::move(stop),
                     .text = std::move(text),
                     .ids = choice.ids});
  if (std::all_of(choices_.begin(), choices_.end(),
                  [](const Choice& c) { return c.reason.has_value(); })) {
    finish_time_ = now;
  }
}

void RunningRequest::MaybeFinish(Actions* actions) {
  for (const Choice& choice : choices_) {
    if (!choice.reason || !choice.engine_done) return;
  }
  usage_.completion_tokens = completion_tokens();
  sink_->OnDone(usage_);
  actions->over = true;
}

int64_t RunningRequest::completion_tokens() const {
  int64_t count = 0;
  for (const Choice& choice : choices_) count += static_cast<int64_t>(choice.ids.size());
  return count;
}

std::vector<double> RunningRequest::SecondsPerToken() const {
  std::vector<double> seconds;
  for (const Choice& choice : choices_) {
    if (choice.ids.size() < 2) continue;
    seconds.push_back(
        std::chrono::duration<double>(choice.last_token - choice.first_token).count() /
        static_cast<double>(choice.ids.size() - 1));
  }
  return seconds;
}

std::vector<FinishReason> RunningRequest::FinishReasons() const {
  std::vector<FinishReason> reasons;
  for (const Choice& choice : choices_) {
    if (choice.reason) reasons.push_back(*choice.reason);
  }
  return reasons;
}

}  // namespace conclave::gateway
