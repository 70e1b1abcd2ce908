#include "services/cli/hint.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "shared/options/options.h"

namespace conclave::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kProgram[] = "conclave";

// The state folder of a call without --state-dir.
std::string PlainStateDir() {
  CommonOptions options;
  if (const char* variable = std::getenv("CONCLAVE_STATE_DIR")) options.state_dir = variable;
  return fs::absolute(StateDir(options)).lexically_normal().string();
}

}  // namespace

std::string ShellWord(const std::string& text) {
  constexpr const char* kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

std::string Hint(const std::string& command, const std::string& state_dir) {
  // The library is linked into other programs too, such as its tests.
  const std::string called = program_invocation_name;
  const bool by_path =
      called.find('/') != std::string::npos && fs::path(called).filename().string() == kProgram;
  std::string text = absl::StrCat(by_path ? ShellWord(called) : kProgram, " ", command);
  const std::string folder = fs::absolute(state_dir).lexically_normal().string();
  if (folder != PlainStateDir()) absl::StrAppend(&text, " --state-dir ", ShellWord(folder));
  return text;
}

}  // namespace conclave::cli
