"""The chart's monitoring files as data, and the rules with their windows shortened for tests that cannot wait for days."""

import copy
import json
import pathlib
import re

import yaml

import promql

SOURCE = pathlib.Path(__file__).resolve().parents[2]
FILES = SOURCE / "helm" / "conclave" / "files"
ALERTS, RECORDING, ADAPTER, SCALING = (FILES / f"{name}.yaml" for name in ("alerts", "recording", "adapter", "scaling"))
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
# Labels that the scrape configuration and Prometheus itself add to all series, or that name a histogram's bucket.
COMMON_LABELS = {"namespace", "pod", "component", "pool", "job", "le"}


def load(path):
    return yaml.safe_load(path.read_text())


def rules(path):
    return [rule for group in load(path)["groups"] for rule in group["rules"]]


def shortened(groups, divisor, shortest_s, wait_divisor):
    """Groups of rules with their windows divided, and how long an alert is pending even more."""
    groups = copy.deepcopy(groups)
    for group in groups:
        for rule in group["rules"]:
            rule["expr"] = promql.shortened(rule["expr"], divisor, shortest_s)
            if "for" in rule:
                rule["for"] = f"{round(promql.seconds(rule['for']) / wait_divisor)}s"
    return groups


def panels(dashboard):
    """The panels that ask something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def dashboard(path):
    return json.loads(path.read_text())


def filled(expression, **values):
    """A dashboard's expression with its variables filled in; all of those that take several values stand for any."""
    for name, value in {"pool": ".*", "pod": ".*", "__rate_interval": "10s", **values}.items():
        expression = expression.replace(f"${name}", value)
    return expression


def adapter_query(rule, kind, names, namespace):
    """What prometheus-adapter asks for objects of a kind (pod, namespace)."""
    series = re.match(r"[a-z0-9_]+", rule["seriesQuery"]).group()
    values = {"namespace": namespace, kind: "|".join(names)}
    matchers = ",".join(f'{label}{"=~" if "|" in value else "="}"{value}"' for label, value in values.items())
    query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.LabelMatchers>>", matchers).replace("<<.GroupBy>>", kind)
    return re.sub(r'<<index \.LabelValuesByName "([a-z]+)">>', lambda label: values[label.group(1)], query)


def catalogue():
    """Metric -> (type, labels), as docs/metrics.md has them from the catalogue."""
    found = {}
    for line in (SOURCE / "docs" / "metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 5 and cells[1].startswith("`conclave_"):
            found[cells[1].strip("`")] = (cells[2], set(re.findall(r"`([a-z_]+)`", cells[4])))
    return found


def every_query():
    """(where, expression) of all that Prometheus is asked, with the placeholders of scaling and adapter rules filled in."""
    for path in DASHBOARDS:
        for panel in panels(dashboard(path)):
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", filled(target["expr"], namespace="test")
    for path in (RECORDING, ALERTS):
        for rule in rules(path):
            yield f"{path.name}: {rule.get('record') or rule['alert']}", rule["expr"]
    for rule in load(ADAPTER)["rules"]:
        for kind, names in (("pod", ["a", "b"]), ("namespace", ["test"])):
            yield f"adapter.yaml: {rule['name']['as']} of a {kind}", adapter_query(rule, kind, names, "test")
    for name, query in load(SCALING).items():
        yield f"scaling.yaml: {name}", query.replace("__NAMESPACE__", "test").replace("__POOL__", "p")
