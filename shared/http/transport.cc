#include "shared/http/transport.h"

#include <utility>

namespace conclave::http::internal {

namespace asio = boost::asio;

Transport::Transport(Tcp::socket socket, std::shared_ptr<asio::ssl::context> tls)
    : socket_(std::move(socket)), context_(std::move(tls)) {
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

asio::awaitable<size_t> Transport::Read(asio::mutable_buffer room, Error* error) {
  if (stream_) {
    co_return co_await stream_->async_read_some(room,
                                                asio::redirect_error(asio::use_awaitable, *error));
  }
  co_return co_await socket_.async_read_some(room,
                                             asio::redirect_error(asio::use_awaitable, *error));
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
