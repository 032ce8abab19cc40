"""What each proxy of the bench is told. The same work for all three: HOSTS hosts with the prefixes /shop and /api, an upstream keep-alive pool of 320,
the forwarded headers that ingress-nginx writes, no access log, one certificate, TLS 1.3 with one cipher suite.

`python3 tests/bench/configs.py DIR [--tls]` writes them all to DIR for reading.
"""

import base64
import json
import os
import sys
from dataclasses import dataclass

CIPHERSUITE = "TLS_AES_256_GCM_SHA384"  # what OpenSSL's server and client choose by themselves; written out for the peers
PREFIXES = ("/shop", "/api")
POOL = 320
# A scenario measures keep-alive: no proxy closes a connection after so many requests (nginx and Moongate would after 1,000, HAProxy never does).
REQUESTS_A_CONNECTION = 100_000_000
SMALL_BODY = "hello from the origin\n"
LARGE_BODY_SIZE = 10_240
HSTS = "max-age=31536000; includeSubDomains"  # Moongate's default on TLS hosts


@dataclass
class Plan:
    directory: str  # where everything is written
    hosts: int
    tls: bool
    origin_port: int
    origin_status_port: int
    port: int = 0  # the proxy's own
    other_port: int = 0  # Moongate: the listener that the scenario does not use
    health_port: int = 0

    def path(self, name):
        return os.path.join(self.directory, name)


def host_name(number):
    return f"host-{number}.bench.test"


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def nginx_frame(directory, name):
    """What any nginx of ours begins with: one worker, no daemon, all files in its own directory."""
    home = os.path.join(directory, name)
    os.makedirs(home, exist_ok=True)
    user = "user root;\n" if os.geteuid() == 0 else ""
    return f"""{user}daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{
  worker_connections 8192;
}}
""", f"""  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  keepalive_timeout 75s;
  keepalive_requests {REQUESTS_A_CONNECTION};
"""


def origin(plan):
    """The origin: bodies from memory; /…/large has 10 KiB, /…/headers tells what the proxy sent."""
    head, http = nginx_frame(plan.directory, "origin")
    large = f'set $block "{"x" * 1024}";\n      return 200 "{"$block" * (LARGE_BODY_SIZE // 1024)}";'
    seen = "|".join(
        "$http_" + name
        for name in (
            "x_forwarded_for",
            "x_forwarded_proto",
            "x_forwarded_host",
            "x_forwarded_port",
            "x_forwarded_scheme",
            "x_scheme",
            "x_real_ip",
            "x_request_id",
            "host",
            "cookie",
        )
    )
    locations = "".join(
        f"""    location = {prefix}/large {{
      {large}
    }}
    location = {prefix}/headers {{
      return 200 "{seen}";
    }}
"""
        for prefix in PREFIXES
    )
    return write(
        plan.path("origin.conf"),
        f"""{head}http {{
{http}  default_type text/plain;
  tcp_nodelay on;
  server {{
    listen 127.0.0.1:{plan.origin_port} backlog=4096;
    location / {{
      return 200 "{SMALL_BODY}";
    }}
{locations}  }}
  server {{
    listen 127.0.0.1:{plan.origin_status_port};
    location = /status {{
      stub_status;
    }}
  }}
}}
""",
    )


def nginx(plan):
    head, http = nginx_frame(plan.directory, "nginx")
    listen = f"127.0.0.1:{plan.port}{' ssl' if plan.tls else ''}"
    tls = ""
    if plan.tls:
        tls = f"""  ssl_certificate {plan.path("tls.crt")};
  ssl_certificate_key {plan.path("tls.key")};
  ssl_protocols TLSv1.3;
  ssl_conf_command Ciphersuites {CIPHERSUITE};
  ssl_session_tickets on;
  add_header Strict-Transport-Security "{HSTS}" always;
"""
    locations = "".join(f"    location {prefix} {{ proxy_pass http://origin; }}\n" for prefix in PREFIXES)
    servers = "".join(f"  server {{\n    listen {listen};\n    server_name {host_name(number)};\n{locations}  }}\n" for number in range(plan.hosts))
    return write(
        plan.path("nginx.conf"),
        f"""{head}http {{
{http}{tls}  server_tokens off;
  tcp_nodelay on;
  server_names_hash_max_size 65536;
  server_names_hash_bucket_size 128;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $http_host;
  proxy_set_header X-Request-ID $request_id;
  proxy_set_header X-Real-IP $remote_addr;
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Forwarded-Host $http_host;
  proxy_set_header X-Forwarded-Port $server_port;
  proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Forwarded-Scheme $scheme;
  proxy_set_header X-Scheme $scheme;
  upstream origin {{
    server 127.0.0.1:{plan.origin_port};
    keepalive {POOL};
    keepalive_requests {REQUESTS_A_CONNECTION};
    keepalive_timeout 60s;
  }}
  server {{
    listen {listen} default_server backlog=4096;
    server_name _;
    return 404;
  }}
{servers}}}
""",
    )


def haproxy(plan):
    write(
        plan.path("haproxy.map"),
        "".join(f"{host_name(number)}{prefix} origin\n" for number in range(plan.hosts) for prefix in PREFIXES),
    )
    bind = f"127.0.0.1:{plan.port} backlog 4096"
    scheme = "http"
    hsts = ""
    if plan.tls:
        write(plan.path("haproxy.pem"), open(plan.path("tls.crt"), encoding="ascii").read() + open(plan.path("tls.key"), encoding="ascii").read())
        bind += f" ssl crt {plan.path('haproxy.pem')} ssl-min-ver TLSv1.3 ciphersuites {CIPHERSUITE} alpn http/1.1"
        scheme = "https"
        hsts = f'  http-response set-header Strict-Transport-Security "{HSTS}"\n'
    return write(
        plan.path("haproxy.cfg"),
        f"""global
  nbthread 1
  maxconn 4096

defaults
  mode http
  timeout connect 5s
  timeout client 75s
  timeout server 60s
  timeout http-keep-alive 75s
  option http-keep-alive

frontend bench
  bind {bind}
  unique-id-format %[uuid()]
  http-request set-header X-Request-ID %[unique-id]
  http-request set-header X-Real-IP %[src]
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header X-Forwarded-Proto {scheme}
  http-request set-header X-Forwarded-Scheme {scheme}
  http-request set-header X-Scheme {scheme}
{hsts}  use_backend %[base,map_beg({plan.path("haproxy.map")},nowhere)]

backend origin
  http-reuse always
  server origin 127.0.0.1:{plan.origin_port} pool-max-conn {POOL} pool-purge-delay 1h

backend nowhere
  http-request return status 404
""",
    )


def ingress(plan, number):
    spec = {
        "ingressClassName": "nginx",
        "rules": [
            {
                "host": host_name(number),
                "http": {
                    "paths": [
                        {"path": prefix, "pathType": "Prefix", "backend": {"service": {"name": "origin", "port": {"number": 80}}}} for prefix in PREFIXES
                    ]
                },
            }
        ],
    }
    if plan.tls:
        spec["tls"] = [{"hosts": [host_name(number)], "secretName": "tls"}]
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"namespace": "bench", "name": f"host-{number}"}, "spec": spec}


def moongate(plan):
    """Manifests as JSON. All built-in policies run with their defaults; the ConfigMap turns the access log off and the per-connection limits away."""
    directory = plan.path("manifests")
    os.makedirs(directory, exist_ok=True)

    def put(name, document):
        write(os.path.join(directory, name), json.dumps(document, indent=1) + "\n")

    put(
        "configmap.json",
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": "bench", "name": "moongate"},
            "data": {
                "disable-access-log": "true",
                "keep-alive-requests": str(REQUESTS_A_CONNECTION),
                "upstream-keepalive-connections": str(POOL),
                "upstream-keepalive-requests": str(REQUESTS_A_CONNECTION),
            },
        },
    )
    put(
        "service.json",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": "bench", "name": "origin"},
            "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        },
    )
    put(
        "endpointslice.json",
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"namespace": "bench", "name": "origin-1", "labels": {"kubernetes.io/service-name": "origin"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": plan.origin_port, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        },
    )
    if plan.tls:

        def encoded(name):
            with open(plan.path(name), "rb") as file:
                return base64.b64encode(file.read()).decode()

        put(
            "secret.json",
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/tls",
                "metadata": {"namespace": "bench", "name": "tls"},
                "data": {"tls.crt": encoded("tls.crt"), "tls.key": encoded("tls.key")},
            },
        )
    put("ingresses.json", {"apiVersion": "v1", "kind": "List", "items": [ingress(plan, number) for number in range(plan.hosts)]})
    http, https = (plan.other_port, plan.port) if plan.tls else (plan.port, plan.other_port)
    flags = [
        f"--manifests={directory}",
        "--configmap=bench/moongate",
        "--bind-address=127.0.0.1",
        f"--http-port={http}",
        f"--https-port={https}",
        "--healthz-host=127.0.0.1",
        f"--healthz-port={plan.health_port}",
        "--workers=1",
    ]
    if plan.tls:
        flags.append("--default-ssl-certificate=bench/tls")  # wrk's handshakes name no host of ours
    return flags


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: configs.py DIR [--tls]")
    plan = Plan(os.path.abspath(sys.argv[1]), 1000, "--tls" in sys.argv, 9000, 9001, 8080, 8443, 10254)
    os.makedirs(plan.directory, exist_ok=True)
    if plan.tls and not os.path.exists(plan.path("tls.crt")):
        for name in ("tls.crt", "tls.key"):
            write(plan.path(name), "")
    origin(plan)
    nginx(plan)
    haproxy(plan)
    print("moongate", " ".join(moongate(plan)))


if __name__ == "__main__":
    main()
