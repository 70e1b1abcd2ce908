#include "services/cli/bundled_model.h"

#include <filesystem>

namespace conclave::cli {

std::string BundledModel() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path root = program.parent_path().parent_path();
  for (const char* place : {"models/tales", "share/conclave/models/tales"}) {
    const std::filesystem::path dir = root / place;
    if (std::filesystem::exists(dir / "config.json", error)) return dir.string();
  }
  return "";
}

}  // namespace conclave::cli
