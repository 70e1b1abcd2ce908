#include "shared/h2/request_head.h"

#include "absl/strings/str_cat.h"
#include "shared/h2/grpc_wire.h"

namespace conclave::h2 {
namespace {

// Each header counts so much more than its name and value.
constexpr size_t kHeaderBytes = 32;

}  // namespace

void RequestHead::Add(std::string_view name, std::string_view value, size_t max_bytes) {
  bytes_ += name.size() + value.size() + kHeaderBytes;
  if (bytes_ > max_bytes) return;
  if (name == ":path") {
    path_ = value;
  } else if (name == ":method") {
    is_post_ = value == "POST";
  } else if (name == "content-type") {
    is_grpc_ = IsGrpc(value);
  } else if (name == "te") {
    takes_trailers_ = value == "trailers";
  } else if (name == "grpc-timeout") {
    timeout_ = ParseTimeout(value);
    if (!timeout_) bad_timeout_ = value;
  } else if (name == "grpc-encoding") {
    if (value == "gzip") {
      encoding_ = Encoding::kGzip;
    } else if (value == "deflate") {
      encoding_ = Encoding::kDeflate;
    } else if (value != "identity") {
      unknown_encoding_ = value;
    }
  } else if (!name.starts_with(':') && !name.starts_with("grpc-") && name != "user-agent") {
    metadata_.Add(name, value);
  }
}

RequestHead::Fault RequestHead::Check(size_t max_bytes) const {
  const auto fault = [](absl::Status status) {
    return Fault{.http_status = 200, .status = std::move(status)};
  };
  if (bytes_ > max_bytes) {
    return fault(absl::ResourceExhaustedError(absl::StrCat(
        "the headers take ", bytes_, " bytes; the most that is taken is ", max_bytes)));
  }
  if (!is_grpc_) return {.http_status = 415, .status = absl::OkStatus()};
  if (!is_post_) return {.http_status = 405, .status = absl::OkStatus()};
  if (!takes_trailers_) {
    return fault(absl::InvalidArgumentError(
        "the header \"te: trailers\" is missing: the client, or a proxy before it, does not take "
        "the trailers that gRPC's statuses come in"));
  }
  if (!bad_timeout_.empty()) {
    return fault(absl::InvalidArgumentError(
        absl::StrCat("grpc-timeout: expected up to eight digits and one of H, M, S, m, u, n, found "
                     "\"",
                     bad_timeout_, "\"")));
  }
  if (!unknown_encoding_.empty()) {
    return fault(absl::UnimplementedError(absl::StrCat(
        "grpc-encoding \"", unknown_encoding_, "\" is not known; use identity, deflate or gzip")));
  }
  if (metadata_.Count("authorization") > 1) {
    return fault(absl::InvalidArgumentError("the call has several headers \"authorization\""));
  }
  return fault(absl::OkStatus());
}

}  // namespace conclave::h2
