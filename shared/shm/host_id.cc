#include <fstream>

#include "shared/shm/host_socket.h"

namespace conclave::shm {

std::string HostId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

}  // namespace conclave::shm
