// An HTTPS server that keeps Leases as Kubernetes' API server does: a resourceVersion that a write
// must name, 404, 409, and a bearer token.
#pragma once

// clang-format off
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
// clang-format on

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "nlohmann/json.hpp"
#include "shared/base/mutex.h"
#include "tests/support/authority.h"

namespace conclave::controller {

class LeaseServer {
 public:
  static constexpr char kCollection[] = "/apis/coordination.k8s.io/v1/namespaces/here/leases";

  // Writes the service account that a pod here would have to `folder`.
  LeaseServer(const std::filesystem::path& folder, testing::Authority& authority,
              int64_t valid_seconds = 3600)
      : tls_(boost::asio::ssl::context::tls_server), acceptor_(io_, {address(), 0}) {
    std::filesystem::create_directories(folder / "server");
    const tls::CertificateFiles files = authority.Issue(
        folder / "server", "server", {.names = {"IP:127.0.0.1"}, .until_s = valid_seconds});
    tls_.use_certificate_chain_file(files.cert);
    tls_.use_private_key_file(files.key, boost::asio::ssl::context::pem);
    port_ = acceptor_.local_endpoint().port();
    Put(folder / "ca.crt", authority.pem());
    Put(folder / "namespace", "here");
    folder_ = folder;
    SetToken("first");
    thread_ = std::thread([this] { Run(); });
  }
  ~LeaseServer() {
    stopping_ = true;
    boost::asio::io_context io;
    boost::asio::ip::tcp::socket wake(io);
    boost::system::error_code ignored;
    wake.connect({address(), port_}, ignored);
    thread_.join();
  }

  std::string port() const { return std::to_string(port_); }

  // The only one accepted from now on, also in the service account's file.
  void SetToken(const std::string& token) {
    MutexLock lock(mutex_);
    token_ = token;
    Put(folder_ / "token", token + "\n");
  }
  // While it is away, connections are closed at once.
  void SetAway(bool away) { away_ = away; }
  // Writes are refused with this status; 0: no.
  void RefuseWrites(int status) { refuse_writes_ = status; }
  // Called once, between a client's read and its next write.
  void BeforeNextWrite(std::function<void()> hook) {
    MutexLock lock(mutex_);
    before_write_ = std::move(hook);
  }

  nlohmann::json lease(const std::string& name) const {
    MutexLock lock(mutex_);
    const auto found = leases_.find(name);
    return found == leases_.end() ? nlohmann::json() : found->second;
  }
  std::string holder(const std::string& name) const {
    const nlohmann::json found = lease(name);
    return found.is_null() ? "" : found["spec"].value("holderIdentity", "");
  }
  uint64_t transitions(const std::string& name) const {
    return lease(name)["spec"]["leaseTransitions"].get<uint64_t>();
  }
  // As somebody else would write it.
  void Take(const std::string& name, const std::string& holder, uint64_t transitions) {
    MutexLock lock(mutex_);
    nlohmann::json& found = leases_[name];
    found["metadata"] = {{"name", name}, {"resourceVersion", std::to_string(++version_)}};
    found["spec"] = {{"holderIdentity", holder},
                     {"leaseDurationSeconds", 10},
                     {"leaseTransitions", transitions}};
  }
  void Set(const std::string& name, nlohmann::json lease) {
    MutexLock lock(mutex_);
    if (lease.is_object()) lease["metadata"]["resourceVersion"] = std::to_string(++version_);
    leases_[name] = std::move(lease);
  }
  void Delete(const std::string& name) {
    MutexLock lock(mutex_);
    leases_.erase(name);
  }
  int num_writes() const { return num_writes_; }

 private:
  using Request = boost::beast::http::request<boost::beast::http::string_body>;

  static boost::asio::ip::address address() { return boost::asio::ip::make_address("127.0.0.1"); }
  static void Put(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path) << text;
  }

  void Run() {
    while (true) {
      boost::system::error_code error;
      boost::asio::ip::tcp::socket socket(io_);
      acceptor_.accept(socket, error);
      if (stopping_) return;
      if (!error && !away_) ServeOne(std::move(socket));
    }
  }

  void ServeOne(boost::asio::ip::tcp::socket socket) {
    boost::system::error_code error;
    boost::asio::ssl::stream<boost::asio::ip::tcp::socket> stream(std::move(socket), tls_);
    stream.handshake(boost::asio::ssl::stream_base::server, error);
    if (error) return;
    boost::beast::flat_buffer buffer;
    Request request;
    boost::beast::http::read(stream, buffer, request, error);
    if (error) return;
    const auto [status, body] = Answer(request);
    boost::beast::http::response<boost::beast::http::string_body> response(
        static_cast<boost::beast::http::status>(status), 11);
    response.set(boost::beast::http::field::content_type, "application/json");
    response.body() = body.dump();
    response.prepare_payload();
    boost::beast::http::write(stream, response, error);
    stream.shutdown(error);
  }

  static std::pair<int, nlohmann::json> Failure(int status, const std::string& message) {
    return {status, {{"kind", "Status"}, {"message", message}}};
  }

  std::pair<int, nlohmann::json> Answer(const Request& request) EXCLUDES(mutex_) {
    namespace http = boost::beast::http;
    if (request.method() != http::verb::get) {
      std::function<void()> hook;
      {
        MutexLock lock(mutex_);
        hook = std::exchange(before_write_, nullptr);
      }
      if (hook) hook();
    }
    MutexLock lock(mutex_);
    if (request[http::field::authorization] != "Bearer " + token_)
      return Failure(401, "Unauthorized");
    const std::string path(request.target());
    const std::string prefix = std::string(kCollection) + "/";
    const std::string name = path.starts_with(prefix) ? path.substr(prefix.size()) : "";
    if (name.empty() != (request.method() == http::verb::post) ||
        (name.empty() && path != kCollection)) {
      return Failure(404, "the server could not find the requested resource");
    }
    const auto found = leases_.find(name);
    if (request.method() == http::verb::get) {
      if (found == leases_.end()) return Failure(404, "leases \"" + name + "\" not found");
      return {200, found->second};
    }
    ++num_writes_;
    if (refuse_writes_ != 0) return Failure(refuse_writes_, "leases is forbidden");
    nlohmann::json body = nlohmann::json::parse(request.body());
    if (request.method() == http::verb::post) {
      const std::string created = body["metadata"]["name"];
      if (leases_.contains(created)) return Failure(409, "already exists");
      body["metadata"]["resourceVersion"] = std::to_string(++version_);
      return {201, leases_[created] = body};
    }
    if (found == leases_.end()) return Failure(404, "not found");
    if (body["metadata"]["resourceVersion"] != found->second["metadata"]["resourceVersion"])
      return Failure(409, "the object has been modified");
    body["metadata"]["resourceVersion"] = std::to_string(++version_);
    return {200, found->second = body};
  }

  boost::asio::io_context io_;
  boost::asio::ssl::context tls_;
  boost::asio::ip::tcp::acceptor acceptor_;
  uint16_t port_ = 0;
  std::filesystem::path folder_;
  std::atomic<bool> stopping_{false}, away_{false};
  std::atomic<int> refuse_writes_{0}, num_writes_{0};
  mutable Mutex mutex_;
  std::string token_ GUARDED_BY(mutex_);
  std::function<void()> before_write_ GUARDED_BY(mutex_);
  std::map<std::string, nlohmann::json> leases_ GUARDED_BY(mutex_);
  uint64_t version_ GUARDED_BY(mutex_) = 100;
  std::thread thread_;
};

}  // namespace conclave::controller
