#include "shared/h2/byte_stream.h"

#include <openssl/err.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "shared/net/socket_bio.h"
#include "shared/net/tls_context.h"

namespace conclave::h2 {

ByteStream::ByteStream(boost::asio::io_context* io, int descriptor,
                       std::shared_ptr<boost::asio::ssl::context> tls)
    : socket_(*io, descriptor), descriptor_(descriptor), context_(std::move(tls)) {}

ByteStream::Result ByteStream::After(int result) {
  if (result > 0) return Result::kDone;
  switch (SSL_get_error(tls_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return Result::kReadable;
    case SSL_ERROR_WANT_WRITE:
      return Result::kWritable;
    default:
      return Result::kClosed;
  }
}

ByteStream::Result ByteStream::Handshake() {
  if (!open()) return Result::kClosed;
  if (!tls_) {
    tls_.reset(SSL_new(context_->native_handle()));
    if (!tls_) return Result::kClosed;
    BIO* const bio = net::NewSocketBio(&descriptor_);
    SSL_set_bio(tls_.get(), bio, bio);
    SSL_set_mode(tls_.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                 SSL_MODE_RELEASE_BUFFERS);
  }
  ERR_clear_error();
  const Result result = After(SSL_accept(tls_.get()));
  // gRPC demands that HTTP/2 is settled, since a client that offers nothing speaks HTTP/1.1.
  if (result == Result::kDone && !net::TlsContext::Chosen(tls_.get())) return Result::kClosed;
  return result;
}

ByteStream::Result ByteStream::Read(std::span<char> room, size_t* count) {
  if (!open()) return Result::kClosed;
  if (tls_) {
    ERR_clear_error();
    const int read = SSL_read(tls_.get(), room.data(), static_cast<int>(room.size()));
    if (read > 0) *count = static_cast<size_t>(read);
    return After(read);
  }
  const ssize_t read = recv(descriptor_, room.data(), room.size(), 0);
  if (read > 0) {
    *count = static_cast<size_t>(read);
    return Result::kDone;
  }
  const bool later = read < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
  return later ? Result::kReadable : Result::kClosed;
}

bool ByteStream::Deserted() const {
  pollfd socket = {.fd = descriptor_, .events = POLLRDHUP, .revents = 0};
  return poll(&socket, 1, 0) > 0 && (socket.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

ByteStream::Result ByteStream::Write(std::string_view bytes, size_t* written) {
  while (!bytes.empty()) {
    if (!open()) return Result::kClosed;
    ssize_t count = 0;
    if (tls_) {
      ERR_clear_error();
      count = SSL_write(tls_.get(), bytes.data(),
                        static_cast<int>(std::min<size_t>(bytes.size(), INT_MAX)));
      if (count <= 0) return After(static_cast<int>(count));
    } else {
      count = send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count < 0) {
        const bool later = errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
        return later ? Result::kWritable : Result::kClosed;
      }
    }
    *written += static_cast<size_t>(count);
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return Result::kDone;
}

void ByteStream::EndWriting() {
  if (!open()) return;
  if (tls_ && SSL_is_init_finished(tls_.get())) {
    ERR_clear_error();
    SSL_shutdown(tls_.get());
  }
  shutdown(descriptor_, SHUT_WR);
}

void ByteStream::Close() {
  if (!open()) return;
  descriptor_ = -1;
  boost::system::error_code ignored;
  socket_.close(ignored);
}

}  // namespace conclave::h2
