#include "tests/weights/int4_checkpoint.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace conclave::testing {
namespace {

// Words of eight values, the first in the lowest four bits, from value(line, i).
RawTensor Packed(int64_t lines, int64_t values, const std::function<int(int64_t, int64_t)>& value) {
  const int64_t words = (values + 7) / 8;
  RawTensor tensor{"I32", {lines, words}, ""};
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t word = 0; word < words; ++word) {
      uint32_t bits = 0;
      for (int64_t i = 0; i < 8 && word * 8 + i < values; ++i) {
        bits |= static_cast<uint32_t>(value(line, word * 8 + i) & 15) << (4 * i);
      }
      tensor.data.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
    }
  }
  return tensor;
}

// The other way about: a word has eight lines.
RawTensor PackedAcross(int64_t lines, int64_t values,
                       const std::function<int(int64_t, int64_t)>& value) {
  const RawTensor turned =
      Packed(values, lines, [&](int64_t v, int64_t line) { return value(line, v); });
  const int64_t words = turned.shape[1];
  RawTensor tensor{"I32", {words, values}, ""};
  for (int64_t word = 0; word < words; ++word) {
    for (int64_t v = 0; v < values; ++v) {
      tensor.data += turned.data.substr(static_cast<size_t>(v * words + word) * 4, 4);
    }
  }
  return tensor;
}

RawTensor ScaleTensor(std::vector<int64_t> shape, const std::vector<float>& scales, bool half) {
  RawTensor tensor{half ? "F16" : "BF16", std::move(shape), ""};
  for (const float scale : scales) {
    const auto bits = std::bit_cast<uint32_t>(scale);
    // A normal f16: the exponent's bias is 15, not 127.
    const auto stored = static_cast<uint16_t>(half ? (bits >> 13) - (112u << 10) : bits >> 16);
    tensor.data.append(reinterpret_cast<const char*>(&stored), sizeof(stored));
  }
  return tensor;
}

template <typename T>
RawTensor Integers(const char* dtype, std::vector<T> values) {
  RawTensor tensor{dtype, {static_cast<int64_t>(values.size())}, ""};
  tensor.data.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  return tensor;
}

// A number that is exact in F16 or BF16.
float Shortened(float scale, bool half) {
  const uint32_t mask = half ? ~0x1fffu : ~0xffffu;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(std::max(scale, 0x1p-13f)) & mask);
}

}  // namespace

std::string NameOf(Int4Layout layout) {
  switch (layout) {
    case Int4Layout::kGptq:
      return "gptq";
    case Int4Layout::kGptqV2:
      return "gptq_v2";
    case Int4Layout::kAwq:
      return "awq";
    case Int4Layout::kCompressedTensors:
      break;
  }
  return "compressed-tensors";
}

float Int4Matrix::Value(int64_t row, int64_t column) const {
  const auto at = static_cast<size_t>(row * groups + column / group);
  const int integer = integers[static_cast<size_t>(row * columns + column)];
  return scales[at] * static_cast<float>(integer - zeros[at]);
}

Int4Matrix ToInt4(const std::vector<float>& values, int64_t rows, int64_t columns,
                  const Int4Options& options) {
  Int4Matrix matrix;
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.group = options.group == -1 ? columns : options.group;
  matrix.groups = (columns + matrix.group - 1) / matrix.group;
  matrix.integers.resize(values.size());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t first = 0; first < columns; first += matrix.group) {
      const int64_t end = std::min(first + matrix.group, columns);
      const float* w = values.data() + row * columns;
      const auto [least, most] = std::minmax_element(w + first, w + end);
      float scale = 0;
      int zero = 8;
      if (options.zeros) {
        scale = Shortened((std::max(*most, 0.0f) - std::min(*least, 0.0f)) / 14.5f, options.half);
        // 1 at least: gptq cannot say 0 (it stores one less).
        zero = std::clamp(static_cast<int>(std::nearbyint(-*least / scale)),
                          options.layout == Int4Layout::kGptq ? 1 : 0, 15);
      } else {
        scale = Shortened(std::max(std::fabs(*least), std::fabs(*most)) / 7.0f, options.half);
      }
      matrix.scales.push_back(scale);
      matrix.zeros.push_back(static_cast<uint8_t>(zero));
      for (int64_t k = first; k < end; ++k) {
        const int integer = static_cast<int>(std::nearbyint(w[k] / scale)) + zero;
        matrix.integers[static_cast<size_t>(row * columns + k)] =
            static_cast<uint8_t>(std::clamp(integer, 0, 15));
      }
    }
  }
  return matrix;
}

nlohmann::json Int4Config(const Int4Options& options) {
  switch (options.layout) {
    case Int4Layout::kGptq:
    case Int4Layout::kGptqV2:
      return {{"quant_method", "gptq"},  {"bits", 4},
              {"sym", !options.zeros},   {"group_size", options.group},
              {"desc_act", false},       {"checkpoint_format", NameOf(options.layout)},
              {"true_sequential", true}, {"damp_percent", 0.01},
              {"static_groups", false}};
    case Int4Layout::kAwq:
      return {{"quant_method", "awq"},       {"bits", 4},
              {"zero_point", true},          {"version", "gemm"},
              {"group_size", options.group}, {"modules_to_not_convert", {"gate"}}};
    case Int4Layout::kCompressedTensors:
      break;
  }
  nlohmann::json weights = {{"num_bits", 4},
                            {"type", "int"},
                            {"symmetric", !options.zeros},
                            {"strategy", options.group == -1 ? "channel" : "group"},
                            {"group_size", options.group},
                            {"dynamic", false},
                            {"actorder", nullptr},
                            {"observer", "minmax"},
                            {"observer_kwargs", nlohmann::json::object()},
                            {"block_structure", nullptr}};
  if (options.group == -1) weights["group_size"] = nullptr;
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"quantization_status", "compressed"},
          {"global_compression_ratio", nullptr},
          {"kv_cache_scheme", nullptr},
          {"ignore", {"lm_head", "re:.*mlp.gate$"}},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"input_activations", nullptr},
              {"output_activations", nullptr},
              {"weights", std::move(weights)}}}}}};
}

void PutInt4(StoredCheckpoint& checkpoint, const std::string& name, const Int4Matrix& matrix,
             const Int4Options& options) {
  const std::string base = name.substr(0, name.size() - std::string(".weight").size());
  RawTensors& tensors = checkpoint.tensors;
  tensors.erase(name);
  const int64_t rows = matrix.rows, columns = matrix.columns, groups = matrix.groups;
  const auto integer = [&](int64_t n, int64_t k) {
    return int{matrix.integers[static_cast<size_t>(n * columns + k)]};
  };
  const auto zero = [&](int64_t n, int64_t g) {
    return int{matrix.zeros[static_cast<size_t>(n * groups + g)]};
  };
  std::vector<float> across;  // [groups, rows]
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t n = 0; n < rows; ++n) {
      across.push_back(matrix.scales[static_cast<size_t>(n * groups + g)]);
    }
  }
  switch (options.layout) {
    case Int4Layout::kGptq:
    case Int4Layout::kGptqV2: {
      const int less = options.layout == Int4Layout::kGptq ? 1 : 0;
      std::vector<int32_t> order;
      for (int64_t k = 0; k < columns; ++k) order.push_back(static_cast<int32_t>(k / matrix.group));
      tensors[base + ".qweight"] =
          PackedAcross(columns, rows, [&](int64_t k, int64_t n) { return integer(n, k); });
      tensors[base + ".qzeros"] =
          Packed(groups, rows, [&](int64_t g, int64_t n) { return zero(n, g) - less; });
      tensors[base + ".scales"] = ScaleTensor({groups, rows}, across, options.half);
      tensors[base + ".g_idx"] = Integers("I32", order);
      return;
    }
    case Int4Layout::kAwq: {
      // Place i of a word has the output order[i] of its eight.
      constexpr int64_t order[] = {0, 2, 4, 6, 1, 3, 5, 7};
      const auto turned = [&](int64_t i) { return i / 8 * 8 + order[i % 8]; };
      const int64_t places = (rows + 7) / 8 * 8;  // of which the last may have no output
      tensors[base + ".qweight"] = Packed(columns, places, [&](int64_t k, int64_t i) {
        return turned(i) < rows ? integer(turned(i), k) : 0;
      });
      tensors[base + ".qzeros"] = Packed(groups, places, [&](int64_t g, int64_t i) {
        return turned(i) < rows ? zero(turned(i), g) : 0;
      });
      tensors[base + ".scales"] = ScaleTensor({groups, rows}, across, options.half);
      return;
    }
    case Int4Layout::kCompressedTensors:
      break;
  }
  tensors[base + ".weight_packed"] = Packed(rows, columns, integer);
  if (options.zeros) tensors[base + ".weight_zero_point"] = PackedAcross(rows, groups, zero);
  tensors[base + ".weight_scale"] = ScaleTensor({rows, groups}, matrix.scales, options.half);
  tensors[base + ".weight_shape"] = Integers<int64_t>("I64", {rows, columns});
}

std::map<std::string, Int4Matrix> StoreAsInt4(
    StoredCheckpoint& checkpoint, const Int4Options& options,
    const std::function<bool(const std::string&)>& which) {
  std::map<std::string, Int4Matrix> made;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    const bool projection = name.ends_with("_proj.weight") ||
                            name.ends_with("_proj_with_mqa.weight") ||
                            name.ends_with(".w1.weight") || name.ends_with(".w2.weight") ||
                            name.ends_with(".w3.weight");
    if (!projection || (which != nullptr && !which(name))) continue;
    made[name] = ToInt4(Values(tensor), tensor.shape[0], tensor.shape[1], options);
  }
  for (const auto& [name, matrix] : made) PutInt4(checkpoint, name, matrix, options);
  checkpoint.config["quantization_config"] = Int4Config(options);
  return made;
}

}  // namespace conclave::testing
