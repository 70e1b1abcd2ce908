#include "shared/base/random_bytes.h"

#include <openssl/rand.h>

#include <climits>

#include "shared/base/check.h"

namespace conclave {

void FillRandom(void* into, size_t size) {
  CONCLAVE_CHECK(size <= INT_MAX);
  CONCLAVE_CHECK(RAND_bytes(static_cast<unsigned char*>(into), static_cast<int>(size)) == 1);
}

std::string RandomBytes(size_t size) {
  std::string bytes(size, '\0');
  FillRandom(bytes.data(), size);
  return bytes;
}

}  // namespace conclave
