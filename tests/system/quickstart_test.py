"""The quickstart, where everything is installed and built: what a person sees, and in how long."""

import os
import pty
import select
import subprocess
import tempfile
import time
import unittest

from cluster import BUILD, CONCLAVE, SOURCE, environment

LONGEST_WARM_S = 10


@unittest.skipUnless(BUILD == SOURCE / "build", "the quickstart uses build/ of the checkout")
class Quickstart(unittest.TestCase):
    def setUp(self):
        self.home = tempfile.TemporaryDirectory(prefix="conclave-quickstart-")
        self.env = environment({"XDG_STATE_HOME": self.home.name, "CI": "true"})

    def tearDown(self):
        subprocess.run([str(CONCLAVE), "down"], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        self.home.cleanup()

    def test_without_a_terminal_it_answers_and_stops(self):
        # The first run may still build something.
        subprocess.run([SOURCE / "ci" / "quickstart.sh"], env=self.env, stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=600)
        began = time.monotonic()
        done = subprocess.run([SOURCE / "ci" / "quickstart.sh"], env=self.env, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=120)
        took = time.monotonic() - began
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for step in ("[1/4] packages", "[2/4] build", "[3/4] start", "[4/4] ask"):
            self.assertIn(step, done.stdout)
        self.assertIn("digest", done.stdout)
        self.assertIn("not on a terminal, so the cluster was stopped", done.stdout)
        self.assertEqual(subprocess.run([str(CONCLAVE), "ps"], env=self.env, capture_output=True, timeout=60).returncode, 3)
        # Beside other tests a step may wait for a processor; alone it takes half of this.
        self.assertLess(took, 2 * LONGEST_WARM_S)

    def test_on_a_terminal_it_leaves_the_cluster_running(self):
        controller, terminal = pty.openpty()
        quickstart = subprocess.Popen([SOURCE / "ci" / "quickstart.sh"], env=self.env, stdin=terminal, stdout=terminal,
                                      stderr=terminal, start_new_session=True)
        os.close(terminal)
        seen = b""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if select.select([controller], [], [], 0.1)[0]:
                try:
                    data = os.read(controller, 65536)
                except OSError:
                    break
                if not data:
                    break
                seen += data
            elif quickstart.poll() is not None:
                break
        os.close(controller)
        self.assertEqual(quickstart.wait(timeout=30), 0, seen.decode(errors="replace"))
        text = seen.decode(errors="replace")
        self.assertIn("Ready (next time in", text)
        self.assertIn("talk: build/conclave chat", text)
        ps = subprocess.run([str(CONCLAVE), "ps"], env=self.env, capture_output=True, text=True, timeout=60)
        self.assertEqual(ps.returncode, 0, ps.stderr)
        self.assertIn("gateway", ps.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
