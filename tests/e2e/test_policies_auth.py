"""Basic authentication over real HTTP: Secrets, hashes, what is remembered, what fails closed."""
import base64
import contextlib
import socket
import subprocess
import threading
import time

import pytest
from harness import Echo, config_map, service, slice_of, wait_until
from worlds import case, running

APR1 = subprocess.run(["openssl", "passwd", "-apr1", "secret"], check=True, capture_output=True, text=True).stdout.strip()
SHA512_OF_BOB = subprocess.run(["openssl", "passwd", "-6", "-salt", "bobs", "secret"], check=True, capture_output=True, text=True).stdout.strip()
SHA512 = subprocess.run(["openssl", "passwd", "-6", "secret"], check=True, capture_output=True, text=True).stdout.strip()
BCRYPT = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC"  # myPassword
HEAVY = subprocess.run(["openssl", "passwd", "-6", "-salt", "rounds=200000$salt", "secret"], check=True, capture_output=True, text=True).stdout.strip()
COSTLY = "$2y$10$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2"
SLOW = "$2y$14$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2"  # nobody's


def secret(name, namespace=None, **data):
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}


def htpasswd(**users):
    return "".join(f"{name}:{value}\n" for name, value in users.items())


def auth(host, **annotations):
    return case(host, auth_type="basic", **{"auth_secret": "users", **annotations})


@pytest.fixture(scope="module")
def proxy():
    app = Echo("app")
    objects = [
        *[auth(f"{name}.example", auth_secret=name) for name in ("slow", "guessed", "alike", "crowd")],
        secret("users", auth=htpasswd(ann=APR1, bob=SHA512, cid=BCRYPT, dan="{PLAIN}plain")), secret("map", eve=APR1), secret("foreign", "other", auth=htpasswd(ann=APR1)),
        secret("slow", auth=htpasswd(slow=SLOW, dan="{PLAIN}plain")), secret("odd", users="x"), secret("guessed", auth=htpasswd(guessed=COSTLY, bob=SHA512_OF_BOB)),
        secret("crowd", auth=htpasswd(ann=HEAVY)), secret("alike", auth=htpasswd(bob=SHA512_OF_BOB)), config_map("settings", {"use-forwarded-headers": "true"}),
        auth("file.example", auth_realm="The shop"), auth("map.example", auth_secret="map", auth_secret_type="auth-map"),
        auth("missing.example", path=["/", "/b"], auth_secret="nobody"), auth("foreign.example", auth_secret="other/foreign"), auth("odd.example", auth_secret="odd"),
        case("digest.example", auth_type="digest", auth_secret="users"), auth("cors.example", enable_cors="true"), auth("moved.example", permanent_redirect="https://other.example/"),
        auth("any.example", satisfy="any", whitelist_source_range="10.0.0.0/8"), auth("acme.example", path=["/", "/.well-known/acme-challenge"]), case("plain.example")]
    with running({"app.json": [service(), *slice_of([app.port])], "objects.json": objects}, [app], workers=2, flags=["--configmap", "default/settings"],
                 expect_errors=["auth-secret|auth-type", "status=503"]) as it:
        yield it


def ask(proxy, host, user=None, password=None, path="/", **headers):
    if user is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return proxy.request(path, host, headers={name.replace("_", "-"): value for name, value in headers.items()}, timeout=30)


def test_users_of_a_file(proxy):
    for user, password in (("ann", "secret"), ("bob", "secret"), ("cid", "myPassword"), ("dan", "plain")):
        for _ in range(4):  # over both workers, and by what is remembered
            assert ask(proxy, "file.example", user, password).status == 200
        assert ask(proxy, "file.example", user, password + "x").status == 401
    answer = ask(proxy, "file.example")
    assert (answer.status, answer.header("www-authenticate")) == (401, 'Basic realm="The shop"') and "401 Authorization Required" in answer.text
    assert ask(proxy, "file.example", "nobody", "secret").status == 401
    seen = proxy.echo("/", "file.example", headers={"Authorization": "Basic " + base64.b64encode(b"dan:plain").decode()})
    assert "authorization" not in seen["lower"]
    wait_until(lambda: proxy.access.find(r" - dan \["), what="the user in the log")


def test_users_of_a_map(proxy):
    assert ask(proxy, "map.example", "eve", "secret").status == 200 and ask(proxy, "map.example", "ann", "secret").status == 401


def test_what_cannot_be_set_up_is_closed(proxy):
    for host in ("missing", "foreign", "odd", "digest"):
        assert ask(proxy, f"{host}.example", "ann", "secret").status == 503, host
    assert ask(proxy, "missing.example", path="/b").status == 503


def test_what_comes_before_and_beside(proxy):
    assert proxy.request("/", "cors.example", method="OPTIONS").status == 204
    answer = ask(proxy, "cors.example")
    assert (answer.status, answer.header("access-control-allow-origin")) == (401, "*")
    assert ask(proxy, "moved.example").status == 301
    assert ask(proxy, "any.example", X_Forwarded_For="10.0.0.1").status == 200 and ask(proxy, "any.example", "ann", "secret", X_Forwarded_For="192.0.2.1").status == 200
    answer = ask(proxy, "any.example", X_Forwarded_For="192.0.2.1")
    assert (answer.status, answer.header("www-authenticate")) == (401, 'Basic realm=""')
    assert ask(proxy, "acme.example").status == 401 and ask(proxy, "acme.example", path="/.well-known/acme-challenge/x").status == 200


def test_a_slow_hash_holds_nobody_else_up(proxy):
    statuses = []
    threads = [threading.Thread(target=lambda i=i: statuses.append(ask(proxy, "slow.example", "slow", f"x{i}").status)) for i in range(3)]
    for thread in threads:
        thread.start()
    began, served = time.monotonic(), 0
    while any(thread.is_alive() for thread in threads):
        assert ask(proxy, "plain.example").status == 200 and ask(proxy, "slow.example", "dan", "plain").status == 200
        served += 2
    assert sorted(set(statuses)) in ([401], [401, 503], [503])  # 503: it took longer than five seconds
    assert served > 5 * (time.monotonic() - began)


def test_guessing_a_password_keeps_nobody_else_out(proxy):
    before = proxy.metric("moongate_limit_passwords_total")
    with contextlib.ExitStack() as opened:
        for i in range(100):
            value = base64.b64encode(b"guessed:%d" % i)
            opened.enter_context(socket.create_connection((proxy.address, proxy.http_port), 10)).sendall(b"GET / HTTP/1.1\r\nHost: guessed.example\r\nAuthorization: Basic " + value + b"\r\n\r\n")
        wait_until(lambda: proxy.metric("moongate_limit_passwords_total") > before, what="more than there is room for")
        assert [ask(proxy, host, "bob", "secret").status for host in ("guessed.example", "alike.example")] == [200, 200]
    wait_until(lambda: proxy.metric("moongate_hooks_waiting") == 0, what="the end of the guesses")


def test_one_user_many_times_at_once_is_no_crowd(proxy):
    before = proxy.metric("moongate_limit_passwords_total")
    request = b"GET / HTTP/1.1\r\nHost: crowd.example\r\nAuthorization: Basic " + base64.b64encode(b"ann:secret") + b"\r\n\r\n"
    with contextlib.ExitStack() as opened:
        made = [opened.enter_context(socket.create_connection((proxy.address, proxy.http_port), 30)) for _ in range(150)]
        for one in made:
            one.sendall(request)
        for one in made[::10]:  # some leave, and take nobody with them
            one.close()
        assert {one.recv(12) for one in made if one.fileno() >= 0} == {b"HTTP/1.1 200"}
    assert proxy.metric("moongate_limit_passwords_total") == before


def test_a_crowd_leaves_room_to_others_that_wait(proxy):
    before = proxy.metric("moongate_limit_passwords_total")
    request = b"GET / HTTP/1.1\r\nHost: slow.example\r\nAuthorization: Basic " + base64.b64encode(b"slow:guess") + b"\r\n\r\n"
    with contextlib.ExitStack() as opened:
        for _ in range(560):  # more than 256 for one of the two workers
            opened.enter_context(socket.create_connection((proxy.address, proxy.http_port), 30)).sendall(request)
        wait_until(lambda: proxy.metric("moongate_limit_passwords_total") > before, what="those that found no room")
        assert proxy.metric("moongate_hooks_waiting") <= 512
    wait_until(lambda: proxy.metric("moongate_hooks_waiting") == 0, what="the end of the guesses")


def test_a_secret_changes(moongate, echo):
    app = echo("app")
    proxy = moongate({"app.json": [service(), *slice_of([app.port]), auth("a.example")]}, expect_errors=["auth-secret", "status=503"])
    assert ask(proxy, "a.example", "dan", "one").status == 503
    for password in ("one", "two"):
        proxy.write("secret.json", [secret("users", auth=htpasswd(dan="{PLAIN}" + password))])
        wait_until(lambda p=password: ask(proxy, "a.example", "dan", p).status == 200, what="the new password")
    assert ask(proxy, "a.example", "dan", "one").status == 401
    proxy.remove("secret.json")
    wait_until(lambda: ask(proxy, "a.example", "dan", "two").status == 503, what="closed")
