"""What policies cost: CPU time per request of a route without any, with eight of the usual ones, and with a guest's hooks, in one process.

One worker pinned to a core; the origin (an nginx) and wrk share another. The routes are measured interleaved; what a policy costs is the difference to the bare
route of the same repetition. Targets: eight policies 1 us, a guest's hook 3 us.
  python3 tests/bench/policies.py [--moongate FILE] [--seconds N] [--repetitions N] [--connections N]
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys

import configs
from bench import OUT, ROOT, cores, free_ports
from processes import Process, wait_until

GUEST = """local policy = { name = "greeting", summary = "Greets.", annotations = { greeting = { type = "string", doc = "The text." } } }
function policy.attach(_, annotations)
  if annotations.greeting then return { text = annotations.greeting } end
end
function policy.header_filter(exchange, config)
  exchange.response.headers:set("X-Greeting", config.text)
end
return policy
"""
PREFIX = "nginx.ingress.kubernetes.io/"
# Name: annotations. The eight: access list, CORS, affinity, start page, timeouts, body size, the application's Host, paths of its cookies.
ROUTES = {
    "bare": {},
    "eight": {
        PREFIX + "whitelist-source-range": "127.0.0.0/8",
        PREFIX + "enable-cors": "true",
        PREFIX + "cors-allow-origin": "https://shop.test, https://*.example.test",
        PREFIX + "affinity": "cookie",
        PREFIX + "app-root": "/start",
        PREFIX + "proxy-read-timeout": "30",
        PREFIX + "proxy-body-size": "1m",
        PREFIX + "upstream-vhost": "origin.test",
        PREFIX + "proxy-cookie-path": "/ /shop",
    },
    "limits": {PREFIX + "limit-rps": "1000000", PREFIX + "limit-connections": "1000"},
    "guest": {"moongate.io/greeting": "hello"},
}
HEADERS = ("User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "Accept: text/html,*/*;q=0.8", "Accept-Encoding: gzip, br",
           "Origin: https://shop.test", "Cookie: theme=dark; consent=1; INGRESSCOOKIE=%s")


def read(directory, name):
    with open(os.path.join(directory, "manifests", name), encoding="utf-8") as file:
        return json.load(file)


def annotate(directory):
    """Each route gets its annotations, and a Service of its own: affinity belongs to the Service."""
    items = read(directory, "ingresses.json")["items"]
    objects = []
    for item, (name, annotations) in zip(items, ROUTES.items()):
        item["metadata"]["annotations"] = annotations
        for path in item["spec"]["rules"][0]["http"]["paths"]:
            path["backend"]["service"]["name"] = name
        service, endpoints = read(directory, "service.json"), read(directory, "endpointslice.json")
        service["metadata"]["name"], endpoints["metadata"]["name"] = name, name + "-1"
        endpoints["metadata"]["labels"] = {"kubernetes.io/service-name": name}
        objects += [item, service, endpoints]
    configs.write(os.path.join(directory, "manifests", "ingresses.json"), json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def cookie_of(port):
    """The one that the sticky route sets: later requests carry it, as a visitor's do."""
    head = subprocess.run(["curl", "-si", "-H", f"Host: {configs.host_name(1)}", f"http://127.0.0.1:{port}/shop"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(?i)^set-cookie: INGRESSCOOKIE=([^;]+)", head, re.M)
    if not found:
        sys.exit("bench: the sticky route sets no cookie:\n" + head)
    return found.group(1)


def load(port, number, cookie, seconds, options, core):
    command = ["wrk", "-t1", f"-c{options.connections}", f"-d{seconds}s", "-H", f"Host: {configs.host_name(number)}"]
    for header in HEADERS:
        command += ["-H", header % cookie if "%s" in header else header]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}/shop"], capture_output=True, text=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    if re.search(r"Socket errors|Non-2xx", done.stdout):
        sys.exit("bench: requests failed:\n" + done.stdout)
    return int(re.search(r"(\d+) requests in", done.stdout).group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--moongate", default=os.path.join(ROOT, "build", "moongate"))
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    directory = os.path.join(OUT, "policies")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(os.path.join(directory, "policies"))
    configs.write(os.path.join(directory, "policies", "greeting.lua"), GUEST)
    origin_port, status_port, port, other, health = free_ports(5)
    plan = configs.Plan(directory, len(ROUTES), False, origin_port, status_port, port, other, health)
    proxy_core, load_core = cores()
    origin = Process("origin", ["nginx", "-c", configs.origin(plan), "-e", os.path.join(directory, "origin.log")], load_core, os.path.join(directory, "origin-start.log"))
    flags = configs.moongate(plan)
    annotate(directory)
    proxy = Process("moongate", [options.moongate, *flags, f"--policies={directory}/policies"], proxy_core, os.path.join(directory, "moongate.log"))
    try:
        wait_until("readiness", lambda: subprocess.run(["curl", "-fso", "/dev/null", f"http://127.0.0.1:{health}/healthz"], check=False).returncode == 0, proxy)
        cookie = cookie_of(port)
        costs = {name: [] for name in ROUTES}
        for repetition in range(options.repetitions):
            order = list(enumerate(ROUTES))
            for number, name in order[repetition % len(order):] + order[: repetition % len(order)]:
                load(port, number, cookie, 1, options, load_core)
                before = proxy.cpu_nanoseconds()
                requests = load(port, number, cookie, options.seconds, options, load_core)
                costs[name].append((proxy.cpu_nanoseconds() - before) / 1000 / requests)
    finally:
        proxy.stop()
        origin.stop()
    print(f"  {'route':10}{'CPU us/req':>12}{'more than bare':>16}")
    for name, found in costs.items():
        print(f"  {name:10}{statistics.median(found):12.2f}{statistics.median(one - bare for one, bare in zip(found, costs['bare'])):16.2f}")


if __name__ == "__main__":
    main()
