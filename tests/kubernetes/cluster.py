"""A real Kubernetes of several nodes on one Linux machine, in network namespaces of its own.

etcd, the control plane and node 1 live in the namespace `conclave1`, node N in `conclaveN`; a bridge in the first one joins
them. Every node has its own containerd, kubelet and kube-proxy. Nothing outside the namespaces is reachable from inside.

    python3 tests/kubernetes/cluster.py up [NODES] | down | stop-node N | run COMMAND...

Needs root, and the packages that ci/setup.sh --kubernetes lists. The work files lie in `folder` (see `work_folder`).
"""

import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import binaries
import certificates
from report import Problem

NETWORK = "192.0.2"  # TEST-NET-1: node I has .(9 + I)
SERVICE_NETWORK = "10.96.0.0/16"
DNS_ADDRESS = "10.96.0.10"
CONTROL_ADDRESS = f"{NETWORK}.10"
CONTAINERD = "/usr/bin/containerd"
POD_NETWORK = "conclave"
# What else the machine does must not make pods late: of processors that all want, a node, and each program of the control
# plane, gets so many times what another group of processes gets.
WEIGHT = 4
AUTOGROUP_NICE = -6  # its weight is 3.8


def work_folder():
    return pathlib.Path(os.environ.get("CONCLAVE_KUBERNETES_FOLDER", "/var/tmp/conclave-kubernetes"))


def namespace(node):
    return f"conclave{node}"


def inside(node, *command):
    """`command`, to be run in the network namespace of a node. (`ip netns exec` would hide the control groups.)"""
    return ["nsenter", f"--net=/run/netns/{namespace(node)}", *map(str, command)]


def quiet(*command, check=True, timeout=60):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout)
    if check and result.returncode != 0:
        raise Problem(f"{' '.join(map(str, command))} ended with {result.returncode}: {result.stderr.strip()}")
    return result.stdout


def until(what, seconds, condition, every=0.1):
    """Waits until `condition` is true; a Problem that names `what` when it is not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Problem(f"{what}: not within {seconds} s")
        time.sleep(every)


def hierarchies():
    """The mounted control group trees: one with version 2, one a controller with version 1."""
    root = pathlib.Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [tree for tree in root.iterdir() if (tree / "cgroup.procs").exists()]


def kill(node):
    """Kills what runs in the node's control groups, and the shims of its containers; how many there were."""
    found = set()
    for tree in hierarchies():
        for file in (tree / f"conclave-node{node}").rglob("cgroup.procs"):
            try:
                found.update(map(int, file.read_text().split()))
            except OSError:  # a group that ended meanwhile
                continue
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if f"/run/conclave-containerd{node}/" in (process / "cmdline").read_text():
                found.add(int(process.name))
        except OSError:
            continue
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return len(found)


def processes_of(pod):
    """The processes in the control groups of a pod, by the pod's uid."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if f"/pod{pod['metadata']['uid']}/" in (process / "cgroup").read_text():
                found.append(int(process.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def pod_namespaces(state):
    """The network namespaces that a containerd made for pods, from what it keeps of their containers."""
    names = set()
    for file in state.glob("io.containerd.runtime.v2.task/k8s.io/*/config.json"):
        for entry in json.loads(file.read_text()).get("linux", {}).get("namespaces", []):
            if entry["type"] == "network" and entry.get("path", "").startswith(("/run/netns/cni-", "/var/run/netns/cni-")):
                names.add(os.path.basename(entry["path"]))
    return names


def remove_group(group):
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            pass


class Cluster:
    def __init__(self, tools):
        self.folder = work_folder()
        self.run = self.folder / "run"
        self.keys = self.folder / "keys"
        self.images = self.folder / "images"
        self.tools = tools
        self.lock = None
        for folder in (self.run, self.keys, self.images):
            folder.mkdir(parents=True, exist_ok=True)

    # -- what tests call ------------------------------------------------------------------------------------------------

    @property
    def kubeconfig(self):
        return self.keys / "admin.kubeconfig"

    def up(self, nodes):
        """Starts the control plane and `nodes` nodes with all images of the folder `images`. Precondition: take_lock()."""
        self.down()
        self.make_network()
        self.start_control_plane()
        for node in range(1, nodes + 1):
            self.start_node(node)
        for node in range(1, nodes + 1):
            self.import_images(node)

    def down(self):
        """Ends every process of this cluster, and removes its namespaces, mounts and control groups: of a run that was killed, too."""
        for node in sorted(self.nodes_left()):
            self.stop_node(node)
        for name in ("scheduler", "controller-manager", "apiserver", "etcd"):
            self.end(name)
        for node in (1, *self.nodes_left()):
            quiet("ip", "netns", "delete", namespace(node), check=False)
        for tree in hierarchies():
            for group in tree.glob("conclave-node*"):
                remove_group(group)
        for result in pathlib.Path("/var/lib/cni/results").glob(f"{POD_NETWORK}-*"):
            result.unlink(missing_ok=True)
        shutil.rmtree(self.run / "etcd-data", ignore_errors=True)

    def nodes_left(self):
        """The numbers of the nodes of which anything is there: folder, containers, network or control group."""
        places = [self.run.glob("node*"), pathlib.Path("/run").glob("conclave-containerd*"), pathlib.Path("/run/netns").glob("conclave*")]
        places += [tree.glob("conclave-node*") for tree in hierarchies()]
        numbers = (re.fullmatch(r"(?:node|conclave|conclave-containerd|conclave-node)([1-9])", path.name) for found in places for path in found)
        return {int(number[1]) for number in numbers if number}

    # -- processes ------------------------------------------------------------------------------------------------------

    def take_lock(self):
        self.lock = open(self.folder / "lock", "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Problem(f"another run holds {self.folder}/lock; wait for it") from None

    def start(self, name, node, *command):
        log = open(self.run / f"{name}.log", "w")
        process = subprocess.Popen(
            inside(node, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
        )
        (self.run / f"{name}.pid").write_text(str(process.pid))
        autogroup = pathlib.Path(f"/proc/{process.pid}/autogroup")
        if autogroup.exists():
            autogroup.write_text(str(AUTOGROUP_NICE))

    def end(self, name):
        """Ends the process started under `name`, if it still is that one (its command line names our folder)."""
        file = self.run / f"{name}.pid"
        if not file.exists():
            return
        pid = int(file.read_text())
        file.unlink()
        if not self.is_ours(pid):
            return
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 5
        while self.is_ours(pid):
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                end += 5
            time.sleep(0.02)

    def is_ours(self, pid):
        try:
            return str(self.folder) in pathlib.Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return False

    # -- the network ----------------------------------------------------------------------------------------------------

    def make_network(self):
        if not os.path.exists(f"/run/netns/{namespace(1)}"):
            quiet("ip", "netns", "add", namespace(1))
        quiet(*inside(1, "ip", "link", "set", "lo", "up"))
        quiet(*inside(1, "ip", "link", "add", "node0", "type", "bridge"), check=False)
        quiet(*inside(1, "ip", "address", "replace", f"{CONTROL_ADDRESS}/24", "dev", "node0"))
        quiet(*inside(1, "ip", "link", "set", "node0", "up"))
        # A client needs some route to a service's address before kube-proxy's rules see its packets.
        quiet(*inside(1, "ip", "route", "replace", SERVICE_NETWORK, "dev", "node0"))
        (self.run / "resolv.conf").write_text(f"nameserver {DNS_ADDRESS}\n")

    def join_network(self, node):
        if node == 1:
            return
        quiet("ip", "netns", "add", namespace(node))
        quiet(*inside(node, "ip", "link", "set", "lo", "up"))
        quiet(*inside(1, "ip", "link", "add", f"to{node}", "type", "veth", "peer", "name", "node0", "netns", namespace(node)))
        quiet(*inside(1, "ip", "link", "set", f"to{node}", "master", "node0", "up"))
        quiet(*inside(node, "ip", "address", "replace", f"{NETWORK}.{9 + node}/24", "dev", "node0"))
        quiet(*inside(node, "ip", "link", "set", "node0", "up"))
        quiet(*inside(node, "ip", "route", "replace", SERVICE_NETWORK, "dev", "node0"))
        quiet(*inside(1, "ip", "route", "replace", f"10.244.{node - 1}.0/24", "via", f"{NETWORK}.{9 + node}"))
        quiet(*inside(node, "ip", "route", "replace", "10.244.0.0/24", "via", CONTROL_ADDRESS))
        for member in (1, node):
            quiet(*inside(member, "sysctl", "-qw", "net.ipv4.ip_forward=1"))

    # -- the control plane ----------------------------------------------------------------------------------------------

    def start_control_plane(self):
        keys = self.keys
        if not certificates.are_good(keys):
            shutil.rmtree(keys)
            keys.mkdir()
            certificates.make(keys, CONTROL_ADDRESS, [f"{NETWORK}.{9 + node}" for node in (1, 2, 3)])
        shutil.rmtree(self.run / "etcd-data", ignore_errors=True)
        etcd = "http://127.0.0.1:2379"
        self.start(
            "etcd", 1, self.tools / "etcd", f"--data-dir={self.run}/etcd-data", f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}", "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=default=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
        )  # fmt: skip
        self.start(
            "apiserver", 1, self.tools / "kube-apiserver", f"--etcd-servers={etcd}", f"--advertise-address={CONTROL_ADDRESS}",
            "--bind-address=0.0.0.0", "--secure-port=6443", f"--tls-cert-file={keys}/apiserver.crt",
            f"--tls-private-key-file={keys}/apiserver.key", f"--client-ca-file={keys}/ca.crt",
            f"--kubelet-client-certificate={keys}/kubelet-client.crt", f"--kubelet-client-key={keys}/kubelet-client.key",
            f"--kubelet-certificate-authority={keys}/ca.crt", "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={keys}/accounts.pub",
            f"--service-account-signing-key-file={keys}/accounts.key", f"--service-cluster-ip-range={SERVICE_NETWORK}",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--feature-gates=ImageVolume=true",
            f"--requestheader-client-ca-file={keys}/ca.crt", "--requestheader-allowed-names=front-proxy",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User", f"--proxy-client-cert-file={keys}/front-proxy.crt",
            f"--proxy-client-key-file={keys}/front-proxy.key", "--enable-aggregator-routing=true",
        )  # fmt: skip
        until("the API server is ready", 60, lambda: self.api_is_ready())
        manager = f"{keys}/controller-manager.kubeconfig"
        self.start(
            "controller-manager", 1, self.tools / "kube-controller-manager", f"--kubeconfig={manager}",
            f"--authentication-kubeconfig={manager}", f"--authorization-kubeconfig={manager}",
            "--use-service-account-credentials=true", f"--service-account-private-key-file={keys}/accounts.key",
            f"--root-ca-file={keys}/ca.crt", "--allocate-node-cidrs=false", f"--service-cluster-ip-range={SERVICE_NETWORK}",
            "--bind-address=127.0.0.1", "--leader-elect=false", "--horizontal-pod-autoscaler-sync-period=3s",
            "--concurrent-horizontal-pod-autoscaler-syncs=10", "--node-monitor-grace-period=12s", "--node-monitor-period=2s",
        )  # fmt: skip
        scheduler = f"{keys}/scheduler.kubeconfig"
        self.start(
            "scheduler", 1, self.tools / "kube-scheduler", f"--kubeconfig={scheduler}",
            f"--authentication-kubeconfig={scheduler}", f"--authorization-kubeconfig={scheduler}", "--bind-address=127.0.0.1",
            "--leader-elect=false",
        )  # fmt: skip

    def api_is_ready(self):
        probe = inside(1, self.tools / "kubectl", f"--kubeconfig={self.kubeconfig}", "get", "--raw=/readyz")
        return subprocess.run(probe, capture_output=True).returncode == 0

    # -- the nodes ------------------------------------------------------------------------------------------------------

    def start_node(self, node):
        folder = self.run / f"node{node}"
        socket = f"/run/conclave-containerd{node}/containerd.sock"
        (folder / "cni").mkdir(parents=True, exist_ok=True)
        (folder / "kubelet").mkdir(exist_ok=True)
        self.join_network(node)
        for tree in hierarchies():
            group = tree / f"conclave-node{node}"
            group.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):  # of version 1: empty, and useless, until written
                if (group / file).exists() and not (group / file).read_text().strip():
                    (group / file).write_text((tree / file).read_text())
            for file, usual in {"cpu.shares": 1024, "cpu.weight": 100}.items():  # of version 1, of version 2
                if (group / file).exists():
                    (group / file).write_text(str(WEIGHT * usual))
        (folder / "containerd.toml").write_text(self.containerd_config(node, folder))
        (folder / "cni" / "10-bridge.conflist").write_text(json.dumps(self.network_config(node, folder)))
        (folder / "kubelet.yaml").write_text(json.dumps(self.kubelet_config(node, folder)))
        (folder / "kube-proxy.yaml").write_text(json.dumps(self.proxy_config(node)))
        self.start(f"containerd{node}", node, CONTAINERD, "-c", folder / "containerd.toml")
        until("containerd answers", 20, lambda: subprocess.run(["ctr", "-a", socket, "version"], capture_output=True).returncode == 0)
        self.import_image(node, self.images / "pause.tar")
        self.start(
            f"kubelet{node}", node, self.tools / "kubelet", f"--config={folder}/kubelet.yaml",
            f"--kubeconfig={self.keys}/node{node}.kubeconfig", f"--hostname-override=node{node}",
            f"--node-ip={NETWORK}.{9 + node}", f"--root-dir={folder}/kubelet", f"--cert-dir={folder}/kubelet/pki",
        )  # fmt: skip
        self.start(f"kube-proxy{node}", node, self.tools / "kube-proxy", f"--config={folder}/kube-proxy.yaml")

    def import_images(self, node):
        for image in sorted(self.images.glob("*.tar")):
            self.import_image(node, image)

    def import_image(self, node, image):
        quiet("ctr", "-a", f"/run/conclave-containerd{node}/containerd.sock", "-n", "k8s.io", "images", "import", image)

    def stop_node(self, node):
        """Everything of the node ends at once, as if its power failed; the control plane is not told."""
        folder = self.run / f"node{node}"
        state = pathlib.Path(f"/run/conclave-containerd{node}")
        for name in (f"kube-proxy{node}", f"kubelet{node}", f"containerd{node}"):
            self.end(name)
        networks = pod_namespaces(state)
        until(f"the processes of node {node} have ended", 20, lambda: not kill(node), every=0.05)
        for _ in range(20):  # a mount may lie on another one
            mounts = [line.split()[1] for line in open("/proc/mounts")]
            ours = [path for path in mounts if path.startswith((f"{folder}/", f"{state}/"))]
            if not ours:
                break
            for path in sorted(ours, reverse=True):
                quiet("umount", "-l", path, check=False)
        for name in networks:
            quiet("ip", "netns", "delete", name, check=False)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)
        if node != 1:
            quiet("ip", "netns", "delete", namespace(node), check=False)

    def containerd_config(self, node, folder):
        return f"""version = 2
root = "{folder}/containerd"
state = "/run/conclave-containerd{node}"
[grpc]
  address = "/run/conclave-containerd{node}/containerd.sock"
[ttrpc]
  address = "/run/conclave-containerd{node}/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "{shutil.which("runc") or "/usr/sbin/runc"}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"""

    def network_config(self, node, folder):
        subnet = {"subnet": f"10.244.{node - 1}.0/24"}
        bridge = {
            "type": "bridge", "bridge": "pods0", "isGateway": True, "ipMasq": False, "hairpinMode": True,
            "ipam": {"type": "host-local", "dataDir": f"{folder}/addresses", "ranges": [[subnet]], "routes": [{"dst": "0.0.0.0/0"}]},
        }  # fmt: skip
        return {"cniVersion": "0.4.0", "name": POD_NETWORK, "plugins": [bridge]}

    def kubelet_config(self, node, folder):
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": f"{NETWORK}.{9 + node}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{self.keys}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{self.keys}/node{node}.crt",
            "tlsPrivateKeyFile": f"{self.keys}/node{node}.key",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/conclave-node{node}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix:///run/conclave-containerd{node}/containerd.sock",
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": f"{self.run}/resolv.conf",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
            "enforceNodeAllocatable": [],
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 8,
            "podLogsDir": f"{folder}/logs",
            "serializeImagePulls": False,
        }

    def proxy_config(self, node):
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "bindAddress": f"{NETWORK}.{9 + node}",
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "clientConnection": {"kubeconfig": f"{self.keys}/proxy.kubeconfig"},
            "hostnameOverride": f"node{node}",
            "clusterCIDR": "10.244.0.0/16",
            "mode": "iptables",
            "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }


def main(arguments):
    cluster = Cluster(binaries.folder())
    match arguments:
        case ["up", *count]:
            cluster.take_lock()
            binaries.make_images(cluster.images)
            cluster.up(int(count[0]) if count else 2)
            print(f"export KUBECONFIG={cluster.kubeconfig} PATH={cluster.tools}:$PATH")
            print(f"nsenter --net=/run/netns/{namespace(1)} kubectl get nodes")
        case ["down"]:
            cluster.down()
        case ["stop-node", node]:
            cluster.stop_node(int(node))
        case ["run", *command]:
            os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
            os.environ["PATH"] = f"{cluster.tools}:{os.environ['PATH']}"
            os.execvp("nsenter", inside(1, *command))
        case _:
            print(__doc__.strip())
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Problem as problem:
        sys.exit(f"error: {problem}")
