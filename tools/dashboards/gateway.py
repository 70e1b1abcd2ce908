"""What the gateways do: requests, queues by class, answers, tenants."""

from style import dashboard, graph, mean, quantiles, table

OF = 'namespace="$namespace",pod=~"$pod"'
RATE = "[$__rate_interval]"


def requests():
    return [
        graph("Requests by gateway", "Requests that ended.", "reqps", {f"sum by (pod) (rate(conclave_requests_total{{{OF}}}{RATE}))": "{{pod}}"}),
        graph("Requests by API and outcome", "Requests that ended, by API and status code.", "reqps",
              {f"sum by (api, code) (rate(conclave_requests_total{{{OF}}}{RATE})) > 0": "{{api}} {{code}}"}),
        graph("Errors", "Calls that ended in an error, by code.", "ops",
              {f"sum by (code) (rate(conclave_errors_total{{{OF}}}{RATE}))": "{{code}}"}),
        graph("In flight and running", "Requests taken and not yet at their end, and those that engines work at. Autoscaling of "
              "gateways goes by the former.", "none", {f"sum by (pod) (conclave_requests_inflight{{{OF}}})": "{{pod}} in flight",
                                                       f"sum by (pod) (conclave_requests_running{{{OF}}})": "{{pod}} running"}),
        graph("Engines", "Engines connected, and of these those refused for another model, fingerprint or vocabulary.", "none",
              {f"min by (pod) (conclave_engines_used{{{OF}}})": "{{pod}} used",
               f"max by (pod) (conclave_engines_refused{{{OF}}})": "{{pod}} refused"}),
        graph("Choices by end", "Choices that ended, by reason.", "ops",
              {f"sum by (reason) (rate(conclave_finished_choices_total{{{OF}}}{RATE}))": "{{reason}}"}),
    ]


def queues():
    return [
        graph("Requests that wait, by class", "Requests that wait for a place on an engine.", "none",
              {f"sum by (class) (conclave_gateway_queue_requests{{{OF}}})": "{{class}}"}, stacked=True, width=6),
        graph("Tokens that wait, by class", "What those requests are expected to take, prompts and answers. Autoscaling of engines goes "
              "by this and their own queues.", "none", {f"sum by (class) (conclave_gateway_queue_tokens{{{OF}}})": "{{class}}"}, stacked=True, width=6),
        graph("Oldest wait, by class", "Longest wait of those requests.", "s",
              {f"max by (class) (conclave_gateway_queue_oldest_seconds{{{OF}}})": "{{class}}"}, width=6),
        graph("Waits, by class", "95th percentile from a request's arrival to its start on an engine.", "s",
              quantiles("conclave_gateway_queue_wait_seconds", OF, "class", (0.95,)), width=6),
    ]


def answers():
    return [
        graph("Time to the first token, by class", "99th percentile from a request's arrival, of requests that an engine answers.", "s",
              quantiles("conclave_time_to_first_token_seconds", OF, "class", (0.99,))),
        graph("Time per output token", "Mean time between the tokens of one choice after its first.", "s",
              quantiles("conclave_time_per_output_token_seconds", OF)),
        graph("Time of whole requests, by gateway", "Mean from arrival to end.", "s", {mean("conclave_request_seconds", OF, "pod"): "{{pod}}"},
              width=4),
        graph("Time of whole requests, by class", "99th percentile from arrival to end.", "s",
              quantiles("conclave_request_seconds", OF, "class", (0.99,)), width=4),
    ]


def tenants():
    return [
        graph("Requests by tenant", "The ten tenants with most requests.", "reqps",
              {f"topk(10, sum by (tenant) (rate(conclave_tenant_requests_total{{{OF}}}{RATE})))": "{{tenant}}"}),
        graph("Refused, by tenant", "Requests refused for a limit or a full queue.", "reqps",
              {f'topk(10, sum by (tenant) (rate(conclave_tenant_requests_total{{{OF},code="RESOURCE_EXHAUSTED"}}{RATE})))': "{{tenant}}"}),
        graph("Tokens by tenant", "Tokens of prompts and answers; cached ones were answered from the response cache.", "short",
              {f"topk(10, sum by (tenant, kind) (rate(conclave_tenant_tokens_total{{{OF}}}{RATE})))": "{{tenant}} {{kind}}"}),
        table("Tokens by tenant, 1 d", "Tokens of the last day.", "short",
              f"sum by (tenant, kind) (increase(conclave_tenant_tokens_total{{{OF}}}[1d]))", width=12),
        table("Requests by tenant and outcome, 1 d", "Requests of the last day.", "short",
              f"sum by (tenant, code) (increase(conclave_tenant_requests_total{{{OF}}}[1d]))", width=12),
    ]


def make():
    return dashboard("conclave-gateway", "Conclave / Gateways and tenants", __doc__,
                     [("Requests", requests()), ("Queues", queues()), ("Answers", answers()), ("Tenants", tenants())], "gateway")
