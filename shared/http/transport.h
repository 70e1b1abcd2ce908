// The bytes of one connection, over plain TCP or TLS.
//
// All methods run on the server's I/O thread. One read and one write may be under way at once. TLS
// works on the socket itself, without buffers in between: an idle connection holds 13 KiB.
#pragma once

#include <openssl/ssl.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "shared/http/asio.h"

namespace conclave::http::internal {

class Transport {
 public:
  using Tcp = boost::asio::ip::tcp;
  using Error = boost::system::error_code;

  // `tls` null: plain TCP.
  Transport(Tcp::socket socket, std::shared_ptr<boost::asio::ssl::context> tls);
  Transport(const Transport&) = delete;  // TLS refers to the descriptor
  Transport& operator=(const Transport&) = delete;

  // Until the client has sent something.
  boost::asio::awaitable<Error> WaitReadable();
  // Over TLS, before anything else.
  boost::asio::awaitable<Error> Handshake();
  // Appends what there is to `input`, at most `most_bytes` and perhaps nothing; nothing on an
  // error.
  boost::asio::awaitable<Error> Read(size_t most_bytes, std::string* input);
  // Writes what the peer takes at once: how much, or an error.
  size_t WriteSome(std::string_view bytes, Error* error);
  // Writes all of it.
  boost::asio::awaitable<Error> Write(std::string_view bytes);
  // Tells the peer that nothing more comes.
  void EndWriting();
  void Close();

  bool encrypted() const { return context_ != nullptr; }
  Tcp::socket& socket() { return socket_; }

 private:
  struct Free {
    void operator()(SSL* tls) const { SSL_free(tls); }
  };
  // What a step of OpenSSL wants next.
  enum class Next { kDone, kReadable, kWritable, kFailed };
  Next After(int result, Error* error);
  // Repeats the step, waiting for the socket in between, until it is done.
  boost::asio::awaitable<Error> Drive(std::function<int(SSL*)> step);

  Tcp::socket socket_;
  int descriptor_;  // of the socket; -1 when it is closed
  std::shared_ptr<boost::asio::ssl::context> context_;
  std::unique_ptr<SSL, Free> tls_;  // from the handshake on
};

}  // namespace conclave::http::internal
