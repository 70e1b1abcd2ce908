// A real service for the tests of the server: InferenceService with methods that echo, stream and
// hold calls open, and record what happened to them.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "conclave/v1/inference.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "shared/base/mutex.h"
#include "shared/h2/server.h"
#include "shared/rpc/status.h"

namespace conclave::h2 {

// Outlives the server.
class Probe {
 public:
  std::atomic<int> begun{0}, cancelled{0}, destroyed{0};

  Service service() {
    const auto maker = [this](auto make) {
      return [this, make](const CallStart& start) -> std::shared_ptr<ServerCall> {
        ++begun;
        {
          MutexLock lock(mutex_);
          seen_ = start.metadata;
          deadline_ = start.deadline;
        }
        return make(this);
      };
    };
    return {
        .name = v1::InferenceService::service_full_name(),
        .methods = {
            {"Tokenize", maker([](Probe* probe) { return std::make_shared<TokenizeCall>(probe); })},
            {"Detokenize",
             maker([](Probe* probe) { return std::make_shared<DetokenizeCall>(probe); })},
            {"Generate", maker([](Probe* probe) { return std::make_shared<GenerateCall>(probe); })},
            {"Session", maker([](Probe* probe) { return std::make_shared<SessionCall>(probe); })},
        }};
  }

  // Of the last call that began.
  Metadata metadata() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return seen_;
  }
  std::optional<TimePoint> deadline() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return deadline_;
  }

  template <typename Condition>
  static bool WaitFor(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }

 private:
  class ProbeCall : public ServerCall {
   public:
    explicit ProbeCall(Probe* probe) : probe_(probe) {}
    ~ProbeCall() override { ++probe_->destroyed; }
    void OnMessage(std::string_view bytes) override { Answer(bytes); }
    void OnHalfClose() override { End(); }
    void OnCancel() override { ++probe_->cancelled; }

   protected:
    virtual void Answer(std::string_view bytes) = 0;
    virtual void End() {}
    Probe* const probe_;
  };

  // Answers the length of the text as max_context; "fail" with details, "hold" never. "block" keeps
  // the I/O thread busy for a while.
  class TokenizeCall final : public ProbeCall {
   public:
    using ProbeCall::ProbeCall;
    void Answer(std::string_view bytes) override {
      v1::TokenizeRequest request;
      if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
        Finish(absl::InvalidArgumentError("no TokenizeRequest"));
      } else if (request.text() == "fail") {
        Finish(rpc::WithDetails(absl::UnavailableError("100 % \xC3\xA4 \n asked"),
                                {.reason = "AS_ASKED",
                                 .metadata = {{"limit", "7"}},
                                 .retry_after_ms = 1500,
                                 .fields = {{"text", "is fail"}}}));
      } else if (request.text() != "hold") {
        if (request.text() == "block") std::this_thread::sleep_for(std::chrono::milliseconds(300));
        v1::TokenizeResponse response;
        response.set_max_context(static_cast<int64_t>(request.text().size()));
        Write(response);
        Finish(absl::OkStatus());
      }
    }
  };

  // Answers a text of ids[0] bytes, from another thread.
  class DetokenizeCall final : public ProbeCall {
   public:
    using ProbeCall::ProbeCall;
    void Answer(std::string_view bytes) override {
      v1::DetokenizeRequest request;
      request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
      std::thread([self = shared_from_this(), size = request.ids(0)] {
        v1::DetokenizeResponse response;
        response.set_text(std::string(static_cast<size_t>(size), 'x'));
        self->Write(response);
        self->Finish(absl::OkStatus());
      }).detach();
    }
  };

  // Streams max_tokens events with a text of seed bytes each, from another thread, until it may not
  // write any more.
  class GenerateCall final : public ProbeCall {
   public:
    using ProbeCall::ProbeCall;
    void Answer(std::string_view bytes) override {
      v1::GenerateRequest request;
      request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
      std::thread([self = shared_from_this(), request] {
        v1::GenerateEvent event;
        event.mutable_tokens()->set_text(std::string(request.sampling().seed(), 'x'));
        for (int i = 0; i < request.sampling().max_tokens(); ++i) {
          event.mutable_tokens()->set_token_index(i);
          if (!self->Write(event)) return;
        }
        self->Finish(absl::OkStatus());
      }).detach();
    }
  };

  // Answers every message at once with one that has its request id, and ends with the client.
  class SessionCall final : public ProbeCall {
   public:
    using ProbeCall::ProbeCall;
    void Answer(std::string_view bytes) override {
      v1::SessionRequest request;
      request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
      if (request.gather()) GatherAs(v1::SessionEvent::kMoreFieldNumber);
      Echo(request);
      for (const v1::SessionRequest& more : request.more()) Echo(more);
    }
    void End() override { Finish(absl::OkStatus()); }

   private:
    void Echo(const v1::SessionRequest& request) {
      v1::SessionEvent event;
      event.set_request_id(request.cancel().request_id());
      Write(event);
    }
  };

  Mutex mutex_;
  Metadata seen_ GUARDED_BY(mutex_);
  std::optional<TimePoint> deadline_ GUARDED_BY(mutex_);
};

class ServerFixture : public ::testing::Test {
 protected:
  // No call outlives its server for long.
  void TearDown() override {
    stub_.reset();
    server_.reset();
    EXPECT_TRUE(Probe::WaitFor([this] { return probe_.destroyed == probe_.begun; }));
  }
  void Start(ServerOptions options = {}) {
    if (options.name.empty()) options.name = "probe";
    if (options.listen.empty()) options.listen = "127.0.0.1:0";
    auto server = Server::Start(std::move(options), {probe_.service()});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = Stub();
  }
  // On a connection of its own.
  std::unique_ptr<v1::InferenceService::Stub> Stub() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetMaxReceiveMessageSize(-1);
    return v1::InferenceService::NewStub(grpc::CreateCustomChannel(
        server_->address(), grpc::InsecureChannelCredentials(), arguments));
  }
  grpc::Status Tokenize(const std::string& text, v1::TokenizeResponse* response = nullptr,
                        grpc::ClientContext* context = nullptr,
                        v1::InferenceService::Stub* stub = nullptr) {
    grpc::ClientContext own;
    if (!context) context = &own;
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::TokenizeRequest request;
    request.set_text(text);
    v1::TokenizeResponse unused;
    return (stub ? stub : stub_.get())->Tokenize(context, request, response ? response : &unused);
  }

  Probe probe_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

}  // namespace conclave::h2
