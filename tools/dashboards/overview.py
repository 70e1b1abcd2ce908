"""Is the service keeping its promises, how much does it do, and is the cluster whole?"""

from style import dashboard, graph, number, quantiles, table

NS = 'namespace="$namespace"'
URGENT = NS + ',class=~"realtime|interactive"'
FAILED = 'code=~"INTERNAL|UNKNOWN|DATA_LOSS|UNAVAILABLE|DEADLINE_EXCEEDED"'


def objectives():
    return [
        number("Requests that did not fail, 3 days", "Share of the requests of the last three days that the service did not fail. "
               "The objective is 99.9 % over 30 days.", "percentunit", f"1 - conclave:requests_failed:ratio_rate3d{{{NS}}}",
               [("red", None), ("orange", 0.999), ("green", 0.9995)], decimals=3),
        number("First tokens within 1 s, 3 days", "Share of the first tokens of the last three days that came within 1 s of the "
               "request, of realtime and interactive ones. The objective is 99 %.", "percentunit", f"1 - conclave:first_tokens_late:ratio_rate3d{{{NS}}}",
               [("red", None), ("orange", 0.99), ("green", 0.995)], decimals=2),
        graph("Error budget: burn rate of failures", "How many times faster than the objective allows the budget for failed requests "
              "is spent: at 1 it lasts exactly 30 days. Alerts: 14.4 over 1 h and 5 min, 6 over 6 h and 30 min, 3 over 1 d and 2 h, "
              "1 over 3 d and 6 h.", "none", {f"conclave:requests_failed:ratio_rate{w}{{{NS}}} / 0.001": w for w in ("5m", "1h", "6h", "3d")}),
        graph("Error budget: burn rate of late first tokens", "The same for first tokens that take longer than 1 s.", "none",
              {f"conclave:first_tokens_late:ratio_rate{w}{{{NS}}} / 0.01": w for w in ("5m", "1h", "6h", "3d")}),
    ]


def traffic():
    rate = "[$__rate_interval]"
    return [
        graph("Requests", "Requests that ended, by API.", "reqps",
              {f"sum by (api) (rate(conclave_requests_total{{{NS}}}{rate}))": "{{api}}"}, stacked=True),
        graph("Requests by outcome", "Requests that ended, by status code. RESOURCE_EXHAUSTED was refused: queue full, deadline out "
              "of reach or limit reached.", "reqps", {f"sum by (code) (rate(conclave_requests_total{{{NS}}}{rate}))": "{{code}}"}),
        graph("Failed requests", "Share of the requests that the service failed; what it refused or clients ended is not counted.",
              "percentunit", {f"sum(rate(conclave_requests_total{{{NS},{FAILED}}}{rate})) / sum(rate(conclave_requests_total{{{NS}}}{rate}))": "failed"}),
        graph("Time of whole requests", "From the arrival of a realtime or interactive request to its end, kept answers included.", "s",
              quantiles("conclave_request_seconds", URGENT)),
        graph("Time to the first token", "Of realtime and interactive requests that an engine answers; Gateways has all classes.", "s",
              quantiles("conclave_time_to_first_token_seconds", URGENT)),
        graph("Time per output token", "Mean time between the tokens of one choice after its first.", "s",
              quantiles("conclave_time_per_output_token_seconds", NS)),
        graph("Tokens", "Tokens of accepted prompts, and tokens sent to clients.", "short",
              {f"sum(rate(conclave_prompt_tokens_total{{{NS}}}{rate}))": "prompt tokens/s",
               f"sum(rate(conclave_generated_tokens_total{{{NS}}}{rate}))": "generated tokens/s"}),
        graph("Requests in hand", "Requests in flight in all gateways; of these, those that engines work at and those that wait for one.",
              "short", {f"sum(conclave_requests_inflight{{{NS}}})": "in flight", f"sum(conclave_requests_running{{{NS}}})": "running",
                        f"sum(conclave_gateway_queue_requests{{{NS}}})": "waiting"}),
        graph("Oldest request in the queue", "Longest wait for an engine, by QoS class. Alerts: realtime 1 s, interactive 10 s, others 5 min.",
              "s", {f"max by (class) (conclave_gateway_queue_oldest_seconds{{{NS}}})": "{{class}}"}),
    ]


def cluster():
    bad_from_one = [("green", None), ("red", 1)]
    return [
        number("Controllers", "Controllers that answer; one is wanted.", "none",
               f'sum(up{{job="conclave",{NS},component="controller"}})', [("red", None), ("green", 1), ("orange", 2)]),
        number("Engines used", "Engines that the gateway with fewest of them gives requests to.", "none",
               f"min(conclave_engines_used{{{NS}}})", [("red", None), ("green", 1)]),
        number("Experts without a worker", "Experts of known models that no live worker has.", "none",
               f"max(conclave_missing_experts{{{NS}}})", bad_from_one),
        number("Processes not ready", "Processes whose /readyz does not answer 200.", "none",
               f"count(conclave_ready{{{NS}}} == 0) or 0 * count(conclave_ready{{{NS}}})", bad_from_one),
        number("Processes that do not answer", "Processes whose metrics Prometheus cannot get.", "none",
               f'count(up{{job="conclave",{NS}}} == 0) or 0 * count(up{{job="conclave",{NS}}})', bad_from_one),
        number("Members lost, 1 h", "Members whose leases ran out within the last hour.", "none",
               f"sum(increase(conclave_lease_expirations_total{{{NS}}}[1h]))", [("green", None), ("orange", 1)], decimals=0),
        graph("Processes", "Processes that answer, by component.", "none",
              {f'sum by (component) (up{{job="conclave",{NS}}})': "{{component}}"}),
        graph("Members", "Members that hold their lease, as the controller counts them.", "none",
              {f"max by (kind) (conclave_members{{{NS}}})": "{{kind}}"}),
        graph("Topology", "Number of the published topology within its term; it grows with each change of placement.", "none",
              {f"max by (pod) (conclave_topology_number{{{NS}}})": "number", f"max by (pod) (conclave_topology_term{{{NS}}})": "term"}),
        table("Versions", "Which version and commit run how often.", "none",
              f"count by (component, version, commit) (conclave_build_info{{{NS}}})", width=12),
        table("Certificates", "Time until the certificates in use end, by use; empty without TLS.", "s",
              f"min by (component, use) (conclave_certificate_expiry_timestamp_seconds{{{NS}}} - time())", width=12),
    ]


def make():
    return dashboard("conclave-overview", "Conclave / Overview and objectives", __doc__,
                     [("Objectives", objectives()), ("Requests", traffic()), ("Cluster", cluster())])
