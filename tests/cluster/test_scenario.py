"""The first scenario with kubectl, on what kube/deploy/base makes: two pods of the controller behind a Service of type LoadBalancer."""
import json
import re
import socket
import ssl

import exposition
import harness
import pytest
from cluster import wait_until
from controllers import Deployed
from harness import certificate, ingress, tls_secret
from load import Load
from spaces import echo_deployment, restarts, service


@pytest.fixture(scope="module")
def deployed(cluster):
    made = Deployed(cluster)
    made.wait_ready(2)
    yield made
    made.remove()


@pytest.fixture
def front(deployed):
    return deployed.balanced()


@pytest.fixture
def settings(deployed):
    """Sets keys of the controller's ConfigMap; they are gone after the test."""
    def patch(data):
        deployed.kubectl("patch", "configmap", deployed.deployment, "--type=merge", "-p", json.dumps({"data": data}))
    yield patch
    deployed.kubectl("patch", "configmap", deployed.deployment, "--type=merge", "-p", '{"data": null}')


def echo_and(space, *objects, replicas=1):
    space.apply([echo_deployment(replicas=replicas), service(), *objects])
    return space.wait_endpoints("echoheaders", replicas)


# 1
def test_without_an_ingress_the_default_backend_answers(front):
    answer = front.request("/whatever", "nobody.test")
    assert (answer.status, answer.text, answer.header("Content-Type").split(";")[0]) == (404, "default backend - 404", "text/plain")
    assert front.request("/healthz", "nobody.test").status == 200


# 2, 3, 4
def test_an_ingress_leads_to_the_echo_and_carries_the_address(space, front):
    echo_and(space, ingress("echo", "foo.bar.com", "/backend", annotations={"ingress.kubernetes.io/ssl-redirect": "true"}))
    front.wait_live("/backend", "foo.bar.com", lambda answer: answer.status == 200)
    seen = front.echo("/backend", "foo.bar.com")
    assert (seen["method"], seen["path"], seen["name"]) == ("GET", "/backend", space.pods()[0]["metadata"]["name"])
    assert front.request("/other", "foo.bar.com").status == 404
    wait_until(lambda: space.ingress_addresses("echo") == [front.address], what="the status")
    assert re.search(rf"echo\s+nginx\s+foo\.bar\.com\s+{re.escape(front.address)}\s", space.kubectl("get", "ingress"))
    # With a tls section plain HTTP is redirected.
    space.apply(ingress("echo", "foo.bar.com", "/backend", annotations={"ingress.kubernetes.io/ssl-redirect": "true"}, tls="none"))
    answer = front.wait_live("/backend", "foo.bar.com", lambda answer: answer.status == 308)
    assert answer.header("Location") == "https://foo.bar.com/backend"


STICKY = {"ingress.kubernetes.io/affinity": "cookie", "ingress.kubernetes.io/session-cookie-name": "route", "ingress.kubernetes.io/session-cookie-hash": "sha1",
          "kubernetes.io/ingress.class": "nginx"}


def sticky_ingress():
    return ingress("nginx-test-sticky", "stickyingress.example.com", "/foo", annotations=STICKY, class_name=None)


def cookie_of(answer):
    return answer.header("Set-Cookie").split(";")[0]


def visit(front, cookie=None):
    """One request to /foo: (pod, the cookie that was set or None)."""
    seen = front.echo("/foo", "stickyingress.example.com", headers={"Cookie": cookie} if cookie else {})
    return seen["name"], cookie_of(seen["answer"]) if seen["answer"].header("Set-Cookie") else None


# 5, 9
def test_sessions_stay_with_their_pod_over_all_replicas_and_scaling(space, front):
    echo_and(space, sticky_ingress(), replicas=3)
    front.wait_live("/foo", "stickyingress.example.com", lambda answer: answer.status == 200)
    sessions = {}
    for _ in range(30):
        pod, cookie = visit(front)
        assert re.match(r"route=[0-9a-f]{40}", cookie)
        sessions[pod] = cookie
    assert len(sessions) == 3
    # Each connection may reach another pod of the controller.
    for pod, cookie in sessions.items():
        assert {visit(front, cookie) for _ in range(10)} == {(pod, None)}
    # More pods: sessions in progress stay where they are.
    space.kubectl("scale", "deployment/echoheaders", "--replicas=5")
    space.wait_endpoints("echoheaders", 5)
    wait_until(lambda: visit(front)[0] not in sessions, what="a new pod to get sessions")
    for pod, cookie in sessions.items():
        assert {visit(front, cookie) for _ in range(10)} == {(pod, None)}
    # A pod goes: its session moves, with a new cookie, without an error.
    lost = next(iter(sessions))
    space.kubectl("delete", "pod", lost)
    pod, cookie = visit(front, sessions[lost])
    assert pod != lost and cookie and cookie != sessions[lost]
    assert {visit(front, cookie) for _ in range(10)} == {(pod, None)}
    for pod, cookie in list(sessions.items())[1:]:
        assert visit(front, cookie) == (pod, None)


def test_a_terminating_pod_keeps_its_sessions_and_gets_no_new_ones(space, front):
    hook = {"preStop": {"httpGet": {"path": "/sleep/8", "port": "http"}}}
    space.apply([echo_deployment(replicas=2, container={"lifecycle": hook}), service(), sticky_ingress()])
    space.wait_endpoints("echoheaders", 2)
    front.wait_live("/foo", "stickyingress.example.com", lambda answer: answer.status == 200)
    pod, cookie = visit(front)
    space.kubectl("delete", "pod", pod, "--wait=false")
    wait_until(lambda: any(one.get("terminating") and one["serving"] for one in space.endpoints("echoheaders").values()), what="the terminating endpoint")
    wait_until(lambda: pod not in {visit(front)[0] for _ in range(8)}, what="the controllers to know")
    assert visit(front, cookie) == (pod, None)
    wait_until(lambda: visit(front, cookie)[0] != pod, 20, "the session to move")


# 9
def test_logs_tell_each_request_once(space, front, deployed, settings):
    echo_and(space, ingress("echo", "logs.bar.com"), replicas=3)
    front.wait_live("/", "logs.bar.com", lambda answer: answer.status == 200)
    for number in range(12):
        front.request(f"/visit/{number}", "logs.bar.com")
    text = space.kubectl("logs", "-l", "app=echoheaders", "--tail=-1")
    assert [text.count(f"GET /visit/{number} ") for number in range(12)] == [1] * 12
    def lines(pattern):
        return [line for log in deployed.logs().values() for line in log.splitlines() if re.search(pattern, line)]
    endpoints = list(space.endpoints("echoheaders"))
    found = wait_until(lambda: lines(r'"GET /visit/7 HTTP/1\.1" 200'), what="the access log")
    assert len(found) == 1
    assert f"[{space.name}-echoheaders-80]" in found[0] and any(f" {endpoint}:8080 " in found[0] for endpoint in endpoints)
    settings({"access-log-format": "json"})
    def json_line():
        front.request("/visit/json", "logs.bar.com")
        return lines(r'^\{.*"/visit/json')
    line = json.loads(wait_until(json_line, what="a line in JSON")[0])
    assert (line["namespace"], line["ingress"], line["service"]) == (space.name, "echo", "echoheaders")
    assert line["endpoint"].rsplit(":", 1)[0] in endpoints
    settings({"access-log-format": None, "log-format-upstream": "named $ingress_name of $namespace: $uri"})
    wait_until(lambda: front.request("/named", "logs.bar.com").status == 200 and lines(rf"^named echo of {space.name}: /named"), what="$ingress_name")


# 6
def test_an_old_path_leads_to_the_new_one(space, front):
    echo_and(space, ingress("old", "rewrite.bar.com", "/old(/|$)(.*)", annotations={"nginx.ingress.kubernetes.io/rewrite-target": "/new/$2"}, path_type="ImplementationSpecific"))
    front.wait_live("/old/page", "rewrite.bar.com", lambda answer: answer.status == 200)
    assert front.echo("/old/page?a=1", "rewrite.bar.com")["path"] == "/new/page?a=1"


def handshake(front, host):
    """The certificate of a new connection, as DER, without a resumed session."""
    context = ssl._create_unverified_context()
    with socket.create_connection((front.address, front.https_port), 10) as raw, context.wrap_socket(raw, server_hostname=host) as connection:
        return connection.getpeercert(binary_form=True)


# 7
def test_a_replaced_secret_changes_the_certificate_without_a_drop(space, front, tmp_path):
    def apply(name):
        space.apply(tls_secret("tls", *certificate(tmp_path, name, ["tls.bar.com"])))
    apply("first")
    echo_and(space, ingress("tls", "tls.bar.com", tls="tls"))
    front.wait_live("/", "tls.bar.com", lambda answer: answer.status == 200, https=True)
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "first.crt").read_text())
    wait_until(lambda: handshake(front, "tls.bar.com") == der, what="the first certificate")
    with Load([(front.address, 80)], "tls.bar.com", expect=308) as load:
        apply("second")
        der = ssl.PEM_cert_to_DER_cert((tmp_path / "second.crt").read_text())
        wait_until(lambda: [handshake(front, "tls.bar.com") for _ in range(4)] == [der] * 4, what="the second certificate on all replicas")
        wait_until(load.at_least(50))
    assert load.failures == []


# 8
def test_the_clients_address_arrives_by_the_proxy_protocol(space, front, deployed, settings):
    echo_and(space, ingress("echo", "client.bar.com"))
    front.wait_live("/", "client.bar.com", lambda answer: answer.status == 200)
    # Userspace balancing hides the client: the application sees an address of the cluster's own.
    assert front.echo("/", "client.bar.com")["lower"]["x-forwarded-for"].startswith("10.244.")
    try:
        settings({"use-proxy-protocol": "true"})
        deployed.kubectl("annotate", "service", deployed.service, "moongate.test/proxy-protocol=true")
        def forwarded():
            with socket.create_connection((front.address, 80), 10) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: client.bar.com\r\nConnection: close\r\nAccept: application/json\r\n\r\n")
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
                return connection.getsockname()[0] if f'"X-Forwarded-For":"{connection.getsockname()[0]}"'.encode() in answer else None
        assert wait_until(forwarded, what="the client's own address")
    finally:
        deployed.kubectl("annotate", "service", deployed.service, "moongate.test/proxy-protocol-")
        settings({"use-proxy-protocol": None})
        wait_until(lambda: answers(front, "client.bar.com"), what="plain connections")


def answers(front, host):
    try:
        return all(front.request("/", host).status == 200 for _ in range(4))
    except (OSError, harness.http.client.HTTPException):
        return False


# 10
def test_each_replica_has_metrics(deployed, space, front):
    echo_and(space, ingress("echo", "metrics.bar.com"))
    front.wait_live("/", "metrics.bar.com", lambda answer: answer.status == 200)
    for _ in range(8):
        front.request("/", "metrics.bar.com")
    total = 0
    for pod in deployed.pods():
        one = harness.Moongate.__new__(harness.Moongate)
        one.address, one.health_port = pod["status"]["podIP"], 10254
        text = one.admin("/metrics").text
        assert re.search(r"^moongate_live_roots 1$", text, re.M)
        assert re.search(r"^# TYPE nginx_ingress_controller_requests counter$", text, re.M)
        total += sum(value for _, value in exposition.pick(exposition.parse(text), "nginx_ingress_controller_requests", ingress="echo", namespace=space.name))
    assert total >= 9


def test_the_controller_scales_and_sessions_hold_across_replicas(cluster, deployed, space, front):
    echo_and(space, sticky_ingress(), replicas=3)
    front.wait_live("/foo", "stickyingress.example.com", lambda answer: answer.status == 200)
    sessions = {}
    for _ in range(30):
        pod, cookie = visit(front)
        sessions[pod] = cookie
    deployed.kubectl("patch", "hpa", deployed.deployment, "--type=merge", "-p", '{"spec": {"minReplicas": 3}}')
    try:
        deployed.wait_ready(3)
        def all_replicas():
            return {tuple(visit(front, cookie) for _ in range(9)) for cookie in sessions.values()}
        assert all_replicas() == {((pod, None),) * 9 for pod in sessions}
        # Exactly one of them leads.
        holder = deployed.kubectl("get", "lease", "moongate-leader", "-o", "jsonpath={.spec.holderIdentity}")
        assert sum(holder.startswith(pod["metadata"]["name"]) for pod in deployed.pods()) == 1
    finally:
        deployed.kubectl("patch", "hpa", deployed.deployment, "--type=merge", "-p", '{"spec": {"minReplicas": 2}}')
        deployed.kubectl("scale", f"deployment/{deployed.deployment}", "--replicas=2")
        deployed.wait_ready(2)
