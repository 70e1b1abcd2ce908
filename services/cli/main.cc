// The program `conclave`: parses the command line, reads the settings, runs one command.
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <deque>
#include <filesystem>

#include "CLI/CLI.hpp"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "services/cli/bundled_model.h"
#include "services/cli/cluster_state.h"
#include "services/cli/command.h"
#include "shared/base/command_line.h"
#include "shared/base/limits.h"
#include "shared/base/log.h"
#include "shared/base/nearest.h"
#include "shared/base/utf8.h"
#include "shared/base/version.h"

namespace conclave::cli {
namespace {

constexpr size_t kShownBytes = 40;
// Of this program itself: one connection, and up to a thousand clients of a bench beyond it.
constexpr int64_t kAddressSpace = int64_t{256} << 20;
constexpr int64_t kOpenFiles = 16;

// A setting as a flag of one command: kept as text until Settings reads it.
struct SettingFlag {
  std::string flag;
  std::string short_flag;  // "--workers" of `up` and `doctor`, or empty
  CLI::Option* option = nullptr;
  std::string text;
};

struct Entry {
  std::unique_ptr<Command> command;
  CLI::App* app = nullptr;
  std::vector<std::string> words{};  // as typed, behind the command
  std::deque<SettingFlag> flags;     // CLI11 points into it
  std::string config_file;
};

// Every command takes all settings as flags; those of the section "up" also without their prefix
// where they belong.
void AddSettingFlags(const std::vector<Settings::Row>& rows, Entry* entry) {
  entry->app->add_option("--config", entry->config_file, "settings file, YAML")->type_name("FILE");
  const std::string command = entry->command->name();
  for (const Settings::Row& row : rows) {
    SettingFlag& flag = entry->flags.emplace_back();
    flag.flag = row.flag;
    std::string names = row.flag;
    if (row.key.starts_with("up.") && (command == "up" || command == "doctor")) {
      flag.short_flag = "--" + row.flag.substr(std::string("--up-").size());
      names += "," + flag.short_flag;
    }
    flag.option = row.is_switch ? entry->app->add_flag(names, flag.text, row.help)
                                : entry->app->add_option(names, flag.text, row.help);
    if (row.key == "state_dir") {
      flag.option->type_name("DIR");
    } else {
      flag.option->group("");  // known, but not in the command's short help
    }
    flag.option->take_last();  // so that RunEntry can say which was given twice
  }
}

// "error: ..." for a word that no flag or argument takes.
int RefuseExtras(const CLI::App& app, const std::vector<std::string>& extras, bool flags_ended) {
  const std::string word = extras.front().substr(0, extras.front().find('='));
  if (!word.starts_with("-") || flags_ended) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat("\"", word, "\" is one argument too many for conclave ", app.get_name(),
                     flags_ended ? "; flags stand before --" : "; quotes keep words together")));
  }
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  return Fail(absl::InvalidArgumentError(absl::StrCat("flag ", word, " is unknown to conclave ",
                                                      app.get_name(), "; the nearest known one is ",
                                                      NearestOf(word, known))));
}

// A flag as it was typed, in what was made of its long form.
std::string AsTyped(const Entry& entry, std::string text) {
  for (const SettingFlag& flag : entry.flags) {
    if (flag.short_flag.empty() || flag.option->count() == 0) continue;
    const bool typed_short = std::any_of(
        entry.words.begin(), entry.words.end(),
        [&](const std::string& word) { return word.substr(0, word.find('=')) == flag.short_flag; });
    if (typed_short) text = absl::StrReplaceAll(text, {{flag.flag, flag.short_flag}});
  }
  return text;
}

absl::Status AsTyped(const Entry& entry, const absl::Status& status) {
  return absl::Status(status.code(), AsTyped(entry, std::string(status.message())));
}

int RunEntry(Entry& entry) {
  std::vector<std::string> extras = entry.app->remaining();
  const bool flags_ended = std::erase(extras, "--") > 0;
  if (!extras.empty()) return RefuseExtras(*entry.app, extras, flags_ended);
  Context context;
  Settings settings(absl::StrCat("conclave ", entry.command->name()), "*",
                    entry.command->summary());
  context.options.Bind(settings);
  std::vector<std::string> words = {"conclave"};
  if (entry.app->count("--config") > 0) words.push_back("--config=" + entry.config_file);
  for (const SettingFlag& flag : entry.flags) {
    if (flag.option->count() > 1) {
      return Fail(absl::InvalidArgumentError(
          absl::StrCat("flag ", flag.flag,
                       flag.short_flag.empty() ? "" : absl::StrCat(" (", flag.short_flag, ")"),
                       " is given ", flag.option->count(), " times; give it once")));
    }
    if (flag.option->count() > 0) words.push_back(flag.flag + "=" + flag.text);
  }
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  bool exit_now = false;
  absl::Status status = settings.Parse(static_cast<int>(argv.size()), argv.data(), &exit_now);
  context.rows = settings.Rows();
  if (status.ok()) status = NameSource(context.options.common.Validate(), context.rows);
  if (!status.ok()) return Fail(AsTyped(entry, status));
  for (Settings::Row& row : context.rows) row.source = AsTyped(entry, row.source);
  if (entry.app->count("--model") > 0 && context.options.common.model.empty()) {
    return Fail(absl::InvalidArgumentError(
        "flag --model is empty; give a checkpoint folder, or leave it out for the bundled model"));
  }
  if (context.options.common.model.empty()) {
    context.options.common.model = BundledModel();
    for (Settings::Row& row : context.rows) {
      if (row.key != "model" || context.options.common.model.empty()) continue;
      row.value = context.options.common.model;
      row.source = kBundledSource;
    }
  }
  context.config_file = settings.config_file();
  context.state_dir =
      std::filesystem::absolute(StateDir(context.options.common)).lexically_normal().string();
  // The cluster that runs here asks for the secret and the certificates it was started with, and
  // its controller's port may be another cluster's by now.
  if (const auto running = ReadRunningCluster(context.state_dir); running.ok()) {
    std::string& secret = context.options.common.cluster_secret_file;
    std::string& cluster = context.options.common.cluster_id;
    if (secret.empty()) secret = running->cluster_secret_file;
    if (cluster.empty()) cluster = running->cluster_id;
    if (!context.options.common.tls.configured() && running->tls.configured()) {
      context.options.common.tls = running->tls;
      context.options.common.tls_server_name = running->tls_server_name;
    }
  }
  // The commands speak to people; the libraries' notes stay quiet.
  status = StartLog("conclave", "warning", context.options.common.log_format);
  if (!status.ok()) return Fail(status);
  return WithOutputWritten(entry.command->Run(context));
}

// Every argument becomes a setting, a path or a prompt; none of them can be other bytes than text.
absl::Status CheckUtf8(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const auto at = FirstInvalidUtf8(word);
    if (!at) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "argument ", i, " (\"", absl::CHexEscape(std::string(word.substr(0, kShownBytes))),
        "\") is not UTF-8 from its byte ", *at,
        " on; give it as UTF-8 (a text of another "
        "encoding: iconv -t UTF-8)"));
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  if (const absl::Status status = CheckUtf8(argc, argv); !status.ok()) return Fail(status);
  const absl::Status limits = CheckProcessLimits(ReadProcessLimits(), kAddressSpace, kOpenFiles);
  if (!limits.ok()) return Fail(limits);
  CLI::App app("Conclave serves Mixture-of-Experts models from a cluster of processes.",
               "conclave");
  app.set_version_flag("--version", absl::StrCat("conclave ", std::string(Version()), " (commit ",
                                                 std::string(Commit()), ")"));
  app.require_subcommand(1);
  constexpr const char* kExitCodes =
      "Exit codes: 0 good, 1 failed, 2 wrong usage, 3 no cluster runs, 130 interrupted.";
  // The commands inherit it.
  app.footer(absl::StrCat("All settings are flags here, too: conclave config show.\n", kExitCodes));
  AllOptions defaults;
  Settings declared("conclave", "*", "");
  defaults.Bind(declared);
  const std::vector<Settings::Row> rows = declared.Rows();

  std::deque<Entry> entries;
  for (auto* make :
       {MakeUpCommand, MakeDownCommand, MakePsCommand, MakeLogsCommand, MakeEventsCommand,
        MakeRunCommand, MakeChatCommand, MakeDoctorCommand, MakeBenchCommand, MakePackCommand,
        MakeEvalCommand, MakeKeyCommand, MakeConfigCommand}) {
    Entry& entry = entries.emplace_back();
    entry.command = make();
    entry.app = app.add_subcommand(entry.command->name(), entry.command->summary());
    entry.app->allow_extras();
    entry.command->AddFlags(*entry.app);
    AddSettingFlags(rows, &entry);
  }
  app.footer(absl::StrCat(
      "To begin: conclave up -d, then conclave run \"Spell the word wolf.\" or conclave "
      "chat, then conclave down.\nconclave COMMAND --help says more. ",
      kExitCodes));
  std::vector<std::string> words(argv + 1, argv + argc);
  for (Entry& entry : entries) {
    if (words.empty() || words.front() != entry.command->name()) continue;
    auto checked = CheckedWords(*entry.app, {words.begin() + 1, words.end()});
    if (!checked.ok()) return Fail(checked.status());
    entry.words = *checked;
    words.resize(1);
    words.insert(words.end(), checked->begin(), checked->end());
  }
  try {
    ParseWords(app, words);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForVersion& version) {
    return app.exit(version);
  } catch (const CLI::ParseError& error) {
    std::string message(ParseErrorStatus(error).message());
    if (argc == 1 || argv[1][0] == '-' || argv[1][0] == '\0') {
      std::vector<std::string> names;
      for (const Entry& entry : entries) names.emplace_back(entry.command->name());
      message =
          absl::StrCat(argc == 1 ? "no command given" : "the first word is no command", "; one of ",
                       absl::StrJoin(names, ", "), " (conclave --help says what they do)");
    }
    if (argc > 1 && std::isalnum(argv[1][0]) && app.get_subcommands().empty()) {
      std::vector<std::string> names;
      for (const Entry& entry : entries) names.emplace_back(entry.command->name());
      message = absl::StrCat("\"", argv[1], "\" is not a command; the nearest is ",
                             NearestOf(argv[1], names), ", all are ", absl::StrJoin(names, ", "));
    }
    return Fail(absl::InvalidArgumentError(message));
  }
  for (Entry& entry : entries) {
    if (entry.app->parsed()) return RunEntry(entry);
  }
  return kExitUsage;
}

}  // namespace
}  // namespace conclave::cli

int main(int argc, char** argv) { return conclave::cli::Main(argc, argv); }
