#include "services/cli/gateway_bench/process_cost.h"

#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace conclave::cli {
namespace {

absl::Status Gone(int64_t pid) {
  return absl::NotFoundError(absl::StrCat("process ", pid, " has ended while it was measured"));
}

}  // namespace

absl::StatusOr<double> CpuSeconds(int64_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  if (!std::getline(file, line)) return Gone(pid);
  // The name, in parentheses, may hold anything; fields are counted behind it (proc(5)).
  std::istringstream fields(line.substr(line.rfind(')') + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  int64_t user = 0, system = 0;
  if (!(fields >> user >> system)) return Gone(pid);
  return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

absl::StatusOr<int64_t> ResidentBytes(int64_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/statm"));
  int64_t size = 0, resident = 0;
  if (!(file >> size >> resident)) return Gone(pid);
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace conclave::cli
