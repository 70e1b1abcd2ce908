// Bytes that nobody can guess: for keys, salts, ids and seeds. From OpenSSL's generator; a process
// that cannot get any ends at once, because whatever it made of other bytes would be known to
// others. Thread-safe.
#pragma once

#include <cstddef>
#include <string>

namespace conclave {

void FillRandom(void* into, size_t size);
std::string RandomBytes(size_t size);

}  // namespace conclave
