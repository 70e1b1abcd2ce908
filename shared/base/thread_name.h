// Names the calling thread, as top, gdb and perf show it.
#pragma once

#include <pthread.h>

#include <string>

namespace conclave {

// Linux keeps 15 characters; longer names are cut.
inline void SetThreadName(const std::string& name) {
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

}  // namespace conclave
