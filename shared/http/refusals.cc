#include "shared/http/refusals.h"

#include <cstdint>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "shared/http/access_check.h"

namespace conclave::http::internal {

namespace beast_http = boost::beast::http;
using boost::system::error_code;

namespace {

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

// The answer to a head that leaves in doubt where its body ends: nothing after it may be taken for
// a request, since a proxy may have passed it on as the body (RFC 9112, section 6.3).
std::optional<Response> RefuseFraming(const RequestHead& fields) {
  using beast_http::field;
  const size_t count = fields.count(field::transfer_encoding);
  if (count == 0) return std::nullopt;
  if (fields.version() < 11) {
    return Failure(400, "HTTP/1.0 has no Transfer-Encoding; send Content-Length",
                   "malformed_request");
  }
  if (fields.count(field::content_length) > 0) {
    return Failure(400, "both Transfer-Encoding and Content-Length; send one of them",
                   "malformed_request");
  }
  const auto coding = fields[field::transfer_encoding];
  if (count > 1 || !boost::beast::iequals(coding, "chunked")) {
    return Failure(501,
                   absl::StrCat("header Transfer-Encoding is \"",
                                absl::CHexEscape(std::string(coding.substr(0, 100))), "\"",
                                count > 1 ? " and more" : "", "; send chunked alone"),
                   "transfer_encoding");
  }
  return std::nullopt;
}

// The answer to a compressed body: it is not what the handlers take it for.
std::optional<Response> RefuseCoding(const RequestHead& fields) {
  const auto [begin, end] = fields.equal_range(beast_http::field::content_encoding);
  for (auto it = begin; it != end; ++it) {
    if (boost::beast::iequals(it->value(), "identity")) continue;
    return Failure(415,
                   absl::StrCat("header Content-Encoding is \"",
                                absl::CHexEscape(std::string(it->value().substr(0, 100))),
                                "\"; send the body uncompressed"),
                   "content_encoding");
  }
  return std::nullopt;
}

}  // namespace

Response Failure(int status, std::string message, std::string code) {
  return ErrorResponse({.status = status,
                        .message = std::move(message),
                        .type = status >= 500 ? "server_error" : "invalid_request_error",
                        .param = "",
                        .code = std::move(code)});
}

Response ParseFailure(const error_code& error, const ServerOptions& options,
                      std::string_view announced) {
  if (error == beast_http::error::body_limit) {
    int64_t bytes = 0;
    const bool known =
        absl::SimpleAtoi(absl::string_view(announced.data(), announced.size()), &bytes);
    const std::string size = known ? absl::StrCat("has ", bytes, " bytes") : "has too many bytes";
    return Failure(
        413, absl::StrCat("the body ", size, "; the limit is ", options.max_body_bytes, " bytes"),
        "body_too_large");
  }
  if (error == beast_http::error::header_limit) {
    return Failure(431,
                   absl::StrCat("the request line and headers are larger than the limit of ",
                                options.max_header_bytes, " bytes"),
                   "headers_too_large");
  }
  return Failure(400, absl::StrCat("malformed HTTP request: ", error.message()),
                 "malformed_request");
}

std::optional<Response> RefuseHead(const RequestHead& message, const ServerOptions& options,
                                   const std::string& local_address) {
  if (message.version() != 10 && message.version() != 11) {
    return Failure(505, "the server speaks HTTP/1.1 and HTTP/1.0", "http_version");
  }
  if (auto refusal = RefuseFraming(message)) return refusal;
  const std::string_view target = View(message.target());
  if (target.empty() || target.front() != '/') {
    return Failure(400, "the request target must be a path that starts with /",
                   "malformed_request");
  }
  AccessQuery query{.host = std::nullopt,
                    .origin = std::nullopt,
                    .tls = options.tls != nullptr,
                    .local_address = local_address};
  if (message.count(beast_http::field::host) > 1) {
    return Failure(400, "more than one Host header", "malformed_request");
  }
  if (const auto host = message.find(beast_http::field::host); host != message.end()) {
    query.host = View(host->value());
  } else if (message.version() == 11) {
    return Failure(400, "the Host header is missing", "malformed_request");
  }
  if (message.count(beast_http::field::origin) > 1) {
    return Failure(400, "more than one Origin header", "malformed_request");
  }
  // Another one may have been checked in front of this server.
  if (message.count(beast_http::field::authorization) > 1) {
    return Failure(400, "more than one Authorization header", "malformed_request");
  }
  if (const auto origin = message.find(beast_http::field::origin); origin != message.end()) {
    query.origin = View(origin->value());
  }
  const absl::Status access = CheckAccess(query, options.access);
  if (absl::IsPermissionDenied(access)) {
    return ErrorResponse({.status = 403,
                          .message = std::string(access.message()),
                          .type = "permission_error",
                          .param = "",
                          .code = "foreign_origin"});
  }
  if (!access.ok()) return Failure(400, std::string(access.message()), "malformed_request");
  return RefuseCoding(message);
}

bool AsksToClose(const RequestHead& head) {
  const auto [begin, end] = head.equal_range(beast_http::field::connection);
  for (auto it = begin; it != end; ++it) {
    if (beast_http::token_list(it->value()).exists("close")) return true;
  }
  return false;
}

}  // namespace conclave::http::internal
