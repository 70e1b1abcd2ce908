#include "services/cli/port_owner.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace conclave::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kListening = "0A";  // TCP_LISTEN in /proc/net/tcp

// The inodes of sockets that listen on `port`.
std::set<std::string> ListeningInodes(int port) {
  std::set<std::string> inodes;
  for (const char* path : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    while (std::getline(file, line)) {
      std::istringstream words(line);
      std::string slot, local, remote, state, queues, timer, retries, user, timeout, inode;
      words >> slot >> local >> remote >> state >> queues >> timer >> retries >> user >> timeout >>
          inode;
      const size_t colon = local.rfind(':');
      if (state == kListening && colon != std::string::npos &&
          std::strtol(local.c_str() + colon + 1, nullptr, 16) == port) {
        inodes.insert(inode);
      }
    }
  }
  return inodes;
}

// The name of a process's program; that in its `comm` is cut at 15 characters.
std::string ProgramOf(const fs::path& process) {
  std::error_code error;
  std::string name = fs::read_symlink(process / "exe", error).filename().string();
  if (error) {
    std::ifstream comm(process / "comm");
    std::getline(comm, name);
  }
  return name.substr(0, name.find(" (deleted)"));
}

}  // namespace

std::string PortOwner(int port) {
  const std::set<std::string> inodes = ListeningInodes(port);
  if (inodes.empty()) return "";
  std::error_code error;
  for (const auto& process : fs::directory_iterator("/proc", error)) {
    int pid = 0;
    if (!absl::SimpleAtoi(process.path().filename().string(), &pid)) continue;
    for (const auto& entry : fs::directory_iterator(process.path() / "fd", error)) {
      const std::string target = fs::read_symlink(entry.path(), error).string();
      // "socket:[12345]"
      if (target.starts_with("socket:[") && inodes.contains(target.substr(8, target.size() - 9))) {
        return absl::StrCat("PID ", pid, " (", ProgramOf(process.path()), ")");
      }
    }
  }
  return "a process that cannot be seen from here";
}

}  // namespace conclave::cli
