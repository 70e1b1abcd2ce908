// OpenSSL's face of a socket that does not block. OpenSSL's own raises SIGPIPE, and would go on
// with the number of a closed socket.
#pragma once

#include <openssl/bio.h>

namespace conclave::net {

// `*descriptor` is the socket, or -1 once it is closed: then reads and writes fail. It outlives the
// BIO, which the caller, or the SSL it is given to, frees.
BIO* NewSocketBio(const int* descriptor);

}  // namespace conclave::net
