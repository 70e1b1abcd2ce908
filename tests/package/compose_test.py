"""deploy/compose.yaml and what it mounts: read by Compose itself and by promtool. (tests/package/compose.sh runs it.)"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import yaml

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD_DIR", SOURCE / "build")).resolve()
DEPLOY = SOURCE / "deploy"
SERVICES = {"controller": "controller", "gateway": "gateway", "engine-0": "engine", "expert-0": "expert", "expert-1": "expert"}


def compose(*files, **environment):
    """`config` of the Compose there is: the files checked, with all their references resolved."""
    command, name = ["docker", "compose"], ""
    if subprocess.run([*command, "version"], capture_output=True).returncode != 0:
        # Compose 1.29, Debian's, knows every key but the project's name.
        command, name = ["docker-compose"], r"^name: .*\n"
    with tempfile.TemporaryDirectory() as folder:
        for number, file in enumerate(files):
            copy = pathlib.Path(folder, f"{number}.yaml")
            copy.write_text(re.sub(name, "", file.read_text(), flags=re.MULTILINE) if name else file.read_text())
            command += ["-f", str(copy)]
        return subprocess.run([*command, "--project-directory", str(DEPLOY), "--profile", "cli", "config"],
                              env={**os.environ, **environment}, capture_output=True, text=True)


class Compose(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        done = compose(DEPLOY / "compose.yaml")
        assert done.returncode == 0, done.stderr
        cls.document = yaml.safe_load(done.stdout)
        cls.services = cls.document["services"]

    def test_has_all_services(self):
        self.assertEqual(set(self.services), {*SERVICES, "model", "cli", "prometheus", "grafana"})

    def test_confines_every_container(self):
        for name, service in self.services.items():
            self.assertTrue(service["read_only"], name)
            self.assertEqual(service["cap_drop"], ["ALL"], name)
            self.assertEqual(service["security_opt"], ["no-new-privileges:true"], name)
            self.assertNotIn("privileged", service, name)

    def test_publishes_ports_on_loopback_alone(self):
        published = [str(port) if isinstance(port, str) else f"{port.get('host_ip')}:{port['published']}"
                     for service in self.services.values() for port in service.get("ports", [])]
        self.assertEqual(len(published), 4)
        for port in published:
            self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_programs_take_the_settings(self):
        """The programs read the environment of their containers without complaint, up to the first file that is not here."""
        with tempfile.TemporaryDirectory() as folder:
            for name, kind in SERVICES.items():
                environment = dict(self.services[name]["environment"])
                secret = pathlib.Path(folder, "secret")
                secret.write_text("0123456789abcdef0123456789abcdef\n")
                secret.chmod(0o400)
                environment.update(CONCLAVE_CLUSTER_SECRET_FILE=str(secret), CONCLAVE_STATE_DIR=folder)
                done = subprocess.run([BUILD / f"conclave-{kind}", "--check-health"], env=environment, capture_output=True,
                                      text=True, timeout=30)
                # Nobody runs here: the settings were good, and the address asked is that of the health command.
                self.assertEqual(done.returncode, 1, name)
                self.assertRegex(done.stderr, r"error: http://127\.0\.0\.1:\d+/readyz: ", name)

    def test_health_commands_are_those_of_the_programs(self):
        for name, kind in SERVICES.items():
            self.assertEqual(self.services[name]["healthcheck"]["test"], ["CMD", f"/usr/bin/conclave-{kind}", "--check-health"])

    def test_members_have_names_of_their_own(self):
        for name, kind in SERVICES.items():
            if kind in ("engine", "expert"):
                environment = self.services[name]["environment"]
                self.assertEqual(environment[f"CONCLAVE_{kind.upper()}_NAME"], name)
                self.assertEqual(environment[f"CONCLAVE_{kind.upper()}_ADVERTISE"], name)

    def test_mounts_what_is_there(self):
        sources = re.findall(r"^\s+- (\.\.?/[^:]+):", (DEPLOY / "compose.yaml").read_text(), re.MULTILINE)
        self.assertGreaterEqual(len(sources), 5)
        for source in sources:
            self.assertTrue((DEPLOY / source).exists(), source)

    def test_images_have_container_files(self):
        for name, service in self.services.items():
            if service["image"].startswith("localhost/"):
                self.assertTrue((SOURCE / service["build"]["dockerfile"]).is_file(), name)

    def test_a_model_of_ones_own_is_mounted(self):
        done = compose(DEPLOY / "compose.yaml", CONCLAVE_MODEL_DIR="/data/model", CONCLAVE_SERVED_NAME="mine")
        self.assertEqual(done.returncode, 0, done.stderr)
        service = yaml.safe_load(done.stdout)["services"]["engine-0"]
        self.assertIn("/data/model", json.dumps(service["volumes"]))
        self.assertEqual(service["environment"]["CONCLAVE_SERVED_NAME"], "mine")

    def test_the_public_file_adds_keys_certificate_and_ports(self):
        files = DEPLOY / "compose.yaml", DEPLOY / "compose.public.yaml"
        names = {"CONCLAVE_PUBLIC_DIR": "/srv/conclave", "CONCLAVE_PUBLIC_NAMES": "llm.example.org"}
        done = compose(*files, **names)
        self.assertEqual(done.returncode, 0, done.stderr)
        gateway = yaml.safe_load(done.stdout)["services"]["gateway"]
        self.assertEqual(gateway["environment"]["CONCLAVE_GATEWAY_ALLOWED_HOSTS"], "llm.example.org")
        self.assertIn("/srv/conclave", json.dumps(gateway["volumes"]))
        self.assertIn("8443", json.dumps(gateway["ports"]))
        # The settings are the gateway's, which stops at the first file that is not here.
        environment = {key: value for key, value in gateway["environment"].items() if "SECRET" not in key}
        started = subprocess.run([BUILD / "conclave-gateway", "--insecure", "--model", SOURCE / "models/tales"], timeout=30,
                                 env={**environment, "CONCLAVE_STATE_DIR": "/nonexistent"}, capture_output=True, text=True)
        self.assertEqual(started.returncode, 1)
        self.assertIn("/etc/conclave/", started.stderr)
        for name in names:
            lacking = compose(*files, **{key: value for key, value in names.items() if key != name})
            self.assertNotEqual(lacking.returncode, 0)
            self.assertIn(name, lacking.stderr)

    def test_a_misspelt_key_is_refused(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as wrong:
            wrong.write((DEPLOY / "compose.yaml").read_text().replace("    read_only: true", "    readonly: true", 1))
            wrong.flush()
            self.assertNotEqual(compose(pathlib.Path(wrong.name)).returncode, 0)


class Monitoring(unittest.TestCase):
    def test_prometheus_reads_its_settings_and_the_rules(self):
        with tempfile.TemporaryDirectory() as folder:
            rules = pathlib.Path(folder, "rules")
            rules.mkdir()
            for name in ("alerts.yaml", "recording.yaml"):
                shutil.copy(SOURCE / "helm/conclave/files" / name, rules)
            settings = pathlib.Path(folder, "prometheus.yaml")
            settings.write_text((DEPLOY / "prometheus/prometheus.yaml").read_text().replace("/etc/prometheus/rules", str(rules)))
            done = subprocess.run(["promtool", "check", "config", str(settings)], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("rules found", done.stdout)

    def test_every_member_is_scraped_with_the_labels_of_pods(self):
        document = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
        job, = document["scrape_configs"]
        self.assertEqual(job["job_name"], "conclave")
        names = {name for target in job["dns_sd_configs"] for name in target["names"]}
        self.assertEqual(names, set(SERVICES))
        self.assertEqual({rule["target_label"] for rule in job["relabel_configs"]}, {"namespace", "pod", "component", "pool"})
        services = yaml.safe_load(compose(DEPLOY / "compose.yaml").stdout)["services"]
        for target in job["dns_sd_configs"]:
            for name in target["names"]:
                listens = {value.rsplit(":", 1)[1] for key, value in services[name]["environment"].items()
                           if key.endswith(("OPS_LISTEN", "HTTP_LISTEN"))}
                self.assertIn(str(target["port"]), listens, name)

    def test_grafana_finds_dashboards_and_prometheus(self):
        provisioning = DEPLOY / "grafana/provisioning"
        source, = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
        self.assertEqual((source["type"], source["url"]), ("prometheus", "http://prometheus:9090"))
        provider, = yaml.safe_load((provisioning / "dashboards/conclave.yaml").read_text())["providers"]
        mounts = (DEPLOY / "compose.yaml").read_text()
        self.assertIn(f"../helm/conclave/files/dashboards:{provider['options']['path']}:ro", mounts)
        home = re.search(r"HOME_DASHBOARD_PATH: (\S+)", mounts)[1]
        self.assertTrue((SOURCE / "helm/conclave/files/dashboards" / pathlib.Path(home).name).is_file(), home)


if __name__ == "__main__":
    unittest.main(verbosity=2)
