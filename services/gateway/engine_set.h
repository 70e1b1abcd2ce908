// The engines this gateway knows: which are connected, how loaded each is, and which gets the next
// request.
//
// Pure; owned by the core thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "services/gateway/engine_link.h"

namespace conclave::gateway {

// An engine's load as the controller last reported it.
struct ReportedLoad {
  int32_t running = 0;
  int32_t waiting = 0;
  double kv_used_ratio = 0;
  int64_t last_step_age_ms = 0;
  bool draining = false;
};

class EngineSet {
 public:
  struct Engine {
    std::string name;
    std::string address;
    std::unique_ptr<EngineLink> link;
    std::optional<EngineIdentity> identity;  // while connected and acceptable
    std::string refusal;                     // why a connected engine is not used, or empty
    ReportedLoad load;
    TimePoint load_time;        // of the last report
    TimePoint last_event;       // anything heard on the stream
    int32_t own_sequences = 0;  // of this gateway, running now
    int32_t own_at_report = 0;  // the same when `load` was reported
  };

  Engine* Find(const std::string& name);
  Engine& Add(std::string name, std::string address, std::unique_ptr<EngineLink> link);
  // Forgets an engine. Its link is closed, and destroyed by DestroyClosed later: that must not wait
  // here.
  void Remove(const std::string& name);
  void DestroyClosed();
  std::map<std::string, Engine>& all() { return engines_; }

  // The connected engine with the fewest sequences: other gateways' by the last report, plus our
  // own now. Ties: less KV in use, then name. Draining engines come last. nullptr: none is
  // connected.
  Engine* LeastLoaded();

  // What requests may be checked against: the smallest context and vocabulary of the connected
  // engines; nullopt: none is.
  std::optional<EngineIdentity> CommonIdentity() const;
  int32_t num_connected() const;

 private:
  std::map<std::string, Engine> engines_;
  std::vector<std::unique_ptr<EngineLink>> closing_;
};

}  // namespace conclave::gateway
