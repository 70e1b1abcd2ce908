#include "shared/metrics/catalogue.h"

#include <array>

namespace conclave::metrics {
namespace {

using Names = std::array<std::string_view, 2>;

constexpr std::span<const std::string_view> kNoLabels;
constexpr std::array<std::string_view, 1> kClass = {"class"};
constexpr std::array<std::string_view, 1> kCode = {"code"};
constexpr std::array<std::string_view, 1> kPhase = {"phase"};
constexpr std::array<std::string_view, 1> kReason = {"reason"};
constexpr std::array<std::string_view, 1> kResult = {"result"};
constexpr std::array<std::string_view, 1> kState = {"state"};
constexpr std::array<std::string_view, 1> kTransport = {"transport"};
constexpr std::array<std::string_view, 1> kWorker = {"worker"};
constexpr std::array<std::string_view, 1> kKind = {"kind"};
constexpr std::array<std::string_view, 1> kUse = {"use"};
constexpr Names kApiAndCode = {"api", "code"};
constexpr Names kTenantAndCode = {"tenant", "code"};
constexpr Names kTenantAndKind = {"tenant", "kind"};
constexpr Names kLayerAndExpert = {"layer", "expert"};
constexpr Names kVersionAndCommit = {"version", "commit"};

constexpr std::span<const double> kNoBuckets;
// Requests: from a cached short answer to a queued long one.
constexpr std::array<double, 14> kRequestSeconds = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                    1,     2.5,  5,     10,   30,  60,   300};
// Steps, frames and gaps between tokens: from a small model in one process to a large one over a
// network.
constexpr std::array<double, 14> kStepSeconds = {
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5};
constexpr std::array<double, 12> kRows = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048};
constexpr std::array<double, 10> kRatio = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1};

constexpr MetricType kCounter = MetricType::kCounter;
constexpr MetricType kGauge = MetricType::kGauge;
constexpr MetricType kHistogram = MetricType::kHistogram;

constexpr MetricInfo kCatalogue[] = {
    {"conclave_build_info", kGauge, "1", "all", kVersionAndCommit, kNoBuckets,
     "Always 1; the labels say which program this is."},
    {"conclave_ready", kGauge, "1", "all", kNoLabels, kNoBuckets,
     "1 while /readyz answers 200, else 0."},
    {"conclave_errors_total", kCounter, "1", "all", kCode, kNoBuckets,
     "Calls that ended in an error, by gRPC status code."},
    {"conclave_certificate_expiry_timestamp_seconds", kGauge, "seconds", "all", kUse, kNoBuckets,
     "When the certificate in use ends, in seconds since 1970, by use (api: shown to clients, "
     "cluster: between the processes). Without certificates there is none."},
    {"conclave_file_faulty", kGauge, "1", "all", kUse, kNoBuckets,
     "1 while files that are read again when they change cannot be used, and what was read before "
     "stays, by use (api, cluster: certificates; keys: API keys); else 0."},
    {"conclave_quantization_error_ratio", kGauge, "ratio", "all", kKind, kNoBuckets,
     "Of engines and workers: relative error of the weights that they made from a checkpoint at "
     "load, or that conclave pack made, sqrt(sum (w - q)^2 / sum w^2) over a row in 64 of each "
     "matrix, by kind (embedding, attention, ffn, experts, lm_head). 0 for weights that stayed as "
     "they were stored. A packed file of version 2 does not say, and with it there is none."},

    {"conclave_requests_total", kCounter, "1", "gateway", kApiAndCode, kNoBuckets,
     "Requests finished, by API (grpc, chat, completions, tokenize) and gRPC status code."},
    {"conclave_requests_running", kGauge, "1", "gateway", kNoLabels, kNoBuckets,
     "Requests that engines work at; those that share an answer count once."},
    {"conclave_requests_inflight", kGauge, "1", "gateway", kNoLabels, kNoBuckets,
     "Requests taken and not yet at their end: they are prepared, wait, run, or share the answer "
     "of one that runs."},
    {"conclave_gateway_queue_requests", kGauge, "1", "gateway", kClass, kNoBuckets,
     "Requests that wait for a place on an engine, by QoS class."},
    {"conclave_gateway_queue_tokens", kGauge, "1", "gateway", kClass, kNoBuckets,
     "Tokens that those requests are expected to take, prompts and answers, by QoS class."},
    {"conclave_gateway_queue_oldest_seconds", kGauge, "seconds", "gateway", kClass, kNoBuckets,
     "Longest wait of those requests, by QoS class."},
    {"conclave_gateway_queue_wait_seconds", kHistogram, "seconds", "gateway", kClass,
     kRequestSeconds, "From a request's arrival to its start on an engine, by QoS class."},
    {"conclave_cache_requests_total", kCounter, "1", "gateway", kResult, kNoBuckets,
     "Requests that the response cache had a part in, by result (hit, miss, joined)."},
    {"conclave_cache_bytes", kGauge, "bytes", "gateway", kNoLabels, kNoBuckets,
     "Memory of the kept answers."},
    {"conclave_cache_answers", kGauge, "1", "gateway", kNoLabels, kNoBuckets, "Kept answers."},
    {"conclave_cache_dropped_total", kCounter, "1", "gateway", kReason, kNoBuckets,
     "Answers that are not kept any more, or never were, by reason (evicted: others were asked for "
     "more often; rejected: what is there is asked for more often; expired)."},
    {"conclave_engines_used", kGauge, "1", "gateway", kNoLabels, kNoBuckets,
     "Engines connected and given requests."},
    {"conclave_engines_refused", kGauge, "1", "gateway", kNoLabels, kNoBuckets,
     "Engines connected and not given requests: another model, fingerprint or vocabulary."},
    {"conclave_prompt_tokens_total", kCounter, "1", "gateway", kNoLabels, kNoBuckets,
     "Tokens of prompts of accepted requests."},
    {"conclave_generated_tokens_total", kCounter, "1", "gateway", kNoLabels, kNoBuckets,
     "Tokens sent to clients."},
    {"conclave_time_to_first_token_seconds", kHistogram, "seconds", "gateway", kClass,
     kRequestSeconds,
     "From a request's arrival to its first token, its wait included, by QoS class."},
    {"conclave_time_per_output_token_seconds", kHistogram, "seconds", "gateway", kNoLabels,
     kStepSeconds, "Mean time between the tokens of one choice after its first."},
    {"conclave_request_seconds", kHistogram, "seconds", "gateway", kClass, kRequestSeconds,
     "From a request's arrival to its end, by QoS class."},
    {"conclave_finished_choices_total", kCounter, "1", "gateway", kReason, kNoBuckets,
     "Choices finished, by reason (stop, length, cancelled)."},
    {"conclave_tenant_requests_total", kCounter, "1", "gateway", kTenantAndCode, kNoBuckets,
     "Requests finished, by tenant (none: nobody has to show a key, or none was known) and gRPC "
     "status code."},
    {"conclave_tenant_tokens_total", kCounter, "1", "gateway", kTenantAndKind, kNoBuckets,
     "Tokens by tenant and kind (prompt, generated; cached: of prompts and answers for which "
     "nothing was computed)."},

    {"conclave_queue_depth", kGauge, "1", "engine", kNoLabels, kNoBuckets,
     "Sequences waiting for their first step."},
    {"conclave_queued_tokens", kGauge, "1", "engine", kNoLabels, kNoBuckets,
     "Tokens that are to be computed before their sequences decode: of prompts, and of what was "
     "put back."},
    {"conclave_queue_wait_seconds", kHistogram, "seconds", "engine", kNoLabels, kRequestSeconds,
     "From a sequence's arrival to its first step."},
    {"conclave_sequences_running", kGauge, "1", "engine", kNoLabels, kNoBuckets,
     "Sequences that hold KV blocks."},
    {"conclave_batch_rows", kHistogram, "1", "engine", kNoLabels, kRows,
     "Rows (tokens) of a step."},
    {"conclave_batch_sequences", kHistogram, "1", "engine", kNoLabels, kRows,
     "Sequences of a step."},
    {"conclave_step_tokens_total", kCounter, "1", "engine", kKind, kNoBuckets,
     "Tokens computed, by kind (prefill, decode)."},
    {"conclave_step_seconds", kHistogram, "seconds", "engine", kPhase, kStepSeconds,
     "Time of a step by phase (schedule, forward, experts, sample, total)."},
    {"conclave_kv_used_ratio", kGauge, "ratio", "engine", kNoLabels, kNoBuckets,
     "Share of the KV blocks in use by sequences."},
    {"conclave_kv_blocks", kGauge, "1", "engine", kState, kNoBuckets,
     "KV blocks by state: used by sequences, cached (free, but with the contents of a prefix), "
     "empty."},
    {"conclave_prefix_cache_tokens_total", kCounter, "1", "engine", kResult, kNoBuckets,
     "Prompt tokens by whether their keys and values were in the KV cache (hit, miss)."},
    {"conclave_preemptions_total", kCounter, "1", "engine", kNoLabels, kNoBuckets,
     "Sequences put back to be computed again for want of KV blocks."},
    {"conclave_parked_sequences", kGauge, "1", "engine", kNoLabels, kNoBuckets,
     "Sequences that wait for an expert without a live worker."},
    {"conclave_expert_call_seconds", kHistogram, "seconds", "engine", kWorker, kStepSeconds,
     "From sending a layer's frame to a worker to its last result."},
    {"conclave_expert_rows_total", kCounter, "1", "engine", kLayerAndExpert, kNoBuckets,
     "Rows (a token at an expert) sent to each expert."},
    {"conclave_active_expert_ratio", kHistogram, "ratio", "engine", kNoLabels, kRatio,
     "Share of a layer's experts with at least one row in a step."},
    {"conclave_worker_links", kGauge, "1", "engine", kTransport, kNoBuckets,
     "Workers that the engine is connected to, by transport (shared_memory, grpc)."},
    {"conclave_expert_call_errors_total", kCounter, "1", "engine", kCode, kNoBuckets,
     "Calls to workers that failed, by row status or gRPC code."},

    {"conclave_worker_frames_total", kCounter, "1", "expert", kNoLabels, kNoBuckets,
     "Frames taken."},
    {"conclave_worker_rows_total", kCounter, "1", "expert", kLayerAndExpert, kNoBuckets,
     "Rows computed for each expert."},
    {"conclave_worker_queue_seconds", kHistogram, "seconds", "expert", kNoLabels, kStepSeconds,
     "From a frame's arrival to its first unit of work."},
    {"conclave_worker_queue_bytes", kGauge, "bytes", "expert", kNoLabels, kNoBuckets,
     "Frames waiting or in work."},
    {"conclave_worker_unit_seconds", kHistogram, "seconds", "expert", kNoLabels, kStepSeconds,
     "Time of one unit of work (some rows of one expert)."},
    {"conclave_worker_unit_rows", kHistogram, "1", "expert", kNoLabels, kRows,
     "Rows of one unit of work, over all frames batched into it."},
    {"conclave_worker_experts", kGauge, "1", "expert", kNoLabels, kNoBuckets,
     "Experts loaded, over all layers."},
    {"conclave_worker_resident_bytes", kGauge, "bytes", "expert", kNoLabels, kNoBuckets,
     "Memory of the loaded experts."},

    {"conclave_members", kGauge, "1", "controller", kKind, kNoBuckets,
     "Members that hold their lease, by kind (gateway, engine, expert)."},
    {"conclave_topology_term", kGauge, "1", "controller", kNoLabels, kNoBuckets,
     "Term of the topology."},
    {"conclave_topology_number", kGauge, "1", "controller", kNoLabels, kNoBuckets,
     "Number of the topology within its term."},
    {"conclave_missing_experts", kGauge, "1", "controller", kNoLabels, kNoBuckets,
     "Experts of known models without a live worker."},
    {"conclave_lease_expirations_total", kCounter, "1", "controller", kKind, kNoBuckets,
     "Members lost because their lease ran out, by kind."},
};

}  // namespace

std::span<const MetricInfo> Catalogue() { return kCatalogue; }

const MetricInfo* FindMetric(std::string_view name) {
  for (const MetricInfo& info : kCatalogue) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

}  // namespace conclave::metrics
