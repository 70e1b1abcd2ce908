// One way to set anything: flags, environment, and one YAML file fill the same Options structs.
//
// A program declares its settings once, binding each to a field; Settings reads all sources, keeps
// for each setting where its value came from (`conclave config show`), writes --help and --version,
// and refuses unknown keys, naming the nearest known one. Precedence: flag > environment > file >
// default. Setting "engine.kv_memory" is the flag --kv-memory of conclave-engine, the variable
// CONCLAVE_ENGINE_KV_MEMORY, and the key kv_memory below engine: in the file; a setting of the
// section "" is common to all programs: --model, CONCLAVE_MODEL, model:.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace conclave {

// A number of bytes; written 512MiB, 2GiB, 1e9, or "auto" (0) where the setting allows it.
struct ByteSize {
  int64_t bytes = 0;
};

class Settings {
 public:
  // `section`: which section's settings are flags of this program ("engine"); those of other
  // sections are known in the file and the environment, but are not flags here. The section "*"
  // makes all of them flags, with the section before the name: --engine-kv-memory.
  Settings(std::string program, std::string section, std::string description);
  ~Settings();

  // Binds a setting. `name` in snake_case; `help` one line with the unit; the field holds the
  // default now and the value after Parse. The field outlives this object.
  void Add(std::string_view section, std::string_view name, std::string* field,
           std::string_view help);
  void Add(std::string_view section, std::string_view name, int64_t* field, std::string_view help);
  void Add(std::string_view section, std::string_view name, int32_t* field, std::string_view help);
  void Add(std::string_view section, std::string_view name, double* field, std::string_view help);
  void Add(std::string_view section, std::string_view name, bool* field, std::string_view help);
  void Add(std::string_view section, std::string_view name, ByteSize* field, std::string_view help);

  // Reads --config FILE (or CONCLAVE_CONFIG), the environment, and the flags. INVALID_ARGUMENT
  // names the source and key, what was found and what was wanted. Prints help or version and sets
  // `exit_now` when asked to. Call once.
  absl::Status Parse(int argc, const char* const* argv, bool* exit_now);

  // The text of --help.
  std::string Help() const;

  // The file read, or empty.
  const std::string& config_file() const;

  // One row a setting: key, value, source ("default", "flag --x", "env X", "file F:LINE"). Secrets,
  // which are settings whose name ends in secret, password or token, are shown as "***".
  struct Row {
    std::string key, value, source, help;
    std::string flag;        // "--kv-memory", or empty when it is not a flag of this program
    bool is_switch = false;  // a flag without a value
  };
  std::vector<Row> Rows() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// An error that starts with a setting's key ("engine.threads is -1; ...") with where the value
// comes from before it, unless that is the default. Other errors are returned as they are.
absl::Status NameSource(const absl::Status& status, const std::vector<Settings::Row>& rows);

}  // namespace conclave
