"""Dashboards, rules, unit tests of alerts, runbooks and catalogue agree, without a cluster: needs promtool, says so and skips
otherwise."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import promql
import rules

FOLDER = pathlib.Path(__file__).resolve().parent
ALERT_TESTS = FOLDER / "alerts_test.yaml"
RUNBOOKS = rules.SOURCE / "docs" / "runbooks.md"
PROMTOOL = shutil.which("promtool")


def promtool(*arguments):
    done = subprocess.run([PROMTOOL, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


@unittest.skipUnless(PROMTOOL, "no promtool (package prometheus)")
class RuleFilesTest(unittest.TestCase):
    def test_are_good_rules(self):
        for path in (rules.ALERTS, rules.RECORDING):
            code, output = promtool("check", "rules", path)
            self.assertEqual(code, 0, output)

    def test_alerts_fire_and_do_not(self):
        code, output = promtool("test", "rules", ALERT_TESTS)
        self.assertEqual(code, 0, output)

    def test_shortened_rules_are_good_rules(self):
        with tempfile.TemporaryDirectory() as folder:
            for path in (rules.ALERTS, rules.RECORDING):
                short = pathlib.Path(folder) / path.name
                short.write_text(json.dumps({"groups": rules.shortened(rules.load(path)["groups"], 120, 5, 300)}))  # JSON is YAML
                self.assertEqual(len(rules.rules(short)), len(rules.rules(path)))
                code, output = promtool("check", "rules", short)
                self.assertEqual(code, 0, output)


class AlertsTest(unittest.TestCase):
    def setUp(self):
        self.alerts = {rule["alert"]: rule for rule in rules.rules(rules.ALERTS)}

    def test_names_are_unique(self):
        self.assertEqual(len(self.alerts), len(rules.rules(rules.ALERTS)))

    def test_say_what_is_wrong(self):
        for name, alert in self.alerts.items():
            with self.subTest(alert=name):
                self.assertIn(alert["labels"]["severity"], ("critical", "warning"))
                self.assertEqual(set(alert["annotations"]), {"summary", "description", "runbook_url"})
                self.assertIn("$labels.namespace", alert["annotations"]["description"])
                self.assertFalse(alert["annotations"]["summary"].endswith("."))

    def test_each_has_unit_tests_that_fire_and_do_not(self):
        firing, silent = set(), set()
        for test in rules.load(ALERT_TESTS)["tests"]:
            for case in test["alert_rule_test"]:
                (firing if case.get("exp_alerts") else silent).add(case["alertname"])
        self.assertEqual(firing, set(self.alerts))
        self.assertEqual(silent, set(self.alerts))

    def test_each_has_its_paragraph_in_the_runbooks(self):
        text = RUNBOOKS.read_text()
        headings = re.findall(r"^### (Conclave\w+)$", text, re.MULTILINE)
        self.assertEqual(len(headings), len(set(headings)))
        self.assertEqual(set(headings), set(self.alerts))
        for name, alert in self.alerts.items():
            self.assertEqual(alert["annotations"]["runbook_url"], f"docs/runbooks.md#{name.lower()}")
        for name, section in re.findall(r"^### (Conclave\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL):
            for part in ("**Means.**", "**Look.**", "**Do.**"):
                self.assertIn(part, section, name)


class QueriesTest(unittest.TestCase):
    def test_name_metrics_and_labels_that_exist(self):
        catalogue = rules.catalogue()
        self.assertGreater(len(catalogue), 50)
        recorded = {rule["record"] for rule in rules.rules(rules.RECORDING)}
        for where, query in rules.every_query():
            with self.subTest(query=where):
                metrics, grouping = promql.selectors(query)
                self.assertTrue(metrics, query)
                known = set(rules.COMMON_LABELS)
                for metric, labels in metrics.items():
                    if metric == "up" or metric in recorded:
                        known |= labels
                        continue
                    base = re.sub(r"_(bucket|sum|count)$", "", metric)
                    kind, own = catalogue.get(metric) or catalogue.get(base) or (None, set())
                    self.assertIsNotNone(kind, f"{metric} is not in docs/metrics.md")
                    self.assertEqual(kind == "histogram", metric != base, f"{metric} is a {kind}")
                    self.assertLessEqual(labels, own | rules.COMMON_LABELS, metric)
                    known |= own
                self.assertLessEqual(grouping, known, query)

    def test_rates_are_of_counters_alone(self):
        catalogue = rules.catalogue()
        for where, query in rules.every_query():
            for function, metric in re.findall(r"\b(i?rate|increase|avg_over_time)\((conclave_\w+)", query):
                with self.subTest(query=where, metric=metric):
                    counts = metric.endswith("_total") or re.sub(r"_(bucket|sum|count)$", "", metric) != metric
                    self.assertEqual(counts, function != "avg_over_time")
                    self.assertTrue(counts or catalogue[metric][0] == "gauge")


class ScalingTest(unittest.TestCase):
    """Autoscalers of both kinds ask for the same."""

    def test_both_have_the_same_metrics(self):
        self.assertEqual({rule["name"]["as"] for rule in rules.load(rules.ADAPTER)["rules"]}, set(rules.load(rules.SCALING)))

    def test_totals_of_gateways_are_sums_over_the_pods(self):
        scaling = rules.load(rules.SCALING)
        for rule in rules.load(rules.ADAPTER)["rules"]:
            name = rule["name"]["as"]
            if name.startswith("conclave_gateway_"):
                per_pod = rules.adapter_query(rule, "pod", [], "__NAMESPACE__").replace(',pod=""', "")
                with self.subTest(metric=name):
                    self.assertEqual(promql.tokens(scaling[name]), promql.tokens(f"sum({per_pod})"))

    def test_times_are_of_urgent_requests_alone(self):
        asked = [query for where, query in rules.every_query() if where.startswith(("alert", "record", "adapter", "scaling"))]
        times = [query for query in asked if re.search(r"conclave_(time_to_first_token|request)_seconds_bucket", query)]
        self.assertGreater(len(times), 10)
        for query in times:
            self.assertIn('class=~"realtime|interactive"', query)


class DashboardsTest(unittest.TestCase):
    def test_are_what_the_generator_writes(self):
        sys.path.insert(0, str(rules.SOURCE / "tools" / "dashboards"))
        import generate
        texts = generate.texts()
        self.assertEqual({path.name for path in rules.DASHBOARDS}, set(texts))
        for path in rules.DASHBOARDS:
            self.assertEqual(path.read_text(), texts[path.name], f"{path.name}: run tools/dashboards/generate.py")

    def test_have_variables_units_and_descriptions(self):
        units = {"percentunit", "s", "ms", "none", "short", "reqps", "ops", "bytes"}
        for path in rules.DASHBOARDS:
            dashboard = rules.dashboard(path)
            names = [variable["name"] for variable in dashboard["templating"]["list"]]
            self.assertEqual(names[:2], ["datasource", "namespace"])
            self.assertRegex(dashboard["uid"], "^conclave-")
            for panel in rules.panels(dashboard):
                with self.subTest(dashboard=path.name, panel=panel["title"]):
                    self.assertEqual(panel["datasource"]["uid"], "${datasource}")
                    self.assertTrue(panel["description"].endswith("."))
                    self.assertIn(panel["fieldConfig"]["defaults"]["unit"], units)
                    self.assertTrue(panel["targets"])
                    for target in panel["targets"]:
                        used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
                        self.assertLessEqual(used, set(names))
                        self.assertIn("namespace", used)

    def test_panels_do_not_overlap(self):
        for path in rules.DASHBOARDS:
            dashboard = rules.dashboard(path)
            places = [panel["gridPos"] for panel in dashboard["panels"]]
            self.assertEqual(len({panel["id"] for panel in dashboard["panels"]}), len(places))
            cells = [(x, y) for place in places for x in range(place["x"], place["x"] + place["w"])
                     for y in range(place["y"], place["y"] + place["h"])]
            self.assertEqual(len(cells), len(set(cells)), path.name)
            self.assertLess(max(x for x, _ in cells), 24)


if __name__ == "__main__":
    unittest.main()
