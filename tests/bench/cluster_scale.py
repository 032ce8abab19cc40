#!/usr/bin/env python3
"""Many Ingresses in a real API server, each with a Service and an EndpointSlice of its own: how long Moongate takes until it is ready, how soon a write is
served, at rest and while changes come without a pause, what it holds in memory, what it costs meanwhile, and whether a request is lost.

Needs root and Go (tests/cluster), and takes some minutes: most of it the server's, for the objects. A write counts from the API server's answer to it until the first request that is served by it; what the server itself
takes to tell a watcher is measured by a watch of our own and printed apart. Everything runs on one machine: its API server and its etcd take their share
of the CPU too.
"""
import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "cluster"), str(ROOT / "tests" / "e2e")]
os.environ.setdefault("MOONGATE_BINARY", str(ROOT / "build" / "moongate"))

import cluster as clusters  # noqa: E402
import controllers  # noqa: E402
import namespace  # noqa: E402
import spaces  # noqa: E402
from harness import BINARY  # noqa: E402
from scale import Client, age, percentile  # noqa: E402

NETWORKING, DISCOVERY = "/apis/networking.k8s.io/v1", "/apis/discovery.k8s.io/v1"
ORIGINS = ("198.51.100.1", "198.51.100.2")  # the API server takes no loopback address as an endpoint
PORT = 8080
REDIRECT = "nginx.ingress.kubernetes.io/permanent-redirect"
MERGE = "application/merge-patch+json"
MOVED_FIRST = 1000  # hosts whose answers the load asks for and the stream of changes touches; the probes are of the others


class World:
    """The objects, by number."""

    def __init__(self, cluster, space):
        self.cluster, self.space = cluster, space

    def ingress(self, number):
        return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                "metadata": {"name": f"app-{number}", "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": "60"}},
                "spec": {"ingressClassName": "nginx", "rules": [{"host": host(number), "http": {"paths": [
                    {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": f"app-{number}", "port": {"number": 80}}}}]}}]}}

    def service(self, number):
        """Without an address of its own: the more there are, the longer the server takes to find one that is free."""
        return {"metadata": {"name": f"app-{number}"}, "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80, "targetPort": PORT}]}}

    def slice(self, number):
        return {"metadata": {"name": f"app-{number}-1", "labels": {"kubernetes.io/service-name": f"app-{number}"}}, "addressType": "IPv4",
                "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}], "endpoints": [endpoint(0)]}

    def create(self, number):
        for resource, group, made in (("services", "/api/v1", self.service), ("endpointslices", DISCOVERY, self.slice), ("ingresses", NETWORKING, self.ingress)):
            self.cluster.api("POST", self.space.path(resource, group), made(number))

    def patch_ingress(self, number, version, annotations):
        self.patch("ingresses", NETWORKING, f"app-{number}", {"metadata": {"annotations": {"bench/version": version, **annotations}}})

    def patch_slice(self, number, version, origin):
        self.patch("endpointslices", DISCOVERY, f"app-{number}-1", {"metadata": {"annotations": {"bench/version": version}}, "endpoints": [endpoint(origin)]})

    def patch(self, resource, group, name, body):
        self.cluster.api("PATCH", self.space.path(resource, group) + "/" + name, body, MERGE)


def host(number):
    return f"app-{number}.bench.example"


def endpoint(origin):
    return {"addresses": [ORIGINS[origin]], "conditions": {"ready": True, "serving": True, "terminating": False}}


class Watch:
    """When the server told of a version, as another watcher saw it."""

    def __init__(self, world, resource, group):
        self.cluster, path = world.cluster, world.space.path(resource, group)
        version = self.cluster.api("GET", path + "?limit=1")["metadata"]["resourceVersion"]
        self.times, self.changed = {}, threading.Condition()
        threading.Thread(target=self._read, args=(f"{path}?watch=true&resourceVersion={version}",), daemon=True).start()

    def _read(self, path):
        connection = self.cluster._connect()  # this thread's own
        connection.request("GET", path)
        answer = connection.getresponse()
        connection.sock.settimeout(None)
        with contextlib.suppress(OSError):  # the end of the server
            while line := answer.readline():
                now = time.monotonic()
                version = json.loads(line)["object"]["metadata"].get("annotations", {}).get("bench/version")
                with self.changed:
                    self.times[version] = now
                    self.changed.notify_all()

    def when(self, version):
        with self.changed:
            self.changed.wait_for(lambda: version in self.times, 10)
            return self.times.pop(version, None)


class Probe:
    """Makes one change after the other, and waits for the first answer that shows each."""

    def __init__(self, world, client, watches, numbers):
        self.world, self.client, self.watches, self.numbers = world, client, watches, numbers
        self.origins, self.count = {}, 0

    def ingress(self, number, version):
        self.world.patch_ingress(number, version, {REDIRECT: f"/v/{version}"})
        return f"/v/{version}\r\n".encode(), None

    def endpoint(self, number, version):
        origin = self.origins[number] = 1 - self.origins.get(number, 0)
        self.world.patch_slice(number, version, origin)
        return None, f"origin-{origin}".encode()

    def run(self, kind, changes, generator):
        """Seconds of each until it is live, and until our own watch saw it; and how many never were."""
        change, live, told, lost = getattr(self, kind), [], [], 0
        for _ in range(changes):
            self.count += 1
            number, version = generator.choice(self.numbers[kind]), f"{kind}-{self.count}"
            in_head, in_body = change(number, version)
            answered = time.monotonic()
            while not self.shows(host(number), in_head, in_body):
                if time.monotonic() - answered > 10:
                    lost += 1
                    break
                time.sleep(0.0005)
            live.append(time.monotonic() - answered)
            seen = self.watches[kind].when(version)
            told.append(max(0, seen - answered) if seen else 10)
        return live, told, lost

    def shows(self, name, in_head, in_body):
        answer = self.client.ask(name)
        return in_head in answer if in_head else in_body in self.client.body


def paced(rate, is_over, act):
    """Calls act() so often a second."""
    due = time.monotonic()
    while not is_over.is_set():
        act()
        due += 1 / rate
        is_over.wait(max(0, due - time.monotonic()))


class Stream:
    """Changes without a pause, and a constant load of requests to the hosts that they touch."""

    def __init__(self, world, port, rate, load):
        self.world, self.port, self.rate, self.load = world, port, rate, load
        self.is_over, self.lock = threading.Event(), threading.Lock()
        self.changes = self.requests = self.lost = 0
        self.answers = {}

    def __enter__(self):
        writers = 4
        self.threads = [threading.Thread(target=paced, args=(self.rate / writers, self.is_over, self.changer(n))) for n in range(writers)]
        self.threads.append(threading.Thread(target=self.asker))
        self.began = time.monotonic()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *unused):
        self.seconds = time.monotonic() - self.began
        self.is_over.set()
        for thread in self.threads:
            thread.join()

    def changer(self, seed):
        generator = random.Random(seed)

        def change():
            number = generator.randrange(MOVED_FIRST)
            if generator.random() < 0.5:
                self.world.patch_ingress(number, "stream", {"nginx.ingress.kubernetes.io/proxy-read-timeout": str(generator.randrange(30, 90))})
            else:
                self.world.patch_slice(number, "stream", generator.randrange(2))
            with self.lock:
                self.changes += 1
        return change

    def asker(self):
        client, generator = Client(self.port), random.Random(7)

        def ask():
            nonlocal client
            self.requests += 1
            try:
                status = client.ask(host(generator.randrange(MOVED_FIRST))).split(b" ", 2)[1].decode()
            except OSError as error:
                status, client = type(error).__name__, Client(self.port)
            if status != "200":
                self.lost += 1
                self.answers[status] = self.answers.get(status, 0) + 1
        paced(self.load, self.is_over, ask)


class Report:
    def __init__(self):
        self.rows, self.holds = [], True

    def add(self, what, value, unit, target=None, form=".1f"):
        is_met = target is None or value <= target
        self.holds = self.holds and is_met
        shown = f"{value:{form}} {unit}".strip()
        self.rows.append((what, shown, "" if target is None else f"<= {target:g} {unit}".strip(), "" if is_met else "MISSED"))
        print(f"  {what}: {shown}" + ("" if is_met else f"  MISSED ({target:g})"), flush=True)

    def add_times(self, what, live, told, lost, target):
        self.add(f"{what}: median", percentile(live, 0.5) * 1000, "ms")
        self.add(f"{what}: p99", percentile(live, 0.99) * 1000, "ms", target)
        self.add(f"{what}: of it until a watch is told, median", percentile(told, 0.5) * 1000, "ms")
        self.add(f"{what}: of it until a watch is told, p99", percentile(told, 0.99) * 1000, "ms")
        self.add(f"{what}: never live", lost, "", 0, "d")

    def show(self):
        widths = [max(len(row[i]) for row in self.rows) for i in range(3)]
        print()
        for row in [("", "value", "target", ""), *self.rows]:
            print("  ".join((row[0].ljust(widths[0]), row[1].rjust(max(widths[1], 5)), row[2].rjust(max(widths[2], 6)), row[3])).rstrip())


class ChangeTimes:
    """Moongate's own histogram: from the moment that it knew of a change until all workers had it."""

    def __init__(self, proxy):
        self.proxy, self.before = proxy, self.read(proxy)

    @staticmethod
    def read(proxy):
        text = proxy.admin("/metrics").text
        return [(float(bound), int(count)) for bound, count in re.findall(r'^moongate_change_to_live_seconds_bucket\{le="([^"]+)"\} (\d+)$', text, re.M)]

    def percentile(self, share):
        """Milliseconds: the bound of the bucket that holds it."""
        since = [(bound, after - before) for (bound, after), (_, before) in zip(self.read(self.proxy), self.before)]
        return next(bound for bound, count in since if count >= since[-1][1] * share) * 1000


class Cpu:
    """What a process took of the CPUs since this was made, and how long its threads were ready to run and had none; in percent of one."""

    def __init__(self, process):
        self.process, self.began, self.before = process, time.monotonic(), self.read(process)

    @staticmethod
    def read(process):
        fields = [path.read_text().split() for path in pathlib.Path(f"/proc/{process.pid}/task").glob("*/schedstat")]
        return [sum(int(one[i]) for one in fields) / 1e9 for i in (0, 1)]

    def shares(self):
        seconds = time.monotonic() - self.began
        return [(now - before) / seconds * 100 for now, before in zip(self.read(self.process), self.before)]


def create(world, count):
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for done in pool.map(world.create, range(count)):
            assert done is None
    print(f"{3 * count} objects created in {time.monotonic() - began:.0f} s", flush=True)


def start(cluster, space, folder, token, pod):
    """A controller that is ready; and the seconds it took."""
    made = controllers.Controller(cluster, space, folder, user={"token": token}, expect_errors=[".*"], pod=pod, workers=2, is_ready=False,
                                  flags=["--update-status=false", "--enable-metrics=true"])
    made.wait_ready(120)
    return made, age(made.process.pid)


def measure(cluster, folder, arguments, report):
    space = spaces.Space(cluster, "bench")
    space.apply([spaces.ingress_class()])
    controllers.apply_rights(cluster, space)
    token, world = cluster.token("moongate", space.name, "3h"), World(cluster, space)
    empty, _ = start(cluster, space, folder, token, "empty")
    base = empty.metric("moongate_resident_memory_bytes")
    empty.kill()
    create(world, arguments.ingresses)
    proxy, seconds = start(cluster, space, folder, token, "bench-0")
    try:
        report.add("start to ready", seconds, "s", 5, ".2f")
        held = proxy.metric("moongate_resident_memory_bytes")
        report.add("resident memory for each Ingress with its Service and slice", (held - base) / arguments.ingresses / 1024, "KiB", 8)
        report.add("resident memory without and with all of them", base / 2**20, "MiB", form=".0f")
        report.add("... with", held / 2**20, "MiB", form=".0f")
        time.sleep(5)  # what a start leaves behind: elections, Events
        cpu = Cpu(proxy.process)
        time.sleep(arguments.seconds)
        report.add("CPU at rest", cpu.shares()[0], "% of a core", form=".2f")
        client = Client(proxy.http_port)
        watches = {"ingress": Watch(world, "ingresses", NETWORKING), "endpoint": Watch(world, "endpointslices", DISCOVERY)}
        others = list(range(MOVED_FIRST, arguments.ingresses))
        probe = Probe(world, client, watches, {"ingress": others[0::2], "endpoint": others[1::2]})
        generator = random.Random(1)
        report.add_times("an Ingress's write is served", *probe.run("ingress", arguments.changes, generator), 50)
        report.add_times("an endpoint's change is served", *probe.run("endpoint", arguments.changes, generator), 50)
        with Stream(world, proxy.http_port, arguments.rate, arguments.load) as stream:
            cpu, own = Cpu(proxy.process), ChangeTimes(proxy)
            under = probe.run("ingress", arguments.changes, generator), probe.run("endpoint", arguments.changes, generator)
            (used, waited), inside = cpu.shares(), own.percentile(0.99)
        report.add("changes a second meanwhile", stream.changes / stream.seconds, "", form=".0f")
        report.add_times("under changes, an Ingress's write is served", *under[0], 50)
        report.add_times("under changes, an endpoint's change is served", *under[1], 50)
        report.add("under changes, from knowing of any change until all workers have it: p99 within", inside, "ms")
        report.add("CPU meanwhile", used, "% of a core")
        report.add("... and ready to run, but others had the cores", waited, "% of a core")
        report.add(f"requests lost of {stream.requests} meanwhile", stream.lost, "", 0, "d")
        if stream.answers:
            print("  answers:", stream.answers)
        after = proxy.metric("moongate_resident_memory_bytes")
        report.add("resident memory for each Ingress after it", (after - base) / arguments.ingresses / 1024, "KiB")
        for number in range(arguments.ingresses):
            client.ask(host(number))
        report.add("series of request metrics, for each Ingress that was asked", (proxy.metric("moongate_resident_memory_bytes") - after) / arguments.ingresses / 1024, "KiB")
    finally:
        proxy.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ingresses", type=int, default=10000)
    parser.add_argument("--changes", type=int, default=200, help="of each kind, at rest and again under the stream of changes")
    parser.add_argument("--rate", type=float, default=100, help="changes a second")
    parser.add_argument("--load", type=float, default=200, help="requests a second while they come")
    parser.add_argument("--seconds", type=float, default=15, help="that CPU at rest is looked at")
    arguments = parser.parse_args()
    if arguments.ingresses < MOVED_FIRST + 2:
        parser.error(f"--ingresses must be more than {MOVED_FIRST + 1}")
    sys.setswitchinterval(0.0005)  # else our own threads wait for each other, 5 ms at a time
    clusters.tools()
    namespace.enter()
    for address in ORIGINS:
        subprocess.run(["ip", "address", "add", address + "/32", "dev", "lo"], check=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="moongate-bench-"))
    cluster, origins, report = clusters.Cluster(folder / "cluster"), [], Report()
    try:
        origins = [subprocess.Popen([BINARY, "echo", "--quiet", "--listen", f"{address}:{PORT}", "--name", f"origin-{i}"], stdout=subprocess.DEVNULL, cwd=ROOT,
                                    preexec_fn=namespace.die_with_us) for i, address in enumerate(ORIGINS)]
        cluster.start_server()
        (folder / "controllers").mkdir()
        measure(cluster, folder / "controllers", arguments, report)
    finally:
        for origin in origins:
            origin.kill()
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{' '.join(sys.argv)}: {arguments.ingresses} Ingresses; {os.cpu_count()} cores for everything, load average {os.getloadavg()[0]:.1f}")
    report.show()
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
