"""What the engines do: sequences, steps, calls to experts."""

from style import dashboard, graph, mean, quantiles

OF = 'namespace="$namespace",pool=~"$pool",pod=~"$pod"'
RATE = "[$__rate_interval]"


def sequences():
    return [
        graph("Sequences", "Sequences that hold KV blocks, that wait for their first step, and that wait for an expert without a live worker.",
              "none", {f"sum by (pod) (conclave_sequences_running{{{OF}}})": "{{pod}} running",
                       f"sum by (pod) (conclave_queue_depth{{{OF}}})": "{{pod}} waiting",
                       f"sum by (pod) (conclave_parked_sequences{{{OF}}})": "{{pod}} parked"}),
        graph("Queued tokens", "Tokens that are to be computed before their sequences decode.", "short",
              {f"sum by (pod) (conclave_queued_tokens{{{OF}}})": "{{pod}}"}),
        graph("Queued tokens per engine, by pool", "What pools are scaled by: an engine's own queue and its share of those in the gateways.",
              "short", {'conclave:engine_pool_queued_tokens:mean1m{namespace="$namespace",pool=~"$pool"}': "{{pool}}"}),
        graph("Wait for the first step", "From a sequence's arrival at the engine to its first step.", "s",
              quantiles("conclave_queue_wait_seconds", OF)),
        graph("Tokens computed", "By kind: prefill of prompts, decode of answers.", "short",
              {f"sum by (kind) (rate(conclave_step_tokens_total{{{OF}}}{RATE}))": "{{kind}} tokens/s"}, stacked=True),
        graph("Preemptions", "Sequences put back to be computed again for want of KV blocks.", "ops",
              {f"sum by (pod) (rate(conclave_preemptions_total{{{OF}}}{RATE}))": "{{pod}}"}),
    ]


def steps():
    return [
        graph("Time of a step, by phase", "Mean; experts is the part of forward that waits for expert workers.", "s",
              {mean("conclave_step_seconds", OF, "phase"): "{{phase}}"}),
        graph("Time of whole steps", "Quantiles over all engines shown.", "s", quantiles("conclave_step_seconds", OF + ',phase="total"')),
        graph("Rows of a step", "Mean rows (tokens) of a step.", "none", {mean("conclave_batch_rows", OF, "pod"): "{{pod}}"}),
        graph("Sequences of a step", "Mean sequences of a step.", "none", {mean("conclave_batch_sequences", OF, "pod"): "{{pod}}"}),
        graph("Steps", "Steps a second.", "ops", {f'sum by (pod) (rate(conclave_step_seconds_count{{{OF},phase="total"}}{RATE}))': "{{pod}}"}),
        graph("Share of experts in use", "Mean share of a layer's experts that have at least one row in a step.", "percentunit",
              {mean("conclave_active_expert_ratio", OF, "pod"): "{{pod}}"}, max=1),
    ]


def calls():
    return [
        graph("Calls to workers", "Mean time from sending a layer's frame to a worker to its last result.", "s",
              {mean("conclave_expert_call_seconds", OF, "worker"): "{{worker}}"}),
        graph("Calls to workers, 99th percentile", "The same, one call in a hundred.", "s",
              quantiles("conclave_expert_call_seconds", OF, "worker", (0.99,))),
        graph("Failed calls to workers", "By row status or gRPC code. They are repeated on another worker where there is one.", "ops",
              {f"sum by (code) (rate(conclave_expert_call_errors_total{{{OF}}}{RATE}))": "{{code}}"}),
        graph("Workers connected", "By transport: shared memory on one host, gRPC otherwise.", "short",
              {f"sum by (transport) (conclave_worker_links{{{OF}}})": "{{transport}}"}),
    ]


def make():
    return dashboard("conclave-engine", "Conclave / Engines", __doc__,
                     [("Sequences", sequences()), ("Steps", steps()), ("Expert calls", calls())], "engine")
