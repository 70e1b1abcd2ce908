// The bytes of one connection, over plain TCP or TLS.
//
// All methods run on the server's I/O thread. One read and one write may be under way at once.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "shared/http/asio.h"

namespace conclave::http::internal {

class Transport {
 public:
  using Tcp = boost::asio::ip::tcp;
  using Error = boost::system::error_code;

  // `tls` null: plain TCP.
  Transport(Tcp::socket socket, std::shared_ptr<boost::asio::ssl::context> tls);
  Transport(const Transport&) = delete;  // the TLS stream refers to the socket
  Transport& operator=(const Transport&) = delete;

  // Before anything else; does nothing for plain TCP.
  boost::asio::awaitable<Error> Handshake();
  // Appends what there is, at least a byte, to `input`; nothing on an error.
  boost::asio::awaitable<Error> Read(std::string* input);
  boost::asio::awaitable<Error> Write(const std::string& bytes);
  // Tells the peer that nothing more comes. Over TLS this ends the read under way.
  boost::asio::awaitable<void> EndWriting();
  void Close();

  bool encrypted() const { return stream_.has_value(); }
  Tcp::socket& socket() { return socket_; }

 private:
  Tcp::socket socket_;
  std::shared_ptr<boost::asio::ssl::context> context_;
  std::optional<boost::asio::ssl::stream<Tcp::socket&>> stream_;
};

}  // namespace conclave::http::internal
