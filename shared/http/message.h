// HTTP requests and answers as handlers see them. Plain values; no Beast type leaves this folder.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace conclave::http {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Request {
  std::string method;  // "GET", "POST", ...; HEAD arrives as GET
  std::string path;    // percent-decoded, without the query
  std::string query;   // as sent, without '?'
  Headers headers;     // in the order sent
  std::string body = "";
  std::string peer;  // address of the client, for logs

  // The first header of that name, compared without case; empty if there is none.
  std::string_view Header(std::string_view name) const;
};

struct Response {
  int status = 200;
  std::string content_type = "application/json";
  std::string body = "";
  Headers headers = {};  // besides Content-Type, Content-Length, Connection and Date
};

// "Not Found" for 404; "Status" for a code this server never sends.
std::string_view ReasonPhrase(int status);

// The error body of OpenAI's API: {"error":{"message","type","param","code"}}. Empty `param` and
// `code` become null.
struct Error {
  int status = 400;
  std::string message = "";
  std::string type = "invalid_request_error";
  std::string param = "";
  std::string code = "";
};
std::string ErrorBody(const Error& error);
Response ErrorResponse(const Error& error);

// Resolves %XX. False on a malformed escape or an encoded NUL.
bool PercentDecode(std::string_view text, std::string* decoded);

}  // namespace conclave::http
