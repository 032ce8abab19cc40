"""Compares build/moongate with nginx and HAProxy: CPU time per request and requests per second, one worker each.

The proxies run pinned to one core; the origin (an nginx) and wrk share another. All on loopback. Scenarios are measured interleaved, one run of each target
in each repetition, and a target's figure is divided by nginx's of the same repetition: absolute figures swing with the machine, ratios less.
A run is valid if every answer was 2xx and no proxy opened connections to the origin for more than 1% of its requests more than another; else the
repetition is run again. Figures are printed and written to build/bench/results.json; configurations and logs stay in build/bench.
"""

import argparse
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import checks
import configs
from processes import Process, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OUT = os.path.join(ROOT, "build", "bench")
TARGETS = ("nginx", "haproxy", "moongate")
SCENARIOS = {  # name: (TLS, what follows the prefix)
    "h1-small": (False, ""),
    "h1-10k": (False, "/large"),
    "tls-keepalive": (True, ""),
}
WARM_UP_SECONDS = 1
TRIES = 3
RECONNECTS_DIFFER_MOST = 0.01


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def cores():
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        sys.exit("bench: two cores are needed, one for the proxies and one for the origin and the load")
    return allowed[0], allowed[1]


def make_certificate(directory):
    key, certificate = os.path.join(directory, "tls.key"), os.path.join(directory, "tls.crt")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=bench.test -addext subjectAltName=DNS:*.bench.test"
    subprocess.run(command.split() + ["-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)
    with open(certificate, encoding="ascii") as file:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read())).hexdigest()


def origin_accepts(port):
    """Connections that the origin accepted so far, this question's own left out."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/status")
    text = connection.getresponse().read().decode()
    connection.close()
    origin_accepts.asked += 1
    return int(re.search(r"requests\s+(\d+)", text).group(1)) - origin_accepts.asked


origin_accepts.asked = 0


class Stage:
    """The origin and all targets, for plain or for TLS scenarios."""

    def __init__(self, tls, options):
        self.tls = tls
        self.options = options
        self.processes = {}
        self.plans = {}
        self.directory = os.path.join(OUT, "tls" if tls else "plain")
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)
        self.certificate = make_certificate(self.directory)
        self.proxy_core, self.load_core = cores()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def run(self, name, command, core):
        process = Process(name, command, core, os.path.join(self.directory, name + ".log"))
        self.processes[name] = process
        return process

    def start(self):
        origin_port, status_port, *ports = free_ports(2 + 3 * len(TARGETS))
        base = configs.Plan(self.directory, self.options.hosts, self.tls, origin_port, status_port)
        origin_accepts.asked = 0
        self.status_port = status_port
        self.run("origin", ["nginx", "-c", configs.origin(base), "-e", os.path.join(self.directory, "origin-start.log")], self.load_core)
        for number, target in enumerate(self.options.target):
            port, other, health = ports[3 * number : 3 * number + 3]
            plan = replace(base, port=port, other_port=other, health_port=health)
            self.plans[target] = plan
            if target == "nginx":
                command = ["nginx", "-c", configs.nginx(plan), "-e", os.path.join(self.directory, "nginx-start.log")]
            elif target == "haproxy":
                command = ["haproxy", "-db", "-f", configs.haproxy(plan)]
            else:
                command = [self.options.moongate] + configs.moongate(plan)
            process = self.run(target, command, self.proxy_core)
            wait_until("an answer 200", lambda port=port: checks.answers(port, self.tls), process)
        faults = [fault for target, plan in self.plans.items() for fault in checks.faults_of(target, plan, self.certificate)]
        if faults:
            raise SystemExit("bench: the proxies do not do the same work:\n  " + "\n  ".join(faults))

    def stop(self):
        for process in reversed(list(self.processes.values())):
            status = process.stop()
            if status not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
                print(f"bench: {process.name} ended with status {status} (log: {process.log})", file=sys.stderr)
        self.processes = {}

    def wrk(self, target, suffix, seconds):
        url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.plans[target].port}/"
        script = os.path.join(ROOT, "tests", "bench", "rotate.lua")
        command = ["wrk", "-t1", f"-c{self.options.connections}", f"-d{seconds}s", "-s", script, url, "--", str(self.options.hosts), suffix]
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {self.load_core}), check=False)
        found = re.search(r"^RESULT (\{.*\})$", done.stdout, re.M)
        self.processes[target].fail_if_ended()
        if done.returncode or not found:
            raise SystemExit(f"wrk failed on {target}: {done.stdout}{done.stderr}")
        return json.loads(found.group(1))

    def measure(self, target, suffix):
        process = self.processes[target]
        self.wrk(target, suffix, WARM_UP_SECONDS)
        accepts, cpu, ticks = origin_accepts(self.status_port), process.cpu_nanoseconds(), process.user_share_ticks()
        begin = time.monotonic()
        result = self.wrk(target, suffix, self.options.seconds)
        elapsed = time.monotonic() - begin
        cpu = process.cpu_nanoseconds() - cpu
        user, system = (after - before for after, before in zip(process.user_share_ticks(), ticks))
        process.fail_if_ended()
        requests = max(result["requests"], 1)
        return {
            "target": target,
            "requests": result["requests"],
            "requests_per_second": result["requests"] / result["seconds"],
            "cpu_us_per_request": cpu / 1000 / requests,
            "user_share": user / max(user + system, 1),
            "core_use": cpu / 1e9 / elapsed,
            "connections_opened": origin_accepts(self.status_port) - accepts,
            "errors": sum(result[key] for key in ("connect_errors", "read_errors", "write_errors", "status_errors", "timeouts")),
            "p50_us": result["p50_us"],
            "p99_us": result["p99_us"],
        }


def why_invalid(runs):
    for run in runs:
        if run["errors"] or run["requests"] == 0:
            return f"{run['target']}: {run['errors']} errors in {run['requests']} requests"
    shares = {run["target"]: run["connections_opened"] / run["requests"] for run in runs}
    if max(shares.values()) - min(shares.values()) > RECONNECTS_DIFFER_MOST:
        return "connections opened to the origin per request differ by more than 1%: " + ", ".join(f"{target} {share:.4f}" for target, share in shares.items())
    return None


def repetition(stage, number, suffix):
    targets = list(stage.options.target)
    order = targets[number % len(targets) :] + targets[: number % len(targets)]
    for _ in range(TRIES):
        runs = [stage.measure(target, suffix) for target in order]
        reason = why_invalid(runs)
        if reason is None:
            runs = {run["target"]: run for run in runs}
            for run in runs.values():
                run["ratio"] = run["cpu_us_per_request"] / runs["nginx"]["cpu_us_per_request"] if "nginx" in runs else None
            return runs
        print(f"    invalid, again: {reason}", flush=True)
    raise SystemExit(f"bench: no valid run in {TRIES} tries: {reason}")


HEADINGS = f"  {'':14}{'target':10}{'req/s':>9}{'CPU us/req':>12}{'/ nginx':>9}{'user':>7}{'core':>7}{'opened':>8}{'p50 us':>9}{'p99 us':>9}"


def row(label, run):
    ratio = f"{run['ratio']:9.3f}" if run["ratio"] is not None else f"{'-':>9}"
    return (
        f"  {label:14}{run['target']:10}{run['requests_per_second']:9.0f}{run['cpu_us_per_request']:12.2f}{ratio}{run['user_share']:7.0%}"
        f"{run['core_use']:7.0%}{run['connections_opened']:8.0f}{run['p50_us']:9.0f}{run['p99_us']:9.0f}"
    )


def best(runs):
    """The cheapest run: what is left when the machine is quiet."""
    return min(runs, key=lambda run: run["cpu_us_per_request"])


def medians(target, runs):
    keys = [key for key in runs[0] if key != "target"]
    return {"target": target, **{key: statistics.median(run[key] for run in runs) if runs[0][key] is not None else None for key in keys}}


def measure_scenario(stage, name, suffix):
    print(f"\n{name}: {stage.options.connections} connections, {stage.options.hosts} hosts, {stage.options.seconds} s a run", flush=True)
    print(HEADINGS, flush=True)
    repetitions = []
    for number in range(stage.options.repetitions):
        runs = repetition(stage, number, suffix)
        repetitions.append(runs)
        for target in stage.options.target:
            print(row(f"repetition {number + 1}" if target == stage.options.target[0] else "", runs[target]), flush=True)
    middle = {target: medians(target, [runs[target] for runs in repetitions]) for target in stage.options.target}
    for target in stage.options.target:
        print(row("median" if target == stage.options.target[0] else "", middle[target]), flush=True)
    cheapest = {target: dict(best([runs[target] for runs in repetitions])) for target in stage.options.target}
    for run in cheapest.values():
        run["ratio"] = run["cpu_us_per_request"] / cheapest["nginx"]["cpu_us_per_request"] if "nginx" in cheapest else None
    for target in stage.options.target:
        print(row("cheapest run" if target == stage.options.target[0] else "", cheapest[target]), flush=True)
    return {"repetitions": repetitions, "medians": middle, "cheapest": cheapest}


def versions(options):
    def said(command):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return (done.stdout + done.stderr).strip().splitlines()[0]

    commands = {"nginx": ["nginx", "-v"], "haproxy": ["haproxy", "-v"], "moongate": [options.moongate, "version"]}
    return {target: said(commands[target]) for target in options.target}


def parse_options():
    parser = argparse.ArgumentParser(prog="tests/bench/run.sh", description="CPU per request of Moongate beside nginx and HAProxy.")
    parser.add_argument("--seconds", type=int, default=5, help="of one run (5)")
    parser.add_argument("--repetitions", type=int, default=5, help="of each scenario (5)")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this one (repeatable)")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one (repeatable)")
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--moongate", default=os.path.join(ROOT, "build", "moongate"), help="the program to measure (build/moongate)")
    options = parser.parse_args()
    if min(options.seconds, options.repetitions, options.hosts, options.connections) < 1:
        parser.error("numbers are at least 1")
    options.scenario = [name for name in SCENARIOS if not options.scenario or name in options.scenario]
    options.target = [name for name in TARGETS if not options.target or name in options.target]
    if "moongate" in options.target and not os.access(options.moongate, os.X_OK):
        sys.exit(f"bench: {options.moongate} is not there (make build)")
    return options


def main():
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes are ended then too
    os.makedirs(OUT, exist_ok=True)
    results = {"versions": versions(options), "seconds": options.seconds, "hosts": options.hosts, "connections": options.connections, "scenarios": {}}
    print("\n".join(f"{target}: {version}" for target, version in results["versions"].items()))
    print(f"load average {os.getloadavg()[0]:.2f} (other work on the machine widens the spread)")
    for tls in (False, True):
        names = [name for name in options.scenario if SCENARIOS[name][0] == tls]
        if not names:
            continue
        with Stage(tls, options) as stage:
            for name in names:
                results["scenarios"][name] = measure_scenario(stage, name, SCENARIOS[name][1])
    with open(os.path.join(OUT, "results.json"), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    if "nginx" in options.target:
        print("\nCPU per request over nginx's: median of the repetitions (ratio of the cheapest runs)")
        for name, result in results["scenarios"].items():
            said = [f"{target} {result['medians'][target]['ratio']:.3f} ({result['cheapest'][target]['ratio']:.3f})" for target in options.target]
            print(f"  {name:16}" + "   ".join(said))
    print("written to build/bench/results.json")


if __name__ == "__main__":
    main()
