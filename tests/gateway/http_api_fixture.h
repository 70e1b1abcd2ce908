// What the tests of the gateway's HTTP face share: a gateway whose engine says what the test wants.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "tests/gateway/gateway_rig.h"

namespace conclave::gateway {

using http::RawClient;
using http::RawResponse;
using nlohmann::json;

inline constexpr char kChat[] = "/v1/chat/completions";
inline constexpr char kCompletions[] = "/v1/completions";

inline json Chat(const json& more = json::object()) {
  json body = {{"model", "tales"},
               {"messages", {{{"role", "user"}, {"content", "Spell the word wolf."}}}}};
  body.update(more);
  return body;
}

// An engine that says `text`, then stops.
class HttpApiTest : public testing::Test {
 protected:
  void Start(GatewayRig::Options options = {}) {
    rig_ = std::make_unique<GatewayRig>(std::move(options), [this](const v1::StartSequence&) {
      MutexLock lock(mutex_);
      return script_;
    });
    Say("The wolf ran away.");
    rig_->ConnectEngines();
  }
  void Say(const std::string& text) {
    MutexLock lock(mutex_);
    script_ = Script{.ids = rig_->Ids(text), .stop_id = 2};
  }
  void Play(Script script) {
    MutexLock lock(mutex_);
    script_ = std::move(script);
  }
  void Hang(const std::string& text) { Play({.ids = rig_->Ids(text), .hang_after = true}); }
  json Error(const RawResponse& response, int status) {
    EXPECT_EQ(response.status, status) << response.body;
    return json::parse(response.body).at("error");
  }

  Mutex mutex_;
  Script script_ GUARDED_BY(mutex_);
  std::unique_ptr<GatewayRig> rig_;
};

}  // namespace conclave::gateway
