// A gateway with both its faces on real ports, over scripted engines.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "services/gateway/engine_client.h"
#include "services/gateway/frontend.h"
#include "services/gateway/grpc_service.h"
#include "services/gateway/http_api.h"
#include "shared/h2/server.h"
#include "shared/http/server.h"
#include "tests/http/raw_client.h"
#include "tests/support/scripted_engine.h"

namespace conclave::gateway {

using testing_support::Script;
using testing_support::ScriptedEngine;

inline v1::EngineHello TalesHello(int64_t context = 64) {
  v1::EngineHello hello;
  hello.set_fingerprint(std::string(64, 'a'));
  hello.set_served_name("tales");
  hello.set_numerics_class("bf16");
  hello.set_context_tokens(context);
  hello.set_vocab_size(4096);
  hello.set_system_fingerprint("tales-bf16-cpu1-aaaa");
  return hello;
}

class GatewayRig {
 public:
  using ScriptFunction = std::function<Script(const v1::StartSequence&)>;
  struct Options {
    int32_t max_running = 256;
    int32_t max_waiting = 1024;
    int num_engines = 1;
    size_t max_body_bytes = 4 << 20;
    Duration heartbeat_period = std::chrono::seconds(10);
    Duration first_token_timeout = std::chrono::seconds(60);
    ResponseCacheOptions cache = {};
    const KeyStore* keys = nullptr;
    Duration fingerprint_hold = std::chrono::seconds(10);
    Duration step_age_limit = std::chrono::seconds(5);
    v1::EngineHello hello = TalesHello();
    std::vector<v1::EngineHello> more_hellos = {};  // of further engines
    int32_t grpc_threads = 0;                       // as h2::ServerOptions::num_threads
  };

  GatewayRig(Options options, ScriptFunction script) : options_(std::move(options)) {
    const auto model = TextModel::Load(CONCLAVE_SOURCE_DIR "/models/tales", "tales");
    EXPECT_TRUE(model.ok()) << model.status();
    Frontend::Options frontend;
    frontend.scheduler.max_running = options_.max_running;
    frontend.scheduler.max_waiting = options_.max_waiting;
    frontend.scheduler.first_token_timeout = options_.first_token_timeout;
    frontend.cache = options_.cache;
    frontend.keys = options_.keys;
    frontend.fingerprint_hold = options_.fingerprint_hold;
    frontend.step_age_limit = options_.step_age_limit;
    frontend.cluster_secret = "a secret for tests";
    frontend.link_factory = [](const std::string& engine, const std::string& address,
                               EngineListener* listener) {
      return MakeEngineClient({.address = address, .secret = {}}, "gateway", engine, listener);
    };
    frontend.registry = &registry;
    frontend.clock = &clock_;
    frontend_ = std::make_unique<Frontend>(std::move(frontend), *model);
    for (int i = 0; i < options_.num_engines; ++i) {
      engines_.push_back(std::make_unique<ScriptedEngine>(options_.hello, script));
    }
    for (const v1::EngineHello& hello : options_.more_hellos) {
      engines_.push_back(std::make_unique<ScriptedEngine>(hello, script));
    }
    auto http = http::Server::Start(
        {.listen = "127.0.0.1:0",
         .max_body_bytes = options_.max_body_bytes,
         .check_sender =
             [this](std::string_view authorization) {
               return CheckSender(*frontend_, authorization);
             }},
        HttpRoutes(frontend_.get(), {.heartbeat_period = options_.heartbeat_period}));
    EXPECT_TRUE(http.ok()) << http.status();
    http_ = *std::move(http);
    h2::ServerOptions grpc_options;
    grpc_options.name = "gateway";
    grpc_options.listen = "127.0.0.1:0";
    grpc_options.num_threads = options_.grpc_threads;
    grpc_options.max_receive_bytes = options_.max_body_bytes;
    grpc_options.check_sender = [this](std::string_view authorization) {
      return frontend_->Authenticate(authorization).status();
    };
    auto grpc = h2::Server::Start(grpc_options, {InferenceService(frontend_.get())});
    EXPECT_TRUE(grpc.ok()) << grpc.status();
    grpc_ = *std::move(grpc);
  }
  ~GatewayRig() {
    grpc_->Drain(std::chrono::milliseconds(100));
    http_.reset();
    grpc_.reset();
    frontend_.reset();
    engines_.clear();
  }

  placement::ClusterView View() const { return ViewOf(0, engines_.size()); }
  // The engines from `begin` on, up to `end`.
  placement::ClusterView ViewOf(size_t begin, size_t end) const {
    placement::ClusterView view;
    for (size_t i = begin; i < end; ++i) {
      placement::EngineEndpoint endpoint;
      endpoint.name = "engine-" + std::to_string(i);
      endpoint.address = engines_[i]->address();
      endpoint.served_name = "tales";
      endpoint.state = placement::MemberState::kReady;
      view.engines.push_back(std::move(endpoint));
    }
    return view;
  }
  // Tells the gateway of its engines, and waits until it is connected to all.
  void ConnectEngines() {
    frontend_->UpdateCluster(View());
    ASSERT_TRUE(WaitFor(
        [this] { return frontend_->num_engines() == static_cast<int32_t>(engines_.size()); }));
  }

  // True once the condition holds; false after ten seconds.
  static bool WaitFor(const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }

  static std::string PostText(const std::string& path, const std::string& body,
                              const std::string& headers = "") {
    return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
           headers + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  }
  http::RawResponse Post(const std::string& path, const std::string& body,
                         const std::string& headers = "") {
    http::RawClient client(http_->address());
    client.Send(PostText(path, body, headers));
    return client.ReadResponse();
  }
  http::RawResponse Post(const std::string& path, const nlohmann::json& body,
                         const std::string& headers = "") {
    return Post(path, body.dump(), headers);
  }
  http::RawResponse Get(const std::string& path) {
    http::RawClient client(http_->address());
    client.Send("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
    return client.ReadResponse();
  }

  std::vector<int32_t> Ids(const std::string& text) const {
    return *frontend_->model().tokenizer()->Encode(text);
  }

  Frontend& frontend() { return *frontend_; }
  // Its port closes; nobody must ask for it again.
  void StopEngine(size_t i) { engines_[i].reset(); }
  ScriptedEngine& engine(size_t i = 0) { return *engines_[i]; }
  const std::string& http_address() const { return http_->address(); }
  const std::string& grpc_address() const { return grpc_->address(); }
  metrics::Registry registry;

 private:
  const Options options_;
  SteadyClock clock_;
  std::vector<std::unique_ptr<ScriptedEngine>> engines_;
  std::unique_ptr<Frontend> frontend_;
  std::unique_ptr<http::Server> http_;
  std::unique_ptr<h2::Server> grpc_;
};

// The data of the events of an SSE answer, parsed; "[DONE]" becomes a string. Comments are left
// out.
inline std::vector<nlohmann::json> SseData(const std::string& body) {
  std::vector<nlohmann::json> events;
  for (size_t at = 0; (at = body.find("data: ", at)) != std::string::npos;) {
    at += 6;
    const std::string data = body.substr(at, body.find("\n\n", at) - at);
    events.push_back(data == "[DONE]" ? nlohmann::json(data) : nlohmann::json::parse(data));
  }
  return events;
}

}  // namespace conclave::gateway
