#include "shared/base/settings.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <variant>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "shared/base/byte_size.h"
#include "shared/base/command_line.h"
#include "shared/base/json_file.h"
#include "shared/base/nearest.h"
#include "shared/base/status_macros.h"
#include "shared/base/version.h"
#include "yaml-cpp/yaml.h"

namespace conclave {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr uint64_t kMaxConfigBytes = 1 << 20;

using Field = std::variant<std::string*, int64_t*, int32_t*, double*, bool*, ByteSize*>;

struct Setting {
  std::string section;
  std::string name;
  Field field;
  std::string help;
  std::string default_text;
  std::string source = "default";

  std::string key() const { return section.empty() ? name : section + "." + name; }
  std::string variable() const {
    std::string text = "CONCLAVE_" + (section.empty() ? name : section + "_" + name);
    for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    return text;
  }
};

std::string Dashed(std::string_view name) {
  return absl::StrReplaceAll(std::string(name), {{"_", "-"}});
}

template <typename Number>
absl::Status SetNumber(const std::string& text, const char* wanted, Number* field) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is out of range"));
  }
  if (error != std::errc() || end != text.data() + text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not ", wanted));
  }
  *field = value;
  return absl::OkStatus();
}

// Sets a field from text.
struct Setter {
  const std::string& text;

  absl::Status operator()(std::string* field) const {
    *field = text;
    return absl::OkStatus();
  }
  absl::Status operator()(int64_t* field) const { return SetNumber(text, "a whole number", field); }
  absl::Status operator()(int32_t* field) const { return SetNumber(text, "a whole number", field); }
  absl::Status operator()(double* field) const {
    double value = 0;
    RETURN_IF_ERROR(SetNumber(text, "a number", &value));
    if (!std::isfinite(value)) {
      return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not a finite number"));
    }
    *field = value;
    return absl::OkStatus();
  }
  absl::Status operator()(bool* field) const {
    if (text == "true" || text == "yes" || text == "on" || text == "1") {
      *field = true;
    } else if (text == "false" || text == "no" || text == "off" || text == "0") {
      *field = false;
    } else {
      return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is neither true nor false"));
    }
    return absl::OkStatus();
  }
  absl::Status operator()(ByteSize* field) const {
    ASSIGN_OR_RETURN(field->bytes, ParseByteSize(text));
    return absl::OkStatus();
  }
};

struct Writer {
  std::string operator()(const std::string* field) const { return *field; }
  std::string operator()(const int64_t* field) const { return absl::StrCat(*field); }
  std::string operator()(const int32_t* field) const { return absl::StrCat(*field); }
  std::string operator()(const double* field) const { return absl::StrCat(*field); }
  std::string operator()(const bool* field) const { return *field ? "true" : "false"; }
  std::string operator()(const ByteSize* field) const {
    // Exact, so that a value can be handed on.
    if (field->bytes == 0) return "auto";
    return field->bytes % kMiB == 0 ? absl::StrCat(field->bytes / kMiB, "MiB")
                                    : absl::StrCat(field->bytes);
  }
};

bool IsSecret(const std::string& name) {
  return absl::EndsWith(name, "secret") || absl::EndsWith(name, "password") ||
         absl::EndsWith(name, "token");
}

// Variables that start with CONCLAVE_ but set nothing here: the ones of Settings, of the tests and
// of the build, and those that Kubernetes adds to every container for each Service, such as
// CONCLAVE_GATEWAY_PORT_8000_TCP_ADDR.
bool IsForeignVariable(const std::string& name) {
  if (name == "CONCLAVE_CONFIG" || name == "CONCLAVE_GOLDENS" ||
      name == "CONCLAVE_CARGO_TARGET_DIR") {
    return true;
  }
  return absl::EndsWith(name, "_SERVICE_HOST") || absl::StrContains(name, "_SERVICE_PORT") ||
         absl::EndsWith(name, "_PORT") || absl::StrContains(name, "_TCP") ||
         absl::StrContains(name, "_UDP");
}

}  // namespace

struct Settings::State {
  std::string program;
  std::string section;
  std::string description;
  std::string config_file;
  std::vector<Setting> settings;

  bool IsFlag(const Setting& setting) const {
    return setting.section.empty() || section == "*" || setting.section == section;
  }
  std::string Flag(const Setting& setting) const {
    return section == "*" && !setting.section.empty()
               ? absl::StrCat("--", Dashed(setting.section), "-", Dashed(setting.name))
               : absl::StrCat("--", Dashed(setting.name));
  }

  absl::Status Set(Setting& setting, const std::string& text, const std::string& source) {
    const absl::Status status = std::visit(Setter{text}, setting.field);
    if (!status.ok()) {
      // A flag or a variable is named like its key.
      const std::string key =
          absl::StartsWith(source, "file ") ? absl::StrCat(setting.key(), ": ") : std::string();
      return absl::InvalidArgumentError(absl::StrCat(
          source, ": ", key, std::string(status.message().data(), status.message().size()), " (",
          setting.help, ")"));
    }
    setting.source = source;
    return absl::OkStatus();
  }

  Setting* Find(std::string_view wanted_section, std::string_view name) {
    for (Setting& setting : settings) {
      if (setting.section == wanted_section && setting.name == name) return &setting;
    }
    return nullptr;
  }

  absl::Status ReadFile();
  absl::Status ReadFileSection(const std::string& name, const YAML::Node& node);
  absl::Status ReadFileEntry(const std::string& in_section, const std::string& name,
                             const YAML::Node& key_node, const YAML::Node& value);
  absl::Status ReadEnvironment();
  absl::Status ReadFlags(int argc, const char* const* argv, bool* exit_now);
};

absl::Status Settings::State::ReadFileEntry(const std::string& in_section, const std::string& name,
                                            const YAML::Node& key_node, const YAML::Node& value) {
  const std::string place = absl::StrCat("file ", config_file, ":", key_node.Mark().line + 1);
  Setting* setting = Find(in_section, name);
  if (setting == nullptr) {
    std::vector<std::string> known;
    for (const Setting& candidate : settings) {
      if (candidate.section == in_section) known.push_back(candidate.name);
      if (in_section.empty() && !candidate.section.empty()) known.push_back(candidate.section);
    }
    return absl::InvalidArgumentError(
        absl::StrCat(place, ": unknown key \"", name, "\"",
                     in_section.empty() ? std::string() : " below " + in_section + ":",
                     "; the nearest known one is \"", NearestOf(name, known), "\""));
  }
  if (absl::StartsWith(setting->source, "file ")) {
    return absl::InvalidArgumentError(
        absl::StrCat(place, ": ", setting->key(), " is set twice; remove one"));
  }
  if (!value.IsScalar()) {
    return absl::InvalidArgumentError(absl::StrCat(place, ": ", setting->key(),
                                                   " wants one value, not ",
                                                   value.IsNull()  ? "nothing"
                                                   : value.IsMap() ? "a map"
                                                                   : "a list"));
  }
  return Set(*setting, value.Scalar(), place);
}

absl::Status Settings::State::ReadFileSection(const std::string& name, const YAML::Node& node) {
  for (const auto& entry : node) {
    const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : std::string();
    const bool is_section =
        name.empty() && Find("", key) == nullptr &&
        std::any_of(settings.begin(), settings.end(),
                    [&](const Setting& setting) { return setting.section == key; });
    if (!is_section) {
      RETURN_IF_ERROR(ReadFileEntry(name, key, entry.first, entry.second));
    } else if (entry.second.IsMap()) {
      RETURN_IF_ERROR(ReadFileSection(key, entry.second));
    } else if (!entry.second.IsNull()) {
      return absl::InvalidArgumentError(
          absl::StrCat("file ", config_file, ":", entry.first.Mark().line + 1, ": ", key,
                       " is a section: write its settings below it, indented"));
    }
  }
  return absl::OkStatus();
}

absl::Status Settings::State::ReadFile() {
  if (config_file.empty()) return absl::OkStatus();
  const absl::StatusOr<std::string> text = ReadRegularFile(config_file, kMaxConfigBytes);
  if (!text.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the settings file cannot be read; give --config a YAML file: ", text.status().message()));
  }
  std::vector<YAML::Node> documents;
  try {
    documents = YAML::LoadAll(*text);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("file ", config_file, ":", error.mark.line + 1, ": not YAML: ", error.msg));
  }
  std::erase_if(documents, [](const YAML::Node& document) { return document.IsNull(); });
  if (documents.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "file ", config_file, ": has ", documents.size(),
        " YAML documents, and settings are one: remove the lines \"---\" between them"));
  }
  if (documents.empty()) return absl::OkStatus();
  const YAML::Node& node = documents.front();
  if (!node.IsMap()) {
    return absl::InvalidArgumentError(
        absl::StrCat("file ", config_file, ": wants lines of \"key: value\" at the top"));
  }
  return ReadFileSection("", node);
}

absl::Status Settings::State::ReadEnvironment() {
  std::vector<std::string> known;
  for (Setting& setting : settings) {
    const std::string variable = setting.variable();
    known.push_back(variable);
    if (const char* value = std::getenv(variable.c_str()); value != nullptr) {
      RETURN_IF_ERROR(Set(setting, value, "env " + variable));
    }
  }
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text(*entry);
    const std::string name = text.substr(0, text.find('='));
    if (!absl::StartsWith(name, "CONCLAVE_") || IsForeignVariable(name)) continue;
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("env ", name, ": unknown setting; the nearest known one is ",
                     NearestOf(name, known), "; unset or rename the variable"));
  }
  return absl::OkStatus();
}

absl::Status Settings::State::ReadFlags(int argc, const char* const* argv, bool* exit_now) {
  CLI::App app(description, program);
  app.set_help_flag();
  app.allow_extras();
  bool help = false, version = false;
  app.add_flag("-h,--help", help);
  app.add_flag("--version", version);
  const CLI::Option* const config_flag = app.add_option("--config", config_file);
  std::vector<std::string> texts(settings.size());
  std::vector<CLI::Option*> options(settings.size(), nullptr);
  for (size_t i = 0; i < settings.size(); ++i) {
    if (!IsFlag(settings[i])) continue;
    options[i] = std::holds_alternative<bool*>(settings[i].field)
                     ? app.add_flag(Flag(settings[i]), texts[i])
                     : app.add_option(Flag(settings[i]), texts[i]);
  }
  ASSIGN_OR_RETURN(std::vector<std::string> words, CheckedWords(app, {argv + 1, argv + argc}));
  try {
    ParseWords(app, std::move(words));
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(ParseErrorStatus(error).message(), "; see ", program, " --help"));
  }
  if (help || version) {
    *exit_now = true;
    if (version) {
      std::printf("%s %s (commit %s)\n", program.c_str(), std::string(Version()).c_str(),
                  std::string(Commit()).c_str());
    }
    return absl::OkStatus();
  }
  std::vector<std::string> extras = app.remaining();
  std::erase(extras, "--");
  if (!extras.empty()) {
    const std::string word = extras.front().substr(0, extras.front().find('='));
    if (!absl::StartsWith(word, "-")) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", word, "\" is not a flag; see ", program, " --help"));
    }
    std::vector<std::string> known = {"--config", "--help", "--version"};
    for (const Setting& setting : settings) {
      if (IsFlag(setting)) known.push_back(Flag(setting));
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "flag ", word, ": unknown; the nearest known one is ", NearestOf(word, known)));
  }
  if (config_flag->count() > 0 && config_file.empty()) {
    return absl::InvalidArgumentError("flag --config wants a file and is empty");
  }
  const char* config = std::getenv("CONCLAVE_CONFIG");
  if (config_file.empty() && config != nullptr) config_file = config;
  // The weaker sources first; what they set, the flags overwrite.
  RETURN_IF_ERROR(ReadFile());
  RETURN_IF_ERROR(ReadEnvironment());
  for (size_t i = 0; i < settings.size(); ++i) {
    if (options[i] == nullptr || options[i]->count() == 0) continue;
    if (options[i]->count() > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag ", Flag(settings[i]), " is given twice; remove one"));
    }
    RETURN_IF_ERROR(Set(settings[i], texts[i], "flag " + Flag(settings[i])));
  }
  return absl::OkStatus();
}

Settings::Settings(std::string program, std::string section, std::string description)
    : state_(std::make_unique<State>()) {
  state_->program = std::move(program);
  state_->section = std::move(section);
  state_->description = std::move(description);
}

Settings::~Settings() = default;

#define CONCLAVE_SETTINGS_ADD_(Type)                                               \
  void Settings::Add(std::string_view section, std::string_view name, Type* field, \
                     std::string_view help) {                                      \
    state_->settings.push_back({.section = std::string(section),                   \
                                .name = std::string(name),                         \
                                .field = field,                                    \
                                .help = std::string(help),                         \
                                .default_text = Writer{}(field)});                 \
  }
CONCLAVE_SETTINGS_ADD_(std::string)
CONCLAVE_SETTINGS_ADD_(int64_t)
CONCLAVE_SETTINGS_ADD_(int32_t)
CONCLAVE_SETTINGS_ADD_(double)
CONCLAVE_SETTINGS_ADD_(bool)
CONCLAVE_SETTINGS_ADD_(ByteSize)
#undef CONCLAVE_SETTINGS_ADD_

absl::Status Settings::Parse(int argc, const char* const* argv, bool* exit_now) {
  *exit_now = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "-h" || word == "--help") {
      std::fputs(Help().c_str(), stdout);
      *exit_now = true;
      return absl::OkStatus();
    }
  }
  return state_->ReadFlags(argc, argv, exit_now);
}

std::string Settings::Help() const {
  std::string text = absl::StrCat(
      state_->program, " ", std::string(Version()), ": ", state_->description,
      "\n\nEach setting is a flag, a variable of the environment (CONCLAVE_...), or a key of the\n"
      "YAML file given by --config FILE or CONCLAVE_CONFIG; the first of these wins.\n");
  std::string shown_section = "*";
  for (const Setting& setting : state_->settings) {
    if (!state_->IsFlag(setting)) continue;
    if (setting.section != shown_section) {
      shown_section = setting.section;
      absl::StrAppend(&text, "\n", shown_section.empty() ? "common" : shown_section, ":\n");
    }
    std::string flag = state_->Flag(setting);
    if (!std::holds_alternative<bool*>(setting.field)) flag += " VALUE";
    flag.resize(std::max<size_t>(flag.size(), 32), ' ');
    absl::StrAppend(&text, "  ", flag, " ", setting.help, " [",
                    setting.default_text.empty() ? "empty" : setting.default_text, "]\n");
  }
  absl::StrAppend(&text, "\nother:\n  --config FILE                    settings file, YAML\n",
                  "  --help, --version\n");
  return text;
}

absl::Status NameSource(const absl::Status& status, const std::vector<Settings::Row>& rows) {
  const std::string message(status.message());
  const std::string key = message.substr(0, message.find_first_of(" :"));
  for (const Settings::Row& row : rows) {
    if (row.key != key || row.source == "default") continue;
    return absl::Status(status.code(), absl::StrCat(row.source, ": ", message));
  }
  return status;
}

const std::string& Settings::config_file() const { return state_->config_file; }

std::vector<Settings::Row> Settings::Rows() const {
  std::vector<Row> rows;
  for (const Setting& setting : state_->settings) {
    std::string value = std::visit(Writer{}, setting.field);
    if (IsSecret(setting.name) && !value.empty()) value = "***";
    rows.push_back({.key = setting.key(),
                    .value = value,
                    .source = setting.source,
                    .help = setting.help,
                    .flag = state_->IsFlag(setting) ? state_->Flag(setting) : std::string(),
                    .is_switch = std::holds_alternative<bool*>(setting.field)});
  }
  return rows;
}

}  // namespace conclave
