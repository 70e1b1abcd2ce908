// `conclave events`: what happened in the cluster: the supervisor's events and the controller's, by
// time.
#include <algorithm>
#include <cstdio>
#include <limits>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/cli/cluster_state.h"
#include "services/cli/command.h"
#include "services/cli/controller_client.h"
#include "services/cli/table.h"

namespace conclave::cli {
namespace {

class EventsCommand final : public Command {
 public:
  const char* name() const override { return "events"; }
  const char* summary() const override {
    return "what happened: deaths, restarts, placements (local time)";
  }
  void AddFlags(CLI::App& app) override {
    app.add_option("--last", last_, "how many; 0: all")
        ->check(CLI::Range(0, std::numeric_limits<int>::max()))
        ->option_text("N [20]");
    app.add_flag("--json", json_, "print one JSON object a line, with times as Unix milliseconds");
  }
  int Run(const Context& context) override;

 private:
  int last_ = 20;
  bool json_ = false;
};

int EventsCommand::Run(const Context& context) {
  std::vector<Event> events = ReadEvents(context.state_dir);
  const auto controller = FindController(context);
  if (controller.ok()) {
    const auto more = ListEvents(*controller, context.options.common, last_);
    if (more.ok()) {
      events.insert(events.end(), more->begin(), more->end());
    } else if (events.empty()) {
      return Fail(more.status());
    } else {
      std::fprintf(stderr, "these are the supervisor's events alone: %s\n",
                   std::string(more.status().message()).c_str());
    }
  } else if (events.empty()) {
    return Fail(controller.status());
  }
  std::stable_sort(events.begin(), events.end(),
                   [](const Event& a, const Event& b) { return a.unix_ms < b.unix_ms; });
  const size_t skipped =
      last_ > 0 && events.size() > static_cast<size_t>(last_) ? events.size() - last_ : 0;
  const int64_t now = UnixMs();
  for (size_t i = skipped; i < events.size(); ++i) {
    const Event& event = events[i];
    if (json_) {
      const nlohmann::json line = {
          {"unix_ms", event.unix_ms}, {"member", event.member}, {"text", event.text}};
      std::printf("%s\n",
                  line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    } else {
      std::printf("%s %s%s%s\n", FormatMoment(event.unix_ms, now).c_str(), event.member.c_str(),
                  event.member.empty() ? "" : " ", event.text.c_str());
    }
  }
  return kExitOk;
}

}  // namespace

std::unique_ptr<Command> MakeEventsCommand() { return std::make_unique<EventsCommand>(); }

}  // namespace conclave::cli
