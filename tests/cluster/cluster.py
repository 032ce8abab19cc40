"""The cluster of a test run: starts what build.sh built (see controlplane/main.go for the three programs), and gives kubectl and the bare API."""
import base64
import http.client
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import threading
import time

import namespace
from harness import ROOT, wait_until

HERE = pathlib.Path(__file__).parent
CLUSTER_KINDS = {"ClusterRole", "ClusterRoleBinding", "IngressClass", "Namespace", "Node", "ValidatingWebhookConfiguration"}


def tools():
    """The folder with controlplane, launch and kubectl; built if need be."""
    built = subprocess.run(["bash", str(HERE / "build.sh")], stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode != 0:
        raise RuntimeError("tests/cluster/build.sh failed")
    return pathlib.Path(built.stdout.splitlines()[-1])


class OrderError(Exception):
    pass


def order(path, method, target, body=None):
    """A request to the socket on which a program of controlplane takes orders."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        client = http.client.HTTPConnection("localhost", timeout=10)
        client.sock = connection
        client.request(method, target, json.dumps(body) if body is not None else None)
        answer = client.getresponse()
        text = answer.read().decode()
    if answer.status != 200:
        raise OrderError(f"{method} {target}: {answer.status} {text}")
    return text


class Program:
    """A child process whose output goes to a file; started and stopped at will."""

    def __init__(self, name, command, log):
        self.name, self.command, self.log = name, command, log
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=namespace.die_with_us)

    def alive(self):
        """True; raises with the end of the log when it is not."""
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n" + self.tail())
        return True

    def tail(self, lines=30):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, how=signal.SIGTERM, timeout=30):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(timeout)


class Cluster:
    PORT = 6443

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.state = self.folder / "state"
        self.images = self.folder / "images"
        self.images.mkdir(parents=True)
        self.tools = tools()
        self.kubeconfig = self.state / "admin.kubeconfig"
        self.server_arguments = []
        program = str(self.tools / "controlplane")
        self.server = Program("server", [program, "server", "-dir", str(self.state), "-port", str(self.PORT)], self.folder / "server.log")
        self.nodes = Program("nodes", [program, "nodes", "-dir", str(self.state), "-images", str(self.images), "-launch", str(self.tools / "launch"),
                                       "-apiserver", f"127.0.0.1:{self.PORT}"], self.folder / "nodes.log")
        self.local = threading.local()
        self.started_in = None

    # ---- life
    def start(self):
        begun = time.monotonic()
        self.start_server()
        self.nodes.start()
        wait_until(lambda: self.nodes.alive() and (self.state / "nodes-ready").exists(), 60, "the node agent")
        self.started_in = time.monotonic() - begun

    def start_server(self, arguments=()):
        """Also again, after stop_server or kill_server: its data is kept."""
        (self.state / "ready").unlink(missing_ok=True)
        plain = self.server.command
        self.server.command = plain + (["-apiserver-args", " ".join(arguments)] if arguments else [])
        self.server.start()
        self.server.command = plain
        wait_until(lambda: self.server.alive() and (self.state / "ready").exists(), 90, "the API server")

    def kill_server(self):
        self.server.stop(signal.SIGKILL)

    def stop(self):
        self.nodes.stop()
        self.server.stop()

    def compact(self):
        """etcd forgets the past: what watches or lists from an older revision gets 410."""
        return int(order(self.state / "orders", "POST", "/compact"))

    # ---- kubectl
    def kubectl(self, *arguments, input=None, check=True, timeout=60):
        """Returns what it printed. With check=False: the finished process."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.folder)}
        done = subprocess.run([str(self.tools / "kubectl"), *map(str, arguments)], input=input, text=True, capture_output=True, env=environment, timeout=timeout, check=False)
        if not check:
            return done
        assert done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: {done.stderr}{done.stdout}"
        return done.stdout

    def get(self, *arguments):
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    # ---- the API itself, for many or quick requests
    def api(self, method, path, body=None, content_type="application/json", check=True):
        """One request as cluster admin, on this thread's connection. Returns the object; with check=False (status, object)."""
        for attempt in (1, 2):
            connection = getattr(self.local, "connection", None) or self._connect()
            try:
                connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": content_type})
                answer = connection.getresponse()
                text = answer.read()
                break
            except (OSError, http.client.HTTPException):
                connection.close()
                self.local.connection = None
                if attempt == 2:
                    raise
        value = json.loads(text) if text[:1] in (b"{", b"[") else text.decode()
        if not check:
            return answer.status, value
        assert answer.status < 300, f"{method} {path}: {answer.status} {value}"
        return value

    def _connect(self):
        context = ssl.create_default_context(cafile=str(self.state / "ca.crt"))
        context.load_cert_chain(str(self.state / "admin.crt"), str(self.state / "admin.key"))
        self.local.connection = http.client.HTTPSConnection("127.0.0.1", self.PORT, timeout=30, context=context)
        return self.local.connection

    # ---- who else may log in
    def token(self, account, in_namespace, duration="1h"):
        return self.kubectl("create", "token", account, "-n", in_namespace, "--duration", duration).strip()

    def write_kubeconfig(self, path, user, in_namespace="default", server=None, authority=None):
        """`user` is {"token": ...} or {"tokenFile": ...}."""
        authority = base64.b64encode(authority.encode() if authority else (self.state / "ca.crt").read_bytes()).decode()
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server or f"https://127.0.0.1:{self.PORT}", "certificate-authority-data": authority}}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": in_namespace}}]}))
        path.chmod(0o600)
        return path

    # ---- pods
    def log(self, in_namespace, pod, container=None):
        """All that a pod's containers wrote, all starts of them, also after its end."""
        folder = self.state / "logs" / in_namespace / pod
        files = sorted(folder.glob(f"{container or '*'}.*.log"), key=lambda file: file.stat().st_mtime)
        return "".join(file.read_text(errors="replace") for file in files)

    def run_in(self, in_namespace, pod, *command, container=0):
        """Runs a command in a pod's container, as kubectl exec would."""
        status = self.api("GET", f"/api/v1/namespaces/{in_namespace}/pods/{pod}")["status"]["containerStatuses"][container]
        pid = status["containerID"].removeprefix("process://")
        done = subprocess.run(["nsenter", "--target", pid, "--mount", "--net", "--pid", "--root", "--wd", "--", *command], text=True, capture_output=True, timeout=30, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout


__all__ = ["Cluster", "Program", "CLUSTER_KINDS", "ROOT", "order", "wait_until"]
