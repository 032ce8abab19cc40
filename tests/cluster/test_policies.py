"""A user's own policy on a cluster: mounted from a ConfigMap as kube/deploy/examples/policy does, changed while requests run."""
import json

import pytest
from cluster import wait_until
from controllers import DEPLOY, Controller, Deployed, apply_rights
from harness import ingress
from load import Load
from spaces import deployment, ingress_class, restarts, service

GREETING = (DEPLOY / "examples/policy/greeting.lua").read_text()


@pytest.fixture
def deployed(cluster):
    made = Deployed(cluster, "examples/policy")
    made.wait_ready(2)
    yield made
    made.remove()


def policies(text, name="moongate-policies", labels=None, file="greeting.lua"):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels or {}}, "data": {file: text}}


def test_a_mounted_policy_changes_while_requests_run(deployed, space):
    space.apply([deployment(replicas=2), service(), ingress("shop", "shop.test", annotations={"moongate.io/greeting": "hello"})])
    space.wait_endpoints("echoheaders", 2)
    front = deployed.balanced()
    def greetings():
        return {front.request("/", "shop.test").header("X-Greeting") for _ in range(6)}
    wait_until(lambda: greetings() == {"hello"}, 20, "the policy")
    before = {(pod["metadata"]["uid"], restarts(pod)) for pod in deployed.pods()}
    def apply(text):
        deployed.kubectl("apply", "-f", "-", input=json.dumps(policies(text)))
    with Load([(front.address, 80)], "shop.test") as load:
        apply(GREETING.replace("config.text)", 'config.text .. ", world")'))
        wait_until(lambda: greetings() == {"hello, world"}, 10, "the changed policy")
        # A broken one leaves the last good one in force, and says where it is broken.
        apply(GREETING + "\nthis is no Lua\n")
        wait_until(lambda: all("greeting.lua" in log and "line" in log or "greeting.lua:" in log for log in deployed.logs().values()), what="the report")
        assert greetings() == {"hello, world"}
        apply(GREETING.replace("config.text)", 'config.text .. " again")'))
        wait_until(lambda: greetings() == {"hello again"}, 10, "the mended policy")
        wait_until(load.at_least(50))
    assert load.failures == []
    assert {(pod["metadata"]["uid"], restarts(pod)) for pod in deployed.pods()} == before


def test_labelled_configmaps_hold_policies(cluster, space, tmp_path):
    apply_rights(cluster, space)
    space.apply([ingress_class(), deployment(), service(), ingress("shop", "shop.test", annotations={"moongate.io/greeting": "hello"})])
    space.wait_endpoints("echoheaders", 1)
    controller = Controller(cluster, space, tmp_path, expect_errors=["greeting"])
    controller.wait_live("/", "shop.test", lambda answer: answer.status == 200 and answer.header("X-Greeting") is None)
    label = {"moongate.io/policies": "true"}
    space.apply(policies(GREETING, "mine", label))
    controller.wait_live("/", "shop.test", lambda answer: answer.header("X-Greeting") == "hello")
    space.apply(policies(GREETING.replace("config.text)", '"changed")'), "mine", label))
    controller.wait_live("/", "shop.test", lambda answer: answer.header("X-Greeting") == "changed")
    # What is wrong with one is an Event on it; its last good version stays.
    space.apply(policies("return 1 +", "mine", label))
    wait_until(lambda: [one for one in space.events("mine") if one["type"] == "Warning" and "greeting.lua" in one["message"]], what="the Event")
    assert controller.request("/", "shop.test").header("X-Greeting") == "changed"
    space.kubectl("delete", "configmap", "mine")
    controller.wait_live("/", "shop.test", lambda answer: answer.status == 200 and answer.header("X-Greeting") is None)
    controller.stop()
