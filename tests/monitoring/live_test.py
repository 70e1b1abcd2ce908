"""Every query of dashboards, rules and autoscalers against a live Prometheus under load, and every alert provoked, with windows
shortened. One cluster for all, in this order. Needs Prometheus, says so and skips otherwise."""

import json
import math
import os
import re
import signal
import sys
import tempfile
import unittest

import promql
import rules
from clients import Clients
from monitored_cluster import NAMESPACE, PROMETHEUS, Authority, MonitoredCluster, wait_until

SKIPPED = 77  # ctest shows the test as skipped
# What one context of 512 tokens needs, so that one long sequence fills the cache.
CONTEXT, KV_MEMORY = 512, "640KiB"
SMALL_MEMORY = "2MiB"  # a sixth of the experts
GATEWAY, ENGINE, WORKERS = "gateway", "engine-0", ["expert-0", "expert-small"]


def words(count):
    return " ".join(["wolf"] * count)


class LiveTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="conclave-certificates-")
        cls.addClassCleanup(folder.cleanup)
        authority = Authority(folder.name)
        cls.certificate, key = authority.issue("cluster", "DNS:conclave")  # for a day
        cls.cluster = MonitoredCluster(
            "--engine-context", str(CONTEXT), "--engine-kv-memory", KV_MEMORY, small_memory=SMALL_MEMORY,
            env={"CONCLAVE_TLS_CERT_FILE": str(cls.certificate), "CONCLAVE_TLS_KEY_FILE": str(key),
                 "CONCLAVE_TLS_CA_FILE": str(authority.certificate)})
        cls.addClassCleanup(cls.cluster.__exit__)
        cls.cluster.up()
        cls.prometheus = cls.cluster.prometheus
        cls.provoked, cls.num_answered = set(), 0
        cls.load = Clients()
        cls.addClassCleanup(cls.load.stopping.set)
        cls.start_load()

    @classmethod
    def chat(cls, content, expected=200, **fields):
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, **fields}
        status, text = cls.cluster.post("/v1/chat/completions", body)
        if status != expected:
            raise AssertionError(f"{status} instead of {expected}: {text}")
        return None if fields.get("stream") else json.loads(text)

    @classmethod
    def start_load(cls):
        """Short requests of every class, API and way that an answer can take, and refused ones."""
        keep, chat = cls.load.keep, cls.chat
        keep(lambda i: chat(f"Count to {i}.", qos=("realtime", "interactive", "batch", "sheddable")[i % 4]), pause_s=0.1)
        keep(lambda i: chat("Spell the word wolf.", temperature=0), pause_s=0.05)
        keep(lambda i: chat(f"Spell the word {i}.", temperature=0, stream=True), pause_s=0.1)
        keep(lambda i: chat("What is it?", expected=400, n=0), pause_s=0.2)
        keep(lambda i: cls.cluster.run(f"Who is {i}?", "--max-tokens", "4"), pause_s=0.2)

    # Every query, under load

    def check(self, where, query):
        """What a query answers, at the latest after the time that the shortest windows take to fill; it must answer something."""
        with self.subTest(query=where):
            answer = wait_until(lambda: [(labels, value) for labels, value in self.prometheus.ask(query) if not math.isnan(value)],
                                f"an answer to {query}", 15)
            type(self).num_answered += 1
            return answer
        return []

    def test_1_queries_of_dashboards(self):
        for path in rules.DASHBOARDS:
            dashboard = rules.dashboard(path)
            for variable in dashboard["templating"]["list"]:
                if variable["type"] == "query":
                    selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
                    answer = self.check(f"{path.name}: {variable['name']}", rules.filled(selector, namespace=NAMESPACE))
                    self.assertTrue(all(label in labels for labels, _ in answer), f"{path.name}: {variable['name']}")
            for panel in rules.panels(dashboard):
                for target in panel["targets"]:
                    answer = self.check(f"{path.name}: {panel['title']}", rules.filled(target["expr"], namespace=NAMESPACE))
                    for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                        self.assertTrue(all(label in labels for labels, _ in answer), f"{panel['title']}: {{{{{label}}}}}")

    def test_2_queries_of_rules(self):
        for rule in rules.rules(rules.RECORDING):
            self.check(f"{rule['record']} as it is", rule["expr"])
            self.check(rule["record"], rule["record"])
        for rule in rules.rules(rules.ALERTS):
            parts = promql.compared(rule["expr"])
            self.assertTrue(parts)
            for part in parts:
                self.check(rule["alert"], part)

    def test_3_queries_of_autoscalers(self):
        pods = {"gateway": [GATEWAY], "request": [GATEWAY], "first": [GATEWAY], "engine": [ENGINE], "expert": WORKERS}
        for rule in rules.load(rules.ADAPTER)["rules"]:
            name = rule["name"]["as"]
            self.assertRegex(re.match("[a-z_]+", rule["seriesQuery"]).group(), rule["name"]["matches"])
            self.assertTrue(self.prometheus.get("series", **{"match[]": rule["seriesQuery"]}), name)
            for kind, names in (("pod", pods[name.split("_")[1]]), ("namespace", [NAMESPACE])):
                answer = self.check(f"{name} of a {kind}", rules.adapter_query(rule, kind, names, NAMESPACE))
                self.assertEqual(sorted(labels[kind] for labels, _ in answer), sorted(names), name)
                self.assertTrue(all(set(labels) == {kind} for labels, _ in answer), f"{name}: {answer}")
                self.check_measured(f"{name} of a {kind}", rules.adapter_query(rule, kind, names, NAMESPACE))
        for name, query in rules.load(rules.SCALING).items():
            query = query.replace("__NAMESPACE__", NAMESPACE).replace("__POOL__", "cpu")
            answer = self.check(name, query)
            self.assertEqual(len(answer), 1, name)
            self.check_measured(name, query)

    def check_measured(self, name, query):
        """What a query answers without the zero that it ends in for the time without load."""
        measured = re.sub(r"\s+or (vector\(0\)|0 \* .*)\s*$", "", query, flags=re.DOTALL)
        if measured != query.strip():
            self.check(f"{name}, measured", measured)

    def test_4_metrics_are_those_of_the_catalogue(self):
        exported = {name for name in self.prometheus.get("label/__name__/values") if name.startswith("conclave_")}
        catalogue = rules.catalogue()
        expected = set()
        for name, (kind, _) in catalogue.items():
            expected |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
        self.assertEqual(exported, expected)

    # Every alert, provoked

    def wait_firing(self, *alerts, timeout_s=40):
        """Until all of them fire; an alert that has fired counts as provoked."""
        seen = set()

        def fired():
            seen.update(self.prometheus.firing())
            return set(alerts) <= seen
        try:
            wait_until(fired, "alerts", timeout_s)
        except AssertionError:
            self.fail(f"not firing in {timeout_s} s: {set(alerts) - seen}; firing: {sorted(self.prometheus.firing())}")
        self.provoked.update(alerts)

    def test_5_load_alone_wakes_nobody(self):
        critical = {rule["alert"] for rule in rules.rules(rules.ALERTS) if rule["labels"]["severity"] == "critical"}
        # The machine may be busy with other work; and the certificates are to alert.
        critical -= {"ConclaveFirstTokenBurn", "ConclaveCertificateExpiresNow"}
        self.assertEqual(self.prometheus.firing() & critical, set())

    def test_6_unlike_workers_and_certificates_of_a_day(self):
        self.wait_firing("ConclaveExpertImbalance", "ConclaveCertificateExpiresSoon", "ConclaveCertificateExpiresNow", timeout_s=60)

    def test_6b_a_certificate_that_cannot_be_used(self):
        whole = self.certificate.read_text()
        self.certificate.write_text("half a certificate")
        self.addCleanup(self.certificate.write_text, whole)
        self.wait_firing("ConclaveFileFaulty")

    def test_7_more_than_the_engine_can_hold(self):
        """One long sequence after another leaves no room; what waits is late; and nothing is asked twice any more."""
        self.load.stop()
        busy = Clients()
        self.addCleanup(busy.stopping.set)
        # A prompt that leaves no block free, and an answer that is slow, so that it lasts.
        answer_tokens = 25
        around = self.chat(words(10), max_tokens=1)["usage"]["prompt_tokens"] - 10  # the chat template's
        prompt = words(CONTEXT - answer_tokens - around)
        for _ in range(2):
            busy.keep(lambda i: self.chat(prompt, max_tokens=answer_tokens, pace=5, qos="realtime", ignore_eos=True, cache="off"))
        # The pauses let the long ones in again, so that most of the short ones find no room.
        for _ in range(12):
            busy.keep(lambda i: self.chat(f"Count to {i}.", qos="realtime", cache="off"), pause_s=2)
        busy.keep(lambda i: self.chat(f"Count down from {i}.", temperature=0), pause_s=1)
        self.wait_firing("ConclaveKvPressure", "ConclaveQueueOld", "ConclaveFirstTokenSlow", "ConclaveFirstTokenBurn",
                         "ConclaveFirstTokenBurnSlow", "ConclaveRequestP99High", "ConclaveCacheHitCollapse", timeout_s=60)
        busy.stop()

    def test_8_workers_and_controller_that_are_gone(self):
        clients = Clients()
        self.addCleanup(clients.stopping.set)
        stopped = self.cluster.workers()
        controller = self.cluster.process("controller")["pid"]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
            self.addCleanup(os.kill, pid, signal.SIGCONT)
        # Fails after the time that sequences wait for their experts.
        for _ in range(4):
            clients.keep(lambda i: self.chat(f"Who is {i}?", expected=503))
        self.wait_firing("ConclaveWorkerLost", "ConclaveExpertsMissing", "ConclaveTargetDown", "ConclaveNotReady",
                         "ConclaveErrorRateHigh", "ConclaveAvailabilityBurn", "ConclaveAvailabilityBurnSlow")
        clients.stop()
        os.kill(controller, signal.SIGSTOP)
        self.addCleanup(os.kill, controller, signal.SIGCONT)
        self.wait_firing("ConclaveControllerAbsent")
        for pid in (*stopped, controller):
            os.kill(pid, signal.SIGCONT)
        # Who is back is seen and ready again.
        over = {"ConclaveControllerAbsent", "ConclaveTargetDown", "ConclaveNotReady", "ConclaveExpertsMissing"}
        wait_until(lambda: not over & self.prometheus.firing(), f"the end of {sorted(over)}", 40)

    def test_9_all_alerts_were_provoked(self):
        print(f"{self.num_answered} queries answered, {len(self.provoked)} alerts provoked")
        self.assertEqual(self.provoked, {rule["alert"] for rule in rules.rules(rules.ALERTS)})


if __name__ == "__main__":
    if PROMETHEUS is None:
        print("skipped: no prometheus (package prometheus)")
        sys.exit(SKIPPED)
    unittest.main()
