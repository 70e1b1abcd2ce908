#include "shared/http/transport.h"

#include <openssl/err.h>

#include <algorithm>
#include <array>
#include <climits>
#include <utility>

#include "shared/net/socket_bio.h"

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

}  // namespace

Transport::Transport(Tcp::socket socket, std::shared_ptr<asio::ssl::context> tls)
    : socket_(std::move(socket)), descriptor_(socket_.native_handle()), context_(std::move(tls)) {
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
  BIO* const bio = net::NewSocketBio(&descriptor_);
  SSL_set_bio(tls_.get(), bio, bio);
  SSL_set_mode(tls_.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                               SSL_MODE_RELEASE_BUFFERS);
  co_return co_await Drive([](SSL* tls) { return SSL_accept(tls); });
}

asio::awaitable<Transport::Error> Transport::Read(size_t most_bytes, std::string* input) {
  Error error;
  // What OpenSSL has read and not given out makes no socket readable.
  if (!tls_ || SSL_pending(tls_.get()) == 0) error = co_await WaitReadable();
  if (error) co_return error;
  if (!socket_.is_open()) co_return asio::error::operation_aborted;
  auto& room = SharedRoom();
  most_bytes = std::min(most_bytes, room.size());
  if (!tls_) {
    const size_t count = socket_.read_some(asio::buffer(room.data(), most_bytes), error);
    if (error == asio::error::would_block) co_return Error();
    input->append(room.data(), count);
    co_return error;
  }
  ERR_clear_error();
  const int count = SSL_read(tls_.get(), room.data(), static_cast<int>(most_bytes));
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

size_t Transport::WriteSome(std::string_view bytes, Error* error) {
  if (!socket_.is_open()) {
    *error = asio::error::operation_aborted;
    return 0;
  }
  if (!tls_) {
    const size_t count = socket_.write_some(asio::buffer(bytes), *error);
    if (*error == asio::error::would_block) *error = Error();
    return count;
  }
  size_t written = 0;
  while (written < bytes.size()) {
    const auto rest = static_cast<int>(std::min<size_t>(bytes.size() - written, INT_MAX));
    ERR_clear_error();
    const int count = SSL_write(tls_.get(), bytes.data() + written, rest);
    if (After(count, error) != Next::kDone) break;
    written += static_cast<size_t>(count);
  }
  return written;
}

asio::awaitable<Transport::Error> Transport::Write(std::string_view bytes) {
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
  descriptor_ = -1;
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
