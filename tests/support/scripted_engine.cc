#include "tests/support/scripted_engine.h"

#include <grpcpp/server_builder.h>

#include <algorithm>
#include <set>
#include <utility>

namespace conclave::testing_support {

namespace {

using Stream = grpc::ServerReaderWriter<v1::EngineEvents, v1::EngineCommand>;

// Writes what the script says. True when the sequence still hangs.
bool Play(const v1::StartSequence& start, const Script& script, Stream* stream) {
  const auto first = static_cast<size_t>(start.generated_ids_size());
  const size_t count = std::min(script.ids.size(), static_cast<size_t>(start.max_tokens()) - first);
  for (size_t at = 0; at < count; at += script.ids_per_event) {
    v1::EngineEvents events;
    v1::SequenceTokens* const tokens = events.add_events()->mutable_tokens();
    tokens->set_sequence_id(start.sequence_id());
    tokens->set_token_index(static_cast<int64_t>(first + at));
    for (size_t i = at; i < std::min(count, at + script.ids_per_event); ++i) {
      tokens->add_ids(script.ids[i]);
      if (!start.sampling().has_top_logprobs()) continue;
      v1::EngineLogprobs* const logprobs = tokens->add_logprobs();
      logprobs->set_chosen(-0.25F);
      for (int k = 0; k < start.sampling().top_logprobs(); ++k) {
        logprobs->add_top_ids(script.ids[i] + k);
        logprobs->add_top_values(-0.25F - static_cast<float>(k));
      }
    }
    if (!stream->Write(events)) return false;
  }
  if (script.leave) {
    v1::EngineEvents leaving;
    leaving.add_events()->mutable_leaving();
    stream->Write(leaving);
  }
  if (script.hang_after) return true;
  v1::EngineEvents events;
  if (script.fail_code) {
    v1::SequenceFailed* const failed = events.add_events()->mutable_failed();
    failed->set_sequence_id(start.sequence_id());
    failed->set_code(*script.fail_code);
    failed->set_message(script.fail_message);
  } else {
    v1::SequenceFinished* const finished = events.add_events()->mutable_finished();
    finished->set_sequence_id(start.sequence_id());
    const bool stopped = script.stop_id && count == script.ids.size();
    finished->set_reason(stopped ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH);
    if (stopped) finished->set_stop_id(*script.stop_id);
    finished->set_cached_tokens(1);
    finished->set_engine_us(10);
    finished->set_expert_us(5);
    finished->set_kv_byte_seconds(3);
  }
  stream->Write(events);
  return false;
}

}  // namespace

ScriptedEngine::ScriptedEngine(v1::EngineHello hello,
                               std::function<Script(const v1::StartSequence&)> script)
    : hello_(std::move(hello)), script_(std::move(script)) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  address_ = "127.0.0.1:" + std::to_string(port);
}

ScriptedEngine::~ScriptedEngine() { server_->Shutdown(std::chrono::system_clock::now()); }

void ScriptedEngine::SetReach(v1::EngineReach reach) {
  MutexLock lock(mutex_);
  reach_ = std::move(reach);
}

void ScriptedEngine::BreakStreams() {
  MutexLock lock(mutex_);
  for (grpc::ServerContext* const context : contexts_) context->TryCancel();
}

grpc::Status ScriptedEngine::Connect(grpc::ServerContext* context, Stream* stream) {
  v1::EngineEvents events;
  *events.add_events()->mutable_hello() = hello_;
  {
    MutexLock lock(mutex_);
    contexts_.push_back(context);
    *events.add_events()->mutable_reach() = reach_;
  }
  stream->Write(events);
  std::set<uint64_t> hanging;
  v1::EngineCommand command;
  while (stream->Read(&command)) {
    if (command.has_start()) {
      const Script script = script_(command.start());
      if (Play(command.start(), script, stream)) hanging.insert(command.start().sequence_id());
      starts_.TryPush(v1::StartSequence(command.start()));
    } else if (command.has_cancel()) {
      uint64_t id = command.cancel().sequence_id();
      if (hanging.erase(id) > 0) {
        v1::EngineEvents cancelled;
        v1::SequenceFinished* const finished = cancelled.add_events()->mutable_finished();
        finished->set_sequence_id(id);
        finished->set_reason(v1::FINISH_REASON_CANCELLED);
        finished->set_engine_us(10);
        stream->Write(cancelled);
      }
      cancels_.TryPush(std::move(id));
    }
  }
  if (!context->IsCancelled()) ++num_closed_;
  MutexLock lock(mutex_);
  std::erase(contexts_, context);
  return grpc::Status::OK;
}

}  // namespace conclave::testing_support
