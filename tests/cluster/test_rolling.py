"""Rolling restarts under constant load, and the controller's end: no request is lost."""
import threading
import time

import pytest
from cluster import wait_until
from controllers import Balanced, Deployed
from harness import WebSocket, ingress
from load import Load
from spaces import echo_deployment, is_ready, service


@pytest.fixture(scope="module")
def deployed(cluster):
    """Three replicas."""
    def change(one):
        if one["kind"] == "HorizontalPodAutoscaler":
            one["spec"]["minReplicas"] = 3
    made = Deployed(cluster, change=change)
    made.wait_ready(3)
    yield made
    made.remove()


@pytest.fixture
def front(deployed):
    return deployed.balanced()


def targets(deployed, front):
    """Two addresses to connect to: the balancer's and the cluster's own."""
    own = deployed.cluster.api("GET", f"/api/v1/namespaces/{deployed.namespace}/services/{deployed.service}")["spec"]["clusterIP"]
    return [(front.address, 80), (own, 80)]


def shop(space, replicas=3):
    # The application serves on while its end becomes known, as any well-behaved one.
    space.apply([echo_deployment(replicas=replicas, container={"lifecycle": {"preStop": {"sleep": {"seconds": 2}}}}), service(), ingress("shop", "rolling.test")])
    space.wait_rolled_out("echoheaders")
    space.wait_endpoints("echoheaders", replicas)


def test_a_rolling_restart_of_the_application_loses_nothing(deployed, space, front):
    shop(space)
    front.wait_live("/", "rolling.test", lambda answer: answer.status == 200)
    with Load(targets(deployed, front), "rolling.test") as load:
        wait_until(load.at_least(200))
        before = {pod["metadata"]["name"] for pod in space.ready_pods("app=echoheaders")}
        space.kubectl("rollout", "restart", "deployment/echoheaders")
        space.wait_rolled_out("echoheaders")
        wait_until(lambda: not before & {pod["metadata"]["name"] for pod in space.pods()}, 30, "the old pods to be gone")
        wait_until(load.at_least(200))
    assert load.failures == []
    assert before < set(load.names) and len(load.names) >= 6


def test_pods_that_die_without_a_word_lose_nothing_either(deployed, space, front):
    """GET is idempotent: what a killed pod had not answered is asked of another one."""
    shop(space)
    front.wait_live("/", "rolling.test", lambda answer: answer.status == 200)
    with Load(targets(deployed, front), "rolling.test") as load:
        for _ in range(3):
            pod = space.ready_pods("app=echoheaders")[0]["metadata"]["name"]
            space.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
            wait_until(load.at_least(200))
            space.wait_endpoints("echoheaders", 3)
    assert load.failures == []


def test_a_rolling_restart_of_the_controller_loses_nothing(deployed, space, front):
    shop(space)
    front.wait_live("/", "rolling.test", lambda answer: answer.status == 200)
    before = {pod["metadata"]["name"] for pod in deployed.pods()}
    with Load(targets(deployed, front), "rolling.test") as load:
        wait_until(load.at_least(200))
        deployed.kubectl("rollout", "restart", f"deployment/{deployed.deployment}")
        deployed.wait_rolled_out()
        wait_until(lambda: not before & {pod["metadata"]["name"] for pod in deployed.pods()}, 60, "the old controllers to be gone")
        wait_until(load.at_least(200))
    assert load.failures == []
    assert load.count > 1000


def test_what_is_open_may_end_by_itself(deployed, space, front):
    """A pod of the controller is deleted while a slow request and a WebSocket are on it: both go on, new connections go elsewhere, and then it ends."""
    shop(space)
    front.wait_live("/", "rolling.test", lambda answer: answer.status == 200)
    pod = deployed.pods()[0]
    direct = Balanced(pod["status"]["podIP"])
    answers = []
    slow = threading.Thread(target=lambda: answers.append(direct.request("/sleep/12", "rolling.test", timeout=60).status))
    slow.start()
    web = WebSocket(80, "/", "rolling.test", address=direct.address)
    web.send(b"one")
    assert web.receive() == (1, b"one")
    begun = time.monotonic()
    deployed.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    wait_until(lambda: not is_ready(deployed.cluster.api("GET", f"/api/v1/namespaces/{deployed.namespace}/pods/{pod['metadata']['name']}")), 20, "readiness to be off")
    slow.join(60)
    assert answers == [200] and time.monotonic() - begun > 8
    web.send(b"two")
    assert web.receive() == (1, b"two")
    web.close()
    wait_until(lambda: deployed.cluster.api("GET", f"/api/v1/namespaces/{deployed.namespace}/pods/{pod['metadata']['name']}", check=False)[0] == 404, 30, "the pod to end")
    log = deployed.cluster.log(deployed.namespace, pod["metadata"]["name"]).splitlines()
    # The webhook has no certificate here.
    assert [line for line in log if ("level=error" in line or "ERROR" in line) and "no certificate" not in line] == []
    assert [line for line in log if 'message="ended"' in line]


def test_the_last_pod_to_go_takes_the_address_with_it(deployed, space, front):
    """Only the last one: while others serve, the status stays."""
    shop(space, 1)
    wait_until(lambda: space.ingress_addresses("shop") == [front.address], 20, "the status")
    leader = deployed.kubectl("get", "lease", "moongate-leader", "-o", "jsonpath={.spec.holderIdentity}")
    deployed.kubectl("delete", "pod", leader, "--wait=true", timeout=60)
    assert space.ingress_addresses("shop") == [front.address]
    deployed.kubectl("delete", "hpa", deployed.deployment)
    deployed.kubectl("scale", f"deployment/{deployed.deployment}", "--replicas=0")
    wait_until(lambda: deployed.pods() == [], 60, "all controllers to be gone")
    assert space.ingress_addresses("shop") == []
