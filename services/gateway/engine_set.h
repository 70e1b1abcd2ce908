// The engines this gateway knows: which are connected, how loaded each is, and which gets the next
// request.
//
// Pure; owned by the core thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/gateway/engine_link.h"
#include "services/gateway/prefix_map.h"

namespace conclave::gateway {

// An engine's load as the controller last reported it.
struct ReportedLoad {
  int32_t running = 0;
  int32_t waiting = 0;
  double kv_used_ratio = 0;
  bool draining = false;
};

// UNAVAILABLE with a retry delay: no engine is there to take a request.
absl::Status NoEngine();

class EngineSet {
 public:
  struct Engine {
    std::string name;
    std::string address;
    std::unique_ptr<EngineLink> link;
    std::optional<EngineIdentity> offered;   // while connected and able to serve the model
    std::optional<EngineIdentity> identity;  // the same while it is used: see Bind
    std::string refusal;                     // why a connected engine is not used, or empty
    placement::ExpertKeys missing;           // experts it reaches no live worker for
    ReportedLoad load;
    TimePoint last_event;       // anything heard on the stream: about once a second while it steps
    bool silent = false;        // not heard for too long
    bool leaving = false;       // it drains, and gets no more requests while connected
    bool finished = false;      // it was told that none comes
    int32_t own_sequences = 0;  // of this gateway, running now
    int32_t own_at_report = 0;  // the same when `load` was reported
    int64_t own_tokens = 0;     // that those will hold in the KV cache, as far as can be told
    PrefixMap prefixes;         // of prompts that this process got from this gateway
  };

  Engine* Find(const std::string& name);
  Engine& Add(std::string name, std::string address, std::unique_ptr<EngineLink> link);
  // Forgets an engine. Its link is closed, and destroyed by DestroyClosed later: that must not wait
  // here.
  void Remove(const std::string& name);
  void DestroyClosed();
  std::map<std::string, Engine>& all() { return engines_; }
  // Finishes the link of one that leaves once nothing of ours runs there. To be called whenever
  // that may have come true.
  static void FinishIdle(Engine* engine);

  // Engines are used only if they have one fingerprint, so that no answer or resumed answer mixes
  // two models of one name. The first one offered is bound; another takes its place when no engine
  // has offered the bound one for `hold`: then the one that most engines offer (ties: the
  // smallest). Sets identity and refusal of every engine that offers. To be called after every
  // change of `offered`, and now and then.
  struct Binding {
    bool changed = false;              // another fingerprint is bound, or the first one
    std::vector<std::string> refused;  // engines that are refused since this call
  };
  Binding Bind(TimePoint now, Duration hold);
  const std::string& fingerprint() const { return fingerprint_; }  // the bound one, or empty

  // What a request would take of an engine.
  struct Demand {
    int32_t sequences = 1;
    int64_t kv_tokens = 0;
    double share = 1;                           // of an engine's room that its class may fill
    std::span<const uint64_t> prefix_hashes{};  // of its prompt
  };
  // The engine for a request, among the connected ones that have room: that with the fewest
  // sequences (other gateways' by the last report, plus our own now), where 256 tokens of the
  // prompt that its KV cache has already count as one less, up to four less. Ties: less KV in use,
  // then name. Engines that miss experts come after all others, then silent ones, and draining ones
  // last. An engine without any sequence has room for everything. nullptr: none is connected that
  // is not leaving, or none but `set_aside` has room.
  Engine* Choose(const Demand& demand, const Engine* set_aside = nullptr);
  // The one that takes requests and will be empty first, as far as can be told: with the fewest
  // tokens of our own. nullptr: none takes requests.
  Engine* Emptiest();

  // What requests may be checked against: the smallest context and vocabulary of the connected
  // engines; nullopt: none is.
  std::optional<EngineIdentity> CommonIdentity() const;
  int32_t num_connected() const;
  int32_t num_refused() const;

 private:
  std::map<std::string, Engine> engines_;
  std::vector<std::unique_ptr<EngineLink>> closing_;
  std::string fingerprint_;
  TimePoint last_offered_;  // when an engine last offered the bound fingerprint
};

}  // namespace conclave::gateway
