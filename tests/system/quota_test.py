"""A CPU quota and a memory limit of a control group are obeyed: threads and caches follow them and not the machine. Needs the
right to make control groups (root, and a writable /sys/fs/cgroup); says so and skips otherwise."""

import json
import os
import pathlib
import re
import subprocess
import sys
import unittest

from cluster import CONCLAVE, MODEL, Cluster

SKIPPED = 77  # ctest shows the test as skipped


def make_group():
    """A new control group with half a processor, and how to enter it; None without the right to make one."""
    name = f"conclave-test-{os.getpid()}"
    for version, root in ((2, pathlib.Path("/sys/fs/cgroup")), (1, pathlib.Path("/sys/fs/cgroup/cpu"))):
        if version == 2 and "cpu" not in _read(root / "cgroup.subtree_control").split():
            continue
        group = root / name
        try:
            group.mkdir()
            if version == 2:
                (group / "cpu.max").write_text("50000 100000")
            else:
                (group / "cpu.cfs_period_us").write_text("100000")
                (group / "cpu.cfs_quota_us").write_text("50000")
            return group
        except OSError:
            if group.exists():
                group.rmdir()
    return None


def _read(path):
    try:
        return path.read_text()
    except OSError:
        return ""


MEMORY_BYTES = 320 << 20


def make_memory_group():
    """A new control group with a memory limit; None without the right to make one."""
    name = f"conclave-memory-{os.getpid()}"
    for version, root in ((2, pathlib.Path("/sys/fs/cgroup")), (1, pathlib.Path("/sys/fs/cgroup/memory"))):
        if version == 2 and "memory" not in _read(root / "cgroup.subtree_control").split():
            continue
        group = root / name
        try:
            group.mkdir()
            (group / ("memory.max" if version == 2 else "memory.limit_in_bytes")).write_text(str(MEMORY_BYTES))
            return group
        except OSError:
            if group.exists():
                group.rmdir()
    return None


class Memory(unittest.TestCase):
    def test_doctor_and_the_engine_see_the_limit_and_serve_within_it(self):
        group = make_memory_group()
        if group is None:
            self.skipTest("no right to make a control group with a memory limit here")
        cluster = Cluster(workers=1)

        def enter():
            (group / "cgroup.procs").write_text(str(os.getpid()))

        def inside(*arguments):
            return subprocess.run([str(CONCLAVE), *arguments, "--state-dir", str(cluster.state_dir)], env=cluster.env,
                                  preexec_fn=enter, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180)
        try:
            doctor = inside("doctor", "--json", "--model", str(MODEL))
            memory = next(check for check in json.loads(doctor.stdout) if check["check"] == "memory")
            self.assertTrue(memory["found"].endswith("of 320 MiB"), memory)
            self.assertEqual(memory["verdict"], "warn", memory)
            up = inside("up", "-d", *cluster.flags)
            self.assertEqual(up.returncode, 0, up.stderr)
            self.assertGreater(len(cluster.run("Hello", "--max-tokens", "5", "--ignore-eos")["ids"]), 0)
            told = re.search(r'memory weights=.* kv_memory="([\d.]+) MiB".* free="([\d.]+) MiB"',
                             (cluster.state_dir / "logs" / "engine-0.log").read_text())
            self.assertTrue(told)
            self.assertLessEqual(float(told[2]), 320)
            self.assertLessEqual(float(told[1]), 0.4 * float(told[2]) + 1)
        finally:
            cluster.conclave("down", check=False)
            cluster.folder.cleanup()
            group.rmdir()


class Quota(unittest.TestCase):
    def test_doctor_and_the_engine_see_the_quota(self):
        group = make_group()
        if group is None:
            self.skipTest("no right to make a control group with a CPU quota here")
        cluster = Cluster(workers=1)

        def enter():
            (group / "cgroup.procs").write_text(str(os.getpid()))
        try:
            done = subprocess.run([str(CONCLAVE), "doctor", "--json", "--state-dir", str(cluster.state_dir)], env=cluster.env,
                                  preexec_fn=enter, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
            cores = next(check for check in json.loads(done.stdout) if check["check"] == "cores")
            self.assertTrue(cores["found"].startswith("1 core "), cores)
            self.assertIn("quota of 0.5 processors", cores["found"])
            self.assertEqual(cores["verdict"], "warn")
            up = subprocess.run([str(CONCLAVE), "up", "-d", *cluster.flags, "--state-dir", str(cluster.state_dir)],
                                env=cluster.env, preexec_fn=enter, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                timeout=180)
            self.assertEqual(up.returncode, 0, up.stderr)
            self.assertGreater(len(cluster.run("Hello", "--max-tokens", "5", "--ignore-eos")["ids"]), 0)
            engine = cluster.process("engine-0")["pid"]
            names = [_read(task / "comm").strip() for task in pathlib.Path(f"/proc/{engine}/task").iterdir()]
            flags = pathlib.Path(f"/proc/{engine}/cmdline").read_text().split("\0")
            self.assertIn("--threads=1", flags, names)
        finally:
            cluster.conclave("down", check=False)
            cluster.folder.cleanup()
            group.rmdir()


if __name__ == "__main__":
    probes = [probe for probe in (make_group(), make_memory_group()) if probe is not None]
    for probe in probes:
        probe.rmdir()
    if not probes:
        print("skipped: no right to make control groups here")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
