// What a connection answers by itself to a request that must not reach a handler.
//
// Pure functions over what Beast has parsed.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "shared/http/asio.h"
#include "shared/http/message.h"
#include "shared/http/server.h"

namespace conclave::http::internal {

using RequestHead = boost::beast::http::header<true>;

// An error of the server's own; `code` is the machine's word for it.
Response Failure(int status, std::string message, std::string code);

// To bytes that the parser refused. `announced`: what Content-Length says, or empty.
Response ParseFailure(const boost::system::error_code& error, const ServerOptions& options,
                      std::string_view announced);

// To a head that is refused, before its body is read: version, framing (RFC 9112, section 6.3),
// target, Host and Origin, Content-Encoding. nullopt: go on. `local_address`: where the client
// connected to.
std::optional<Response> RefuseHead(const RequestHead& head, const ServerOptions& options,
                                   const std::string& local_address);

// Whether any Connection header says close: that goes before keep-alive, in every version
// (RFC 9112, section 9.3).
bool AsksToClose(const RequestHead& head);

}  // namespace conclave::http::internal
