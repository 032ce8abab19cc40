"""What end-to-end tests stand on: Moongate and echo processes with ports from the kernel, manifests written atomically, and small real clients.

The default assertion of each test is made when its Moongate ends: an empty error log, no exchange and no superseded unit left, a clean exit.
"""
import base64
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("MOONGATE_BINARY", str(ROOT / "build" / "moongate"))


def wait_until(condition, timeout=10.0, what="condition"):
    """Polls until `condition()` is true; returns its value."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"timed out waiting for {what}")
        time.sleep(0.005)


class Lines:
    """Collects a pipe's lines in a thread."""

    def __init__(self, pipe):
        self.lines, self.lock = [], threading.Lock()
        self.thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self.thread.start()

    def _read(self, pipe):
        for line in iter(pipe.readline, b""):
            with self.lock:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))

    def find(self, pattern):
        with self.lock:
            for line in self.lines:
                found = re.search(pattern, line)
                if found:
                    return found
        return None

    def all(self):
        with self.lock:
            return list(self.lines)


class Echo:
    def __init__(self, name="echo"):
        self.name = name
        self.process = subprocess.Popen([BINARY, "echo", "--listen", "127.0.0.1:0", "--name", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.out = Lines(self.process.stdout)
        self.port = int(wait_until(lambda: self.out.find(r"listens on port (\d+)"), what="echo's port").group(1))

    def requests(self):
        return [line for line in self.out.all() if "name=" in line]

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(10)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def header(self, name):
        for key, value in self.headers:
            if key.lower() == name.lower():
                return value
        return None

    def all(self, name):
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def text(self):
        return self.body.decode(errors="replace")

    @property
    def json(self):
        return json.loads(self.body)


class Moongate:
    address = "127.0.0.1"

    def __init__(self, manifests=None, flags=(), expect_errors=(), workers=2, policies=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="moongate-"))
        self.manifests = self.folder / "manifests"
        self.manifests.mkdir()
        self.policies = self.folder / "policies"
        self.policies.mkdir()
        self.expect_errors = list(expect_errors)
        for name, text in (manifests or {}).items():
            self.write(name, text)
        for name, text in (policies or {}).items():
            (self.policies / name).write_text(text)
        self.start([BINARY, "run", "--manifests", str(self.manifests), "--policies", str(self.policies), "--http-port", "0", "--https-port", "0", "--healthz-port", "0",
                    "--workers", str(workers), "--bind-address", self.address, "-v=2", *flags])

    def start(self, command, **more):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, **more)
        self.access, self.errors = Lines(self.process.stdout), Lines(self.process.stderr)
        self.wait_for_ports()

    def wait_for_ports(self):
        found = wait_until(lambda: self.errors.find(r"http_port=(\d+) https_port=(\d+) healthz_port=(\d+)") or self.process.poll() is not None, 30, "start")
        if found is True:
            raise AssertionError("moongate ended at start:\n" + "\n".join(self.errors.all()))
        self.http_port, self.https_port, self.health_port = (int(found.group(i)) for i in (1, 2, 3))

    # ---- configuration
    def write(self, name, text):
        """Writes a manifest as an editor does: another name, then rename."""
        target = self.manifests / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.parent / f".{target.name}.part"
        part.write_text(text if isinstance(text, str) else "\n---\n".join(json.dumps(item) for item in text))
        part.rename(target)

    def write_policy(self, name, text):
        part = self.policies / f".{name}.part"
        part.write_text(text)
        part.rename(self.policies / name)

    def remove(self, name):
        (self.manifests / name).unlink()

    # ---- requests
    def request(self, path="/", host=None, method="GET", headers=None, body=None, https=False, timeout=10, source=None):
        """One request on a connection of its own; redirects are not followed."""
        if https:
            context = ssl._create_unverified_context()
            raw = socket.create_connection((self.address, self.https_port), timeout)
            connection = http.client.HTTPSConnection(self.address, self.https_port, timeout=timeout, context=context)
            connection.sock = context.wrap_socket(raw, server_hostname=(host or "localhost").split(":")[0])
        else:
            connection = http.client.HTTPConnection(self.address, self.http_port, timeout=timeout)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", host if host is not None else "localhost")
            pairs = list(headers.items()) if isinstance(headers, dict) else list(headers or [])
            if body is not None and not any(key.lower() in ("content-length", "transfer-encoding") for key, _ in pairs):
                pairs.append(("Content-Length", str(len(body))))
            for key, value in pairs:
                connection.putheader(key, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())

    def echo(self, path="/", host=None, **more):
        """The request as the echo application saw it."""
        headers = dict(more.pop("headers", None) or {})
        headers.setdefault("Accept", "application/json")
        answer = self.request(path, host, headers=headers, **more)
        assert answer.status == 200, (answer.status, answer.text)
        seen = answer.json
        seen["answer"] = answer
        seen["lower"] = {key.lower(): value for key, value in seen["headers"].items()}
        return seen

    def raw(self, data, timeout=5, half_close=True):
        """Sends bytes, returns all bytes until the peer closes or `timeout` passes."""
        with socket.create_connection((self.address, self.http_port), timeout) as connection:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(socket.timeout, ConnectionResetError):
                while True:
                    part = connection.recv(65536)
                    if not part:
                        break
                    received += part
            return received

    def admin(self, path):
        connection = http.client.HTTPConnection(self.address, self.health_port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())

    def metric(self, name):
        found = re.search(rf"^{name} (\d+)$", self.admin("/metrics").text, re.M)
        return int(found.group(1)) if found else None

    def wait_live(self, path, host, check, timeout=10, **more):
        return wait_until(lambda: (lambda answer: answer if check(answer) else None)(self.request(path, host, **more)), timeout, f"{host}{path} live")

    # ---- the end
    def stop(self, timeout=30):
        if self.process.poll() is None:
            wait_until(lambda: self.metric("moongate_exchanges") == 0, 10, "exchanges to end")
            wait_until(lambda: self.metric("moongate_superseded_units") == 0, 10, "superseded units to go")
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout)
        self.errors.thread.join(5)
        self.access.thread.join(5)
        bad = [line for line in self.errors.all() if re.search(r'level=(warn|error)|"level":"(warn|error)"|ERROR: |runtime error|WARNING: ThreadSanitizer', line)]
        bad = [line for line in bad if not any(re.search(pattern, line) for pattern in self.expect_errors)]
        assert code == 0, f"exit status {code}:\n" + "\n".join(self.errors.all()[-40:])
        assert not bad, "error log is not empty:\n" + "\n".join(bad[:20])

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


class WebSocket:
    """A client of RFC 6455, enough for an echo."""

    def __init__(self, port, path, host, headers=(), timeout=10, address="127.0.0.1"):
        self.socket = socket.create_connection((address, port), timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        lines += [f"{name}: {value}" for name, value in headers]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            part = self.socket.recv(4096)
            if not part:
                break
            self.rest += part
        self.head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        self.status = int(self.head.split(b" ")[1]) if self.head else 0

    def send(self, payload, opcode=1):
        mask = os.urandom(4)
        length = len(payload)
        head = bytes([0x80 | opcode])
        if length < 126:
            head += bytes([0x80 | length])
        elif length < 65536:
            head += bytes([0x80 | 126]) + struct.pack(">H", length)
        else:
            head += bytes([0x80 | 127]) + struct.pack(">Q", length)
        self.socket.sendall(head + mask + bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload)))

    def _take(self, count):
        while len(self.rest) < count:
            part = self.socket.recv(65536)
            if not part:
                raise EOFError
            self.rest += part
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def receive(self):
        first, second = self._take(2)
        length = second & 0x7F
        if length == 126:
            length = struct.unpack(">H", self._take(2))[0]
        elif length == 127:
            length = struct.unpack(">Q", self._take(8))[0]
        return first & 15, self._take(length)

    def close(self):
        self.socket.close()


# ---- manifests

def service(name="echoheaders", port=80, **spec):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": port, "targetPort": 8080}], **spec}}


def slice_of(ports, name="echoheaders", conditions=None, suffix="1"):
    """One EndpointSlice for each port (an EndpointSlice has one port for all its endpoints)."""
    return [{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": f"{name}-{suffix}-{index}", "labels": {"kubernetes.io/service-name": name}},
             "addressType": "IPv4", "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
             "endpoints": [{"addresses": ["127.0.0.1"], "conditions": conditions or {"ready": True}}]} for index, port in enumerate(ports)]


def ingress(name, host, path="/", service_name="echoheaders", annotations=None, path_type="Prefix", tls=None, port=80, namespace=None, class_name="nginx", **more):
    metadata = {"name": name, "annotations": annotations or {}}
    if namespace:
        metadata["namespace"] = namespace
    metadata.update(more.pop("metadata", {}))
    paths = path if isinstance(path, list) else [path]
    rule = {"http": {"paths": [{"path": one, "pathType": path_type, "backend": {"service": {"name": service_name, "port": {"number": port}}}} for one in paths]}}
    if host:
        rule["host"] = host
    spec = {"rules": [rule], **more}
    if class_name:
        spec["ingressClassName"] = class_name
    if tls:
        spec["tls"] = [{"hosts": [host], "secretName": tls}]
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}


def config_map(name, data, namespace=None):
    metadata = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def certificate(folder, name, hosts):
    """A self-signed certificate: returns (PEM certificate, PEM key)."""
    key, crt = folder / f"{name}.key", folder / f"{name}.crt"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", f"/CN={name}", "-addext",
                    "subjectAltName=" + ",".join(f"DNS:{host}" for host in hosts), "-keyout", str(key), "-out", str(crt)], check=True, capture_output=True)
    return crt.read_text(), key.read_text()


def tls_secret(name, pem, key, namespace=None):
    metadata = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls",
            "data": {"tls.crt": base64.b64encode(pem.encode()).decode(), "tls.key": base64.b64encode(key.encode()).decode()}}
