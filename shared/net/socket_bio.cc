#include "shared/net/socket_bio.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstddef>

namespace conclave::net {
namespace {

int DescriptorOf(BIO* bio) { return *static_cast<const int*>(BIO_get_data(bio)); }

int Retried(BIO* bio, ssize_t count, int retry) {
  BIO_clear_retry_flags(bio);
  if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
    BIO_set_flags(bio, retry | BIO_FLAGS_SHOULD_RETRY);
  }
  return static_cast<int>(count);
}

int WriteSocket(BIO* bio, const char* data, int size) {
  const int descriptor = DescriptorOf(bio);
  if (descriptor < 0) return -1;
  return Retried(bio, send(descriptor, data, static_cast<size_t>(size), MSG_NOSIGNAL),
                 BIO_FLAGS_WRITE);
}

int ReadSocket(BIO* bio, char* data, int size) {
  const int descriptor = DescriptorOf(bio);
  if (descriptor < 0) return -1;
  return Retried(bio, recv(descriptor, data, static_cast<size_t>(size), 0), BIO_FLAGS_READ);
}

long ControlSocket(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

}  // namespace

BIO* NewSocketBio(const int* descriptor) {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* const made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket");
    BIO_meth_set_write(made, WriteSocket);
    BIO_meth_set_read(made, ReadSocket);
    BIO_meth_set_ctrl(made, ControlSocket);
    return made;
  }();
  BIO* const bio = BIO_new(method);
  BIO_set_data(bio, const_cast<int*>(descriptor));
  BIO_set_init(bio, 1);
  return bio;
}

}  // namespace conclave::net
