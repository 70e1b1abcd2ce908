"""Which experts work how much, where they live, and how long frames wait."""

from style import dashboard, graph, heatmap, matrix, mean, quantiles, table

OF = 'namespace="$namespace",pool=~"$pool",pod=~"$pod"'
POOLS = 'namespace="$namespace",pool=~"$pool"'
RATE = "[$__rate_interval]"


def load():
    return [
        matrix("Rows of each expert: layer by expert", "Rows a second of every expert, over all workers shown: layers down, experts across. "
               "Hot experts are candidates for a further replica.", "none",
               f"sum by (layer, expert) (rate(conclave_worker_rows_total{{{OF}}}{RATE}))", "layer", "expert"),
        heatmap("Rows of each layer over time", "Rows a second of a layer's experts together.", "none",
                f"sum by (layer) (rate(conclave_worker_rows_total{{{OF}}}{RATE}))", "{{layer}}"),
        heatmap("Rows of each worker over time", "Rows a second.", "none",
                f"sum by (pod) (rate(conclave_worker_rows_total{{{OF}}}{RATE}))", "{{pod}}"),
        table("Hottest experts", "The twenty with most rows a second.", "none",
              f"topk(20, sum by (layer, expert) (rate(conclave_worker_rows_total{{{OF}}}{RATE})))"),
        graph("Rows by pool", "Rows a second of a pool's mean worker: what pools are scaled by, beside their queue time.", "short",
              {f"conclave:expert_pool_rows:rate1m_mean{{{POOLS}}}": "{{pool}}"}),
        graph("Imbalance", "Rows of a pool's busiest worker in proportion to the mean; 1 is even. Alert: 1.5.", "none",
              {f"conclave:expert_pool_imbalance:ratio{{{POOLS}}}": "{{pool}}"}),
    ]


def queues():
    return [
        graph("Queue time by pool", "Mean from a frame's arrival to its first unit of work: what pools are scaled by.", "ms",
              {f"conclave:expert_pool_queue_ms:mean1m{{{POOLS}}}": "{{pool}}"}),
        graph("Queue time by worker", "99th percentile from a frame's arrival to its first unit of work.", "s",
              quantiles("conclave_worker_queue_seconds", OF, "pod", (0.99,))),
        graph("Frames", "Frames taken a second.", "ops", {f"sum by (pod) (rate(conclave_worker_frames_total{{{OF}}}{RATE}))": "{{pod}}"}),
        graph("Bytes in the queue", "Frames waiting or in work.", "bytes", {f"sum by (pod) (conclave_worker_queue_bytes{{{OF}}})": "{{pod}}"}),
        graph("Time at work", "Share of the time that a worker's compute loop is in units of work.", "percentunit",
              {f"sum by (pod) (rate(conclave_worker_unit_seconds_sum{{{OF}}}{RATE}))": "{{pod}}"}),
        graph("Rows of a unit of work", "Mean rows of one expert that are computed together, over the frames of all engines.", "none",
              {mean("conclave_worker_unit_rows", OF, "pod"): "{{pod}}"}),
    ]


def holdings():
    return [
        graph("Experts loaded", "Over all layers.", "none", {f"sum by (pod) (conclave_worker_experts{{{OF}}})": "{{pod}}"}),
        graph("Memory of the experts", "Memory of the loaded experts.", "bytes",
              {f"sum by (pod) (conclave_worker_resident_bytes{{{OF}}})": "{{pod}}"}),
        graph("Experts without a worker", "Experts of known models that no live worker has.", "none",
              {'max(conclave_missing_experts{namespace="$namespace"})': "missing"}),
        graph("Calls as the engines see them", "Mean time of a call, network included.", "s",
              {mean("conclave_expert_call_seconds", 'namespace="$namespace"', "worker"): "{{worker}}"}),
        graph("Rows as the engines send them", "Rows a second that engines send to experts, in-process ones included.", "short",
              {f'sum(rate(conclave_expert_rows_total{{namespace="$namespace"}}{RATE}))': "sent",
               f"sum(rate(conclave_worker_rows_total{{{OF}}}{RATE}))": "computed by the workers shown"}),
        graph("Time of a unit of work", "Quantiles over all workers shown; about a millisecond is wanted.", "s",
              quantiles("conclave_worker_unit_seconds", OF)),
    ]


def make():
    return dashboard("conclave-experts", "Conclave / Experts", __doc__,
                     [("Load", load()), ("Queues and work", queues()), ("Holdings and calls", holdings())], "expert")
