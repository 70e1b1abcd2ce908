#include "shared/http/transport.h"

#include <array>
#include <utility>

namespace conclave::http::internal {

namespace asio = boost::asio;

namespace {

constexpr size_t kReadBytes = 16 << 10;    // of one read
constexpr size_t kTlsReadBytes = 4 << 10;  // the same; held by every connection

}  // namespace

Transport::Transport(Tcp::socket socket, std::shared_ptr<asio::ssl::context> tls)
    : socket_(std::move(socket)), context_(std::move(tls)) {
  Error ignored;
  socket_.non_blocking(true, ignored);
  if (context_) stream_.emplace(socket_, *context_);
}

asio::awaitable<Transport::Error> Transport::Handshake() {
  Error error;
  if (stream_) {
    co_await stream_->async_handshake(asio::ssl::stream_base::server,
                                      asio::redirect_error(asio::use_awaitable, error));
  }
  co_return error;
}

asio::awaitable<Transport::Error> Transport::Read(std::string* input) {
  Error error;
  if (stream_) {
    std::array<char, kTlsReadBytes> room;
    const size_t count = co_await stream_->async_read_some(
        asio::buffer(room), asio::redirect_error(asio::use_awaitable, error));
    input->append(room.data(), count);
    co_return error;
  }
  co_await socket_.async_wait(Tcp::socket::wait_read,
                              asio::redirect_error(asio::use_awaitable, error));
  if (error) co_return error;
  // Room is needed for no longer than this call: a thousand idle connections share it.
  static thread_local std::array<char, kReadBytes> room;
  const size_t count = socket_.read_some(asio::buffer(room), error);
  if (error == asio::error::would_block) co_return Error();
  input->append(room.data(), count);
  co_return error;
}

asio::awaitable<Transport::Error> Transport::Write(const std::string& bytes) {
  Error error;
  if (stream_) {
    co_await asio::async_write(*stream_, asio::buffer(bytes),
                               asio::redirect_error(asio::use_awaitable, error));
  } else {
    co_await asio::async_write(socket_, asio::buffer(bytes),
                               asio::redirect_error(asio::use_awaitable, error));
  }
  co_return error;
}

asio::awaitable<void> Transport::EndWriting() {
  Error ignored;
  if (stream_) {
    socket_.cancel(ignored);  // the shutdown reads itself
    // Waits for the peer's answer, too; whoever cannot wait closes the socket.
    co_await stream_->async_shutdown(asio::redirect_error(asio::use_awaitable, ignored));
  }
  socket_.shutdown(Tcp::socket::shutdown_send, ignored);
}

void Transport::Close() {
  Error ignored;
  socket_.close(ignored);
}

}  // namespace conclave::http::internal
