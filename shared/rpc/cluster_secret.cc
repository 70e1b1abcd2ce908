#include "shared/rpc/cluster_secret.h"

#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "openssl/crypto.h"
#include "openssl/evp.h"
#include "openssl/hmac.h"
#include "shared/rpc/status.h"

namespace conclave::rpc {
namespace {

constexpr char kMetadataKey[] = "conclave-cluster-token";
constexpr std::string_view kTokenText = "conclave cluster token v1";
constexpr size_t kMinSecretBytes = 16;  // 128 bits when drawn at random

std::string DeriveToken(std::string_view secret) {
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned int mac_bytes = 0;
  HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
       reinterpret_cast<const unsigned char*>(kTokenText.data()), kTokenText.size(), mac,
       &mac_bytes);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(mac), mac_bytes));
}

}  // namespace

ClusterSecret::ClusterSecret(std::string_view secret)
    : secret_(secret), token_(DeriveToken(secret)) {}

absl::StatusOr<ClusterSecret> ClusterSecret::Load(const std::string& path) {
  if (path.empty()) return ClusterSecret();
  const std::string remedy = absl::StrCat("; make one with: head -c 32 /dev/urandom | base64 > ",
                                          path, " && chmod 600 ", path);
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return absl::NotFoundError(
        absl::StrCat("cluster_secret_file ", path, " cannot be read", remedy));
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::string secret(absl::StripAsciiWhitespace(text));
  if (secret.size() < kMinSecretBytes) {
    return absl::InvalidArgumentError(absl::StrCat("cluster_secret_file ", path, " holds ",
                                                   secret.size(), " bytes, wanted at least ",
                                                   kMinSecretBytes, remedy));
  }
  return ClusterSecret(secret);
}

void ClusterSecret::Attach(grpc::ClientContext* context) const {
  if (configured()) context->AddMetadata(kMetadataKey, token_);
}

grpc::Status ClusterSecret::Check(const grpc::ServerContextBase& context) const {
  const auto [first, last] = context.client_metadata().equal_range(kMetadataKey);
  if (first == last) return ToGrpc(CheckShown(""));
  const bool one = std::next(first) == last;
  return ToGrpc(CheckShown(one ? std::string_view(first->second.data(), first->second.size())
                               : std::string_view("several")));
}

absl::Status ClusterSecret::CheckShown(std::string_view token) const {
  if (!configured()) return absl::OkStatus();
  if (token.empty()) {
    return absl::UnauthenticatedError(
        "this method is for processes of the cluster and the call carries no cluster secret: start "
        "the caller with the same cluster_secret_file as this process");
  }
  if (token.size() == token_.size() &&
      CRYPTO_memcmp(token.data(), token_.data(), token_.size()) == 0) {
    return absl::OkStatus();
  }
  return absl::UnauthenticatedError(
      "the call carries another cluster secret than this process has: give both the same "
      "cluster_secret_file");
}

}  // namespace conclave::rpc
