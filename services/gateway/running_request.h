// The life of one request on an engine: its choices' texts and ids, when each is over, and what it
// used.
//
// Pure: driven by the core thread, which owns it; sends nothing itself but names the sequences to
// cancel.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "services/gateway/choice_stream.h"
#include "services/gateway/engine_link.h"
#include "services/gateway/generation.h"
#include "services/gateway/generation_sink.h"

namespace conclave::gateway {

class RunningRequest {
 public:
  RunningRequest(Generation generation, std::shared_ptr<const text::Tokenizer> tokenizer,
                 std::shared_ptr<GenerationSink> sink);

  // What the core must do after an event.
  struct Actions {
    std::vector<int32_t> cancel_choices;  // on the engine
    bool over = false;                    // the sink has had its last call: forget the request
  };
  Actions OnTokens(int32_t choice, const SequenceTokens& tokens, TimePoint now);
  Actions OnSequenceFinished(int32_t choice, const SequenceFinished& finished, TimePoint now);
  // Ends the whole request with an error; the sequences still running are to be cancelled.
  Actions Fail(const absl::Status& status);
  // Ends every running choice with reason kCancelled.
  Actions Cancel(TimePoint now);
  // The engine's account of a stopped choice has not come in time: done without it.
  Actions StopWaitingForUsage();

  const Generation& generation() const { return generation_; }

  int64_t completion_tokens() const;
  std::optional<TimePoint> first_token_time() const { return first_token_time_; }
  // When the last choice finished; unset while one runs.
  std::optional<TimePoint> finish_time() const { return finish_time_; }
  // Mean seconds between the tokens of a choice after its first, for each choice with two or more.
  std::vector<double> SecondsPerToken() const;
  // Why each finished choice ended.
  std::vector<FinishReason> FinishReasons() const;

 private:
  struct Choice {
    explicit Choice(ChoiceStream stream) : stream(std::move(stream)) {}
    ChoiceStream stream;
    std::vector<int32_t> ids;
    std::optional<FinishReason> reason;
    bool engine_done = false;  // its engine says nothing more about it
    TimePoint first_token, last_token;
  };

  void FinishChoice(int32_t index, FinishReason reason, std::string stop, std::string text,
                    TimePoint now);
  // Sends the usage when every choice and the engine are done.
  void MaybeFinish(Actions* actions);

  const Generation generation_;
  const std::shared_ptr<GenerationSink> sink_;
  std::vector<Choice> choices_;
  Usage usage_;
  std::optional<TimePoint> first_token_time_, finish_time_;
};

}  // namespace conclave::gateway
