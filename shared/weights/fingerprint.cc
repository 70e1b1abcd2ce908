#include "shared/weights/fingerprint.h"

#include <openssl/evp.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "shared/base/check.h"

namespace conclave::weights {
namespace {

constexpr uint64_t kWholeBytes = 64 << 10;
constexpr uint64_t kPieceBytes = 16 << 10;
constexpr uint64_t kPieces = kWholeBytes / kPieceBytes;
// Of what docs/numerics.md defines for integers: raised when their bits change.
constexpr char kIntegerRevision[] = " revision 2";

}  // namespace

std::vector<ByteRange> SampleRanges(uint64_t bytes) {
  if (bytes <= kWholeBytes) return {{0, bytes}};
  std::vector<ByteRange> ranges;
  for (uint64_t i = 0; i < kPieces; ++i) {
    // Pieces may touch but never overlap: bytes > kPieces * kPieceBytes.
    const uint64_t begin = (bytes - kPieceBytes) * i / (kPieces - 1);
    ranges.push_back({begin, begin + kPieceBytes});
  }
  return ranges;
}

struct FingerprintHash::Digest {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~Digest() { EVP_MD_CTX_free(context); }
};

FingerprintHash::FingerprintHash(std::string_view numerics_class, std::string_view config_text)
    : digest_(std::make_unique<Digest>()) {
  CONCLAVE_CHECK(digest_->context != nullptr);
  CONCLAVE_CHECK(EVP_DigestInit_ex(digest_->context, EVP_sha256(), nullptr) == 1);
  const bool integers = numerics_class.substr(0, 3) == "int";  // those of the head
  Add(absl::StrCat("conclave fingerprint 1\nnumerics=", std::string(numerics_class),
                   integers ? kIntegerRevision : "", "\n"));
  Add(config_text);
}

FingerprintHash::~FingerprintHash() = default;

void FingerprintHash::Add(std::string_view text) {
  CONCLAVE_CHECK(EVP_DigestUpdate(digest_->context, text.data(), text.size()) == 1);
}

void FingerprintHash::AddSamples(std::span<const std::byte> bytes) {
  for (const ByteRange& range : SampleRanges(bytes.size())) {
    Add({reinterpret_cast<const char*>(bytes.data()) + range.begin,
         static_cast<size_t>(range.end - range.begin)});
  }
}

void FingerprintHash::AddTensor(std::string_view name, const TensorView& view) {
  Add(absl::StrCat("tensor ", std::string(name), " ", std::string(DTypeName(view.dtype())), " ",
                   view.rows(), " ", view.columns(), "\n"));
  AddSamples(view.bytes());
  if (const IntegerView* integers = view.integers()) {
    const IntegerStorage& storage = integers->storage();
    Add(absl::StrCat("int4 ", static_cast<int>(storage.layout), " ", storage.group, " ",
                     static_cast<int>(storage.zeros), "\n"));
    const std::vector<const StoredTensor*> parts = integers->parts();
    for (size_t i = 1; i < parts.size(); ++i) {
      Add(absl::StrCat("part ", std::string(DTypeName(parts[i]->info.dtype)), "\n"));
      AddSamples({parts[i]->data(), static_cast<size_t>(parts[i]->info.bytes())});
    }
  }
  if (view.scales().stored == nullptr) return;
  const DType scale_type = view.scales().stored->info.dtype;
  Add(absl::StrCat("scales ", std::string(DTypeName(scale_type)), " ", view.scales().block, " ",
                   view.scales().first_row % view.scales().block, " ", view.scales().columns,
                   "\n"));
  AddSamples(view.scale_bytes());
}

std::string FingerprintHash::Finish() {
  unsigned char sum[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  CONCLAVE_CHECK(EVP_DigestFinal_ex(digest_->context, sum, &length) == 1);
  return absl::BytesToHexString(std::string(reinterpret_cast<const char*>(sum), length));
}

}  // namespace conclave::weights
