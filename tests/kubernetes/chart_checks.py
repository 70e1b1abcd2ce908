"""What can be said of the chart without a cluster: its texts, its schema, and what its objects mean."""

import json
import pathlib
import re
import subprocess

import reachability
import yaml
from kube import CHART, HERE, ROOT
from report import expect

VERSION = ["--kube-version", "1.33.13"]
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))

# Values that must be refused, and the path or word that the refusal must name.
REFUSED = [
    ("gateway.replica=2", "/gateway"),
    ("gateway.replicas=-1", "/gateway/replicas"),
    ("gateway.replicas=two", "/gateway/replicas"),
    ("gateway.settings.max_runing=5", "/gateway/settings"),
    ("gateway.service.httpPort=80000", "/gateway/service/httpPort"),
    ("engines.pools.main.settings.kv_memory=lots", "/engines/pools/main/settings/kv_memory"),
    ("experts.pools.Big.replicas=1", "Big"),
    ("experts.pools.main.gpu.count=0.5", "/experts/pools/main/gpu/count"),
    ("experts.pools.main.resources.limits.memory=8GB", "/experts/pools/main/resources/limits/memory"),
    ("experts.pools.main.model.numerics=int3", "/experts/pools/main/model/numerics"),
    ("model.delivery=ftp", "/model/delivery"),
    ("model.file=/tales.pack", "/model/file"),
    ("model.file=../tales.pack", "/model/file"),
    ("gateway.settings.class_weights=urgent=3", "/gateway/settings/class_weights"),
    ("model.hostPath.path=models/tales", "/model/hostPath/path"),
    ("images.digests.gateway=sha256:12", "/images/digests/gateway"),
    ("logLevel=loud", "/logLevel"),
    ("tls.clients.enabld=true", "/tls/clients"),
    ("autoscaling.provider=magic", "/autoscaling/provider"),
    ("gatway.replicas=2", "gatway"),
    # What the schema cannot say, the templates do.
    ("tls.clients.enabled=true", "tls.clients.existingSecret"),
    ("model.delivery=persistentVolumeClaim", "model.persistentVolumeClaim.claimName"),
    ("model.delivery=hostPath", "model.hostPath.path"),
    ("gateway.ingress.enabled=true", "gateway.ingress.host"),
    ("gateway.ingress.enabled=true,gateway.ingress.host=a.example,tls.clients.enabled=true,tls.clients.existingSecret=s", "gateway.ingress.backendTlsAnnotations"),
    ("gateway.autoscaling.enabled=true,gateway.autoscaling.min=9", "gateway.autoscaling: min 9 is above max 8"),
    ("experts.pools.main.autoscaling.enabled=true,experts.defaults.autoscaling.max=1", "experts.pools.main.autoscaling: min 2 is above max 1"),
    ("autoscaling.provider=keda,engines.pools.main.autoscaling.enabled=true,engines.pools.main.autoscaling.schedules[0].timezone=UTC,"
     "engines.pools.main.autoscaling.schedules[0].start=0 7 * * *,engines.pools.main.autoscaling.schedules[0].end=0 9 * * *,"
     "engines.pools.main.autoscaling.schedules[0].replicas=20", "engines.pools.main.autoscaling: a schedule wants 20 replicas"),
    ("experts.pools.main.model.numerics=int8", "experts.pools.main.model.numerics: int8, and model.numerics is auto"),
    ("gateway.strategy.maxSurge=0", "gateway.strategy"),
    ("engines.pools.main.strategy.maxSurge=0%", "engines.pools.main.strategy"),
    ("gateway.allowedHosts[0]=a.*.example", "/gateway/allowedHosts/0"),
    ("engines.pools.main.autoscaling.targets.kvRatio=0.0", "/engines/pools/main/autoscaling/targets/kvRatio"),
    ("engines.pools.main.autoscaling.targets.kvRatio=-1", "/engines/pools/main/autoscaling/targets/kvRatio"),
    ("engines.pools.main.autoscaling.targets.queueMs=5", "/engines/pools/main/autoscaling/targets"),
]

# Values that must be taken, and what they must lead to.
TAKEN = [
    ({"gateway": {"settings": {"class_weights": "realtime=0.5,batch=1e-3", "max_connections": 1000000}}}, "max_connections: 1000000"),
    ({"gateway": {"ingress": {"enabled": True, "host": "*.llm.example", "tlsSecret": "s"}}}, 'host: "*.llm.example"'),
    ({"gateway": {"allowedHosts": ["*.llm.example"]}}, ",*.llm.example"),
    ({"model": {"file": "tales-int8.pack"}}, 'model: "/model/tales-int8.pack"'),
    ({"model": {"numerics": "int8"}, "experts": {"pools": {"main": {"model": {"file": "int8.pack"}}}}}, 'model: "/model/int8.pack"'),
    ({"tls": {"clients": {"enabled": True, "existingSecret": "s"}},
      "gateway": {"ingress": {"enabled": True, "host": "a.example", "backendTlsAnnotations": {"example.com/backend": "HTTPS"}}}}, "example.com/backend: HTTPS"),
    ({"engines": {"defaults": {"autoscaling": {"enabled": True}}}}, 'metric: {name: conclave_first_token_p99_seconds}\n        target: {type: Value, value: "1"}'),
    ({"engines": {"defaults": {"autoscaling": {"enabled": True, "targets": {"kvRatio": "0.75"}}}}}, 'averageValue: "0.75"'),  # as --set has it
    ({"gateway": {"autoscaling": {"enabled": True, "targets": {"requestP99Seconds": 0.5}}}}, "conclave_request_p99_seconds"),
]  # fmt: skip

# The settings that the chart makes of its other values, and those that pods have no use for.
COMMON = {
    "model", "served-name", "numerics", "controller-address", "state-dir", "cluster-secret-file", "cluster-id", "tls-cert-file", "tls-key-file",
    "tls-ca-file", "tls-server-name", "log-level", "log-format", "drain-seconds", "api-key-file", "api-ca-file", "insecure", "strict-config",
    "config", "check-health", "help", "version", "name", "advertise", "listen", "ops-listen",
}  # fmt: skip
OF_THE_CHART = {
    "gateway": COMMON | {
        "http-listen", "grpc-listen", "server-cert-file", "server-key-file", "keys-file", "allowed-hosts", "grpc-connection-age-s", "lame-duck-seconds",
    },
    "controller": COMMON | {"lease-name", "service-account-dir"},
    "engine": COMMON,
    "expert": COMMON,
}  # fmt: skip


def helm(tools, *words):
    return subprocess.run([tools / "helm", *map(str, words)], capture_output=True, text=True, timeout=60)


def render(tools, *words):
    """The objects of the chart with its default values and what `words` add."""
    result = helm(tools, "template", "demo", CHART, "--namespace", "ai", *VERSION, *words)
    expect(result.returncode == 0, result.stderr)
    return [found for found in yaml.safe_load_all(result.stdout) if found]


def lint(tools, example):
    result = helm(tools, "lint", CHART, "--strict", *VERSION, "-f", example)
    expect(result.returncode == 0, result.stdout + result.stderr)


def refuses_wrong_values(tools):
    for value, named in REFUSED:
        result = helm(tools, "template", "demo", CHART, *VERSION, "--set", value)
        expect(result.returncode != 0, f"--set {value} was not refused")
        expect(named in result.stderr, f"--set {value}: the refusal does not name {named}:\n{result.stderr}")
    return f"{len(REFUSED)} values"


def takes_good_values(tools):
    for values, wanted in TAKEN:
        result = subprocess.run([tools / "helm", "template", "demo", CHART, *VERSION, "-f", "-"], input=json.dumps(values), capture_output=True, text=True, timeout=60)
        expect(result.returncode == 0, f"{values} was refused: {result.stderr}")
        expect(wanted in result.stdout, f"{values}: no {wanted!r} in what it renders")
    return f"{len(TAKEN)} values"


def protocols_are_those_of_the_ports(tools):
    """HTTP/2 without TLS (h2c) is said of a port that speaks it alone."""
    for words, plain in (([], True), (["--set", "tls.clients.enabled=true,tls.clients.existingSecret=s"], False)):
        wanted = {"http": "http" if plain else "https", "grpc": "kubernetes.io/h2c" if plain else "https"}
        services = [found for found in render(tools, *words) if found["kind"] == "Service" and "-gateway" in found["metadata"]["name"]]
        expect(len(services) == 2, f"Services of the gateway: {len(services)}")
        for service in services:
            found = {port["name"]: port.get("appProtocol") for port in service["spec"]["ports"]}
            expect(found == wanted, f"{service['metadata']['name']}: {found}, wanted {wanted}")


def labels_are_those_of_the_pod_monitor(tools):
    """The PodMonitor gives metrics the labels that the scrape configuration of deploy/kubernetes/monitoring.yaml gives, which runs here."""
    monitor = next(found for found in render(tools, "--set", "monitoring.podMonitor.enabled=true") if found["kind"] == "PodMonitor")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    objects = yaml.safe_load_all((ROOT / "deploy/kubernetes/monitoring.yaml").read_text())
    config = next(found["data"]["prometheus.yml"] for found in objects if found["kind"] == "ConfigMap")
    (job,) = yaml.safe_load(config)["scrape_configs"]
    kept = {tuple(rule["source_labels"]): rule["regex"] for rule in job["relabel_configs"] if rule.get("action") == "keep"}
    expect(kept[("__meta_kubernetes_pod_container_port_name",)] == endpoint["port"], f"ports: {kept}, and {endpoint['port']}")
    name = monitor["selector"]["matchLabels"]["app.kubernetes.io/name"]
    expect(kept[("__meta_kubernetes_pod_label_app_kubernetes_io_name",)] == name, f"pods: {kept}, and {name}")
    given = {rule["targetLabel"]: tuple(rule.get("sourceLabels", [rule.get("replacement")])) for rule in endpoint["relabelings"]}
    # The operator gives these two by itself.
    given |= {"namespace": ("__meta_kubernetes_namespace",), "pod": ("__meta_kubernetes_pod_name",)}
    ours = {rule["target_label"]: tuple(rule["source_labels"]) for rule in job["relabel_configs"] if "target_label" in rule}
    ours["job"] = (job["job_name"],)
    expect(given == ours, f"labels: {given}, and {ours}")
    return ", ".join(sorted(ours))


def windows_follow_the_setting(tools):
    """Rates are taken over autoscaling.window wherever queries are rendered: with [1m] and metrics read once a minute they would be empty."""
    wanted = {"hpa": {"ConfigMap", "PrometheusRule"}, "keda": {"ScaledObject"}}
    for provider, kinds in wanted.items():
        found = render(
            tools, "--set", f"autoscaling.window=4m,autoscaling.provider={provider},autoscaling.adapterRules.create=true,monitoring.rules.enabled=true",
            "--set", "engines.defaults.autoscaling.enabled=true,experts.defaults.autoscaling.enabled=true",
        )  # fmt: skip
        texts = [(entry["kind"], json.dumps(entry)) for entry in found]
        expect(kinds <= {kind for kind, text in texts if "[4m]" in text}, f"{provider}: a window of 4m stands in {[kind for kind, text in texts if '[4m]' in text]} alone")
        for kind, text in texts:
            left = re.search(r".{0,60}\[1m\]", text)
            expect(left is None, f"{provider}: {kind} has a window of its own: {left and left.group()}")


def schema_is_strict():
    """Every object of the schema that lists properties refuses others."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    seen = 0

    def visit(node, path):
        nonlocal seen
        if isinstance(node, dict):
            if "properties" in node and node.get("type") == "object":
                seen += 1
                expect(node.get("additionalProperties") is False, f"{path} takes unknown properties")
            for key, value in node.items():
                visit(value, f"{path}/{key}")
        elif isinstance(node, list):
            for value in node:
                visit(value, path)

    visit(schema, "")
    return f"{seen} objects"


def values_are_commented():
    """Every key of values.yaml has a comment right above it, or above the mapping whose keys they are where it is a word for all."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    groups = 0
    for number, line in enumerate(lines):
        text = line.strip()
        if not text or text.startswith(("#", "- ")):
            continue
        key, _, value = text.partition(":")
        if not value.strip() and number + 1 < len(lines) and lines[number + 1].startswith(" " * (len(line) - len(text) + 1)):
            groups += 1  # a mapping: its keys have comments of their own
            continue
        if key in ("requests", "limits"):
            continue  # explained above `resources`
        expect(lines[number - 1].strip().startswith("#"), f"values.yaml:{number + 1}: {key} has no comment")
    expect(groups > 10, "values.yaml was not read as it should be")


def schema_covers_values():
    """The schema knows exactly the keys that values.yaml has."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def resolve(node):
        while "$ref" in node:
            node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]]
        if "allOf" in node:
            merged = {}
            for part in map(resolve, node["allOf"]):
                for key, value in part["properties"].items():
                    merged[key] = {"allOf": [merged[key], value]} if merged.get(key) else value
            return {"properties": merged}
        return node

    def compare(value, node, path):
        node = resolve(node)
        if not isinstance(value, dict) or "properties" not in node:
            return
        if path.endswith(("/settings", "/affinity", "/strategy", "/defaults/model", "/pools")):
            return  # empty by default: the schema says what may stand there
        known = set(node["properties"]) - {"global"}
        expect(known == set(value), f"{path or '/'}: values.yaml and the schema differ in {sorted(known ^ set(value))}")
        for key in value:
            compare(value[key], node["properties"][key], f"{path}/{key}")

    compare(values, schema, "")


def settings_are_known(programs):
    """The schema has every setting of a program but those that the chart makes itself, and no other."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    count = 0
    for section in ("gateway", "controller", "engine", "expert"):
        text = subprocess.run([programs / f"conclave-{section}", "--help"], capture_output=True, text=True, check=True).stdout
        known = set(re.findall(r"--([a-z0-9-]+)", "\n".join(line[:34] for line in text.splitlines())))
        offered = {key.replace("_", "-") for key in schema["definitions"][f"{section}Settings"]["properties"]}
        expect(offered <= known, f"conclave-{section} has no setting {sorted(offered - known)}")
        expect(not offered & OF_THE_CHART[section], f"{section}: {sorted(offered & OF_THE_CHART[section])} are the chart's own")
        missing = known - offered - OF_THE_CHART[section]
        expect(not missing, f"{section}: the schema has no {sorted(missing)}")
        count += len(offered)
    return f"{count} settings"


def is_valid(tools, schemas, example):
    """kubeconform, strictly, with the API server's own schemas and those of the custom resources."""
    text = helm(tools, "template", "demo", CHART, "--namespace", "ai", *VERSION, "-f", example).stdout
    result = subprocess.run(
        [tools / "kubeconform", "-strict", "-summary", "-schema-location", f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", "-"],
        input=text, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    expect(result.returncode == 0, result.stdout + result.stderr)
    return result.stdout.strip().splitlines()[-1].removeprefix("Summary: ")


def write_schemas(kube, target):
    """The schemas for kubeconform, from the API server's own description of all its kinds, the custom ones included."""
    target.mkdir(parents=True, exist_ok=True)
    definitions = json.loads(kube.kubectl("get", "--raw", "/openapi/v2"))["definitions"]
    special = {
        "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
    }
    closed_definitions = {name: closed(definition) for name, definition in definitions.items()} | special
    (target / "_definitions.json").write_text(json.dumps({"definitions": closed_definitions}))
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            parts = [kind["kind"].lower(), kind["group"].split(".")[0], kind["version"]]
            schema = {"$ref": f"_definitions.json#/definitions/{name}"}
            (target / ("-".join(filter(None, parts)) + ".json")).write_text(json.dumps(schema))


def closed(schema):
    """A schema that refuses unknown fields, as the API server does in strict validation."""
    if isinstance(schema, list):
        return [closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    kept = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes") and key not in ("default", "description")}
    result = {key: closed(value) for key, value in kept.items() if key != "properties"}
    if "properties" in schema:  # names, which may be those of keywords
        result["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    return result


def policies_allow_exactly(tools):
    """The flows between pods that the rendered NetworkPolicies allow are those that docs/kubernetes.md lists, and no others."""
    for values in ([], ["-f", CHART / "examples" / "private.yaml"], ["-f", CHART / "examples" / "pools.yaml"]):
        reachability.check(render(tools, *values,), yaml.safe_load((HERE / "flows.yaml").read_text()), len(values) > 0)
    return "default, private and pools"


def pods_are_restricted(tools):
    """What the namespace's standard would refuse, and the tokens that only the controller needs."""
    pods = 0
    for example in EXAMPLES:
        for found in render(tools, "-f", example,):
            if found["kind"] not in ("Deployment", "Pod"):
                continue
            pods += 1
            name = found["metadata"]["name"]
            spec = found["spec"] if found["kind"] == "Pod" else found["spec"]["template"]["spec"]
            expect(spec["securityContext"]["runAsUser"] == 65532 and spec["securityContext"]["runAsNonRoot"], f"{name} runs as root")
            expect(spec["automountServiceAccountToken"] is name.endswith("-controller"), f"{name}: token of the ServiceAccount")
            for container in spec["containers"] + spec.get("initContainers", []):
                security = container["securityContext"]
                expect(security["readOnlyRootFilesystem"] and security["capabilities"] == {"drop": ["ALL"]}, f"{name}: {security}")
                expect("memory" in container["resources"]["limits"], f"{name}: no memory limit")
    return f"{pods} pods"


def check(report, tools, programs):
    for example in EXAMPLES:
        report.check(f"helm lint {example.name}", lint, tools, example)
    report.check("wrong values are refused with the path named", refuses_wrong_values, tools)
    report.check("good values are taken", takes_good_values, tools)
    report.check("ports say which protocol they speak", protocols_are_those_of_the_ports, tools)
    report.check("metrics have the same labels with and without the operator", labels_are_those_of_the_pod_monitor, tools)
    report.check("rates are taken over the window that is set", windows_follow_the_setting, tools)
    report.check("the schema takes no unknown key", schema_is_strict)
    report.check("the schema and values.yaml have the same keys", schema_covers_values)
    report.check("every value has a comment", values_are_commented)
    report.check("every setting is known to its program", settings_are_known, pathlib.Path(programs))
    report.check("pods are restricted, and have no token they do not need", pods_are_restricted, tools)
    report.check("NetworkPolicies allow exactly the flows that are needed", policies_allow_exactly, tools)


def check_objects(report, kube):
    schemas = kube.cluster.folder / "schemas"
    report.check("the API server describes its kinds", write_schemas, kube, schemas)
    for example in EXAMPLES:
        report.check(f"kubeconform {example.name}", is_valid, kube.tools, schemas, example)
