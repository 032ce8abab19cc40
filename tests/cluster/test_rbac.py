"""The rights of kube/deploy/base are minimal: each verb of each resource is taken away in turn, and each time something named here breaks."""
import copy
import subprocess
import time

import harness
import pytest
import yaml
from cluster import wait_until
from controllers import DEPLOY, Controller, Deployed, rights
from harness import certificate, ingress, tls_secret
from spaces import deployment, ingress_class, service

QUIET = ["."]  # what breaks is said in the log; that is not looked at here


def each_right():
    """(kind of role, resource, verb) of every rule, read from the file itself."""
    found = []
    for one in yaml.safe_load_all((DEPLOY / "base/rbac.yaml").read_text()):
        for rule in one.get("rules", []):
            found += [(one["kind"], resource, verb) for resource in rule["resources"] for verb in rule["verbs"]]
    return found


def without(objects, kind, resource, verb):
    """The objects, each rule split so that one right is missing."""
    made = copy.deepcopy(objects)
    for one in made:
        if one["kind"] != kind:
            continue
        rules = []
        for rule in one["rules"]:
            for name in rule["resources"]:
                verbs = [v for v in rule["verbs"] if (name, v) != (resource, verb)]
                if verbs:
                    rules.append({**rule, "resources": [name], "verbs": verbs})
        one["rules"] = rules
    return made


class World:
    """What works when nothing is missing. Each check is a method that returns true."""

    def __init__(self, space, controller):
        self.space, self.controller = space, controller

    def is_ready(self):
        return self.controller.is_healthy()

    def serves(self):
        return self.is_ready() and self.controller.request("/", "rights.test").status == 200

    def knows_the_class(self):
        return self.is_ready() and self.controller.request("/", "by-field.test").status == 200

    def has_certificate(self):
        if not self.is_ready():
            return False
        shown = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{self.controller.https_port}", "-servername", "rights.test"], input="",
                               capture_output=True, text=True, check=False).stdout
        return self.certificate_name in shown

    def has_setting(self):
        return self.is_ready() and self.controller.request("/", "rights.test").header("X-Set") == self.setting

    def has_status(self):
        return self.space.ingress_addresses("rights") == [self.address]

    def has_event(self):
        return bool([one for one in self.space.events("wrong") if one["type"] == "Warning"])

    def is_denied_something(self):
        return self.controller.errors.find(r"answers 403|no right to")


def holds(check, timeout=3):
    """Does it hold within a while?"""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            if check():
                return True
        except (OSError, harness.http.client.HTTPException):
            pass
        time.sleep(0.05)
    return False


def everything(cluster, space, tmp_path, objects):
    """Sets the world up under these rights, changes it while the controller runs, and returns the names of what did not come about."""
    apply_rights_now(cluster, space, objects)
    space.apply([ingress_class(), deployment(), service(), service("moongate", type="LoadBalancer"),
                 tls_secret("tls", *certificate(tmp_path, "first", ["rights.test"])),
                 {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "moongate"}, "data": {"add-headers": f"{space.name}/headers", "ssl-redirect": "false"}},
                 {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "headers"}, "data": {"X-Set": "first"}},
                 ingress("rights", "rights.test", tls="tls", class_name=None, annotations={"kubernetes.io/ingress.class": "nginx"}),
                 ingress("by-field", "by-field.test"),
                 wrong("nonsense")])
    space.wait_endpoints("echoheaders", 1)
    wait_until(lambda: space.get("service", "moongate")["status"]["loadBalancer"].get("ingress"), what="the balancer")
    controller = Controller(cluster, space, tmp_path, [f"--publish-service={space.name}/moongate", f"--configmap={space.name}/moongate", "--election-ttl=3s"],
                            expect_errors=QUIET, is_ready=False)
    world = World(space, controller)
    world.address = space.get("service", "moongate")["status"]["loadBalancer"]["ingress"][0]["ip"]
    broken = []
    try:
        if not holds(world.is_ready, 6):
            return ["never ready"]
        controller.wait_ready()
        for stage in ("first", "second"):
            world.certificate_name, world.setting = stage, stage
            if stage == "second":
                change(space, tmp_path)
                if not holds(lambda: controller.request("/", "late.test").status == 200):
                    broken.append("second: a new Ingress")
                if not holds(lambda: controller.request("/", "late-class.test").status == 200):
                    broken.append("second: a new class")
                if not holds(lambda: controller.request("/", "late-service.test").status == 200):
                    broken.append("second: a new Service")
            for check in (world.serves, world.knows_the_class, world.has_certificate, world.has_setting, world.has_status, world.has_event):
                if not holds(check):
                    broken.append(f"{stage}: {check.__name__}")
        # A watch that is denied is made up for by lists, seconds late; whoever reads the log sees it.
        if holds(world.is_denied_something):
            broken.append(world.is_denied_something().group(0))
    finally:
        controller.kill()
    return broken


def wrong(value):
    return ingress("wrong", "wrong.test", class_name=None, annotations={"kubernetes.io/ingress.class": "nginx", "nginx.ingress.kubernetes.io/proxy-body-size": value})


def change(space, tmp_path):
    # Mended and broken again: what was said before is counted, not said anew.
    space.apply(wrong("1m"))
    space.apply([wrong("nonsense"), tls_secret("tls", *certificate(tmp_path, "second", ["rights.test"])),
                 {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "headers"}, "data": {"X-Set": "second"}},
                 ingress_class("late"), service("late", selector={"app": "echoheaders"}),
                 ingress("late", "late.test"), ingress("late-class", "late-class.test", class_name="late"), ingress("late-service", "late-service.test", service_name="late")])


def apply_rights_now(cluster, space, objects):
    """Applied, and known to the server's authorizer: it learns of roles and bindings by watches."""
    space.apply(objects)
    for kind in ("Role", "ClusterRole"):
        rule = next(rule for one in objects if one["kind"] == kind for rule in one["rules"] if "resourceNames" not in rule)
        resource = rule["resources"][0] + ("." + rule["apiGroups"][0] if rule["apiGroups"][0] else "")
        asked = ["auth", "can-i", rule["verbs"][0], resource, "--as", f"system:serviceaccount:{space.name}:moongate", *(["-n", space.name] if kind == "Role" else ["-A"])]
        wait_until(lambda: cluster.kubectl(*asked, check=False).returncode == 0, 10, f"{kind}: {asked}")


def test_with_all_rights_nothing_breaks(cluster, space, tmp_path):
    assert everything(cluster, space, tmp_path, rights(cluster, space)) == []


@pytest.mark.parametrize("kind,resource,verb", [one for one in each_right() if one[1] != "pods"])
def test_without_this_right_something_breaks(cluster, space, tmp_path, kind, resource, verb):
    broken = everything(cluster, space, tmp_path, without(rights(cluster, space), kind, resource, verb))
    print(f"without {verb} {resource}: {broken}")
    assert broken


@pytest.mark.parametrize("verb", [verb for _, resource, verb in each_right() if resource == "pods"])
def test_without_knowing_its_pods_the_last_one_does_not_clear_the_status(cluster, space, verb):
    """With them it does: test_rolling.py."""
    def change(one):
        if one["kind"] == "Role":
            one["rules"] = without([one], "Role", "pods", verb)[0]["rules"]
    made = Deployed(cluster, change=change)
    try:
        made.wait_ready(2)
        space.apply([deployment(), service(), ingress("shop", "rights.test")])
        front = made.balanced()
        wait_until(lambda: space.ingress_addresses("shop") == [front.address], 20, "the status")
        made.kubectl("delete", "hpa", made.deployment)
        made.kubectl("scale", f"deployment/{made.deployment}", "--replicas=0")
        wait_until(lambda: made.pods() == [], 60, "all controllers to be gone")
        assert space.ingress_addresses("shop") == [front.address]
    finally:
        made.remove()
