"""Certificates and kubeconfig files of the test cluster, and those of a Conclave installation, by the openssl program."""

import pathlib
import subprocess


def openssl(folder, *words):
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


DAYS = 30
LEAST_DAYS = 2  # a run must not see them end


def are_good(folder):
    """Whether all keys of a cluster are there, and are so for the next days. (The authority's and all others are made together.)"""
    if not (pathlib.Path(folder) / "admin.kubeconfig").exists():
        return False
    check = ["openssl", "x509", "-checkend", str(LEAST_DAYS * 86400), "-noout", "-in", "ca.crt"]
    return subprocess.run(check, cwd=folder, capture_output=True, timeout=60).returncode == 0


def make_authority(folder):
    openssl(
        folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key",
        "-out", "ca.crt", "-days", str(DAYS), "-subj", "/CN=test authority", "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
    )  # fmt: skip


def make_leaf(folder, name, subject, alternatives=""):
    """NAME.crt and NAME.key, for servers and clients. `alternatives`: "DNS:a,IP:1.2.3.4"."""
    openssl(
        folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key",
        "-out", f"{name}.csr", "-subj", subject,
    )  # fmt: skip
    extensions = "keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth,serverAuth\n"
    if alternatives:
        extensions += f"subjectAltName={alternatives}\n"
    (pathlib.Path(folder) / f"{name}.ext").write_text(extensions)
    openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
        "-CAcreateserial", "-days", str(DAYS), "-extfile", f"{name}.ext", "-out", f"{name}.crt",
    )  # fmt: skip


def make(folder, control, nodes):
    """All keys of a cluster whose API server is at `control` and whose nodes have the addresses `nodes`."""
    make_authority(folder)
    names = ",".join(
        f"DNS:{name}"
        for name in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    )
    make_leaf(folder, "apiserver", "/CN=kube-apiserver", f"IP:127.0.0.1,IP:{control},IP:10.96.0.1,{names}")
    users = {
        "admin": "/O=system:masters/CN=admin",
        "controller-manager": "/CN=system:kube-controller-manager",
        "scheduler": "/CN=system:kube-scheduler",
        "proxy": "/CN=system:kube-proxy",
    }
    for name, subject in users.items():
        make_leaf(folder, name, subject)
    make_leaf(folder, "kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client")
    make_leaf(folder, "front-proxy", "/CN=front-proxy")
    for number, address in enumerate(nodes, start=1):
        make_leaf(folder, f"node{number}", f"/O=system:nodes/CN=system:node:node{number}", f"IP:{address},DNS:node{number}")
        users[f"node{number}"] = ""
    openssl(folder, "genrsa", "-out", "accounts.key", "2048")
    openssl(folder, "rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")
    for name in users:  # last: admin.kubeconfig says that everything is there
        if name != "admin":
            write_kubeconfig(folder, name, control)
    write_kubeconfig(folder, "admin", control)


def write_kubeconfig(folder, name, control):
    (pathlib.Path(folder) / f"{name}.kubeconfig").write_text(f"""apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: "https://{control}:6443", certificate-authority: {folder}/ca.crt}}}}]
users: [{{name: {name}, user: {{client-certificate: {folder}/{name}.crt, client-key: {folder}/{name}.key}}}}]
contexts: [{{name: test, context: {{cluster: test, user: {name}}}}}]
current-context: test
""")
