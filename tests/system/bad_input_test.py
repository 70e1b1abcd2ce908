"""Bad input on every port: a typed error or a closed connection, and everybody else goes on."""

import concurrent.futures
import json
import random
import socket

from cluster import ClusterTest


def addresses(cluster):
    found = {cluster.grpc_address}
    for row in cluster.ps()["processes"]:
        found.update({row["address"], row["ops_address"]})
    return sorted(found)


def send_garbage(address, data):
    """Sends bytes and reads until the peer closes or stays silent."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.settimeout(0.5)
        try:
            connection.sendall(data)
            while connection.recv(65536):
                pass
        except OSError:
            pass


class BadInput(ClusterTest):
    def setUp(self):
        self.pids = {row["name"]: row["pid"] for row in self.cluster.ps()["processes"]}

    def tearDown(self):
        # Nobody died of it, and the answer is the same as ever.
        self.assertEqual({row["name"]: row["pid"] for row in self.cluster.ps()["processes"]}, self.pids)
        done = self.cluster.run("What is the capital of France?", "--temperature", "0", "--max-tokens", "10")
        self.assertGreater(len(done["ids"]), 0)

    def test_garbage_on_every_port(self):
        random.seed(3)
        samples = [b"\x00" * 4096, random.randbytes(20000), b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20000,
                   b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                   b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.randbytes(5000), b"GET /\xff\xfe HTTP/9.9\r\n\r\n",
                   b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(200)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda pair: send_garbage(*pair),
                          [(address, sample) for address in addresses(self.cluster) for sample in samples]))

    def test_http_bodies(self):
        cases = [
            (b"{", 400), (b"[]", 400), (b"\xff\xfe", 400), (b"", 400), ({"messages": []}, 400), ({"messages": "hello"}, 400),
            ({"messages": [{"role": "user"}]}, 400), ({"messages": [{"role": "pirate", "content": "x"}]}, 400),
            ({"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}, 400),
            ({"messages": [{"role": "user", "content": "x"}], "temperature": -1}, 400),
            ({"messages": [{"role": "user", "content": "x"}], "top_p": 0}, 400),
            ({"messages": [{"role": "user", "content": "x"}], "n": 1000000}, 400),
            ({"messages": [{"role": "user", "content": "x"}], "max_tokens": -5}, 400),
            ({"messages": [{"role": "user", "content": "x"}], "logit_bias": {"999999999": 1}}, 400),
            ({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}, 400),
            ({"messages": [{"role": "user", "content": "word " * 20000}]}, 400),
            (b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}', 400),
            (b'{"a":' * 20000, 400),
            ({"model": "no-such-model", "messages": [{"role": "user", "content": "x"}]}, 404)]
        for body, wanted in cases:
            with self.subTest(str(body)[:80]):
                status, answer = self.cluster.post("/v1/chat/completions", body)
                self.assertEqual(status, wanted, answer)
                error = json.loads(answer)["error"]
                self.assertTrue(error["message"])
                self.assertIn("type", error)

    def test_a_body_beyond_the_limit_is_refused(self):
        body = json.dumps({"messages": [{"role": "user", "content": "x" * (5 << 20)}]}).encode()
        try:
            status, _ = self.cluster.post("/v1/chat/completions", body)
            self.assertEqual(status, 413)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused while it was still being sent

    def test_foreign_hosts_and_origins_are_refused(self):
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            with self.subTest(headers):
                status, _ = self.cluster.get("/v1/models", headers=headers)
                self.assertEqual(status, 403)
        self.assertEqual(self.cluster.get("/v1/models")[0], 200)

    def test_grpc_parameters(self):
        for flags in (["--temperature", "nan"], ["--temperature", "3"], ["--top-p", "0"], ["--max-tokens", "-1"],
                      ["--min-tokens", "5", "--max-tokens", "2"], ["--presence-penalty", "9"]):
            with self.subTest(flags):
                done = self.cluster.conclave("run", "Hello", *flags, check=False)
                self.assertIn(done.returncode, (1, 2))
                self.assertTrue(done.stderr.startswith("error: "), done.stderr)

    def test_a_prompt_beyond_the_context_names_both_numbers(self):
        path = self.cluster.state_dir.parent / "long.txt"
        path.write_text("word " * 20000)
        with open(path, encoding="utf-8") as file:
            done = self.cluster.conclave("run", "-", stdin=file.read(), check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"\d{4,}.*\d{3,}")

    def test_many_half_open_connections_do_not_hurt(self):
        host, port = self.cluster.http_address.rsplit(":", 1)
        held = [socket.create_connection((host, int(port)), timeout=10) for _ in range(200)]
        try:
            for connection in held:
                connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x")
            self.assertEqual(self.cluster.get("/v1/models")[0], 200)
        finally:
            for connection in held:
                connection.close()


if __name__ == "__main__":
    import unittest
    unittest.main(verbosity=2)
