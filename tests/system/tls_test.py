"""TLS for clients, and mutual TLS between the processes: who is let in, and certificates renewed while all goes on."""

import http.client
import json
import os
import pathlib
import signal
import ssl
import subprocess
import tempfile
import unittest

from cluster import BUILD, MODEL, Cluster, environment, wait_until


class Authority:
    """Issues certificates by the openssl command, as an operator would."""

    def __init__(self, folder, name="authority"):
        self.folder = pathlib.Path(folder)
        self.certificate = self.folder / f"{name}.crt"
        self.key = self.folder / f"{name}.key"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2",
                      "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.certificate)

    def issue(self, name, names="DNS:conclave,DNS:localhost,IP:127.0.0.1", days=1):
        """Writes NAME.crt and NAME.key beside each other, by renaming, and returns their paths. It has expired where `days`
        is negative."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-subj", f"/CN={name}",
                      "-keyout", f"{key}.new", "-out", request)
        self._openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
                      "-days", days, "-extfile", extensions, "-out", f"{certificate}.new")
        os.replace(f"{key}.new", key)
        os.replace(f"{certificate}.new", certificate)
        return certificate, key

    @staticmethod
    def _openssl(*words):
        done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise AssertionError(done.stderr)


class Tls(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.authority = Authority(self.folder)
        certificate, key = self.authority.issue("cluster", "DNS:conclave")
        api_certificate, api_key = self.authority.issue("api")
        self.api = ["--api-ca-file", str(self.authority.certificate)]
        self.settings = {
            "CONCLAVE_TLS_CERT_FILE": str(certificate), "CONCLAVE_TLS_KEY_FILE": str(key),
            "CONCLAVE_TLS_CA_FILE": str(self.authority.certificate),
            "CONCLAVE_GATEWAY_SERVER_CERT_FILE": str(api_certificate), "CONCLAVE_GATEWAY_SERVER_KEY_FILE": str(api_key)}

    def https(self, cluster):
        trust = ssl.create_default_context(cafile=self.authority.certificate)
        host, port = cluster.http_address.rsplit(":", 1)
        return http.client.HTTPSConnection(host, int(port), context=trust, timeout=60)

    def serial(self, cluster):
        """Of the certificate that a new connection is shown."""
        connection = self.https(cluster)
        connection.connect()
        serial = connection.sock.getpeercert()["serialNumber"]
        connection.close()
        return serial

    def test_everything_goes_encrypted(self):
        with Cluster(env=self.settings) as cluster:
            # The other commands find the certificates of the cluster that runs here.
            later = {**cluster.env}
            cluster.env = environment()
            wait_until(lambda: {row["state"] for row in cluster.ps()["processes"]} == {"ready"}, "all ready in ps")
            plain = cluster.conclave("run", "Hello", check=False)
            self.assertEqual(plain.returncode, 2)
            self.assertIn("--api-ca-file", plain.stderr)
            first = cluster.run("Hello", "--seed", "7", "--max-tokens", "8", *self.api)
            connection = self.https(cluster)
            connection.request("POST", "/v1/chat/completions", json.dumps({
                "messages": [{"role": "user", "content": "Hello"}], "seed": 7, "max_tokens": 8, "stream": True}),
                {"Content-Type": "application/json"})
            text = connection.getresponse().read().decode()
            self.assertIn("data: [DONE]", text)
            self.assertEqual(connection.sock.version(), "TLSv1.3")
            with self.assertRaises((OSError, http.client.HTTPException)):
                cluster.get("/readyz")  # in plain text
            cluster.env = later
            metrics = cluster.get("/metrics", cluster.ops_address)[1]
            for use in ("api", "cluster"):
                self.assertIn(f'conclave_certificate_expiry_timestamp_seconds{{use="{use}"}} ', metrics)
            with Cluster() as unencrypted:
                self.assertEqual(unencrypted.run("Hello", "--seed", "7", "--max-tokens", "8")["digest"], first["digest"])

    def test_certificates_are_renewed_while_all_goes_on(self):
        with Cluster(env=self.settings) as cluster:
            running = cluster.start_answer("Tell me a long story.", "--max-tokens", "400", "--json", "--seed", "1",
                                           "--ignore-eos", "--pace", "120", *self.api)
            before = self.serial(cluster)
            self.authority.issue("api")
            self.authority.issue("cluster", "DNS:conclave")
            wait_until(lambda: self.serial(cluster) != before, "the new certificate shown")
            out, errors = running.communicate(timeout=60)
            self.assertEqual(running.returncode, 0, errors)
            self.assertEqual(len(json.loads(out)["ids"]), 400)
            # A worker that comes back shakes hands anew with everybody.
            pid = cluster.kill("expert-0", signal.SIGKILL)
            cluster.wait_restarted("expert-0", pid)
            self.assertTrue(cluster.run("Hello", *self.api)["ids"])

    def test_a_foreign_certificate_joins_nothing(self):
        foreign_folder = self.folder / "foreign"
        foreign_folder.mkdir()
        certificate, key = Authority(foreign_folder, "foreign").issue("worker", "DNS:conclave")
        with Cluster(env=self.settings) as cluster:
            state = json.loads((cluster.state_dir / "cluster.json").read_text())
            worker = subprocess.Popen(
                [str(BUILD / "conclave-expert"), "--model", str(MODEL), "--name", "stranger", "--listen", "127.0.0.1:0",
                 "--ops-listen", "127.0.0.1:0", "--controller-address", state["controller_address"],
                 "--state-dir", str(self.folder / "state"), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
                 "--tls-ca-file", str(self.authority.certificate)],
                env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            try:
                self.assertTrue(cluster.run("Hello", *self.api)["ids"])
                self.assertNotIn("stranger", [row["name"] for row in cluster.ps()["processes"]])
                self.assertIsNone(worker.poll())
            finally:
                worker.terminate()
                worker.communicate(timeout=60)

    def test_faulty_files_are_named(self):
        foreign_key = dict(self.settings, CONCLAVE_TLS_KEY_FILE=self.settings["CONCLAVE_GATEWAY_SERVER_KEY_FILE"])
        cluster = Cluster(env=foreign_key)
        self.addCleanup(cluster.folder.cleanup)
        done = cluster.conclave("up", "-d", *cluster.flags, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("tls_key_file", done.stderr)
        self.assertIn("is not the key of", done.stderr)

    def test_an_expired_certificate_is_not_used(self):
        with Cluster(env=self.settings) as cluster:
            before = self.serial(cluster)
            self.authority.issue("api", days=-1)
            wait_until(lambda: 'conclave_file_faulty{use="api"} 1' in cluster.get("/metrics", cluster.ops_address)[1],
                       "the expired certificate noticed")
            self.assertEqual(self.serial(cluster), before)
            self.assertTrue(cluster.run("Hello", "--max-tokens", "4", *self.api)["ids"])
        cluster = Cluster(env=self.settings)
        self.addCleanup(cluster.folder.cleanup)
        done = cluster.conclave("up", "-d", *cluster.flags, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertRegex(done.stderr, r"gateway.server_cert_file.*expired")


if __name__ == "__main__":
    unittest.main()
