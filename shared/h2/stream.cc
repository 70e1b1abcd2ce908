#include "shared/h2/stream.h"

#include "shared/h2/grpc_wire.h"

namespace conclave::h2 {

void Stream::DropUnsent() {
  size_t end = 0;
  while (end < packed) end += kPrefixBytes + LengthIn(std::string_view(sending).substr(end));
  sending.resize(end);
}

}  // namespace conclave::h2
