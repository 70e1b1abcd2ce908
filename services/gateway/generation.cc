#include "services/gateway/generation.h"

#include <openssl/sha.h>

#include <type_traits>

namespace conclave::gateway {

namespace {

// Values of fixed width, little-endian, and counted sequences: no two definitions share an
// encoding.
class Encoder {
 public:
  template <typename T>
    requires std::is_arithmetic_v<T>
  void Add(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void Add(const std::string& text) {
    Add(static_cast<uint64_t>(text.size()));
    bytes_ += text;
  }
  template <typename T>
  void Add(const std::vector<T>& values) {
    Add(static_cast<uint64_t>(values.size()));
    for (const T& value : values) Add(value);
  }
  std::string Sha256() const {
    std::string digest(SHA256_DIGEST_LENGTH, '\0');
    SHA256(reinterpret_cast<const unsigned char*>(bytes_.data()), bytes_.size(),
           reinterpret_cast<unsigned char*>(digest.data()));
    return digest;
  }

 private:
  std::string bytes_;
};

}  // namespace

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

std::string DefinitionHash(const Generation& generation) {
  const Sampling& sampling = generation.sampling;
  Encoder encoder;
  encoder.Add(std::string("conclave generation 1"));
  encoder.Add(generation.prompt_ids);
  encoder.Add(sampling.temperature);
  encoder.Add(sampling.top_p);
  encoder.Add(sampling.top_k);
  encoder.Add(sampling.min_p);
  encoder.Add(sampling.repetition_penalty);
  encoder.Add(sampling.presence_penalty);
  encoder.Add(sampling.frequency_penalty);
  encoder.Add(static_cast<uint64_t>(sampling.logit_bias.size()));
  for (const auto& [id, bias] : sampling.logit_bias) {
    encoder.Add(id);
    encoder.Add(bias);
  }
  encoder.Add(generation.num_choices);
  encoder.Add(generation.max_tokens);
  encoder.Add(generation.min_tokens);
  encoder.Add(generation.stop);
  encoder.Add(generation.stop_ids);
  return encoder.Sha256();
}

}  // namespace conclave::gateway
