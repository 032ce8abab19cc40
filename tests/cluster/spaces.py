"""A test's own Kubernetes namespace, and the manifests that tests share."""
import json
import time

import yaml

from cluster import CLUSTER_KINDS, wait_until


def as_list(objects):
    """YAML text, an object or a list of objects."""
    if isinstance(objects, str):
        return [one for one in yaml.safe_load_all(objects) if one]
    return objects if isinstance(objects, list) else [objects]


class Space:
    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        self.globals = []  # objects without a namespace, to be taken away at the end
        cluster.api("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": {"moongate.test/space": name}}})
        # Pods cannot be made before.
        wait_until(lambda: cluster.api("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default", check=False)[0] == 200, 20, "the namespace's service account")

    def kubectl(self, *arguments, **more):
        return self.cluster.kubectl("-n", self.name, *arguments, **more)

    def apply(self, objects, check=True):
        objects = as_list(objects)
        self.globals += [(one["kind"], one["metadata"]["name"]) for one in objects if one["kind"] in CLUSTER_KINDS]
        return self.kubectl("apply", "-f", "-", input="\n---\n".join(map(json.dumps, objects)), check=check)

    def get(self, kind, name):
        return json.loads(self.kubectl("get", kind, name, "-o", "json"))

    def items(self, kind, selector=None):
        return json.loads(self.kubectl("get", kind, "-o", "json", *(["-l", selector] if selector else [])))["items"]

    def path(self, resource, group="/api/v1"):
        return f"{group}/namespaces/{self.name}/{resource}"

    # ---- pods
    def pods(self, selector=None):
        query = f"?labelSelector={selector}" if selector else ""
        return self.cluster.api("GET", self.path("pods") + query)["items"]

    def ready_pods(self, selector):
        return [pod for pod in self.pods(selector) if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]

    def wait_ready(self, selector, count, timeout=30):
        """Waits until exactly so many pods exist and all are ready."""
        return wait_until(lambda: (lambda pods: pods if len(pods) == count and len(self.ready_pods(selector)) == count else None)(self.pods(selector)), timeout,
                          f"{count} ready pods of {selector}")

    def wait_rolled_out(self, deployment, timeout=120):
        self.kubectl("rollout", "status", f"deployment/{deployment}", f"--timeout={timeout}s", timeout=timeout + 10)

    def log(self, pod, container=None):
        return self.cluster.log(self.name, pod, container)

    # ---- endpoints
    def endpoints(self, service):
        """address -> conditions, over all slices of a Service."""
        slices = self.cluster.api("GET", self.path("endpointslices", "/apis/discovery.k8s.io/v1") + f"?labelSelector=kubernetes.io/service-name={service}")["items"]
        return {address: endpoint["conditions"] for one in slices for endpoint in one["endpoints"] or [] for address in endpoint["addresses"]}

    def wait_endpoints(self, service, count, timeout=30):
        """Waits for so many ready endpoints; returns their addresses."""
        def ready():
            found = [address for address, conditions in self.endpoints(service).items() if conditions["ready"]]
            return [sorted(found)] if len(found) == count else None
        return wait_until(ready, timeout, f"{count} ready endpoints of {service}")[0]

    def ingress_addresses(self, name):
        status, object_ = self.cluster.api("GET", self.path(f"ingresses/{name}", "/apis/networking.k8s.io/v1"), check=False)
        assert status == 200, object_
        return [one.get("ip") or one.get("hostname") for one in object_["status"].get("loadBalancer", {}).get("ingress", [])]

    def events(self, name, reason=None):
        items = self.cluster.api("GET", self.path("events") + f"?fieldSelector=involvedObject.name={name}")["items"]
        return [one for one in items if reason in (None, one["reason"])]

    def end(self):
        """Ingresses are gone when this returns, the rest follows: the next test may use the same hosts."""
        self.cluster.api("DELETE", self.path("ingresses", "/apis/networking.k8s.io/v1"))
        for kind, name in self.globals:
            self.cluster.kubectl("delete", kind, name, "--ignore-not-found", "--wait=false")
        self.cluster.api("DELETE", f"/api/v1/namespaces/{self.name}")


def is_ready(pod):
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))


def restarts(pod):
    return sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))


def now():
    return time.monotonic()


# ---- manifests

def deployment(name="echoheaders", replicas=1, image="echo", annotations=None, container=None, pod=None, **spec):
    """Without an image of ours: the node agent's own echo, which is there at once. `container` and `pod` add to their specs."""
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}}, **spec,
        "template": {"metadata": {"labels": {"app": name}, "annotations": annotations or {}}, "spec": {
            "containers": [{"name": "main", "image": image, "ports": [{"name": "http", "containerPort": 8080}], **(container or {})}], **(pod or {})}}}}


def echo_deployment(name="echoheaders", replicas=1, container=None, **more):
    """`moongate echo` as the pods' program."""
    extra = {"command": ["/usr/bin/moongate", "echo", "--listen=0.0.0.0:8080", "--name=$(POD_NAME)"],
             "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
             "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1}, **(container or {})}
    return deployment(name, replicas, image="moongate:dev", container=extra, **more)


def service(name="echoheaders", port=80, **spec):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": port, "targetPort": "http"}], **spec}}


def ingress_class(name="nginx", controller="k8s.io/ingress-nginx"):
    return {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name}, "spec": {"controller": controller}}
