"""A load of short requests against the gateway's Service, from inside the cluster's network.

    python3 load.py ADDRESS PORT HOST [--clients N] [--rate R] [--pace P] [--ca FILE] [--key KEY]

Half of the clients keep their connection, half open one for each request; half of the requests are streamed. Runs until its
standard input ends, then prints one JSON object: how many requests ended well, when each began and how long it took, the failures
with their times, and percentiles.
A request fails unless its status is 200 and its answer is complete; nothing is tried again.
"""

import argparse
import http.client
import json
import random
import socket
import ssl
import sys
import threading
import time

WORDS = ["wolf", "lamb", "fox", "crow", "lion", "mouse", "ant", "dove", "frog", "ox"]


class Client(threading.Thread):
    def __init__(self, options, number, stop):
        super().__init__(daemon=True)
        self.options, self.number, self.stop = options, number, stop
        self.keeps = number % 2 == 0
        self.random = random.Random(number)
        self.connection = None
        self.times, self.failures = [], []

    def run(self):
        period = self.options.clients / self.options.rate if self.options.rate else 0
        due = time.monotonic() + self.random.random() * period
        while not self.stop.is_set():
            if period:
                if self.stop.wait(max(0, due - time.monotonic())):
                    return
                due += period
            begin = time.monotonic()
            try:
                self.ask()
                self.times.append((begin, time.monotonic() - begin))
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failures.append({"at": time.time(), "keeps": self.keeps, "error": f"{type(error).__name__}: {error}"[:300]})
                self.close()
                self.stop.wait(0.2)

    def ask(self):
        if self.connection is None:
            self.connection = self.connect()
        streamed = self.random.random() < 0.5
        prompt = f"Spell the word {self.random.choice(WORDS)}."
        if self.options.pace:
            prompt = "Tell me the fable of the Wolf And The Lamb."
        body = {
            "model": "tales",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.options.tokens,
            "temperature": 0,
            "stream": streamed,
            "cache": "off",
        }
        if self.options.pace:
            body["pace"] = self.options.pace
        headers = {"Content-Type": "application/json", "Host": f"{self.options.host}:{self.options.port}"}
        if self.options.key:
            headers["Authorization"] = f"Bearer {self.options.key}"
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = self.connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}: {text.strip()}")
        if streamed and not text.rstrip().endswith("data: [DONE]"):
            raise ValueError(f"the stream ended early: {text[-200:]}")
        if streamed and '"error"' in text:
            raise ValueError(f"an error in the stream: {text[-300:]}")
        if not streamed:
            json.loads(text)["choices"][0]["message"]["content"]
        if not self.keeps or answer.will_close:
            self.close()

    def connect(self):
        connection = http.client.HTTPConnection(self.options.address, self.options.port, timeout=30)
        connection.sock = socket.create_connection((self.options.address, self.options.port), timeout=30)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.options.ca:
            context = ssl.create_default_context(cafile=self.options.ca)
            connection.sock = context.wrap_socket(connection.sock, server_hostname=self.options.host)
        return connection

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


def percentile(times, share):
    return round(sorted(times)[min(len(times) - 1, int(len(times) * share))], 4) if times else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("host")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0, help="requests a second of all clients; 0: as fast as answered")
    parser.add_argument("--pace", type=float, default=0, help="tokens a second of each request, of a longer prompt; 0: all at once")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--ca")
    parser.add_argument("--key")
    options = parser.parse_args()
    stop = threading.Event()
    clients = [Client(options, number, stop) for number in range(options.clients)]
    begin = time.monotonic()
    for client in clients:
        client.start()
    sys.stdin.read()
    stop.set()
    for client in clients:
        client.join(35)
    took = time.monotonic() - begin
    done = sorted(pair for client in clients for pair in client.times)
    times = [length for _, length in done]
    print(json.dumps({
        "requests": len(times), "seconds": round(took, 1), "failures": [f for client in clients for f in client.failures],
        "p99": percentile(times, 0.99), "longest": max(times, default=None),
        "times": [[round(at - begin, 2), round(length, 3)] for at, length in done],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
