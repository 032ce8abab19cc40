"""Does a proxy do the work that is measured? Asked before anything is measured: routing, the headers that reach the origin, TLS."""

import hashlib
import http.client
import re
import socket
import ssl

import configs

REQUEST_ID = re.compile(r"^[0-9a-f]{32}$|^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", re.I)


def connect(port, tls, name):
    if not tls:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname=name)
    return connection


def ask(connection, host, path):
    connection.request("GET", path, headers={"Host": host, "Cookie": "session=abc; theme=dark"})
    response = connection.getresponse()
    return response.status, response.headers, response.read().decode("utf-8", "replace")


def answers(port, tls):
    """True when the last host is served."""
    try:
        connection = connect(port, tls, configs.host_name(0))
        status, _, _ = ask(connection, configs.host_name(0), "/shop")
        connection.close()
        return status == 200
    except (OSError, http.client.HTTPException):
        return False


def expect(faults, what, got, wanted):
    if got != wanted:
        faults.append(f"{what}: {got!r} instead of {wanted!r}")


def check_headers(faults, where, seen, host, port, tls):
    names = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Scheme", "X-Scheme", "X-Real-IP", "X-Request-ID", "Host", "Cookie")
    got = dict(zip(names, seen.split("|")))
    scheme = "https" if tls else "http"
    wanted = {
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": scheme,
        "X-Forwarded-Host": host,
        "X-Forwarded-Scheme": scheme,
        "X-Scheme": scheme,
        "X-Real-IP": "127.0.0.1",
        "Host": host,
        "Cookie": "session=abc; theme=dark",
    }
    for name, value in wanted.items():
        expect(faults, f"{where}: {name} at the origin", got.get(name), value)
    # ingress-nginx names the HTTPS port 443 whatever it listens on.
    if got.get("X-Forwarded-Port") not in (str(port), "443" if tls else "80"):
        faults.append(f"{where}: X-Forwarded-Port at the origin: {got.get('X-Forwarded-Port')!r}")
    if not REQUEST_ID.match(got.get("X-Request-ID", "")):
        faults.append(f"{where}: X-Request-ID at the origin: {got.get('X-Request-ID')!r}")
    return got.get("X-Request-ID")


def tls_of(port):
    """(version, cipher, fingerprint) without a name, as wrk connects, and with a host's name."""
    found = []
    for name in (None, configs.host_name(0)):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", port), 5) as raw, context.wrap_socket(raw, server_hostname=name) as link:
            found.append((link.version(), link.cipher()[0], hashlib.sha256(link.getpeercert(True)).hexdigest()))
    return found


def faults_of(target, plan, certificate):
    """A list of what is wrong with `target` (empty: nothing)."""
    faults = []
    if plan.tls:
        wanted = ("TLSv1.3", configs.CIPHERSUITE, certificate)
        for found in tls_of(plan.port):
            expect(faults, f"{target}: TLS version, cipher, certificate", found, wanted)
    ids = []
    for number in {0, 1, plan.hosts // 2, plan.hosts - 1}:
        host = configs.host_name(number)
        connection = connect(plan.port, plan.tls, host)
        for prefix in configs.PREFIXES:
            where = f"{target}: {host}{prefix}"
            status, headers, body = ask(connection, host, prefix)
            expect(faults, where, (status, body), (200, configs.SMALL_BODY))
            if plan.tls:
                expect(faults, f"{where}: Strict-Transport-Security", headers.get("Strict-Transport-Security"), configs.HSTS)
            status, _, body = ask(connection, host, prefix + "/large")
            expect(faults, f"{where}/large", (status, len(body)), (200, configs.LARGE_BODY_SIZE))
            status, _, body = ask(connection, host, prefix + "/headers")
            expect(faults, f"{where}/headers", status, 200)
            ids.append(check_headers(faults, where, body, host, plan.port, plan.tls))
        connection.close()
    if len(set(ids)) != len(ids):
        faults.append(f"{target}: X-Request-ID repeats")
    for host, path in (("nobody.bench.test", "/shop"), (configs.host_name(0), "/nowhere")):
        connection = connect(plan.port, plan.tls, host)
        status, _, _ = ask(connection, host, path)
        expect(faults, f"{target}: {host}{path}", status, 404)
        connection.close()
    return faults
