#include "services/controller/kubernetes_api.h"

// clang-format off
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
// clang-format on

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"
#include "shared/base/version.h"

namespace conclave::controller {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr uint64_t kMaxFileBytes = 1 << 20;
constexpr uint64_t kMaxAnswerBytes = 4 << 20;

// One exchange; its steps call each other on the io_context.
class Exchange {
 public:
  Exchange(asio::io_context& io, asio::ssl::context& tls, std::chrono::milliseconds timeout)
      : resolver_(io), stream_(io, tls), timeout_(timeout) {
    parser_.body_limit(kMaxAnswerBytes);
  }

  void Start(const std::string& host, const std::string& port,
             http::request<http::string_body> request) {
    request_ = std::move(request);
    boost::system::error_code not_a_number;
    asio::ip::make_address(host, not_a_number);
    // A certificate is looked for by name, which a number is not.
    if (not_a_number) SSL_set_tlsext_host_name(stream_.native_handle(), host.c_str());
    stream_.set_verify_callback(asio::ssl::host_name_verification(host));
    beast::get_lowest_layer(stream_).expires_after(timeout_);
    resolver_.async_resolve(host, port, [this](beast::error_code error, auto found) {
      if (error) return Fail("resolve", error);
      beast::get_lowest_layer(stream_).async_connect(
          found, [this](beast::error_code connect_error, auto) { OnConnect(connect_error); });
    });
  }

  // Ends what is under way.
  void Abort() {
    resolver_.cancel();
    beast::get_lowest_layer(stream_).close();
  }

  bool done() const { return done_; }
  const std::string& failure() const { return failure_; }
  bool untrusted() const { return untrusted_; }
  int status() const { return static_cast<int>(parser_.get().result_int()); }
  const std::string& body() const { return parser_.get().body(); }

 private:
  void OnConnect(beast::error_code error) {
    if (error) return Fail("connect", error);
    stream_.async_handshake(asio::ssl::stream_base::client, [this](beast::error_code failed) {
      if (failed) {
        untrusted_ = failed.category() == asio::error::get_ssl_category();
        return Fail("TLS", failed);
      }
      http::async_write(stream_, request_, [this](beast::error_code unwritten, size_t) {
        if (unwritten) return Fail("write", unwritten);
        http::async_read(stream_, buffer_, parser_, [this](beast::error_code unread, size_t) {
          if (unread) return Fail("read", unread);
          done_ = true;
        });
      });
    });
  }

  void Fail(const char* step, const beast::error_code& error) {
    failure_ = absl::StrCat(step, ": ", error.message());
  }

  asio::ip::tcp::resolver resolver_;
  beast::ssl_stream<beast::tcp_stream> stream_;
  const std::chrono::milliseconds timeout_;
  http::request<http::string_body> request_;
  beast::flat_buffer buffer_;
  http::response_parser<http::string_body> parser_;
  bool done_ = false, untrusted_ = false;
  std::string failure_;
};

absl::StatusOr<std::string> ReadPart(const std::string& folder, const char* name) {
  const absl::StatusOr<std::string> text = ReadRegularFile(folder + "/" + name, kMaxFileBytes);
  if (text.ok()) return std::string(absl::StripAsciiWhitespace(*text));
  return absl::FailedPreconditionError(absl::StrCat(
      std::string(text.status().message()),
      ": controller.lease_name needs the pod's service account (automountServiceAccountToken)"));
}

}  // namespace

absl::StatusOr<KubernetesApi::Options> KubernetesApi::FromEnvironment(
    const std::string& service_account) {
  const char* host = std::getenv("KUBERNETES_SERVICE_HOST");
  const char* port = std::getenv("KUBERNETES_SERVICE_PORT");
  if (host == nullptr || *host == '\0' || port == nullptr || *port == '\0') {
    return absl::FailedPreconditionError(
        "controller.lease_name is set, and KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are "
        "not: this is no pod of Kubernetes; leave lease_name empty to go by the state file alone");
  }
  return Options{.host = host, .port = port, .service_account = service_account};
}

absl::StatusOr<std::string> KubernetesApi::Namespace() const {
  return ReadPart(options_.service_account, "namespace");
}

absl::StatusOr<KubernetesApi::Answer> KubernetesApi::Call(const std::string& method,
                                                          const std::string& path,
                                                          const nlohmann::json& body) const {
  ASSIGN_OR_RETURN(const std::string token, ReadPart(options_.service_account, "token"));
  ASSIGN_OR_RETURN(const std::string authority, ReadPart(options_.service_account, "ca.crt"));
  const std::string address = absl::StrCat(options_.host, ":", options_.port);
  asio::ssl::context tls(asio::ssl::context::tls_client);
  tls.set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_tlsv1 |
                  asio::ssl::context::no_tlsv1_1);
  tls.set_verify_mode(asio::ssl::verify_peer);
  beast::error_code unusable;
  tls.add_certificate_authority(asio::buffer(authority), unusable);
  if (unusable) {
    return absl::FailedPreconditionError(absl::StrCat(
        options_.service_account, "/ca.crt holds no certificate: ", unusable.message()));
  }

  http::request<http::string_body> request(http::string_to_verb(method), path, 11);
  request.set(http::field::host, address);
  request.set(http::field::user_agent, absl::StrCat("conclave/", std::string(Version())));
  request.set(http::field::authorization, absl::StrCat("Bearer ", token));
  request.set(http::field::accept, "application/json");
  request.set(http::field::connection, "close");
  if (!body.is_null()) {
    request.set(http::field::content_type, "application/json");
    request.body() = body.dump();
  }
  request.prepare_payload();

  asio::io_context io;
  Exchange exchange(io, tls, options_.timeout);
  exchange.Start(options_.host, options_.port, std::move(request));
  // The stream's own timeout covers all but the look-up of the name.
  io.run_for(options_.timeout);
  exchange.Abort();
  io.restart();
  io.poll();
  if (exchange.done()) {
    Answer answer{.status = exchange.status(), .body = nullptr};
    if (IsNestedTooDeeply(exchange.body())) {
      return absl::UnavailableError(absl::StrCat("https://", address, path, ": nested too deeply"));
    }
    answer.body = nlohmann::json::parse(exchange.body(), nullptr, /*allow_exceptions=*/false);
    if (answer.body.is_discarded()) answer.body = nullptr;
    return answer;
  }
  const std::string why = exchange.failure().empty()
                              ? absl::StrCat("no answer in ", options_.timeout.count(), " ms")
                              : exchange.failure();
  if (exchange.untrusted()) {
    return absl::FailedPreconditionError(absl::StrCat("https://", address, " is not trusted by ",
                                                      options_.service_account, "/ca.crt: ", why));
  }
  return absl::UnavailableError(absl::StrCat("https://", address, path, ": ", why));
}

}  // namespace conclave::controller
