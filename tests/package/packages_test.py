"""The Debian package and the tarball of deploy/package/build.sh: installed, serving, removed. The package goes into a copy of
this system (an overlay that ends with the test), the tarball into a root that holds glibc and nothing else."""

import functools
import http.client
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import unittest

import namespaces
from namespaces import Container, wait_until

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD_DIR", SOURCE / "build")).resolve()
MAKE = SOURCE / "deploy" / "package" / "build.sh"
PROGRAMS = ("conclave", "conclave-gateway", "conclave-controller", "conclave-engine", "conclave-expert")
QUESTION = ("What is the capital of France?", "--gateway", "127.0.0.1:8001", "--temperature", "0", "--max-tokens", "64")
ANSWER = "The capital of France is Paris."


def make(build, out):
    return subprocess.run([str(MAKE), str(build), str(out)], capture_output=True, text=True)


@functools.cache
def made():
    """A folder that ends with the tests; the package; the tarball."""
    folder = tempfile.TemporaryDirectory(prefix="conclave-packages-")
    unittest.addModuleCleanup(folder.cleanup)
    out = pathlib.Path(folder.name) / "out"
    done = make(BUILD, out)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return pathlib.Path(folder.name), next(out.glob("*.deb")), next(out.glob("*.tar.gz"))


def get(address, path):
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError as error:
        return 0, str(error)
    finally:
        connection.close()


class System:
    """This system as a chroot sees it; what is written there goes to memory, on top of what `below` wrote."""

    def __init__(self, test_case, folder, below=()):
        self.clean_up = test_case.addClassCleanup if isinstance(test_case, type) else test_case.addCleanup
        folder.mkdir()
        self.mount("-t", "tmpfs", "tmpfs", folder)
        self.upper = folder / "upper"
        self.root = folder / "root"
        for path in (self.upper, folder / "work", self.root):
            path.mkdir()
        lower = ":".join([*(str(system.upper) for system in below), "/"])
        self.mount("-t", "overlay", "-o", f"lowerdir={lower},upperdir={self.upper},workdir={folder}/work", "overlay", self.root)
        self.mount("-t", "proc", "proc", self.root / "proc")
        self.mount("--rbind", "/dev", self.root / "dev")

    def mount(self, *arguments):
        subprocess.run(["mount", *map(str, arguments)], check=True)
        self.clean_up(subprocess.run, ["umount", "--recursive", "--lazy", str(arguments[-1])], check=True)

    def run(self, *command):
        done = subprocess.run(["chroot", str(self.root), *command], capture_output=True, text=True, timeout=120,
                              stdin=subprocess.DEVNULL, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"})
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def install(self, package):
        shutil.copy(package, self.root / "conclave.deb")
        # The triggers are of others: the index of manual pages, the cache of the loader.
        return self.run("dpkg", "--no-triggers", "--force-unsafe-io", "--install", "/conclave.deb").stdout


class Package(unittest.TestCase):
    """Each test starts from a fresh installation."""

    @classmethod
    def setUpClass(cls):
        folder, cls.package, _ = made()
        cls.installed = System(cls, folder / "installed")
        cls.said = cls.installed.install(cls.package)

    def setUp(self):
        self.system = System(self, made()[0] / self.id().rsplit(".", 1)[1], below=[self.installed])
        self.root = self.system.root

    def test_installs_programs_settings_and_user(self):
        self.assertIn("systemctl enable --now conclave.target", self.said)
        for program in PROGRAMS:
            self.assertIn("0.", self.system.run(f"/usr/bin/{program}", "--version").stdout)
        user = next(line for line in (self.root / "etc/passwd").read_text().splitlines() if line.startswith("conclave:"))
        _, _, uid, gid, _, home, shell = user.split(":")
        self.assertEqual(home, "/var/lib/conclave")
        self.assertTrue(shell.endswith("nologin"), shell)
        secret = (self.root / "etc/conclave/cluster.secret").stat()
        self.assertEqual((secret.st_uid, secret.st_gid, stat.S_IMODE(secret.st_mode)), (int(uid), int(gid), 0o400))
        self.assertGreaterEqual(secret.st_size, 16)
        self.assertEqual(self.system.run("dpkg", "--verify", "conclave").stdout, "")

    def test_units_are_sound_and_confined(self):
        units = sorted(path.name for path in (SOURCE / "deploy/systemd").iterdir())
        found = self.system.run("systemd-analyze", "verify", *(f"/lib/systemd/system/{unit}" for unit in units))
        self.assertEqual([line for line in found.stderr.splitlines() if "conclave" in line], [])
        for unit in units:
            if unit.endswith(".service"):
                self.system.run("systemd-analyze", "security", "--offline=true", "--threshold=20", f"/lib/systemd/system/{unit}")

    def test_what_the_settings_propose_is_known(self):
        proposed = self.root / "etc/conclave/conclave.yaml"
        proposed.write_text(re.sub(r"^#((?:  )?[a-z_]+:)", r"\1", proposed.read_text(), flags=re.MULTILINE))
        shown = self.system.run("/usr/bin/conclave", "config", "show", "--config", "/etc/conclave/conclave.yaml").stdout
        for key in ("gateway.keys_file", "gateway.server_cert_file", "tls_ca_file"):
            self.assertRegex(shown, rf"(?m)^{re.escape(key)} .*/etc/conclave/conclave.yaml")

    def test_serves_as_the_units_say(self):
        user = self.system.run("id", "-u", "conclave").stdout.strip()
        group = self.system.run("id", "-g", "conclave").stdout.strip()
        state = self.root / "var/lib/conclave"
        state.mkdir(mode=0o700)  # what StateDirectory= does
        os.chown(state, int(user), int(group))
        running = {}
        for unit, instance in (("conclave-controller", ""), ("conclave-gateway", ""), ("conclave-engine@", "0"),
                               ("conclave-expert@", "0"), ("conclave-expert@", "1")):
            text = (self.root / f"lib/systemd/system/{unit}.service").read_text().replace("%i", instance)
            command = re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)[1].split()
            environment = dict(pair.split("=", 1) for line in re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
                               for pair in line.split())
            log = open(self.root / f"{unit}{instance}.log", "wb")
            self.addCleanup(log.close)
            process = subprocess.Popen(
                ["setpriv", "--no-new-privs", "chroot", f"--userspec={user}:{group}", "--groups=", str(self.root), *command],
                env={"PATH": "/usr/sbin:/usr/bin", **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            running[unit + instance] = process

        def ready():
            for name, process in running.items():
                self.assertIsNone(process.poll(), (self.root / f"{name}.log").read_text())
            return get("127.0.0.1:8000", "/readyz")[0] == 200
        wait_until(ready, "the gateway is ready")
        wait_until(lambda: get("127.0.0.1:9031", "/readyz")[0] == 200, "the second worker is ready")
        self.assertIn(ANSWER, self.system.run("/usr/bin/conclave", "run", *QUESTION).stdout)
        self.assertEqual(json.loads(get("127.0.0.1:8000", "/v1/models")[1])["data"][0]["id"], "tales")
        self.system.run("/usr/bin/conclave-gateway", "--config", "/etc/conclave/conclave.yaml", "--check-health")
        for name in ("conclave-gateway", "conclave-engine@0", "conclave-expert@0", "conclave-expert@1", "conclave-controller"):
            running[name].terminate()
            self.assertEqual(running[name].wait(30), 0, (self.root / f"{name}.log").read_text())

    def test_an_upgrade_keeps_settings_and_secret(self):
        settings = self.root / "etc/conclave/conclave.yaml"
        settings.write_text(settings.read_text() + "log_format: json\n")
        secret = (self.root / "etc/conclave/cluster.secret").read_text()
        self.assertNotIn("systemctl enable", self.system.install(self.package))
        self.assertTrue(settings.read_text().endswith("log_format: json\n"))
        self.assertEqual((self.root / "etc/conclave/cluster.secret").read_text(), secret)

    def test_removal_keeps_the_settings_and_purging_does_not(self):
        (self.root / "var/lib/conclave").mkdir()
        self.system.run("dpkg", "--remove", "conclave")
        self.assertFalse((self.root / "usr/bin/conclave").exists())
        self.assertTrue((self.root / "etc/conclave/cluster.secret").exists())
        self.system.run("dpkg", "--purge", "conclave")
        for path in ("etc/conclave", "var/lib/conclave", "usr/share/conclave", "usr/share/doc/conclave"):
            self.assertFalse((self.root / path).exists(), path)


class Tarball(unittest.TestCase):
    def root_with_glibc_alone(self):
        """Unpacks the tarball as /opt/conclave beside the libraries that every distribution has."""
        folder, _, tarball = made()
        root = folder / "plain"
        for path in ("dev", "proc", "tmp", "var/lib/conclave", "lib", "lib64", "opt", "etc"):
            (root / path).mkdir(parents=True)
        listed = subprocess.run(["ldd", str(BUILD / "conclave-gateway")], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S*/(?:libc|libm|ld-linux-\S*)\.so\.\d+)", listed):
            (root / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library.lstrip("/"))
        (root / "etc/passwd").write_text("someone:x:65532:65532::/var/lib/conclave:/\n")
        with tarfile.open(tarball) as archive:
            archive.extractall(root / "opt", numeric_owner=True)
        next((root / "opt").iterdir()).rename(root / "opt/conclave")
        return root

    def test_runs_a_cluster_where_only_glibc_is(self):
        root = self.root_with_glibc_alone()
        with Container(root, ["/opt/conclave/bin/conclave", "up"], {"HOME": "/var/lib/conclave"}) as cluster:
            wait_until(lambda: cluster.process.poll() is not None or "Ready in " in cluster.log(), "the cluster is ready")
            self.assertIsNone(cluster.process.poll(), cluster.log())
            asked = cluster.execute(["/opt/conclave/bin/conclave", "run", *QUESTION])
            self.assertIn(ANSWER, asked.stdout, asked.stderr)
            self.assertEqual(cluster.terminate(), 0, cluster.log())

    def test_units_name_the_places_of_the_tarball(self):
        _, _, tarball = made()
        with tarfile.open(tarball) as archive:
            names = archive.getnames()
            top = names[0]
            for unit in (SOURCE / "deploy/systemd").iterdir():
                text = archive.extractfile(f"{top}/share/conclave/systemd/{unit.name}").read().decode()
                self.assertNotIn("/usr/", text)
                for program in re.findall(r"^ExecStart=/opt/conclave/(\S+)", text, re.MULTILINE):
                    self.assertIn(f"{top}/{program}", names)
            settings = archive.extractfile(f"{top}/share/conclave/conclave.yaml").read().decode()
            self.assertIn("model: /opt/conclave/share/conclave/models/tales\n", settings)


class Making(unittest.TestCase):
    def test_the_same_programs_give_the_same_bytes(self):
        folder, package, tarball = made()
        other = folder / "other"
        other.mkdir()
        for program in PROGRAMS:
            shutil.copy(BUILD / program, other)
        done = make(other, folder / "again")
        self.assertEqual(done.returncode, 0, done.stderr)
        for path in (package, tarball):
            self.assertEqual((folder / "again" / path.name).read_bytes(), path.read_bytes(), path.name)

    def test_refuses_a_build_that_lacks_a_program(self):
        folder, _, _ = made()
        partial = folder / "partial"
        partial.mkdir()
        (partial / "conclave").symlink_to(BUILD / "conclave")
        done = make(partial, folder / "refused")
        self.assertEqual(done.returncode, 1)
        self.assertIn("conclave-gateway", done.stderr)
        self.assertIn("cmake", done.stderr)

    def test_wrong_arguments(self):
        done = subprocess.run([str(MAKE)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("usage:", done.stderr)


if __name__ == "__main__":
    namespaces.enter()
    unittest.main(verbosity=2)
