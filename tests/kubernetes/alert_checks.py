"""Every alert of the installed PrometheusRules provoked once in the installation, with its windows shortened. Leaves certificates that expire
and an engine with little memory: the installation ends next."""

import base64
import contextlib
import json
import os
import signal
import sys
import time

import scaling_checks
from cluster import processes_of
from failure_checks import apply_copy
from kube import CHART, HERE, pods_of, until
from load_checks import wait_settled
from report import Problem, expect
from serving_checks import DOCUMENT, NAMESPACE, VALUES, look_at_secrets

sys.path.insert(0, str(HERE.parent / "monitoring"))
import rules  # noqa: E402
from clients import Clients  # noqa: E402

# Windows of minutes and hours become these of seconds: 5 min 6 s, 1 h 30 s, 1 d 12 min; what is pending for an hour is for 4 s.
WINDOW_DIVISOR, SHORTEST_S, WAIT_DIVISOR = 120, 6, 1000
# What one context of 512 tokens needs, so that one long sequence fills the cache.
CONTEXT, KV_MEMORY = 512, "640KiB"
QUIET_SECONDS = 3  # some evaluations, and longer than most alerts are pending here
SMALL_MEMORY = "2MiB"  # a sixth of the experts
SMALL = "demo-conclave-expert-small"


def check(report, kube, service):
    alerts = Alerts(kube)
    try:
        if not report.check("Prometheus with short windows, one engine of little memory, unlike workers: no alert yet", set_up, alerts, kube):
            return
        report.check("alerts of unlike workers, certificates, and files that cannot be used", unlike, alerts, kube, service)
        report.check("alerts of an engine that is asked for more than it holds", pressed, alerts, service)
        report.check("alerts of workers and a controller that are gone; those of what is gone end when it is back", gone, alerts, kube, service)
        report.check("every alert was provoked", alerts.all_provoked)
    finally:
        report.check("the worker beside the others goes", remove_small, kube)


class Alerts:
    """What fires, as Prometheus has it."""

    def __init__(self, kube):
        self.kube, self.provoked = kube, set()

    def firing(self):
        found = {series["metric"]["alertname"] for series in scaling_checks.query(self.kube, 'ALERTS{alertstate="firing"}')}
        self.provoked |= found
        return found

    def wait(self, *names, seconds=40):
        """Until each of them has fired."""
        seen = set()

        def fired():
            seen.update(self.firing())
            return set(names) <= seen

        began = time.monotonic()
        try:
            until("all fire", seconds, fired, every=0.5)
        except Problem:
            raise Problem(f"not firing within {seconds} s: {sorted(set(names) - seen)}; these do: {sorted(seen)}") from None
        return f"{len(names)} after {time.monotonic() - began:.0f} s"

    def wait_over(self, *names, seconds=40):
        until(f"the end of {names}", seconds, lambda: not set(names) & self.firing(), every=0.5)

    def all_provoked(self):
        wanted = {rule["alert"] for rule in rules.rules(rules.ALERTS)}
        expect(self.provoked == wanted, f"never fired: {sorted(wanted - self.provoked)}; unknown: {sorted(self.provoked - wanted)}")
        return f"{len(wanted)} alerts"


def remove_small(kube):
    kube.kubectl("delete", "deployment", "-n", NAMESPACE, SMALL, "--ignore-not-found")


def set_up(alerts, kube):
    kube.kubectl("cordon", "node2")  # that was lost has come back without images
    words = [f"engines.defaults.settings.context={CONTEXT}", f"engines.defaults.settings.kv_memory={KV_MEMORY}", "engines.defaults.replicas=1"]
    words += ["experts.defaults.replicas=1", "gateway.replicas=1"]
    values = [*VALUES, "-f", DOCUMENT / "monitored.yaml", "--set", ",".join(words)]
    kube.helm("upgrade", "demo", CHART, "-n", NAMESPACE, *values, "--wait", "--timeout", "90s", timeout=100)
    small = kube.object("deployment", NAMESPACE, "demo-conclave-expert-main")
    for labels in (small["spec"]["selector"]["matchLabels"], small["spec"]["template"]["metadata"]["labels"]):
        labels["role"] = "small"
    small["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "CONCLAVE_EXPERT_MEMORY", "value": SMALL_MEMORY})
    apply_copy(kube, small, SMALL)
    scaling_checks.load_rules(kube, lambda groups: rules.shortened(groups, WINDOW_DIVISOR, SHORTEST_S, WAIT_DIVISOR))
    wait_settled(kube)
    restart_prometheus(kube)
    until("Prometheus sees all processes", 30, lambda: len(scaling_checks.query(kube, 'up{job="conclave"} == 1')) == 5, every=0.5)
    time.sleep(QUIET_SECONDS)
    expect(not alerts.firing(), f"before anything is provoked these fire: {sorted(alerts.firing())}")


def restart_prometheus(kube):
    """It reads its rules when it starts."""
    kube.kubectl("rollout", "restart", "-n", "monitoring", "deployment/prometheus")
    kube.wait_rollout("monitoring", "prometheus", 60)


def chat(service, content, expected=200, **fields):
    status, text = service.chat(content, **{"max_tokens": 8, "timeout": 60, **fields})
    if status != expected:
        raise Problem(f"{status} instead of {expected}: {text}")
    return text


def unlike(alerts, kube, service):
    """Certificates of a day for the services, half a one for the clients; and kept answers, of which there are none later."""
    write_secrets(kube)
    load = Clients()
    for _ in range(2):
        load.keep(lambda i: ask_if_reached(service, f"Count to {i}."))
        load.keep(lambda i: ask_if_reached(service, "Spell the word wolf."))
    try:
        with stopping(load):
            return alerts.wait("ConclaveExpertImbalance", "ConclaveCertificateExpiresSoon", "ConclaveCertificateExpiresNow", "ConclaveFileFaulty")
    except Problem as problem:
        raise Problem(f"{problem}\n{what_was(kube)}") from None


def what_was(kube):
    """Why pods were not ready: events, restarts, the last change of Ready, and what the processes said."""
    said = []
    for event in kube.objects("events", NAMESPACE):
        if event["reason"] in ("Unhealthy", "NodeNotReady", "Killing", "BackOff"):
            said.append(f"{event['lastTimestamp']} {event['involvedObject'].get('name')}: {event['reason']}: {event['message'][:300]}")
    for kind in ("gateway", "engine", "expert"):
        for pod in kube.objects("pods", NAMESPACE, pods_of(kind)):
            status, name = pod["status"], pod["metadata"]["name"]
            ready = [condition for condition in status.get("conditions", []) if condition["type"] == "Ready"]
            said.append(f"{name}: restarts {[container['restartCount'] for container in status.get('containerStatuses', [])]}, {ready}")
            said.append(kube.logs(NAMESPACE, name, "--tail=15"))
    return "\n".join(said)


@contextlib.contextmanager
def stopping(clients):
    """Ends the clients; what went wrong in them is told unless something else has."""
    try:
        yield
    except Problem as problem:
        clients.stopping.set()
        if clients.errors:
            raise Problem(f"{problem}; the clients stopped, as one said: {clients.errors[0]}") from None
        raise
    except BaseException:
        clients.stopping.set()
        raise
    clients.stop()


def ask_briefly(service, content):
    """What is not answered within a second is given up."""
    with contextlib.suppress(Problem):
        chat(service, content, timeout=1)


def ask_if_reached(service, content):
    """A node that has come back may leave the address of a gateway that is no more to the Service for some seconds."""
    try:
        chat(service, content)
    except Problem as problem:
        if "Failed to connect" not in str(problem):
            raise


def ask_in_vain(service, content):
    """Fails after the time that sequences wait for their experts; then no gateway is ready, and the Service refuses connections."""
    try:
        chat(service, content, expected=503)
    except Problem as problem:
        if "Failed to connect" not in str(problem):
            raise


def write_secrets(kube):
    kube.document.shell(
        "openssl x509 -req -in services.csr -CA ca.crt -CAkey ca.key -days 1 -extfile <(echo subjectAltName=DNS:conclave) -out day.crt",
        "a certificate of a day",
    )
    (DOCUMENT / "half.crt").write_text("half a certificate")
    for secret, file in (("conclave-services-tls", "day.crt"), ("conclave-clients-tls", "half.crt")):
        data = {"tls.crt": base64.b64encode((DOCUMENT / file).read_bytes()).decode()}
        kube.kubectl("patch", "secret", secret, "-n", NAMESPACE, "-p", json.dumps({"data": data}))
    look_at_secrets(kube, "gateway")


def pressed(alerts, service):
    """One long sequence after another leaves no room; what waits is late; and nothing is asked twice any more."""
    answer_tokens = 25
    around = json.loads(chat(service, words(10), max_tokens=1))["usage"]["prompt_tokens"] - 10  # the chat template's
    prompt = words(CONTEXT - answer_tokens - around)
    busy = Clients()
    for _ in range(2):
        busy.keep(lambda i: chat(service, prompt, max_tokens=answer_tokens, pace=5, qos="realtime", ignore_eos=True, cache="off"))
    # The pauses let the long ones in again, so that most of the short ones find no room.
    for _ in range(12):
        busy.keep(lambda i: chat(service, f"Count to {i}.", qos="realtime", cache="off"), pause_s=2)
    # The cache is asked whether or not there is room for the answer.
    for client in range(2):
        busy.keep(lambda i, client=client: ask_briefly(service, f"Count down from {2 * i + client}."), pause_s=0.5)
    with stopping(busy):
        return alerts.wait(
            "ConclaveKvPressure", "ConclaveQueueOld", "ConclaveFirstTokenSlow", "ConclaveFirstTokenBurn", "ConclaveFirstTokenBurnSlow",
            "ConclaveRequestP99High", "ConclaveCacheHitCollapse", seconds=60,
        )  # fmt: skip


def words(count):
    return " ".join(["wolf"] * count)


def gone(alerts, kube, service):
    """The workers freeze, as pods do whose machine has stopped; and there is no controller."""
    clients = Clients()
    processes = [processes_of(pod) for pod in kube.objects("pods", NAMESPACE, pods_of("expert"))]
    expect(len(processes) == 2 and all(processes), f"the processes of two workers were wanted, these were found: {processes}")
    frozen = sum(processes, [])
    try:
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        with stopping(clients):
            for _ in range(4):
                clients.keep(lambda i: ask_in_vain(service, f"Who is {i}?"), pause_s=0.1)
            note = alerts.wait(
                "ConclaveWorkerLost", "ConclaveExpertsMissing", "ConclaveTargetDown", "ConclaveNotReady", "ConclaveErrorRateHigh",
                "ConclaveAvailabilityBurn", "ConclaveAvailabilityBurnSlow",
            )  # fmt: skip
        kube.kubectl("scale", "-n", NAMESPACE, "deployment/demo-conclave-controller", "--replicas=0")
        note += f", {alerts.wait('ConclaveControllerAbsent')}"
    finally:
        for pid in frozen:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
        kube.kubectl("scale", "-n", NAMESPACE, "deployment/demo-conclave-controller", "--replicas=1")
    alerts.wait_over("ConclaveControllerAbsent", "ConclaveTargetDown", "ConclaveNotReady", "ConclaveExpertsMissing")
    return note
