"""The first scenario, standalone: what a user does on day one."""
import http.client
import re
import signal
import socket
import ssl
import struct

from harness import certificate, config_map, ingress, service, slice_of, tls_secret, wait_until

OLD_STICKY = """
apiVersion: extensions/v1beta1
kind: Ingress
metadata:
  name: nginx-test-sticky
  annotations:
    kubernetes.io/ingress.class: "nginx"
    ingress.kubernetes.io/affinity: "cookie"
    ingress.kubernetes.io/session-cookie-name: "route"
    ingress.kubernetes.io/session-cookie-hash: "sha1"
spec:
  rules:
    - host: stickyingress.example.com
      http:
        paths:
          - path: /foo
            backend:
              serviceName: echoheaders
              servicePort: 80
"""


def test_starts_with_nothing(moongate):
    proxy = moongate()
    answer = proxy.request("/anything", "whatever.example")
    assert (answer.status, answer.text, answer.header("content-type")) == (404, "default backend - 404", "text/plain")
    assert proxy.request("/healthz", "10.0.0.1").status == 200
    assert proxy.admin("/healthz").status == 200
    assert proxy.metric("moongate_live_roots") == 1


def test_echo_behind_an_ingress_without_tls_section(moongate, echo):
    app = echo("pod-1")
    proxy = moongate({"app.json": [service(), *slice_of([app.port])],
                      "ingress.json": [ingress("echo", "foo.bar.com", "/backend", annotations={"ingress.kubernetes.io/ssl-redirect": "true"})]})
    seen = proxy.echo("/backend?a=1", "foo.bar.com")
    assert seen["name"] == "pod-1" and seen["path"] == "/backend?a=1" and seen["lower"]["host"] == "foo.bar.com"
    assert seen["lower"]["x-real-ip"] == "127.0.0.1" and seen["lower"]["x-forwarded-proto"] == "http"
    assert re.fullmatch(r"[0-9a-f]{32}", seen["lower"]["x-request-id"])
    assert proxy.request("/backendx", "foo.bar.com").status == 404


def test_redirects_to_https_with_a_tls_section(moongate, echo, tmp_path):
    app = echo()
    pem, key = certificate(tmp_path, "foo", ["foo.bar.com"])
    proxy = moongate({"app.json": [service(), *slice_of([app.port]), tls_secret("foo", pem, key)],
                      "ingress.json": [ingress("echo", "foo.bar.com", "/backend", tls="foo", annotations={"ingress.kubernetes.io/ssl-redirect": "true"})]})
    answer = proxy.request("/backend", "foo.bar.com")
    assert (answer.status, answer.header("location")) == (308, "https://foo.bar.com/backend")
    answer = proxy.request("/backend", "foo.bar.com", https=True)
    assert answer.status == 200
    assert answer.header("strict-transport-security") == "max-age=31536000; includeSubDomains"


def sticky_world(echo, count=3):
    apps = [echo(f"pod-{n}") for n in range(count)]
    return apps, {"app.json": [service(), *slice_of([app.port for app in apps])], "ingress.yaml": OLD_STICKY}


def cookie_of(answer, name="route"):
    found = re.match(rf"{name}=([^;]+)", answer.header("set-cookie") or "")
    return found and found.group(1)


def test_sticky_sessions_in_the_old_form(moongate, echo):
    apps, manifests = sticky_world(echo)
    proxy = moongate(manifests)
    first = proxy.request("/foo", "stickyingress.example.com")
    cookie = cookie_of(first)
    assert re.fullmatch(r"[0-9a-f]{40}\|[0-9a-f]{32}", cookie)
    owner = first.header("x-echo-name")
    for _ in range(20):
        answer = proxy.request("/foo", "stickyingress.example.com", headers={"Cookie": f"route={cookie}"})
        assert answer.header("x-echo-name") == owner and answer.header("set-cookie") is None
    assert len({proxy.request("/foo", "stickyingress.example.com").header("x-echo-name") for _ in range(12)}) > 1


def test_a_session_moves_when_its_endpoint_is_no_longer_listed(moongate, echo):
    apps, manifests = sticky_world(echo)
    proxy = moongate(manifests)
    first = proxy.request("/foo", "stickyingress.example.com")
    cookie, owner = cookie_of(first), first.header("x-echo-name")
    left = [app for app in apps if app.name != owner]
    proxy.write("app.json", [service(), *slice_of([app.port for app in left])])
    moved = proxy.wait_live("/foo", "stickyingress.example.com", lambda answer: answer.header("x-echo-name") != owner, headers={"Cookie": f"route={cookie}"})
    assert moved.status == 200 and cookie_of(moved) not in (None, cookie)


def test_a_session_moves_when_its_endpoint_is_marked_failed(moongate, echo):
    apps, manifests = sticky_world(echo)
    proxy = moongate(manifests)
    first = proxy.request("/foo", "stickyingress.example.com")
    cookie, owner = cookie_of(first), first.header("x-echo-name")
    next(app for app in apps if app.name == owner).stop(signal.SIGKILL)
    for _ in range(6):
        answer = proxy.request("/foo", "stickyingress.example.com", headers={"Cookie": f"route={cookie}"})
        assert answer.status == 200 and answer.header("x-echo-name") != owner
    assert cookie_of(answer) not in (None, cookie)


def test_sessions_stay_when_endpoints_are_added(moongate, echo):
    apps, manifests = sticky_world(echo, 2)
    proxy = moongate(manifests)
    sessions = {}
    for _ in range(10):
        answer = proxy.request("/foo", "stickyingress.example.com")
        sessions[cookie_of(answer)] = answer.header("x-echo-name")
    more = echo("pod-new")
    proxy.write("app.json", [service(), *slice_of([app.port for app in apps] + [more.port])])
    proxy.wait_live("/foo", "stickyingress.example.com", lambda answer: answer.header("x-echo-name") == "pod-new")
    for cookie, owner in sessions.items():
        assert proxy.request("/foo", "stickyingress.example.com", headers={"Cookie": f"route={cookie}"}).header("x-echo-name") == owner


def test_a_terminating_endpoint_keeps_its_sessions_and_gets_no_new_ones(moongate, echo):
    apps, manifests = sticky_world(echo, 2)
    proxy = moongate(manifests)
    first = proxy.request("/foo", "stickyingress.example.com")
    cookie, owner = cookie_of(first), first.header("x-echo-name")
    leaving = next(app for app in apps if app.name == owner)
    staying = next(app for app in apps if app.name != owner)
    proxy.write("app.json", [service(), *slice_of([staying.port], suffix="a"), *slice_of([leaving.port], suffix="b", conditions={"ready": False, "serving": True, "terminating": True})])
    wait_until(lambda: all(proxy.request("/foo", "stickyingress.example.com").header("x-echo-name") == staying.name for _ in range(6)), what="no new sessions")
    assert proxy.request("/foo", "stickyingress.example.com", headers={"Cookie": f"route={cookie}"}).header("x-echo-name") == owner


def test_rewrite_target_serves_an_old_path(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [
        ingress("old", "app.example", "/old(/|$)(.*)", path_type="ImplementationSpecific", annotations={"nginx.ingress.kubernetes.io/rewrite-target": "/new/$2"})]})
    assert proxy.echo("/old/a/b?c=d", "app.example")["path"] == "/new/a/b?c=d"


def served_certificate(proxy, name):
    context = ssl._create_unverified_context()
    with socket.create_connection(("127.0.0.1", proxy.https_port), 5) as raw, context.wrap_socket(raw, server_hostname=name) as tls:
        return tls.getpeercert(True)


def test_certificate_change_without_a_drop(moongate, echo, tmp_path):
    app = echo()
    one, two = certificate(tmp_path, "one", ["tls.example"]), certificate(tmp_path, "two", ["tls.example"])
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "secret.json": [tls_secret("cert", *one)], "ingress.json": [ingress("tls", "tls.example", tls="cert")]})
    der = {ssl.PEM_cert_to_DER_cert(one[0]): 1, ssl.PEM_cert_to_DER_cert(two[0]): 2}
    assert der.get(served_certificate(proxy, "tls.example")) == 1
    context = ssl._create_unverified_context()
    open_connection = http.client.HTTPSConnection("127.0.0.1", proxy.https_port, context=context)
    open_connection.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", proxy.https_port)), server_hostname="tls.example")
    open_connection.request("GET", "/", headers={"Host": "tls.example"})
    assert open_connection.getresponse().read()
    proxy.write("secret.json", [tls_secret("cert", *two)])
    wait_until(lambda: der.get(served_certificate(proxy, "tls.example")) == 2, what="the new certificate")
    open_connection.request("GET", "/", headers={"Host": "tls.example"})
    assert open_connection.getresponse().status == 200
    open_connection.close()
    assert der.get(served_certificate(proxy, "unknown.example")) is None


def test_client_address_from_forwarded_headers(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("echo", "foo.example")],
                      "settings.json": [config_map("settings", {"use-forwarded-headers": "true", "proxy-real-ip-cidr": "127.0.0.0/8,10.0.0.0/8"})]},
                     flags=["--configmap", "default/settings"])
    seen = proxy.echo("/", "foo.example", headers={"X-Forwarded-For": "203.0.113.7, 10.1.2.3", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "outer.example"})
    assert seen["lower"]["x-real-ip"] == "203.0.113.7" and seen["lower"]["x-forwarded-for"] == "203.0.113.7"
    assert seen["lower"]["x-forwarded-proto"] == "https" and seen["lower"]["x-forwarded-host"] == "outer.example"
    proxy.write("settings.json", [config_map("settings", {})])
    wait_until(lambda: proxy.echo("/", "foo.example", headers={"X-Forwarded-For": "203.0.113.7"})["lower"]["x-real-ip"] == "127.0.0.1", what="settings to change")


def test_client_address_from_the_proxy_protocol(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("echo", "foo.example")],
                      "settings.json": [config_map("settings", {"use-proxy-protocol": "true"})]}, flags=["--configmap", "default/settings"])
    request = b"GET / HTTP/1.1\r\nHost: foo.example\r\nConnection: close\r\n\r\n"
    assert b"X-Real-IP: 198.51.100.9\n" in proxy.raw(b"PROXY TCP4 198.51.100.9 192.0.2.1 5555 80\r\n" + request, half_close=False)
    v2 = b"\r\n\r\n\x00\r\nQUIT\n" + bytes([0x21, 0x11]) + struct.pack(">H", 12) + socket.inet_aton("198.51.100.10") + socket.inet_aton("192.0.2.1") + struct.pack(">HH", 5555, 80)
    assert b"X-Real-IP: 198.51.100.10\n" in proxy.raw(v2 + request, half_close=False)
    assert proxy.raw(request, half_close=False) == b""


def test_access_log_tells_service_and_endpoint(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("echo", "foo.example")]})
    proxy.request("/log/me", "foo.example", headers={"Authorization": "Basic YWxpY2U6c2VjcmV0"})
    line = wait_until(lambda: proxy.access.find(r'.*"GET /log/me HTTP/1\.1" 200 .*'), what="access log").group(0)
    assert f"[default-echoheaders-80] [] 127.0.0.1:{app.port}" in line
    assert line.startswith("127.0.0.1 - alice [")
    assert len([one for one in app.requests() if "/log/me" in one]) == 1


def test_own_policy_changes_behaviour_without_restart(moongate, echo):
    app = echo()
    policy = '''
local policy = { name = "greeting", summary = "Adds a greeting.", annotations = { greeting = { type = "string", doc = "The text." } } }
function policy.attach(route, annotations)
  if annotations.greeting then return { text = annotations.greeting } end
end
function policy.header_filter(exchange, config)
  exchange.response.headers:set("X-Greeting", config.text .. "%s")
end
return policy
'''
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("echo", "foo.example", annotations={"moongate.io/greeting": "hello"})]},
                     policies={"greeting.lua": policy % "!"})
    assert proxy.request("/", "foo.example").header("x-greeting") == "hello!"
    proxy.write_policy("greeting.lua", policy % "?")
    proxy.wait_live("/", "foo.example", lambda answer: answer.header("x-greeting") == "hello?")
    proxy.expect_errors.append("greeting.lua")
    proxy.write_policy("greeting.lua", "this is not Lua")
    wait_until(lambda: proxy.errors.find(r"greeting\.lua:1"), what="the broken policy to be reported")
    assert proxy.request("/", "foo.example").header("x-greeting") == "hello?"
