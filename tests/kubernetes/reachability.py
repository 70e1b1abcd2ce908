"""What NetworkPolicies mean: who may open a connection to which port of whom. As the API's documentation defines it:

A pod that some policy selects for a direction may only do in it what one of these policies allows; other pods may do all. A
connection is possible if the one side may send it and the other may receive it.
"""

import ipaddress
import itertools

from report import expect

PORTS = {
    "gateway": {"http": 8000, "grpc": 8001, "ops": 9000},
    "controller": {"grpc": 8010, "ops": 9010},
    "engine": {"grpc": 8020, "ops": 9020},
    "expert": {"grpc": 8030, "ops": 9030},
    "doctor": {},
}


class Peer:
    def __init__(self, namespace, labels, address="10.244.0.9", ports=None):
        self.namespace, self.labels, self.address, self.ports = namespace, labels, address, ports or {}


def peers(objects):
    """The pods that the chart renders, and those around them."""
    found = {}
    for entry in objects:
        template = entry["spec"]["template"] if entry["kind"] == "Deployment" else entry if entry["kind"] == "Pod" else None
        if template:
            labels = template["metadata"]["labels"]
            component = labels["app.kubernetes.io/component"]
            ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0].get("ports", [])}
            found.setdefault(component, []).append(Peer("ai", labels, ports=ports))
    found.setdefault(
        "doctor",
        [Peer("ai", {"app.kubernetes.io/name": "conclave", "app.kubernetes.io/instance": "demo", "app.kubernetes.io/component": "doctor"})],
    )
    found["dns"] = [Peer("kube-system", {"k8s-app": "kube-dns"})]
    found["monitoring"] = [Peer("monitoring", {"app.kubernetes.io/name": "prometheus"})]
    found["api"] = [Peer(None, {}, "10.0.0.5")]
    found["outside"] = [Peer(None, {}, "203.0.113.7")]
    found["stranger"] = [
        Peer("ai", {"app": "other"}),
        Peer("elsewhere", {"app.kubernetes.io/name": "conclave", "app.kubernetes.io/instance": "demo", "app.kubernetes.io/component": "gateway"}),
        Peer("ai", {"app.kubernetes.io/name": "conclave", "app.kubernetes.io/instance": "another", "app.kubernetes.io/component": "engine"}),
    ]  # fmt: skip
    return found


def selects(selector, labels):
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        value, operator = labels.get(rule["key"]), rule["operator"]
        holds = {
            "In": value in rule.get("values", []), "NotIn": value not in rule.get("values", []),
            "Exists": value is not None, "DoesNotExist": value is None,
        }  # fmt: skip
        if not holds[operator]:
            return False
    return True


def is_peer(rule, peer):
    """Whether an entry of `from` or `to`, in a policy of the namespace ai, means this peer."""
    if "ipBlock" in rule:
        address = ipaddress.ip_address(peer.address)
        inside = address in ipaddress.ip_network(rule["ipBlock"]["cidr"])
        return inside and not any(address in ipaddress.ip_network(cidr) for cidr in rule["ipBlock"].get("except", []))
    if peer.namespace is None:
        return False
    if "namespaceSelector" in rule:
        if not selects(rule["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace}):
            return False
    elif peer.namespace != "ai":
        return False
    return selects(rule.get("podSelector", {}), peer.labels)


def allows(policies, direction, pod, other, port, named):
    """`named`: the ports of the receiving pod by name."""
    if pod.namespace != "ai":
        return True
    chosen = [
        policy["spec"] for policy in policies
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], pod.labels)
    ]  # fmt: skip
    if not chosen:
        return True
    key, side = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    for rule in itertools.chain.from_iterable(spec.get(key, []) for spec in chosen):
        if rule.get(side) and not any(is_peer(entry, other) for entry in rule[side]):
            continue
        if not rule.get("ports") or any(named.get(p["port"], p["port"]) == port for p in rule["ports"]):
            return True
    return False


def check(objects, flows, bounded):
    """`bounded`: the values name clients, monitoring and API server; without them everybody may be each of these."""
    policies = [entry for entry in objects if entry["kind"] == "NetworkPolicy"]
    found = peers(objects)
    named_clients = [entry for policy in policies for rule in policy["spec"].get("ingress", []) for entry in rule.get("from", [])]
    client = "applications" if "applications" in str(named_clients) else "ingress-nginx"
    found["client"] = [Peer(client, {"app": "client"})]
    wanted = {(start, flow["to"], port) for flow in flows for start in flow["from"] for port in flow["ports"]}
    if not bounded:
        everybody = [name for name in found if name not in PORTS]
        wanted |= {(name, "gateway", port) for name in everybody for port in (8000, 8001)}
        wanted |= {(name, part, PORTS[part]["ops"]) for name in everybody if name not in ("api", "outside") for part in PORTS if PORTS[part]}
        wanted |= {("controller", name, port) for name in everybody for port in (443, 6443)}
    ports = sorted({port for _, _, port in wanted} | {22, 80, 8080})
    for start, end in itertools.product(found, found):
        if start not in PORTS and end not in PORTS:
            continue
        for port, one, other in itertools.product(ports, found[start], found[end]):
            possible = allows(policies, "Egress", one, other, port, other.ports) and allows(policies, "Ingress", other, one, port, other.ports)
            if end in PORTS and port not in other.ports.values():
                continue  # nobody listens there
            needed = (start, end, port) in wanted
            expect(possible == needed, f"{start} {one.namespace} {one.labels} -> {end} port {port} is {'possible' if possible else 'impossible'}")
