// A gateway as an engine sees it: one stream, driven by the test's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "conclave/v1/engine.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "shared/rpc/channel.h"

namespace conclave::engine {

// What a gateway was told of one sequence.
struct Told {
  std::vector<int32_t> ids;
  std::vector<v1::EngineLogprobs> logprobs;
  std::optional<v1::SequenceFinished> finished;
  std::vector<v1::SequenceFailed> failed;
  bool ended() const { return finished.has_value() || !failed.empty(); }
};

class Gateway {
 public:
  explicit Gateway(const std::string& address, const rpc::ClusterSecret& secret = {},
                   const rpc::ClusterId& cluster = rpc::ClusterId())
      : stub_(v1::EngineService::NewStub(
            rpc::Channel({.address = address, .secret = secret}).grpc())) {
    secret.Attach(&context_);
    cluster.Attach(&context_);
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    stream_ = stub_->Connect(&context_);
    v1::EngineCommand command;
    command.mutable_hello()->set_name("test");
    stream_->Write(command);
  }
  ~Gateway() {
    if (stream_ == nullptr) return;
    context_.TryCancel();
    stream_->Finish();
  }

  // Greedy, without penalties.
  static v1::EngineCommand StartOf(const std::string& fingerprint, uint64_t id,
                                   const std::vector<int32_t>& prompt, int64_t max_tokens) {
    v1::EngineCommand command;
    v1::StartSequence* start = command.mutable_start();
    start->set_sequence_id(id);
    start->mutable_prompt_ids()->Add(prompt.begin(), prompt.end());
    start->set_fingerprint(fingerprint);
    start->set_max_tokens(max_tokens);
    start->set_request_id("request-" + std::to_string(id));
    start->mutable_sampling()->set_temperature(0);
    start->mutable_sampling()->set_top_p(1);
    start->mutable_sampling()->set_repetition_penalty(1);
    return command;
  }

  bool Write(const v1::EngineCommand& command) { return stream_->Write(command); }
  void Cancel(uint64_t id) {
    v1::EngineCommand command;
    command.mutable_cancel()->set_sequence_id(id);
    Write(command);
  }

  // Reads one message; false at the end of the stream.
  bool Read() {
    v1::EngineEvents events;
    if (!stream_->Read(&events)) return false;
    ++messages;
    for (v1::EngineEvent& event : *events.mutable_events()) {
      if (event.has_hello()) {
        hello = event.hello();
      } else if (event.has_reach()) {
        reach = event.reach();
      } else if (event.has_leaving()) {
        leaving = true;
      } else if (event.has_tokens()) {
        Told& one = told[event.tokens().sequence_id()];
        EXPECT_EQ(event.tokens().token_index(), static_cast<int64_t>(one.ids.size()));
        one.ids.insert(one.ids.end(), event.tokens().ids().begin(), event.tokens().ids().end());
        for (const auto& logprobs : event.tokens().logprobs()) one.logprobs.push_back(logprobs);
      } else if (event.has_finished()) {
        told[event.finished().sequence_id()].finished = event.finished();
      } else {
        told[event.failed().sequence_id()].failed.push_back(event.failed());
      }
    }
    return true;
  }
  const Told& ReadUntilEnded(uint64_t id) {
    while (!told[id].ended()) {
      if (!Read()) {
        ADD_FAILURE() << "the stream ended before sequence " << id;
        break;
      }
    }
    return told[id];
  }

  grpc::Status Finish() {
    stream_->WritesDone();
    while (Read()) {
    }
    const grpc::Status status = stream_->Finish();
    stream_ = nullptr;
    return status;
  }
  void Drop() {  // as a gateway that dies
    context_.TryCancel();
    stream_->Finish();
    stream_ = nullptr;
  }

  std::map<uint64_t, Told> told;
  std::optional<v1::EngineHello> hello;
  std::optional<v1::EngineReach> reach;  // the latest
  bool leaving = false;                  // the engine has said so
  int messages = 0;

 private:
  std::unique_ptr<v1::EngineService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::EngineCommand, v1::EngineEvents>> stream_;
};

}  // namespace conclave::engine
