// The bytes of one connection, over plain sockets or TLS, without blocking: each method does what
// can be done now.
//
// Used on the connection's I/O thread.
#pragma once

#include <openssl/ssl.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "shared/net/asio.h"

namespace conclave::h2 {

class ByteStream {
 public:
  enum class Result {
    kDone,
    kReadable,  // try again when the socket is readable,
    kWritable,  // or writable
    kClosed,    // by the peer, or for a fault
  };

  // Takes the descriptor of an accepted socket. `tls` null: plain.
  ByteStream(boost::asio::io_context* io, int descriptor,
             std::shared_ptr<boost::asio::ssl::context> tls);
  ByteStream(const ByteStream&) = delete;  // TLS refers to the descriptor
  ByteStream& operator=(const ByteStream&) = delete;

  bool encrypted() const { return context_ != nullptr; }
  bool open() const { return descriptor_ >= 0; }

  // Over TLS, before anything else; until it is done. kClosed also when ALPN did not settle.
  Result Handshake();
  // kDone: `*count` bytes, at least one, are in the room.
  Result Read(std::span<char> room, size_t* count);
  // Whether bytes wait here that no event of the socket will tell of.
  bool HasUnread() const { return tls_ && SSL_pending(tls_.get()) > 0; }
  // The peer has closed its side, also when there is something left to be read.
  bool Deserted() const;
  // Adds to `*written`, also when not all was.
  Result Write(std::string_view bytes, size_t* written);
  // Tells the peer that nothing more comes.
  void EndWriting();
  void Close();

  // For waiting until it is readable or writable.
  boost::asio::posix::stream_descriptor& socket() { return socket_; }

 private:
  struct Free {
    void operator()(SSL* tls) const { SSL_free(tls); }
  };
  Result After(int result);

  boost::asio::posix::stream_descriptor socket_;
  int descriptor_;  // -1 when it is closed
  std::shared_ptr<boost::asio::ssl::context> context_;
  std::unique_ptr<SSL, Free> tls_;  // from the handshake on
};

}  // namespace conclave::h2
