#include "tests/weights/stored_checkpoint.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>

#include "kernels/bf16.h"
#include "shared/weights/dtype.h"

namespace conclave::testing {
namespace {

[[noreturn]] void Abort(const std::string& what) {
  std::cerr << what << "\n";
  std::abort();
}

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (int64_t dimension : shape) elements *= dimension;
  return elements;
}

template <typename T>
void Append(std::string& data, T value) {
  data.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

size_t RawTensor::element_bytes() const {
  return data.size() / static_cast<size_t>(Elements(shape));
}

RawTensor RawTensor::Rows(int64_t begin, int64_t end) const {
  const size_t row_bytes = data.size() / static_cast<size_t>(shape[0]);
  RawTensor part = *this;
  part.shape[0] = end - begin;
  part.data = data.substr(static_cast<size_t>(begin) * row_bytes,
                          static_cast<size_t>(end - begin) * row_bytes);
  return part;
}

RawTensor FloatTensor(std::vector<int64_t> shape, const std::vector<float>& values) {
  RawTensor tensor{"F32", std::move(shape), ""};
  for (float value : values) Append(tensor.data, value);
  return tensor;
}

RawTensor Bf16Tensor(std::vector<int64_t> shape, const std::vector<float>& values) {
  RawTensor tensor{"BF16", std::move(shape), ""};
  for (float value : values) Append(tensor.data, kernels::ToBf16(value).bits);
  return tensor;
}

std::vector<float> Values(const RawTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(Elements(tensor.shape)));
  weights::WidenToFloat(*weights::ParseDType(tensor.dtype),
                        reinterpret_cast<const std::byte*>(tensor.data.data()), values);
  return values;
}

void WriteText(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) Abort("cannot write " + path.string());
}

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) Abort("cannot read " + path.string());
  return text.str();
}

void WriteRaw(const std::filesystem::path& path, uint64_t header_bytes, const std::string& header,
              const std::string& data) {
  std::string text;
  Append(text, header_bytes);
  WriteText(path, text + header + data);
}

void WriteTensors(const std::filesystem::path& path, const RawTensors& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    data += tensor.data;
    header[name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  WriteRaw(path, text.size(), text, data);
}

StoredCheckpoint StoredCheckpoint::Read(const std::filesystem::path& dir) {
  StoredCheckpoint checkpoint;
  checkpoint.config = nlohmann::json::parse(ReadText(dir / "config.json"));
  const std::string file = ReadText(dir / "model.safetensors");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  const nlohmann::json header = nlohmann::json::parse(file.substr(8, header_bytes));
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto offsets = entry["data_offsets"].get<std::vector<size_t>>();
    checkpoint.tensors[name] = {
        entry["dtype"], entry["shape"],
        file.substr(8 + header_bytes + offsets[0], offsets[1] - offsets[0])};
  }
  return checkpoint;
}

void StoredCheckpoint::Write(const std::filesystem::path& dir) const {
  std::filesystem::create_directories(dir);
  WriteText(dir / "config.json", config.dump(2));
  WriteTensors(dir / "model.safetensors", tensors);
}

void StoredCheckpoint::WriteSharded(const std::filesystem::path& dir, int num_shards) const {
  std::filesystem::create_directories(dir);
  WriteText(dir / "config.json", config.dump(2));
  std::vector<RawTensors> shards(static_cast<size_t>(num_shards));
  nlohmann::json index = {{"metadata", {{"total_size", 0}}}};
  size_t next = 0;
  for (const auto& [name, tensor] : tensors) {
    const size_t shard = next++ % shards.size();
    shards[shard][name] = tensor;
    index["weight_map"][name] = "shard-" + std::to_string(shard) + ".safetensors";
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    WriteTensors(dir / ("shard-" + std::to_string(i) + ".safetensors"), shards[i]);
  }
  WriteText(dir / "model.safetensors.index.json", index.dump(2));
}

void StoredCheckpoint::Rename(const std::string& from, const std::string& to) {
  auto node = tensors.extract(from);
  if (node.empty()) Abort("no tensor " + from);
  node.key() = to;
  tensors.insert(std::move(node));
}

std::filesystem::path GoldenDir(const std::string& name) {
  return std::filesystem::path(CONCLAVE_SOURCE_DIR) / "tests" / "golden" / name;
}

void FuseExperts(StoredCheckpoint& checkpoint) {
  const bool mixtral = checkpoint.config["model_type"] == "mixtral";
  const std::string block = mixtral ? "block_sparse_moe" : "mlp";
  const int layers = checkpoint.config["num_hidden_layers"];
  for (int layer = 0; layer < layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    if (mixtral) checkpoint.Rename(prefix + block + ".gate.weight", prefix + "mlp.gate.weight");
    RawTensor gate_up, down;
    int64_t experts = 0;
    for (;; ++experts) {
      const std::string expert = prefix + block + ".experts." + std::to_string(experts) + ".";
      const auto take = [&](const char* name) {
        return checkpoint.tensors.extract(expert + name + ".weight");
      };
      const auto gate = take(mixtral ? "w1" : "gate_proj");
      if (gate.empty()) break;
      const auto up = take(mixtral ? "w3" : "up_proj");
      const auto down_part = take(mixtral ? "w2" : "down_proj");
      gate_up.dtype = down.dtype = gate.mapped().dtype;
      gate_up.shape = {0, 2 * gate.mapped().shape[0], gate.mapped().shape[1]};
      down.shape = {0, down_part.mapped().shape[0], down_part.mapped().shape[1]};
      gate_up.data += gate.mapped().data + up.mapped().data;
      down.data += down_part.mapped().data;
    }
    if (experts == 0) continue;  // a dense layer
    gate_up.shape[0] = down.shape[0] = experts;
    checkpoint.tensors[prefix + "mlp.experts.gate_up_proj"] = gate_up;
    checkpoint.tensors[prefix + "mlp.experts.down_proj"] = down;
  }
}

void AddMtpLayer(StoredCheckpoint& checkpoint) {
  const int layers = checkpoint.config["num_hidden_layers"];
  const int64_t hidden = checkpoint.config["hidden_size"];
  const std::string last = "model.layers." + std::to_string(layers - 1) + ".";
  const std::string mtp = "model.layers." + std::to_string(layers) + ".";
  RawTensors copies;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    if (name.starts_with(last)) copies[mtp + name.substr(last.size())] = tensor;
  }
  checkpoint.tensors.merge(copies);
  const std::vector<float> ones(static_cast<size_t>(hidden), 1.0f);
  const std::vector<float> wide(static_cast<size_t>(2 * hidden * hidden), 0.5f);
  checkpoint.tensors[mtp + "enorm.weight"] = Bf16Tensor({hidden}, ones);
  checkpoint.tensors[mtp + "hnorm.weight"] = Bf16Tensor({hidden}, ones);
  checkpoint.tensors[mtp + "eh_proj.weight"] = Bf16Tensor({hidden, 2 * hidden}, wide);
  checkpoint.tensors[mtp + "shared_head.norm.weight"] = Bf16Tensor({hidden}, ones);
  checkpoint.tensors[mtp + "embed_tokens.weight"] = checkpoint.tensors["model.embed_tokens.weight"];
  checkpoint.tensors[mtp + "shared_head.head.weight"] = checkpoint.tensors["lm_head.weight"];
  checkpoint.config["num_nextn_predict_layers"] = 1;
}

}  // namespace conclave::testing
