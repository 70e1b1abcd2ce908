// A doorbell in memory of its own, which a process gives to all that are to ring it.
//
// A value. Any thread.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "shared/base/status_macros.h"
#include "shared/shm/doorbell.h"
#include "shared/shm/shared_memory.h"

namespace conclave::shm {

class SharedDoorbell {
 public:
  // Where the system gives no memory to share, it is this process' alone (descriptor() is -1).
  explicit SharedDoorbell(const std::string& name) {
    auto memory = SharedMemory::Create(name, kBytes);
    if (memory.ok()) {
      memory_ = *std::move(memory);
    } else {
      own_ = std::make_unique<Doorbell>();
    }
  }
  // Another process', of which it passed the descriptor; takes it. Errors of SharedMemory::Map.
  static absl::StatusOr<SharedDoorbell> Map(int descriptor) {
    ASSIGN_OR_RETURN(SharedMemory memory, SharedMemory::Map(descriptor, kBytes));
    return SharedDoorbell(std::move(memory));
  }

  Doorbell& operator*() const {
    return own_ ? *own_ : *reinterpret_cast<Doorbell*>(memory_.bytes().data());
  }
  Doorbell* operator->() const { return &**this; }
  int descriptor() const { return memory_.descriptor(); }

 private:
  static constexpr size_t kBytes = 4096;  // a page
  explicit SharedDoorbell(SharedMemory memory) : memory_(std::move(memory)) {}
  SharedMemory memory_;
  std::unique_ptr<Doorbell> own_;
};

}  // namespace conclave::shm
