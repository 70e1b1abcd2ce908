#include "shared/weights/engine_weights.h"

#include <string>
#include <utility>

#include "shared/base/check.h"
#include "shared/base/status_macros.h"
#include "shared/weights/dtype.h"
#include "shared/weights/packed_model.h"
#include "shared/weights/tensor_table.h"

namespace conclave::weights {
namespace {

using kernels::PackedMatrix;
using kernels::WeightFormat;

// Asks for all tensors of an engine in their order.
class EngineWalk {
 public:
  EngineWalk(const ModelConfig& config, const WeightFormats& formats, MatrixSource& source,
             const EngineProgress& progress)
      : config_(config),
        format_(formats.dense),
        table_format_(kernels::TableFormatOf(formats.numerics)),
        source_(source),
        progress_(progress) {}

  absl::Status Walk(EngineWeights& weights) {
    weights.embedding =
        source_.AddRowMajor(table_format_, kEmbeddingName, 0, config_.vocab_size, config_.hidden);
    const int64_t element = table_format_ == WeightFormat::kF32 ? 4 : 2;
    bytes_ += static_cast<int64_t>(PackedBuffer::RoundUp(
        static_cast<size_t>(int64_t{config_.vocab_size} * config_.hidden * element)));
    Run();
    weights.layers.resize(static_cast<size_t>(config_.num_layers));
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      Layer(layer, weights.layers[static_cast<size_t>(layer)]);
      Run();
    }
    weights.final_norm = Vector(std::string(kFinalNormName), config_.hidden);
    weights.lm_head = Matrix(kernels::HeadFormatOf(format_),
                             std::string(config_.tied_embeddings ? kEmbeddingName : kLmHeadName),
                             config_.vocab_size, config_.hidden);
    Run();
    weights.bytes = static_cast<size_t>(bytes_);
    return status_;
  }

 private:
  void Layer(int32_t layer, LayerWeights& weights) {
    layer_ = layer;
    weights.attention_norm = LayerVector("input_layernorm.weight", config_.hidden);
    weights.ffn_norm = LayerVector("post_attention_layernorm.weight", config_.hidden);
    if (config_.attention.kind == AttentionKind::kLatent) {
      LatentAttention(weights.latent.emplace());
    } else {
      GroupedAttention(weights.grouped.emplace());
    }
    if (config_.IsMoe(layer)) {
      Moe(weights.moe.emplace());
    } else {
      FeedForward("mlp", config_.dense_intermediate, weights.dense.emplace());
    }
  }

  void GroupedAttention(GroupedAttentionWeights& weights) {
    const AttentionConfig& a = config_.attention;
    const int64_t query_width = int64_t{a.num_heads} * a.head_dim;
    const int64_t key_width = int64_t{a.num_kv_heads} * a.head_dim;
    weights.q = LayerMatrix("self_attn.q_proj.weight", query_width, config_.hidden);
    weights.k = LayerMatrix("self_attn.k_proj.weight", key_width, config_.hidden);
    weights.v = LayerMatrix("self_attn.v_proj.weight", key_width, config_.hidden);
    weights.o = LayerMatrix("self_attn.o_proj.weight", config_.hidden, query_width);
    if (a.qkv_bias) {
      weights.q_bias = LayerVector("self_attn.q_proj.bias", query_width);
      weights.k_bias = LayerVector("self_attn.k_proj.bias", key_width);
      weights.v_bias = LayerVector("self_attn.v_proj.bias", key_width);
    }
    if (a.query_key_norm != QueryKeyNorm::kNone) {
      const bool full = a.query_key_norm == QueryKeyNorm::kFullWidth;
      weights.q_norm = LayerVector("self_attn.q_norm.weight", full ? query_width : a.head_dim);
      weights.k_norm = LayerVector("self_attn.k_norm.weight", full ? key_width : a.head_dim);
    }
  }

  void LatentAttention(LatentAttentionWeights& weights) {
    const AttentionConfig& a = config_.attention;
    const int64_t hidden = config_.hidden;
    const int64_t query_width = int64_t{a.num_heads} * (a.qk_nope_head_dim + a.qk_rope_head_dim);
    if (a.q_lora_rank == 0) {
      weights.q_b = LayerMatrix("self_attn.q_proj.weight", query_width, hidden);
    } else {
      weights.q_a = LayerMatrix("self_attn.q_a_proj.weight", a.q_lora_rank, hidden);
      weights.q_a_norm = LayerVector("self_attn.q_a_layernorm.weight", a.q_lora_rank);
      weights.q_b = LayerMatrix("self_attn.q_b_proj.weight", query_width, a.q_lora_rank);
    }
    weights.kv_a = LayerMatrix("self_attn.kv_a_proj_with_mqa.weight",
                               a.kv_lora_rank + a.qk_rope_head_dim, hidden);
    weights.kv_a_norm = LayerVector("self_attn.kv_a_layernorm.weight", a.kv_lora_rank);
    weights.o = LayerMatrix("self_attn.o_proj.weight", hidden, int64_t{a.num_heads} * a.v_head_dim);

    // kv_b [heads * (nope + v), latent]: of each head, nope rows W_UK, then v rows W_UV.
    const std::string kv_b = LayerTensorName(layer_, "self_attn.kv_b_proj.weight");
    const int64_t head_rows = a.qk_nope_head_dim + a.v_head_dim;
    for (int64_t head = 0; head < a.num_heads; ++head) {
      const int64_t row = head * head_rows;
      weights.k_absorbed.push_back(Transposed(kv_b, row, a.kv_lora_rank, a.qk_nope_head_dim));
      weights.v_absorbed.push_back(
          Matrix(format_, kv_b, a.v_head_dim, a.kv_lora_rank, row + a.qk_nope_head_dim));
    }
  }

  void Moe(MoeLayerWeights& weights) {
    const MoeConfig& moe = config_.moe;
    weights.router = Matrix(WeightFormat::kF32, LayerTensorName(layer_, "mlp.gate.weight"),
                            moe.num_experts, config_.hidden);
    if (moe.correction_bias) {
      weights.correction_bias = LayerVector("mlp.gate.e_score_correction_bias", moe.num_experts);
    }
    if (moe.shared_intermediate > 0) {
      FeedForward("mlp.shared_experts", moe.shared_intermediate, weights.shared.emplace());
    }
    if (moe.shared_gate) {
      weights.shared_gate =
          Matrix(WeightFormat::kF32, LayerTensorName(layer_, "mlp.shared_expert_gate.weight"), 1,
                 config_.hidden);
    }
  }

  void FeedForward(const std::string& prefix, int64_t intermediate, kernels::FfnWeights& ffn) {
    ffn.gate = LayerMatrix(prefix + ".gate_proj.weight", intermediate, config_.hidden);
    ffn.up = LayerMatrix(prefix + ".up_proj.weight", intermediate, config_.hidden);
    ffn.down = LayerMatrix(prefix + ".down_proj.weight", config_.hidden, intermediate);
  }

  PackedMatrix LayerMatrix(const std::string& rest, int64_t outputs, int64_t inputs) {
    return Matrix(format_, LayerTensorName(layer_, rest), outputs, inputs);
  }

  PackedMatrix Matrix(WeightFormat format, const std::string& name, int64_t outputs, int64_t inputs,
                      int64_t first_row = 0) {
    bytes_ += static_cast<int64_t>(kernels::PackedBytes(format, outputs, inputs));
    return source_.Add(format, name, first_row, outputs, inputs);
  }

  PackedMatrix Transposed(const std::string& name, int64_t first_row, int64_t outputs,
                          int64_t inputs) {
    bytes_ += static_cast<int64_t>(kernels::PackedBytes(format_, outputs, inputs));
    return source_.AddTransposed(format_, name, first_row, outputs, inputs);
  }

  std::vector<float> LayerVector(const std::string& rest, int64_t elements) {
    return Vector(LayerTensorName(layer_, rest), elements);
  }
  std::vector<float> Vector(const std::string& name, int64_t elements) {
    return source_.LoadVector(name, elements);
  }

  void Run() {
    if (!status_.ok()) return;
    status_ = source_.Run();
    if (status_.ok() && progress_ != nullptr) progress_(bytes_);
  }

  const ModelConfig& config_;
  const WeightFormat format_, table_format_;
  MatrixSource& source_;
  const EngineProgress& progress_;
  absl::Status status_;
  int64_t bytes_ = 0;
  int32_t layer_ = 0;
};

// Makes nothing.
class NoSource : public MatrixSource {
 public:
  PackedMatrix Add(WeightFormat, std::string_view, int64_t, int64_t, int64_t) override {
    return {};
  }
  PackedMatrix AddTransposed(WeightFormat, std::string_view, int64_t, int64_t, int64_t) override {
    return {};
  }
  std::span<const std::byte> AddRowMajor(WeightFormat, std::string_view, int64_t, int64_t,
                                         int64_t) override {
    return {};
  }
  absl::Status Run() override { return absl::OkStatus(); }
  std::vector<float> LoadVector(std::string_view, int64_t) override { return {}; }
};

}  // namespace

absl::Status WalkEngine(const ModelConfig& config, const WeightFormats& formats,
                        MatrixSource& source, EngineWeights& weights,
                        const EngineProgress& progress) {
  return EngineWalk(config, formats, source, progress).Walk(weights);
}

size_t EngineBytes(const ModelConfig& config, const WeightFormats& formats) {
  NoSource source;
  EngineWeights nothing;
  CONCLAVE_CHECK(WalkEngine(config, formats, source, nothing, nullptr).ok());
  return nothing.bytes;
}

void EngineWeights::Embed(std::span<const int32_t> ids, kernels::MatrixView<float> output) const {
  CONCLAVE_CHECK(output.rows == static_cast<int64_t>(ids.size()) && output.cols == config.hidden);
  const size_t hidden = static_cast<size_t>(config.hidden);
  const DType dtype =
      kernels::TableFormatOf(numerics) == WeightFormat::kF32 ? DType::kF32 : DType::kBf16;
  const size_t row_bytes = hidden * static_cast<size_t>(DTypeBits(dtype) / 8);
  for (size_t i = 0; i < ids.size(); ++i) {
    CONCLAVE_CHECK(ids[i] >= 0 && ids[i] < config.vocab_size);
    WidenToFloat(dtype, embedding.data() + static_cast<size_t>(ids[i]) * row_bytes,
                 std::span(output.Row(static_cast<int64_t>(i)), hidden));
  }
}

absl::StatusOr<std::shared_ptr<const EngineWeights>> LoadEngineWeights(const StoredModel& model,
                                                                       const WeightFormats& formats,
                                                                       const LoadProgress& progress,
                                                                       kernels::ThreadPool* pool) {
  RETURN_IF_ERROR(model.CheckUnchanged());
  auto weights = std::make_shared<EngineWeights>();
  weights->config = model.config();
  weights->numerics = formats.numerics;
  const size_t bytes = EngineBytes(model.config(), formats);
  weights->buffer = PackedBuffer(BufferBytes(model, bytes));
  const auto source = MakeMatrixSource(model, weights->buffer, pool);
  const auto tell = [&](int64_t done) {
    if (progress != nullptr) progress(done, static_cast<int64_t>(bytes));
  };
  RETURN_IF_ERROR(WalkEngine(weights->config, formats, *source, *weights, tell));
  weights->errors = source->sampled_errors();
  if (model.packed() != nullptr) weights->mapped = model.packed()->shared_from_this();
  return weights;
}

}  // namespace conclave::weights
