#include "shared/http/transport.h"

#include <openssl/err.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <utility>

namespace conclave::http::internal {

namespace asio = boost::asio;

namespace {

using Tcp = asio::ip::tcp;

// Of one read: a whole record of TLS (RFC 8446, section 5.1). Room is needed for no longer than the
// read itself: all connections of a thread share it.
constexpr size_t kReadBytes = 16 << 10;
std::array<char, kReadBytes>& SharedRoom() {
  static thread_local std::array<char, kReadBytes> room;
  return room;
}

// OpenSSL's own BIO of a socket raises SIGPIPE, and would go on with the number of a closed socket.
Tcp::socket* SocketOf(BIO* bio) { return static_cast<Tcp::socket*>(BIO_get_data(bio)); }

int Retried(BIO* bio, ssize_t count, int retry) {
  BIO_clear_retry_flags(bio);
  if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
    BIO_set_flags(bio, retry | BIO_FLAGS_SHOULD_RETRY);
  }
  return static_cast<int>(count);
}

int WriteSocket(BIO* bio, const char* data, int size) {
  Tcp::socket* const socket = SocketOf(bio);
  if (!socket->is_open()) return -1;
  return Retried(bio, send(socket->native_handle(), data, static_cast<size_t>(size), MSG_NOSIGNAL),
                 BIO_FLAGS_WRITE);
}

int ReadSocket(BIO* bio, char* data, int size) {
  Tcp::socket* const socket = SocketOf(bio);
  if (!socket->is_open()) return -1;
  return Retried(bio, recv(socket->native_handle(), data, static_cast<size_t>(size), 0),
                 BIO_FLAGS_READ);
}

long ControlSocket(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

BIO* NewSocketBio(Tcp::socket* socket) {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* const made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket");
    BIO_meth_set_write(made, WriteSocket);
    BIO_meth_set_read(made, ReadSocket);
    BIO_meth_set_ctrl(made, ControlSocket);
    return made;
  }();
  BIO* const bio = BIO_new(method);
  BIO_set_data(bio, socket);
  BIO_set_init(bio, 1);
  return bio;
}

}  // namespace

Transport::Transport(Tcp::socket socket, std::shared_ptr<asio::ssl::context> tls)
    : socket_(std::move(socket)), context_(std::move(tls)) {
  Error ignored;
  socket_.non_blocking(true, ignored);
}

asio::awaitable<Transport::Error> Transport::WaitReadable() {
  Error error;
  co_await socket_.async_wait(Tcp::socket::wait_read,
                              asio::redirect_error(asio::use_awaitable, error));
  co_return error;
}

asio::awaitable<Transport::Error> Transport::Handshake() {
  tls_.reset(SSL_new(context_->native_handle()));
  if (!tls_) co_return asio::error::no_memory;
  BIO* const bio = NewSocketBio(&socket_);
  SSL_set_bio(tls_.get(), bio, bio);
  SSL_set_mode(tls_.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                               SSL_MODE_RELEASE_BUFFERS);
  co_return co_await Drive([](SSL* tls) { return SSL_accept(tls); });
}

asio::awaitable<Transport::Error> Transport::Read(std::string* input) {
  Error error;
  // What OpenSSL has read and not given out makes no socket readable.
  if (!tls_ || SSL_pending(tls_.get()) == 0) error = co_await WaitReadable();
  if (error) co_return error;
  if (!socket_.is_open()) co_return asio::error::operation_aborted;
  auto& room = SharedRoom();
  if (!tls_) {
    const size_t count = socket_.read_some(asio::buffer(room), error);
    if (error == asio::error::would_block) co_return Error();
    input->append(room.data(), count);
    co_return error;
  }
  ERR_clear_error();
  const int count = SSL_read(tls_.get(), room.data(), static_cast<int>(room.size()));
  switch (After(count, &error)) {
    case Next::kDone:
      input->append(room.data(), static_cast<size_t>(count));
      break;
    case Next::kWritable:  // an answer of TLS itself, such as to a change of keys
      co_await socket_.async_wait(Tcp::socket::wait_write,
                                  asio::redirect_error(asio::use_awaitable, error));
      break;
    case Next::kReadable:
    case Next::kFailed:
      break;
  }
  co_return error;
}

asio::awaitable<Transport::Error> Transport::Write(const std::string& bytes) {
  Error error;
  if (!tls_) {
    co_await asio::async_write(socket_, asio::buffer(bytes),
                               asio::redirect_error(asio::use_awaitable, error));
    co_return error;
  }
  size_t written = 0;
  while (written < bytes.size() && !error) {
    error = co_await Drive([&](SSL* tls) {
      const int size = static_cast<int>(std::min<size_t>(bytes.size() - written, INT_MAX));
      const int count = SSL_write(tls, bytes.data() + written, size);
      if (count > 0) written += static_cast<size_t>(count);
      return count;
    });
  }
  co_return error;
}

void Transport::EndWriting() {
  Error ignored;
  if (tls_ && socket_.is_open() && SSL_is_init_finished(tls_.get())) {
    ERR_clear_error();
    SSL_shutdown(tls_.get());
  }
  socket_.shutdown(Tcp::socket::shutdown_send, ignored);
}

void Transport::Close() {
  Error ignored;
  socket_.close(ignored);
}

Transport::Next Transport::After(int result, Error* error) {
  if (result > 0) return Next::kDone;
  switch (SSL_get_error(tls_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return Next::kReadable;
    case SSL_ERROR_WANT_WRITE:
      return Next::kWritable;
    case SSL_ERROR_SSL:
      *error = Error(static_cast<int>(ERR_get_error()), asio::error::get_ssl_category());
      break;
    default:  // the end, told or not
      *error = asio::error::eof;
      break;
  }
  return Next::kFailed;
}

asio::awaitable<Transport::Error> Transport::Drive(std::function<int(SSL*)> step) {
  while (true) {
    if (!socket_.is_open()) co_return asio::error::operation_aborted;
    Error error;
    ERR_clear_error();
    const Next next = After(step(tls_.get()), &error);
    if (next == Next::kDone || next == Next::kFailed) co_return error;
    co_await socket_.async_wait(
        next == Next::kReadable ? Tcp::socket::wait_read : Tcp::socket::wait_write,
        asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return error;
  }
}

}  // namespace conclave::http::internal
