#!/usr/bin/env python3
"""Many hosts, each with a Service and an EndpointSlice of its own: how long a start takes, what memory they hold, how soon one changed Ingress is served, with a file for each Ingress and with one file of them all,
and how long the admission webhook takes to answer, at rest and while changes arrive.

Not a test of CI's every run: it measures, and fails where a change takes longer than --limit at p99. The time counts from the end of the rename.
"""
import argparse
import http.client
import json
import os
import pathlib
import random
import shutil
import socket
import ssl
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

def document(harness, number, version):
    return harness.ingress(f"app-{number}", f"host-{number}.example", "/", f"echo-{number}",
                           annotations={"nginx.ingress.kubernetes.io/permanent-redirect": f"/v/{version}"})


class Files:
    """Each Ingress in a file of its own."""

    name = "files"

    def __init__(self, harness, count):
        self.harness, self.count = harness, count

    def manifests(self):
        return {f"host-{n}.json": json.dumps(document(self.harness, n, 0)) for n in range(self.count)}

    def text(self, number, version):
        return f"host-{number}.json", json.dumps(document(self.harness, number, version))


class OneFile:
    """All Ingresses in one YAML file."""

    name = "one file"

    def __init__(self, harness, count):
        self.harness = harness
        self.documents = [self.yaml(n, 0) for n in range(count)]

    def yaml(self, number, version):
        return ("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n"
                f"  name: app-{number}\n  namespace: default\n  annotations:\n    nginx.ingress.kubernetes.io/permanent-redirect: /v/{version}\n"
                f"spec:\n  ingressClassName: nginx\n  rules:\n    - host: host-{number}.example\n      http:\n        paths:\n"
                f"          - path: /\n            pathType: Prefix\n            backend:\n              service:\n                name: echo-{number}\n"
                "                port:\n                  number: 80\n")

    def manifests(self):
        return {"all.yaml": "---\n".join(self.documents)}

    def text(self, number, version):
        self.documents[number] = self.yaml(number, version)
        return "all.yaml", "---\n".join(self.documents)


class Client:
    """One kept connection, and the last answer's body."""

    def __init__(self, port):
        self.port, self.connection = port, socket.create_connection(("127.0.0.1", port), 10)

    def ask(self, host):
        self.connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            part = self.connection.recv(65536)
            if not part:  # closed after its number of requests
                self.connection.close()
                self.connection = socket.create_connection(("127.0.0.1", self.port), 10)
                return self.ask(host)
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        while len(body) < length:
            body += self.connection.recv(65536)
        self.body = body
        return head + b"\r\n"


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def age(pid):
    """Seconds since a process began."""
    ticks = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def services(harness, count):
    return [item for n in range(count) for item in (harness.service(f"echo-{n}"), *harness.slice_of([9], f"echo-{n}"))]


def measure_empty(harness, arguments):
    """Memory without any of it."""
    proxy = harness.Moongate({}, workers=arguments.workers)
    try:
        return proxy.metric("moongate_resident_memory_bytes")
    finally:
        proxy.stop()
        shutil.rmtree(proxy.folder, ignore_errors=True)


def measure(harness, layout, arguments):
    empty = measure_empty(harness, arguments)
    proxy = harness.Moongate({"services.json": services(harness, arguments.hosts), **layout.manifests()}, workers=arguments.workers, expect_errors=[".*"])
    try:
        client = Client(proxy.http_port)
        while b"/v/0\r\n" not in client.ask(f"host-{arguments.hosts - 1}.example"):
            time.sleep(0.002)
        start = age(proxy.process.pid)
        at_start = proxy.metric("moongate_resident_memory_bytes")
        generator, latencies, lost = random.Random(arguments.hosts), [], 0
        for version in range(1, arguments.changes + 1):
            number = generator.randrange(arguments.hosts)
            name, text = layout.text(number, version)
            part = proxy.manifests / f".{name}.part"
            part.write_text(text)
            wanted, host = f"/v/{version}\r\n".encode(), f"host-{number}.example"
            part.rename(proxy.manifests / name)
            changed = time.monotonic()
            while wanted not in client.ask(host):
                if time.monotonic() - changed > 5:
                    lost += 1
                    break
                time.sleep(0.0005)
            latencies.append((time.monotonic() - changed) * 1000)
        after = proxy.metric("moongate_resident_memory_bytes")
    finally:
        proxy.process.terminate()
        code = proxy.process.wait(30)
    p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
    holds = p99 <= arguments.limit and not lost and code == 0
    each = (at_start - empty) / arguments.hosts / 1024
    print(f"{'ok      ' if holds else 'BROKEN  '}{arguments.hosts} Ingresses, {layout.name}: start {start:.2f} s, {at_start >> 20} MiB ({each:.1f} KiB each), "
          f"after {arguments.changes} changes {after >> 20} MiB; a change is served in p50 {p50:.1f} ms, p99 {p99:.1f} ms, at most {max(latencies):.1f} ms; "
          f"{lost} lost", flush=True)
    return holds


def review_text(harness, number, hosts):
    """Every second one is refused: its path is taken."""
    made = document(harness, number % hosts if number % 2 else hosts + number, 0)
    made["metadata"].update({"name": f"new-{number}", "namespace": "default"})
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": str(number), "operation": "CREATE", "object": made, "resource": {"group": "networking.k8s.io", "version": "v1", "resource": "ingresses"}}})


def ask_reviews(harness, port, arguments):
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=ssl._create_unverified_context())
    texts = [review_text(harness, number, arguments.hosts) for number in range(arguments.reviews)]
    latencies = []
    for number, text in enumerate(texts):
        began = time.monotonic()
        connection.request("POST", "/networking/v1/ingresses", text, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        latencies.append((time.monotonic() - began) * 1000)
        assert answer["response"]["allowed"] is (number % 2 == 0), answer
    connection.close()
    return latencies


def measure_reviews(harness, arguments):
    layout = Files(harness, arguments.hosts)
    folder = pathlib.Path(harness.tempfile.mkdtemp(prefix="moongate-"))
    for name, text in zip(("cert", "key"), harness.certificate(folder, "webhook", ["webhook.test"])):
        (folder / name).write_text(text)
    proxy = harness.Moongate({"services.json": services(harness, arguments.hosts), **layout.manifests()}, workers=arguments.workers, expect_errors=[".*"], flags=[
        "--validating-webhook", "127.0.0.1:0", "--validating-webhook-certificate", str(folder / "cert"), "--validating-webhook-key", str(folder / "key")])
    results = []
    try:
        port = int(harness.wait_until(lambda: proxy.errors.find(r"admission webhook listens.* port=(\d+)")).group(1))
        results.append(("at rest", ask_reviews(harness, port, arguments)))
        is_over = threading.Event()

        def change():
            generator, version = random.Random(1), 0
            while not is_over.wait(0.01):
                version += 1
                proxy.write(*layout.text(generator.randrange(arguments.hosts), version))

        changes = threading.Thread(target=change)
        changes.start()
        try:
            results.append(("under 100 changes a second", ask_reviews(harness, port, arguments)))
        finally:
            is_over.set()
            changes.join()
    finally:
        proxy.process.terminate()
        code = proxy.process.wait(30)
        for one in (folder, proxy.folder):
            shutil.rmtree(one, ignore_errors=True)
    for when, latencies in results:
        p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
        holds = p99 <= arguments.limit and code == 0
        print(f"{'ok      ' if holds else 'BROKEN  '}{arguments.hosts} Ingresses, {len(latencies)} reviews {when}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, "
              f"at most {max(latencies):.1f} ms", flush=True)
        yield holds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--hosts", type=int, default=10000)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--reviews", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=20, help="ms that a change may take at p99")
    arguments = parser.parse_args()
    os.environ["MOONGATE_BINARY"] = str(pathlib.Path(arguments.binary).resolve())
    import harness

    results = [measure(harness, layout(harness, arguments.hosts), arguments) for layout in (Files, OneFile)] if arguments.changes else []
    results += measure_reviews(harness, arguments) if arguments.reviews else []
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
