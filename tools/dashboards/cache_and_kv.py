"""The response cache of the gateways and the KV cache of the engines."""

from style import dashboard, graph, number

NS = 'namespace="$namespace"'
RATE = "[$__rate_interval]"


def cache():
    return [
        number("Hit ratio, 15 min", "Share of the cacheable requests that were answered from the cache or joined one that ran.",
               "percentunit", f"conclave:cache_hits:ratio_rate15m{{{NS}}}", width=6),
        number("Hit ratio, 1 d", "The same over the last day. Alert: the last 15 minutes are at less than half of it.", "percentunit",
               f"conclave:cache_hits:ratio_rate1d{{{NS}}}", width=6),
        number("Kept answers", "Answers in the caches of all gateways.", "short", f"sum(conclave_cache_answers{{{NS}}})", width=6),
        number("Mean size of an answer", "Memory of the caches by their answers.", "bytes",
               f"sum(conclave_cache_bytes{{{NS}}}) / clamp_min(sum(conclave_cache_answers{{{NS}}}), 1)", width=6),
        graph("Cacheable requests", "By result: hit (a kept answer), joined (shares a running one's answer), miss.", "reqps",
              {f"sum by (result) (rate(conclave_cache_requests_total{{{NS}}}{RATE}))": "{{result}}"}, stacked=True, width=6),
        graph("Dropped answers", "By reason: evicted (others were asked for more often), rejected (what is there is asked for more often: never kept), expired.",
              "ops", {f"sum by (reason) (rate(conclave_cache_dropped_total{{{NS}}}{RATE}))": "{{reason}}"}, stacked=True, width=6),
        graph("Memory of the caches", "Memory of the kept answers.", "bytes", {f"sum by (pod) (conclave_cache_bytes{{{NS}}})": "{{pod}}"}, width=6),
        graph("Tokens that were not computed", "Tokens of kept answers, of all tokens sent to clients.", "short",
              {f'sum(rate(conclave_tenant_tokens_total{{{NS},kind="cached"}}{RATE}))': "cached tokens/s",
               f"sum(rate(conclave_generated_tokens_total{{{NS}}}{RATE}))": "all tokens/s"}, width=6),
    ]


def kv():
    return [
        graph("KV use", "Share of an engine's KV blocks that sequences hold. Alert: 95 %. Engines are scaled by their pool's mean.",
              "percentunit", {f"max by (pod) (conclave_kv_used_ratio{{{NS}}})": "{{pod}}",
                              f"conclave:engine_pool_kv_ratio:mean1m{{{NS}}}": "pool {{pool}}"}, max=1),
        graph("KV blocks", "By state, over all engines. Cached ones are free, but have the contents of a prefix that ended sequences have left.", "short", {f"sum by (state) (conclave_kv_blocks{{{NS}}})": "{{state}}"}, stacked=True),
        graph("Prefix cache", "Share of the prompts' tokens whose keys and values were in the KV cache.", "percentunit",
              {f'sum(rate(conclave_prefix_cache_tokens_total{{{NS},result="hit"}}{RATE})) / '
               f"clamp_min(sum(rate(conclave_prefix_cache_tokens_total{{{NS}}}{RATE})), 1)": "found"}, max=1),
        graph("Preemptions", "Sequences put back for want of KV blocks.", "ops",
              {f"sum by (pod) (rate(conclave_preemptions_total{{{NS}}}{RATE}))": "{{pod}}"}),
        graph("Sequences", "Sequences that hold KV blocks.", "none", {f"sum by (pod) (conclave_sequences_running{{{NS}}})": "{{pod}}"}),
        graph("KV blocks of a sequence", "Blocks in use by the sequences that hold some.", "none",
              {f'sum(conclave_kv_blocks{{{NS},state="used"}}) / clamp_min(sum(conclave_sequences_running{{{NS}}}), 1)': "blocks"}),
        graph("Tokens to compute", "What engines have queued, and what waits in the gateways.", "short",
              {f"sum(conclave_queued_tokens{{{NS}}})": "engines", f"sum(conclave_gateway_queue_tokens{{{NS}}})": "gateways"}),
    ]


def make():
    return dashboard("conclave-cache-and-kv", "Conclave / Cache and KV", __doc__, [("Response cache", cache()), ("KV cache", kv())])
