"""What goes wrong between the controller and the API server. The controller runs beside the cluster, mostly through the faults proxy, and serves all the time."""
import base64
import concurrent.futures
import json
import os
import random
import signal
import subprocess
import threading
import time

import harness
import pytest
from cluster import wait_until
from controllers import Controller, apply_rights
from harness import ingress, tls_secret
from load import Load
from spaces import deployment, echo_deployment, ingress_class, service

# Lines of the log that a fault is expected to leave.
AWAY = ["cannot follow", "status of Ingresses", "an Event was not taken", "lease", "Lease", "API server"]
INGRESSES = "/apis/networking.k8s.io/v1/ingresses?"


@pytest.fixture
def shop(cluster, space):
    """One application behind one Ingress, and the controller's rights."""
    apply_rights(cluster, space)
    space.apply([ingress_class(), deployment(replicas=2), service(), ingress("shop", "shop.test")])
    space.wait_endpoints("echoheaders", 2)
    return space


@pytest.fixture
def start(cluster, shop, tmp_path):
    """Starts controllers; they end clean, with no word in the log but the expected."""
    started = []

    def begin(**more):
        started.append(Controller(cluster, shop, tmp_path, **{"expect_errors": AWAY, **more}))
        return started[-1]
    yield begin
    try:
        for one in started:
            if one.process.returncode is None:
                one.stop()
    finally:
        for one in started:
            one.kill()


def add(space, name, host=None, **more):
    space.cluster.api("POST", space.path("ingresses", "/apis/networking.k8s.io/v1"), ingress(name, host or f"{name}.test", **more))


def is_served(controller, host, status=200):
    return controller.request("/", host).status == status


def wait_served(controller, *names, timeout=10, status=200):
    for name in names:
        wait_until(lambda: is_served(controller, f"{name}.test", status), timeout, f"{name}.test to answer {status}")


# ---- the server goes away

def test_the_server_is_killed_and_comes_back(cluster, shop, start):
    controller = start()
    with Load([("127.0.0.1", controller.http_port)], "shop.test") as load:
        cluster.kill_server()
        wait_until(load.at_least(200))
        assert controller.is_healthy()
        cluster.start_server()
        add(shop, "late")
        wait_served(controller, "late", timeout=40)
        shop.kubectl("scale", "deployment/echoheaders", "--replicas=3")
        shop.wait_endpoints("echoheaders", 3)
        wait_until(lambda: {controller.echo("/", "shop.test")["name"] for _ in range(12)} == {pod["metadata"]["name"] for pod in shop.pods()}, 20, "the third pod")
    assert load.failures == []


def lonely_pod(name):
    """A pod that nobody restarts."""
    template = echo_deployment(name)["spec"]["template"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "echoheaders"}}, "spec": {**template["spec"], "restartPolicy": "Never"}}


def end(pod):
    """Kills a pod's program."""
    os.kill(int(pod["status"]["containerStatuses"][0]["containerID"].removeprefix("process://")), signal.SIGKILL)


def test_while_the_server_is_away_a_dead_endpoint_is_left_out(cluster, space, tmp_path):
    """What nobody can tell us is noticed by passive marking."""
    apply_rights(cluster, space)
    space.apply([ingress_class(), lonely_pod("one"), lonely_pod("two"), service(), ingress("shop", "shop.test")])
    space.wait_endpoints("echoheaders", 2)
    controller = Controller(cluster, space, tmp_path, expect_errors=[*AWAY, "endpoint"])
    wait_until(lambda: {controller.echo("/", "shop.test")["name"] for _ in range(8)} == {"one", "two"}, what="both pods")
    pods = space.pods()
    cluster.kill_server()
    try:
        end(next(pod for pod in pods if pod["metadata"]["name"] == "one"))
        with Load([("127.0.0.1", controller.http_port)], "shop.test") as load:
            wait_until(load.at_least(500))
        assert load.failures == [] and set(load.names) == {"two"}
    finally:
        cluster.start_server()
    controller.stop()


def test_not_ready_before_the_first_sync_is_whole(shop, start, faults):
    faults.gate("refuse")
    controller = start(server=faults.url, is_ready=False)
    wait_until(lambda: controller.errors.find("cannot follow"), what="the complaint")
    assert controller.admin("/healthz").status == 500
    # One kind that cannot be listed is enough.
    with faults.under({"path": "^/apis/discovery.k8s.io/v1/endpointslices", "status": 500, "body": "no"}):
        faults.gate("open")
        wait_until(lambda: faults.seen("endpointslices", faulty=True), 30, "the list of endpoint slices")
        wait_until(lambda: faults.seen("secrets"), 30, "the list of Secrets")
        assert not controller.is_healthy()
    controller.wait_ready(40)
    wait_served(controller, "shop")


# ---- connections

def test_connections_are_cut_at_random_while_things_change(cluster, shop, start, faults):
    controller = start(server=faults.url)
    random.seed(4)
    over = threading.Event()

    def cut():
        while not over.wait(random.uniform(0.05, 1.5)):
            faults.cut()
    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        with Load([("127.0.0.1", controller.http_port)], "shop.test", clients=4) as load:
            for number in range(60):
                add(shop, f"cut-{number}")
                if number % 3 == 2:
                    cluster.api("DELETE", shop.path(f"ingresses/cut-{number - 1}", "/apis/networking.k8s.io/v1"))
                time.sleep(0.1)
    finally:
        over.set()
        cutting.join()
    gone = [f"cut-{number - 1}" for number in range(60) if number % 3 == 2]
    wait_served(controller, *(f"cut-{number}" for number in range(60) if f"cut-{number}" not in gone), timeout=60)
    wait_served(controller, *gone, timeout=60, status=404)
    assert load.failures == []
    # Where a watch was cut, it went on from where it was; a list is not made for that.
    lists = [one for one in faults.seen(INGRESSES) if "watch=" not in one["path"]]
    watches = [one for one in faults.seen(INGRESSES) if "watch=true" in one["path"]]
    assert len(lists) == 1 and len(watches) > 3, (len(lists), len(watches))


def test_a_truncated_watch_and_a_truncated_list_lose_nothing(shop, start, faults):
    # The list of Ingresses ends in the middle of an object, twice; then it is whole.
    faults.rules({"path": "^/apis/networking.k8s.io/v1/ingresses.limit", "truncate_after": 700, "times": 2})
    controller = start(server=faults.url, is_ready=False)
    wait_until(lambda: len(faults.seen(INGRESSES, faulty=True)) == 2, 20, "two truncated lists")
    controller.wait_ready(30)
    wait_served(controller, "shop")
    # Each watch ends in the middle of an event, wherever that is.
    faults.rules({"path": "ingresses.*watch=true", "truncate_after": 1500})
    faults.cut()
    for number in range(6):
        add(shop, f"part-{number}")
    faults.rules()
    wait_served(controller, *(f"part-{number}" for number in range(6)), timeout=60)


def test_a_stalled_list_is_given_up_and_made_again(shop, start, faults):
    faults.rules({"path": "^/apis/networking.k8s.io/v1/ingresses.limit", "stall_after": 100, "times": 1})
    controller = start(server=faults.url, is_ready=False)
    controller.wait_ready(60)
    assert len(faults.seen(INGRESSES, faulty=True)) == 1
    wait_served(controller, "shop")


# ---- wrong answers

@pytest.mark.parametrize("answer", [{"status": 429, "headers": {"Retry-After": "1"}}, {"status": 500, "body": "internal"}, {"status": 503}, {"status": 200, "body": "<html>"}],
                         ids=["429", "500", "503", "no JSON"])
def test_the_server_answers_wrongly_for_a_while(shop, start, faults, answer):
    faults.rules({"path": ".", "times": 20, **answer})
    controller = start(server=faults.url, is_ready=False)
    wait_until(lambda: len(faults.seen(faulty=True)) >= 5, 20, "wrong answers")
    assert not controller.is_healthy()
    faults.rules()
    controller.wait_ready(40)
    wait_served(controller, "shop")
    # In use: all watches break, and what replaces them fails for a while.
    faults.rules({"path": "ingresses", "times": 3, **answer})
    faults.cut()
    add(shop, "late")
    wait_served(controller, "late", timeout=60)
    assert faults.seen("ingresses", faulty=True)


def test_retry_after_is_obeyed(shop, start, faults):
    faults.rules({"path": "^/apis/networking.k8s.io/v1/ingresses", "status": 429, "headers": {"Retry-After": "4"}, "times": 1})
    controller = start(server=faults.url, is_ready=False)
    controller.wait_ready(40)
    first, second = [one["time"] for one in faults.seen(INGRESSES)][:2]
    assert second - first >= 4


EXPIRED = {"status": 410, "body": json.dumps({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old"})}


def test_a_page_that_expired_begins_the_list_anew(shop, start, faults):
    paths = shop.path("ingresses", "/apis/networking.k8s.io/v1")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: shop.cluster.api("POST", paths, ingress(f"many-{number}", f"many-{number}.test")), range(700)))
    faults.rules({"path": "ingresses.*continue=", "times": 1, **EXPIRED})
    controller = start(server=faults.url, is_ready=False)
    controller.wait_ready(40)
    wait_served(controller, "many-0", "many-350", "many-699")
    pages = [one["fault"] for one in faults.seen(INGRESSES) if "continue=" in one["path"]]
    assert pages == [True, False]


def test_after_a_compaction_what_changed_in_between_is_there(cluster, shop, start, faults):
    """The watch resumes at a revision that neither etcd nor the restarted server knows: 410, and a new list."""
    add(shop, "goes")
    controller = start(server=faults.url)
    wait_served(controller, "shop", "goes")
    faults.gate("refuse")
    faults.cut()
    add(shop, "comes")
    cluster.api("DELETE", shop.path("ingresses/goes", "/apis/networking.k8s.io/v1"))
    cluster.compact()
    cluster.kill_server()
    cluster.start_server()
    assert is_served(controller, "goes.test") and is_served(controller, "comes.test", 404)
    faults.gate("open")
    wait_served(controller, "comes", timeout=60)
    wait_served(controller, "goes", status=404)
    lists = [one for one in faults.seen(INGRESSES) if "watch=" not in one["path"]]
    assert len(lists) == 2


# ---- credentials

def test_a_rotated_token_is_read_again(cluster, shop, start, faults, tmp_path):
    old, new = cluster.token("moongate", shop.name), cluster.token("moongate", shop.name)
    file = tmp_path / "token"
    file.write_text(old)
    controller = start(server=faults.url, user={"tokenFile": str(file)})
    wait_served(controller, "shop")
    assert {one["token"] for one in faults.seen()} == {old}
    # The old one is over; the new one comes a little later.
    faults.rules({"path": ".", "token": old, "status": 401, "body": json.dumps({"kind": "Status", "code": 401, "message": "Unauthorized"})})
    faults.cut()
    wait_until(lambda: faults.seen(faulty=True), 20, "a refused request")
    part = tmp_path / "token.part"
    part.write_text(new + "\n")
    part.rename(file)
    add(shop, "late")
    wait_served(controller, "late", timeout=60)
    assert new in {one["token"] for one in faults.seen()}


def test_client_certificates_log_in_too(cluster, shop, start):
    files = {"client-certificate": str(cluster.state / "admin.crt"), "client-key": str(cluster.state / "admin.key")}
    wait_served(start(user=files), "shop")


def test_exec_plugins_are_refused_with_a_clear_message(cluster, tmp_path):
    config = cluster.write_kubeconfig(tmp_path / "kubeconfig", {"exec": {"command": "aws", "apiVersion": "client.authentication.k8s.io/v1"}})
    done = subprocess.run([harness.BINARY, "run", "--kubeconfig", str(config), "--http-port=0", "--https-port=0", "--healthz-port=0"],
                          capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0 and "exec" in done.stderr and "tokenFile" in done.stderr and done.stderr.count("\n") == 1


def test_another_servers_certificate_is_not_taken(cluster, shop, start, tmp_path):
    """The kubeconfig names another authority than the server's."""
    pem, _ = harness.certificate(tmp_path, "stranger", ["localhost"])
    controller = start(is_ready=False, authority=pem, expect_errors=[*AWAY, "certificate"])
    wait_until(lambda: controller.errors.find("certificate"), 20, "the complaint about the certificate")
    assert not controller.is_healthy()
    controller.kill()


# ---- garbage

def test_garbage_hurts_nobody_else_and_is_told_to_its_owner(cluster, shop, start):
    controller = start(expect_errors=[*AWAY, "finding", "answered with an error"])
    wait_served(controller, "shop")
    shop.apply([tls_secret("bad", "no certificate", "no key"), ingress("bad-tls", "bad-tls.test", tls="bad"),
                ingress("bad-value", "bad-value.test", annotations={"nginx.ingress.kubernetes.io/proxy-body-size": "nonsense"}),
                ingress("attack", "attack.test", "/;alias /etc/;", path_type="ImplementationSpecific"),
                ingress("no-service", "no-service.test", service_name="nowhere")])
    add(shop, "after")
    wait_served(controller, "after", "shop")
    assert controller.request("/", "bad-tls.test", https=True).status == 200 and is_served(controller, "no-service.test", 503)
    for name, word in (("bad-tls", "bad"), ("bad-value", "proxy-body-size"), ("attack", "path")):
        wait_until(lambda: [one for one in shop.events(name) if one["type"] == "Warning" and word in one["message"]], 20, f"an Event on {name} with {word}")
    # Events reach kubectl describe: they name the object by its uid.
    assert "proxy-body-size" in shop.kubectl("describe", "ingress", "bad-value")
    shop.apply(tls_secret("bad", *harness.certificate(controller.folder, "good", ["bad-tls.test"])))
    wait_until(lambda: "good" in subject(controller, "bad-tls.test"), what="the mended certificate")


def subject(controller, host):
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{controller.https_port}", "-servername", host], input="", capture_output=True, text=True, check=False)
    return done.stdout


# ---- many

def test_ten_thousand_ingresses_are_created_while_serving(cluster, shop, start):
    controller = start(expect_errors=[*AWAY])
    paths = shop.path("ingresses", "/apis/networking.k8s.io/v1")
    with Load([("127.0.0.1", controller.http_port)], "shop.test", clients=4) as load:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: cluster.api("POST", paths, ingress(f"many-{number}", f"many-{number}.test")), range(10_000)))
        wait_served(controller, "many-9999", timeout=60)
    assert load.failures == []
    assert all(is_served(controller, f"many-{number}.test") for number in range(0, 10_000, 97))
