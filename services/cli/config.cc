// `conclave config show`: every setting with its value and where it comes from.
#include <cstdio>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/cli/command.h"
#include "services/cli/table.h"

namespace conclave::cli {
namespace {

class ConfigCommand final : public Command {
 public:
  const char* name() const override { return "config"; }
  const char* summary() const override { return "show the settings and where they come from"; }
  void AddFlags(CLI::App& app) override {
    app.add_option("show", what_, "the only word that may stand here")->type_name("");
    app.add_flag("--json", json_, "print a JSON array");
  }
  int Run(const Context& context) override {
    if (what_ != "show") {
      return Fail(absl::InvalidArgumentError(
          absl::StrCat("conclave config shows the settings and cannot \"", what_,
                       "\"; set them by flags, the environment or --config FILE")));
    }
    if (json_) {
      nlohmann::json rows = nlohmann::json::array();
      for (const Settings::Row& row : context.rows) {
        rows.push_back(
            {{"key", row.key}, {"value", row.value}, {"source", row.source}, {"help", row.help}});
      }
      std::printf("%s\n",
                  rows.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
      return kExitOk;
    }
    std::vector<std::vector<std::string>> table = {{"SETTING", "VALUE", "SOURCE"}};
    for (const Settings::Row& row : context.rows) {
      table.push_back({row.key, row.value.empty() ? "(empty)" : row.value, row.source});
    }
    std::printf("%s", FormatTable(table).c_str());
    return kExitOk;
  }

 private:
  std::string what_ = "show";
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeConfigCommand() { return std::make_unique<ConfigCommand>(); }

}  // namespace conclave::cli
