"""`conclave doctor --cluster`: a running cluster, as its clients and its operator see it."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import unittest

from cluster import CONCLAVE, Cluster, ClusterTest, environment, wait_until
from tls_test import Authority


def doctor(*flags, env=None, state_dir=None):
    """Exit code and checks by name, from a machine that knows of the cluster by flags and environment alone."""
    with tempfile.TemporaryDirectory(prefix="conclave-doctor-") as empty:
        done = subprocess.run([str(CONCLAVE), "doctor", "--cluster", "--json", *flags, "--state-dir", str(state_dir or empty)],
                              env=environment(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=90)
    if done.returncode not in (0, 1):
        raise AssertionError(f"{done.returncode}: {done.stderr}")
    return done.returncode, {check["check"]: check for check in json.loads(done.stdout)}


def controller_of(cluster):
    return json.loads((cluster.state_dir / "cluster.json").read_text())["controller_address"]


class DoctorCluster(ClusterTest):
    def flags(self):
        return ["--gateway", self.cluster.grpc_address, "--gateway-http", self.cluster.http_address]

    def test_a_good_cluster_is_good_from_afar(self):
        code, checks = doctor(*self.flags(), env={"CONCLAVE_CONTROLLER_ADDRESS": controller_of(self.cluster)})
        self.assertEqual(code, 0, checks)
        self.assertEqual({check["verdict"] for check in checks.values()}, {"ok"}, checks)
        self.assertEqual(list(checks), ["controller", "members", "versions", "models", "experts", "gateway", "HTTP", "clock",
                                        "gRPC", "same answer"])
        self.assertEqual(checks["experts"]["found"], "tales: 64 of 64 held by live workers")
        self.assertRegex(checks["same answer"]["found"], r"^the same \d+ bytes over gRPC and HTTP, from tales-")

    def test_the_cluster_that_runs_here_needs_no_flags(self):
        done = self.cluster.conclave("doctor", "--cluster")
        self.assertRegex(done.stdout, r"members +ok +1 gateway, 1 engine, 2 experts ready")

    def test_what_is_named_is_looked_at_and_not_what_runs_here(self):
        code, checks = doctor("--gateway", "127.0.0.1:1", state_dir=self.cluster.state_dir)
        self.assertEqual(code, 1)
        for name in ("controller", "gateway", "same answer"):
            self.assertIn("skipped", checks[name]["found"], name)
        self.assertIn("127.0.0.1:1", checks["gRPC"]["found"])
        self.assertNotIn("members", checks)

    def test_who_does_not_answer_is_named(self):
        code, checks = doctor("--gateway", "127.0.0.1:1", "--gateway-http", "127.0.0.1:1", "--controller-address", "127.0.0.1:1")
        self.assertEqual(code, 1)
        for name in ("controller", "gateway", "gRPC"):
            self.assertEqual(checks[name]["verdict"], "FAIL", name)
            self.assertTrue(checks[name]["do"], name)
            self.assertIn("127.0.0.1:1", checks[name]["found"] + checks[name]["do"], name)
        code, checks = doctor()
        self.assertEqual(code, 1)
        self.assertIn("--gateway", checks["gRPC"]["found"] + checks["gRPC"]["do"])

    def test_another_cluster_is_said(self):
        code, checks = doctor(*self.flags(), "--controller-address", controller_of(self.cluster), "--cluster-id", "another")
        self.assertEqual(code, 1)
        self.assertEqual(checks["controller"]["verdict"], "FAIL")
        self.assertIn("another", checks["controller"]["found"])
        self.assertIn("cluster", checks["controller"]["found"])
        self.assertEqual(checks["same answer"]["verdict"], "ok")

    def test_experts_without_a_worker_fail_it(self):
        pids = [self.cluster.process(name)["pid"] for name in ("expert-0", "expert-1")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: not self.cluster.is_ready(), "the gateway not ready")
            wait_until(lambda: all(self.cluster.process(name)["state"] == "lost" for name in ("expert-0", "expert-1")),
                       "both workers lost")
            code, checks = doctor(state_dir=self.cluster.state_dir)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        self.assertEqual(code, 1)
        self.assertIn("expert-0 is lost", checks["members"]["found"])
        self.assertEqual(checks["gateway"]["verdict"], "FAIL")
        self.assertIn("expert", checks["gateway"]["found"])
        for name in ("HTTP", "gRPC"):
            self.assertEqual(checks[name]["verdict"], "FAIL", name)
        wait_until(self.cluster.is_ready, "the cluster ready again")

    def test_flags_of_a_cluster_need_the_cluster(self):
        done = self.cluster.conclave("doctor", "--gateway", self.cluster.grpc_address, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("give --cluster, too", done.stderr)


class DoctorSecureCluster(unittest.TestCase):
    def test_keys_certificates_and_secrets(self):
        folder = tempfile.TemporaryDirectory(prefix="conclave-doctor-")
        self.addCleanup(folder.cleanup)
        path = pathlib.Path(folder.name)
        authority = Authority(path)
        certificate, key = authority.issue("api")
        keys = path / "keys.json"
        made = subprocess.run([str(CONCLAVE), "key", "create", "--tenant", "acme", "--gateway-keys-file", str(keys)],
                              env=environment(), stdout=subprocess.PIPE, text=True, timeout=60, check=True)
        api_key, secret, other = path / "acme.key", path / "secret", path / "other"
        api_key.write_text(made.stdout)
        secret.write_text("s" * 40)
        other.write_text("o" * 40)
        for file in (secret, other):
            file.chmod(0o600)
        settings = {"CONCLAVE_GATEWAY_KEYS_FILE": str(keys), "CONCLAVE_GATEWAY_SERVER_CERT_FILE": str(certificate),
                    "CONCLAVE_GATEWAY_SERVER_KEY_FILE": str(key), "CONCLAVE_CLUSTER_SECRET_FILE": str(secret)}
        with Cluster(env=settings) as cluster:
            where = ["--gateway", cluster.grpc_address, "--gateway-http", cluster.http_address,
                     "--controller-address", controller_of(cluster)]
            trust, shown = ["--api-ca-file", str(authority.certificate)], ["--api-key-file", str(api_key)]
            code, checks = doctor(*where, *trust, *shown, "--cluster-secret-file", str(secret))
            self.assertEqual(code, 0, checks)
            self.assertEqual(checks["same answer"]["verdict"], "ok")
            # It was issued for a day.
            self.assertEqual(checks["gateway certificate"]["verdict"], "warn")
            self.assertRegex(checks["gateway certificate"]["found"], "2[34] hours left")  # 24 where the clock was set back

            code, checks = doctor(*where, *trust, *shown, "--cluster-secret-file", str(other))
            self.assertEqual(code, 1)
            self.assertIn("secret", checks["controller"]["found"])
            self.assertIn("--cluster-secret-file", checks["controller"]["do"])

            code, checks = doctor(*where, *trust, "--cluster-secret-file", str(secret))
            self.assertEqual(code, 1)
            self.assertEqual(checks["gateway"]["verdict"], "ok")
            for name in ("HTTP", "gRPC"):
                self.assertIn("key", checks[name]["found"], name)
                self.assertIn("api-key-file", checks[name]["do"].replace("_", "-"), name)

            code, checks = doctor(*where, *shown)
            self.assertEqual(code, 1)
            self.assertIn("--api-ca-file", checks["gateway"]["do"])

            code, checks = doctor(*where, *shown, "--api-ca-file", "system")
            self.assertEqual(code, 1)
            self.assertIn("certificate", checks["gateway"]["found"])
            self.assertIn("api_ca_file", checks["gateway"]["do"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
