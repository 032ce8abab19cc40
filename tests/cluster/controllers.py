"""Moongate under test: as a process beside the cluster with the rights of kube/deploy, or as what kube/deploy makes of it."""
import http.client
import json
import os
import re
import socket

import harness
import namespace
import yaml
from cluster import ROOT, CLUSTER_KINDS, wait_until
from spaces import is_ready

DEPLOY = ROOT / "kube" / "deploy"
RBAC_KINDS = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}


def render(cluster, name="base"):
    """The objects of a folder of kube/deploy."""
    return [one for one in yaml.safe_load_all(cluster.kubectl("kustomize", DEPLOY / name)) if one]


def rights(cluster, space):
    """The RBAC objects of the base, moved into a test's namespace; those without one get its name."""
    own = f"moongate-{space.name}"
    found = [one for one in render(cluster) if one["kind"] in RBAC_KINDS]
    for one in found:
        if one["kind"] in CLUSTER_KINDS:
            one["metadata"]["name"] = own
        else:
            one["metadata"]["namespace"] = space.name
        for subject in one.get("subjects", []):
            subject["namespace"] = space.name
        if one.get("roleRef", {}).get("kind") == "ClusterRole":
            one["roleRef"]["name"] = own
    return found


def apply_rights(cluster, space, objects=None):
    """Applies them and waits until the server's authorizer knows: it learns of them by a watch."""
    space.apply(objects or rights(cluster, space))
    account = f"system:serviceaccount:{space.name}:moongate"
    for verb, resource in (("list", "ingresses"), ("create", "leases")):
        wait_until(lambda: cluster.kubectl("auth", "can-i", verb, resource, "--as", account, "-n", space.name, check=False).returncode == 0, 10, f"the right to {verb} {resource}")


def free_port():
    """In our own namespace, with nobody who could take it in between but us."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Controller(harness.Moongate):
    """A process. `server` is another URL of the API server (a faults proxy's), `user` other credentials than a token of
    the service account, `authority` another CA in PEM."""

    def __init__(self, cluster, space, folder, flags=(), server=None, user=None, authority=None, expect_errors=(), workers=2, pod="controller-0", is_ready=True):
        self.folder = folder / pod
        self.folder.mkdir()
        self.expect_errors = list(expect_errors)
        kubeconfig = cluster.write_kubeconfig(self.folder / "kubeconfig", user or {"token": cluster.token("moongate", space.name)}, space.name, server, authority)
        # The log tells the ports after the first sync; who waits for that needs one before.
        self.health_port = free_port()
        self.command = [harness.BINARY, "run", "--kubeconfig", str(kubeconfig), "--http-port", "0", "--https-port", "0", "--healthz-port", str(self.health_port),
                        "--workers", str(workers), "--bind-address", self.address, "--healthz-host", self.address, "-v=2", "--election-id=moongate-leader",
                        # There is no pod of this name whose labels could be asked for.
                        "--post-shutdown-grace-period=0", "--update-status-on-shutdown=false", *flags]
        if not any(flag.startswith("--publish") for flag in flags):
            self.command.append("--publish-status-address=192.0.2.10")
        self.environment = {**os.environ, "POD_NAME": pod, "POD_NAMESPACE": space.name}
        self.start(self.command, env=self.environment, preexec_fn=namespace.die_with_us)
        if is_ready:
            self.wait_ready()

    def wait_for_ports(self):
        """Later: see wait_ready."""

    def wait_ready(self, timeout=30):
        wait_until(lambda: self.process.poll() is not None or self.is_healthy(), timeout, "the controller to be ready")
        super().wait_for_ports()

    def is_healthy(self):
        try:
            return self.admin("/healthz").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def access_lines(self, pattern=""):
        return [line for line in self.access.all() if re.search(pattern, line)]


class Balanced(harness.Moongate):
    """What stands behind an address of a Service: only the client's half of harness.Moongate."""

    def __init__(self, address, http_port=80, https_port=443):
        self.address, self.http_port, self.https_port = address, http_port, https_port

    def wait_live(self, path, host, check, timeout=20, **more):
        """Each connection may reach another replica: several in a row must fit."""
        def all_of_them():
            try:
                answers = [self.request(path, host, **more) for _ in range(6)]
            except (OSError, http.client.HTTPException):  # the balancer does not know of them yet
                return None
            return answers[0] if all(map(check, answers)) else None
        return wait_until(all_of_them, timeout, f"{host}{path} live on all replicas")


class Deployed:
    """A folder of kube/deploy, applied; `change` may alter its objects before."""

    def __init__(self, cluster, folder="base", change=None):
        self.cluster = cluster
        self.objects = render(cluster, folder)
        for one in self.objects:
            if change:
                change(one)
        self.namespace = next(one["metadata"]["name"] for one in self.objects if one["kind"] == "Namespace")
        self.deployment = next(one["metadata"]["name"] for one in self.objects if one["kind"] == "Deployment")
        self.service = next(one["metadata"]["name"] for one in self.objects if one["kind"] == "Service" and one["spec"].get("type") == "LoadBalancer")
        wait_until(lambda: cluster.api("GET", f"/api/v1/namespaces/{self.namespace}", check=False)[0] == 404, 60, "the last test's namespace to be gone")
        self.apply()

    def kubectl(self, *arguments, **more):
        return self.cluster.kubectl("-n", self.namespace, *arguments, **more)

    def apply(self, objects=None):
        return self.cluster.kubectl("apply", "-f", "-", input="\n---\n".join(map(json.dumps, objects or self.objects)))

    def pods(self):
        return self.cluster.api("GET", f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app.kubernetes.io/component=controller")["items"]

    def wait_ready(self, count, timeout=90):
        def ready():
            pods = [pod for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]]
            return pods if len(pods) == count and all(map(is_ready, pods)) else None
        return wait_until(ready, timeout, f"{count} ready controllers")

    def wait_rolled_out(self, timeout=180):
        self.kubectl("rollout", "status", f"deployment/{self.deployment}", f"--timeout={timeout}s", timeout=timeout + 10)

    def balanced(self):
        """A client of the Service's address."""
        def address():
            status = self.cluster.api("GET", f"/api/v1/namespaces/{self.namespace}/services/{self.service}")["status"]
            return status["loadBalancer"].get("ingress")
        return Balanced(wait_until(address, what="the balancer's address")[0]["ip"])

    def logs(self):
        """pod name -> what it wrote."""
        return {pod["metadata"]["name"]: self.cluster.log(self.namespace, pod["metadata"]["name"]) for pod in self.pods()}

    def remove(self):
        for one in self.objects:
            if one["kind"] in CLUSTER_KINDS and one["kind"] != "Namespace":
                self.kubectl("delete", one["kind"], one["metadata"]["name"], "--ignore-not-found")
        self.kubectl("delete", "deployment", self.deployment, "--cascade=foreground", "--grace-period=1", "--ignore-not-found")
        for pod in self.pods():
            self.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=1", "--wait=false", "--ignore-not-found")
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false")
