"""Namespaces for the package tests: a network of their own, where the default ports are free, and programs confined to a
root file system as a container engine confines them. All processes and mounts end with the test, whatever ends it.
Standard library only."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

INSIDE = "PACKAGE_TEST_NAMESPACES"
PATIENCE_S = 60
SKIPPED = 77
UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]


def enter():
    """Goes on in namespaces of its own (mounts, processes, network with loopback). Ends with 77 where that is refused."""
    if os.environ.get(INSIDE):
        return
    outer = [*UNSHARE, "--net", "--mount-proc"]
    if os.getuid() != 0 or subprocess.run([*outer, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        print("SKIPPED: needs root and the right to make namespaces (CAP_SYS_ADMIN)")
        sys.exit(SKIPPED)
    os.environ[INSIDE] = "1"
    inner = f"ip link set lo up && exec {shlex.join([sys.executable, '-B', *sys.argv])}"
    os.execvp("unshare", [*outer, "sh", "-c", inner])


def wait_until(condition, what, timeout_s=PATIENCE_S):
    """Asks until `condition()` is true, and returns it; fails naming `what`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError(f"not in {timeout_s} s: {what}")


# The root read-only, tmpfs where the images declare volumes, three devices. $1: the root; then MODE SOURCE TARGET for each
# mount; then --, and the command.
CONFINE = """
root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o size=64m tmpfs "$root/tmp"
mount -t tmpfs -o size=1m tmpfs "$root/dev"
for device in null zero urandom; do touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
mount -t tmpfs -o size=64m,uid=65532,gid=65532,mode=0700 tmpfs "$root/var/lib/conclave"
while [ "$1" != -- ]; do
  mkdir -p "$root$3"; mount --bind "$2" "$root$3"; mount -o "remount,bind,$1" "$root$3"; shift 3
done
shift
mount -o remount,bind,ro "$root"
exec "$@"
"""


class Container:
    """One program confined to a root file system. `with Container(...) as c:` ends it."""

    def __init__(self, root, command, environment=None, mounts=()):
        """`mounts`: (mode "ro" or "rw", source, target). The environment is the one given and nothing else."""
        self.environment = dict(environment or {})
        self.log_path = pathlib.Path(f"{root}.log")
        words = [str(word) for mount in mounts for word in mount]
        # User 65532 without groups, capabilities or a way to gain any, as in "restricted" pods.
        confined = ["/usr/bin/env", "-i", *(f"{key}={value}" for key, value in self.environment.items()),
                    "/usr/bin/setpriv", "--no-new-privs",
                    "/usr/sbin/chroot", "--userspec=65532:65532", "--groups=", str(root), *command]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*UNSHARE, "sh", "-euc", CONFINE, "confine", str(root), *words, "--", *confined],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def pid(self):
        """Of the program, the first process of its namespace; 0 before it has started or after its end."""
        try:
            children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            return 0
        return int(children[0]) if children else 0

    def log(self):
        return self.log_path.read_text(errors="replace")

    def execute(self, command, timeout_s=PATIENCE_S):
        """Runs a command beside the program, as `docker exec` does and as health commands are run."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.pid()), "--mount", "--pid", "--root", "--wd",
             "--setuid", "65532", "--setgid", "65532", *command],
            env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
        return done

    def wait(self, timeout_s=PATIENCE_S):
        return self.process.wait(timeout_s)

    def terminate(self, timeout_s=PATIENCE_S):
        """SIGTERM to the program, as engines stop containers; its exit code."""
        os.kill(self.pid(), signal.SIGTERM)
        return self.wait(timeout_s)
