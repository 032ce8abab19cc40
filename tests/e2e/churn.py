"""Changes under load: 64 keep-alive clients, 20 WebSockets, a 1 GiB download whose hash is compared, a second one read at 1 MiB/s; meanwhile at least 20 changes a
second over 1,000 hosts, a third of them touching what is under load, a tenth broken. Nothing may fail. Prints what it saw; status 1 if a promise is broken."""
import argparse
import asyncio
import hashlib
import os
import pathlib
import random
import socket
import ssl
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

HOT, SERVICES = 32, 3
POLICY = '''
local policy = { name = "churn", summary = "Says which version of it runs.", annotations = { churn = { type = "string", doc = "Anything." } } }
function policy.attach(_, annotations)
  if annotations.churn then return { text = annotations.churn } end
end
function policy.header_filter(exchange)
  exchange.response.headers:set("X-Churn", "%d")
end
return policy
'''


def host_documents(harness, number, version):
    host, service = f"host-{number}.example", f"echo-{number % SERVICES}"
    annotations = {"moongate.io/churn": "yes"} if number < HOT else {}
    return [harness.ingress(f"main-{number}", host, "/", service, annotations=annotations),
            harness.ingress(f"version-{number}", host, "/version", service, annotations={"nginx.ingress.kubernetes.io/permanent-redirect": f"/v/{version}"})]


class Load:
    """The clients, in a thread with its own event loop."""

    def __init__(self, port, slow):
        self.port, self.slow = port, slow
        self.stopping = False
        self.requests = self.failures = self.echoes = self.websocket_failures = 0
        self.notes = []
        self.thread = threading.Thread(target=lambda: asyncio.run(self.main()), daemon=True)

    def note(self, text):
        if len(self.notes) < 20:
            self.notes.append(f"{time.strftime('%H:%M:%S')} {text}")

    async def client(self, number):
        reader = writer = None
        while not self.stopping:
            host = f"host-{random.randrange(HOT)}.example"
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(f"GET /c/{number} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                status = int(head.split(b" ", 2)[1])
                lower = head.lower()
                length = int(lower.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
                await reader.readexactly(length)
                self.requests += 1
                if status != 200:
                    self.failures += 1
                    self.note(f"status {status} for {host}")
                if b"connection: close" in lower:
                    writer.close()
                    writer = None
            except Exception as error:  # noqa: BLE001: whatever goes wrong is a failed request
                if not self.stopping:
                    self.failures += 1
                    self.note(f"{type(error).__name__}: {error} for {host}")
                if writer:
                    writer.close()
                writer = None
            await asyncio.sleep(0.02 * self.slow)
        if writer:
            writer.close()

    async def websocket(self, number):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write((f"GET /ws HTTP/1.1\r\nHost: host-{number % HOT}.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            if b" 101 " not in head.split(b"\r\n")[0]:
                raise ValueError(head.split(b"\r\n")[0])
            count = 0
            while not self.stopping:
                payload = f"{number}-{count}".encode()
                writer.write(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
                frame = await asyncio.wait_for(reader.readexactly(2 + len(payload)), 20)
                if frame[2:] != payload:
                    raise ValueError("wrong echo")
                count += 1
                self.echoes += 1
                await asyncio.sleep(0.1)
        except Exception as error:  # noqa: BLE001
            if not self.stopping:
                self.websocket_failures += 1
                self.note(f"WebSocket {number}: {type(error).__name__}: {error}")
        writer.close()

    async def main(self):
        await asyncio.gather(*(self.client(n) for n in range(64)), *(self.websocket(n) for n in range(20)))


class Changes:
    """Writes manifests, secrets and policies, and looks whether each is served."""

    def __init__(self, harness, proxy, rate, certificates):
        self.harness, self.proxy, self.rate, self.certificates = harness, proxy, rate, certificates
        self.made = self.expected = self.seen = self.broken = self.hot = 0
        self.latencies, self.versions = [], {}
        self.connection = None
        self.policy = self.certificate = 0

    def ask(self, host, path):
        """Head of the answer over a kept connection."""
        for _ in range(2):
            try:
                if self.connection is None:
                    self.connection = socket.create_connection(("127.0.0.1", self.proxy.http_port), 5)
                self.connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                data = b""
                while b"\r\n\r\n" not in data:
                    part = self.connection.recv(65536)
                    if not part:
                        raise ConnectionError
                    data += part
                head, _, body = data.partition(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
                while len(body) < length:
                    body += self.connection.recv(65536)
                return head.decode()
            except (OSError, ConnectionError):
                self.connection = None
        return ""

    def wait(self, check):
        started = time.monotonic()
        self.expected += 1
        while time.monotonic() - started < 2:
            if check():
                self.seen += 1
                self.latencies.append((time.monotonic() - started) * 1000)
                return
            time.sleep(0.001)

    def host_change(self, number):
        version = self.versions[number] = self.versions.get(number, 0) + 1
        self.proxy.write(f"host-{number}.json", host_documents(self.harness, number, version))
        self.wait(lambda: f"/v/{version}\r\n" in self.ask(f"host-{number}.example", "/version") + "\r\n")

    def certificate_change(self):
        self.certificate ^= 1
        pem, key = self.certificates[self.certificate]
        self.proxy.write("secret.json", [self.harness.tls_secret("cert", pem, key)])
        wanted = ssl.PEM_cert_to_DER_cert(pem)
        context = ssl._create_unverified_context()

        def check():
            with socket.create_connection(("127.0.0.1", self.proxy.https_port), 5) as raw, context.wrap_socket(raw, server_hostname="tls.example") as tls:
                return tls.getpeercert(True) == wanted
        self.wait(check)

    def policy_change(self):
        self.policy += 1
        version = self.policy
        self.proxy.write_policy("churn.lua", POLICY % version)
        self.wait(lambda: f"x-churn: {version}\r\n" in self.ask("host-1.example", "/").lower() + "\r\n")

    def broken_change(self):
        self.broken += 1
        kind = self.broken % 3
        if kind == 0:
            self.proxy.write("broken.yaml", "apiVersion: v1\nkind: [unclosed\n")
        elif kind == 1:
            self.proxy.write_policy("broken.lua", f"return {{ name = {self.broken} ")
        else:
            self.proxy.write("broken.json", [{"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "broken"}, "spec": {"rules": "none"}}])

    def run(self, seconds, hosts):
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            due = started + self.made / self.rate
            if due > time.monotonic():
                time.sleep(due - time.monotonic())
            turn = self.made % 30
            self.made += 1
            if turn % 10 == 9:
                self.broken_change()
            elif turn % 3 == 0:
                self.hot += 1
                if turn == 0:
                    self.policy_change()
                elif turn in (12, 24):
                    self.certificate_change()
                else:
                    self.host_change(random.randrange(HOT))
            else:
                self.host_change(random.randrange(HOT, hosts))


def download(port, path, rate=None):
    command = ["curl", "-sS", "-N", "-H", "Host: host-2.example", f"http://127.0.0.1:{port}{path}"] + (["--limit-rate", str(rate)] if rate else [])
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class Download:
    def __init__(self, port, size, rate=None):
        self.size, self.received, self.hash = size, 0, hashlib.sha1()
        self.process = download(port, f"/bytes/{size}", rate)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for part in iter(lambda: self.process.stdout.read(1 << 18), b""):
            self.received += len(part)
            self.hash.update(part)
        self.code = self.process.wait()


def pattern_hash(size):
    block = bytes(10 if i % 64 == 63 else 48 + i % 64 for i in range(16384)) * 64
    digest = hashlib.sha1()
    for _ in range(size // len(block)):
        digest.update(block)
    digest.update(block[: size % len(block)])
    return digest.hexdigest()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=25)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=1 << 30)
    parser.add_argument("--slow", type=float, default=None, help="pause factor of the clients (sanitizer builds)")
    arguments = parser.parse_args()
    os.environ["MOONGATE_BINARY"] = str(pathlib.Path(arguments.binary).resolve())
    import exposition
    import harness

    sanitized = "tsan" in arguments.binary or "dev" in arguments.binary
    slow = arguments.slow or (4 if sanitized else 1)
    apps = [harness.Echo(f"echo-{n}") for n in range(SERVICES)]
    manifests = {"apps.json": [item for n, app in enumerate(apps) for item in (harness.service(f"echo-{n}"), *harness.slice_of([app.port], f"echo-{n}"))]}
    for number in range(arguments.hosts):
        manifests[f"host-{number}.json"] = host_documents(harness, number, 0)
    scratch = pathlib.Path(apps[0].name + "-certs")
    import tempfile
    scratch = pathlib.Path(tempfile.mkdtemp())
    certificates = [harness.certificate(scratch, name, ["tls.example"]) for name in ("one", "two")]
    manifests["secret.json"] = [harness.tls_secret("cert", *certificates[0])]
    manifests["tls.json"] = [harness.ingress("tls", "tls.example", service_name="echo-0", tls="cert")]
    flags = ["--enable-metrics", "--time-buckets=0.01,0.1,1", "--length-buckets=1000", "--size-buckets=1000000"]
    proxy = harness.Moongate(manifests, flags=flags, workers=arguments.workers, policies={"churn.lua": POLICY % 0}, expect_errors=[".*"])
    print(f"started with {arguments.hosts} hosts")

    load = Load(proxy.http_port, slow)
    load.thread.start()
    fast, slow_one = Download(proxy.http_port, arguments.size), Download(proxy.http_port, 10 << 30, 1 << 20)
    changes = Changes(harness, proxy, arguments.rate, certificates)
    worker = threading.Thread(target=changes.run, args=(arguments.seconds, arguments.hosts))
    worker.start()
    started, samples = time.monotonic(), []
    while worker.is_alive():
        families = exposition.parse(proxy.admin("/metrics").text)
        samples.append((time.monotonic() - started, *(int(exposition.one(families, "moongate_" + name)) for name in ("live_roots", "superseded_units", "resident_memory_bytes"))))
        time.sleep(0.25)
    fast.thread.join(120)
    slow_bytes, slow_alive = slow_one.received, slow_one.process.poll() is None
    load.stopping = True
    slow_one.process.kill()
    load.thread.join(30)
    problems = []

    def promise(holds, text):
        print(("ok      " if holds else "BROKEN  ") + text)
        if not holds:
            problems.append(text)

    elapsed = samples[-1][0]
    latencies = sorted(changes.latencies)
    promise(load.failures == 0 and load.requests > 100, f"{load.requests} requests, {load.failures} failed")
    promise(load.websocket_failures == 0 and load.echoes > 100, f"{load.echoes} WebSocket echoes, {load.websocket_failures} WebSockets closed or wrong")
    promise(not fast.thread.is_alive() and fast.received == arguments.size and fast.hash.hexdigest() == pattern_hash(arguments.size), f"download of {fast.received} bytes, hash compared")
    promise(slow_alive and slow_bytes > (1 << 20) * elapsed * 0.5, f"slow download goes on: {slow_bytes >> 20} MiB in {elapsed:.0f} s")
    promise(changes.made / elapsed >= (20 if not sanitized else 5), f"{changes.made} changes in {elapsed:.1f} s ({changes.hot} hot, {changes.broken} broken)")
    promise(changes.seen >= 0.9 * changes.expected, f"{changes.seen} of {changes.expected} changes seen live, p50 {latencies[len(latencies) // 2]:.1f} ms, p99 {latencies[len(latencies) * 99 // 100]:.1f} ms")
    most = max(sample[1] for sample in samples)
    promise(most <= arguments.workers + 1, f"live roots at most {most} ({arguments.workers} workers)")
    try:
        harness.wait_until(lambda: proxy.metric("moongate_live_roots") == 1 and proxy.metric("moongate_superseded_units") == 0, 15)
    except AssertionError:
        pass
    promise(proxy.metric("moongate_live_roots") == 1 and proxy.metric("moongate_superseded_units") == 0,
            f"after: {proxy.metric('moongate_live_roots')} live root, {proxy.metric('moongate_superseded_units')} superseded units")
    if elapsed >= 25 and not sanitized:
        early = next(sample[3] for sample in samples if sample[0] >= 10)
        late = [sample[3] for sample in samples if sample[0] >= elapsed - 5]
        ratio = sum(late) / len(late) / early
        promise(ratio <= 1.02, f"resident memory {early >> 10} KiB at 10 s, {ratio:.3f} of it in the last 5 s")
    proxy.process.terminate()
    try:
        code = proxy.process.wait(60)
    except subprocess.TimeoutExpired:
        proxy.kill()
        code = "no"
    proxy.errors.thread.join(5)
    races = [line for line in proxy.errors.all() if "ThreadSanitizer" in line or "AddressSanitizer" in line or "runtime error" in line]
    promise(code == 0 and not races, f"exit status {code}, {len(races)} sanitizer reports")
    for line in load.notes:
        print("  " + line)
    if races:
        lines = proxy.errors.all()
        first = next(i for i, line in enumerate(lines) if line == races[0])
        print("\n".join(lines[first:first + 60]))
    for app in apps:
        app.stop()
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
