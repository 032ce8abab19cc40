"""An installation of ingress-nginx, as its published manifest lays one out, of which only the image is changed."""
import base64
import json
import re

import pytest
from cluster import wait_until
from controllers import Balanced
from harness import certificate, ingress
from load import Load
from spaces import deployment, is_ready, service

NAME, CONTROLLER = "ingress-nginx", "ingress-nginx-controller"
LABELS = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": NAME, "app.kubernetes.io/component": "controller"}
READ = ["get", "list", "watch"]
NETWORKING, DISCOVERY, COORDINATION = "networking.k8s.io", "discovery.k8s.io", "coordination.k8s.io"


def rule(group, resources, verbs, names=None):
    return {"apiGroups": [group], "resources": resources, "verbs": verbs, **({"resourceNames": names} if names else {})}


ROLE = [rule("", ["namespaces"], ["get"]), rule("", ["configmaps", "pods", "secrets", "endpoints"], READ), rule("", ["services"], READ), rule(NETWORKING, ["ingresses"], READ),
        rule(NETWORKING, ["ingresses/status"], ["update"]), rule(NETWORKING, ["ingressclasses"], READ), rule(COORDINATION, ["leases"], ["get", "update"], ["ingress-nginx-leader"]),
        rule(COORDINATION, ["leases"], ["create"]), rule("", ["events"], ["create", "patch"]), rule(DISCOVERY, ["endpointslices"], READ)]
CLUSTER_ROLE = [rule("", ["configmaps", "endpoints", "nodes", "pods", "secrets", "namespaces"], ["list", "watch"]), rule(COORDINATION, ["leases"], ["list", "watch"]),
                rule("", ["nodes"], ["get"]), rule("", ["services"], READ), rule(NETWORKING, ["ingresses"], READ), rule("", ["events"], ["create", "patch"]),
                rule(NETWORKING, ["ingresses/status"], ["update"]), rule(NETWORKING, ["ingressclasses"], READ), rule(DISCOVERY, ["endpointslices"], READ)]


def rbac(kind, rules):
    api = "rbac.authorization.k8s.io"
    return [{"apiVersion": f"{api}/v1", "kind": kind, "metadata": {"name": NAME}, "rules": rules},
            {"apiVersion": f"{api}/v1", "kind": f"{kind}Binding", "metadata": {"name": NAME}, "roleRef": {"apiGroup": api, "kind": kind, "name": NAME},
             "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAME}]}]


def front_service(name, **spec):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": LABELS, **spec}}


def installed(image):
    field = {name: {"valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in (("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"))}
    health = {"httpGet": {"path": "/healthz", "port": 10254, "scheme": "HTTP"}, "initialDelaySeconds": 10, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1}
    container = {
        "name": "controller", "image": image, "imagePullPolicy": "IfNotPresent",
        "args": ["/nginx-ingress-controller", f"--publish-service=$(POD_NAMESPACE)/{CONTROLLER}", "--election-id=ingress-nginx-leader", "--controller-class=k8s.io/ingress-nginx",
                 "--ingress-class=nginx", f"--configmap=$(POD_NAMESPACE)/{CONTROLLER}", "--validating-webhook=:8443",
                 "--validating-webhook-certificate=/usr/local/certificates/cert", "--validating-webhook-key=/usr/local/certificates/key"],
        "env": [{"name": name, **value} for name, value in field.items()] + [{"name": "LD_PRELOAD", "value": "/usr/local/lib/libmimalloc.so"}],
        "lifecycle": {"preStop": {"exec": {"command": ["/wait-shutdown"]}}},
        "livenessProbe": {**health, "failureThreshold": 5}, "readinessProbe": {**health, "failureThreshold": 3},
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in (("http", 80), ("https", 443), ("webhook", 8443))],
        "resources": {"requests": {"cpu": "100m", "memory": "90Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}, "readOnlyRootFilesystem": False, "runAsGroup": 82,
                            "runAsNonRoot": True, "runAsUser": 101, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumeMounts": [{"name": "webhook-cert", "mountPath": "/usr/local/certificates/", "readOnly": True}]}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": CONTROLLER, "labels": LABELS}, "spec": {
        "minReadySeconds": 0, "revisionHistoryLimit": 10, "selector": {"matchLabels": LABELS}, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
        "template": {"metadata": {"labels": LABELS}, "spec": {
            "containers": [container], "dnsPolicy": "ClusterFirst", "nodeSelector": {"kubernetes.io/os": "linux"}, "serviceAccountName": NAME, "automountServiceAccountToken": True,
            "terminationGracePeriodSeconds": 300, "volumes": [{"name": "webhook-cert", "secret": {"secretName": "ingress-nginx-admission"}}]}}}}


def webhook():
    return {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "ingress-nginx-admission"}, "webhooks": [{
        "name": "validate.nginx.ingress.kubernetes.io", "admissionReviewVersions": ["v1"], "failurePolicy": "Fail", "matchPolicy": "Equivalent", "sideEffects": "None",
        "rules": [{"apiGroups": [NETWORKING], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["ingresses"]}],
        "clientConfig": {"service": {"name": f"{CONTROLLER}-admission", "namespace": NAME, "path": "/networking/v1/ingresses", "port": 443}}}]}


class Installation:
    def __init__(self, cluster, folder):
        self.cluster = cluster
        wait_until(lambda: cluster.api("GET", f"/api/v1/namespaces/{NAME}", check=False)[0] == 404, 60, "the last test's namespace to be gone")
        cluster.kubectl("create", "namespace", NAME)
        certificate(folder, "admission", [f"{CONTROLLER}-admission.{NAME}.svc"])
        self.kubectl("create", "secret", "generic", "ingress-nginx-admission", *(f"--from-file={key}={folder}/admission.{end}" for key, end in (("ca", "crt"), ("cert", "crt"), ("key", "key"))))
        self.apply([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME}, "automountServiceAccountToken": True}, *rbac("Role", ROLE),
                    *rbac("ClusterRole", CLUSTER_ROLE), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONTROLLER}, "data": None},
                    front_service(CONTROLLER, type="LoadBalancer", externalTrafficPolicy="Local", ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack", ports=[
                        {"name": name, "port": port, "targetPort": name, "protocol": "TCP", "appProtocol": name} for name, port in (("http", 80), ("https", 443))]),
                    front_service(f"{CONTROLLER}-admission", type="ClusterIP", ports=[{"name": "https-webhook", "port": 443, "targetPort": "webhook", "appProtocol": "https"}]),
                    {"apiVersion": f"{NETWORKING}/v1", "kind": "IngressClass", "metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}},
                    installed("ingress-nginx/controller:v1.15.1")])
        self.kubectl("rollout", "status", f"deployment/{CONTROLLER}", "--timeout=60s")

    def kubectl(self, *arguments, **more):
        return self.cluster.kubectl("-n", NAME, *arguments, **more)

    def apply(self, objects):
        return self.kubectl("apply", "-f", "-", input="\n---\n".join(map(json.dumps, objects)))

    def change_image(self):
        self.kubectl("set", "image", f"deployment/{CONTROLLER}", "controller=moongate:dev")
        self.kubectl("rollout", "status", f"deployment/{CONTROLLER}", "--timeout=90s", timeout=100)

    def pods(self):
        return self.cluster.api("GET", f"/api/v1/namespaces/{NAME}/pods")["items"]

    def front(self):
        return Balanced(self.cluster.api("GET", f"/api/v1/namespaces/{NAME}/services/{CONTROLLER}")["status"]["loadBalancer"]["ingress"][0]["ip"])

    def log(self):
        return "".join(self.cluster.log(NAME, pod["metadata"]["name"]) for pod in self.pods())

    def remove(self):
        for kind, name in (("validatingwebhookconfiguration", "ingress-nginx-admission"), ("ingressclass", "nginx"), ("clusterrole", NAME), ("clusterrolebinding", NAME)):
            self.kubectl("delete", kind, name, "--ignore-not-found")
        self.kubectl("delete", "deployment", CONTROLLER, "--ignore-not-found")
        for pod in self.pods():
            self.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=1", "--wait=false", "--ignore-not-found")
        self.cluster.kubectl("delete", "namespace", NAME, "--wait=false")


@pytest.fixture
def installation(cluster, tmp_path):
    made = Installation(cluster, tmp_path)
    yield made
    made.remove()


def test_with_only_the_image_changed_it_serves(cluster, installation, space):
    space.apply([deployment(replicas=2), service(), ingress("shop", "shop.test", annotations={"nginx.ingress.kubernetes.io/affinity": "cookie"})])
    space.wait_endpoints("echoheaders", 2)
    installation.change_image()
    front = installation.front()
    answer = front.wait_live("/", "shop.test", lambda answer: answer.status == 200)
    assert answer.header("Set-Cookie").startswith("INGRESSCOOKIE=")
    wait_until(lambda: space.ingress_addresses("shop") == [front.address], 20, "the status")
    # Its ConfigMap is ours, and its Lease.
    installation.kubectl("patch", "configmap", CONTROLLER, "--type=merge", "-p", '{"data": {"hide-headers": "X-Pod", "custom-http-errors": "", "use-gzip": "false"}}')
    installation.kubectl("patch", "configmap", CONTROLLER, "--type=merge", "-p", '{"data": {"add-headers": "ingress-nginx/headers"}}')
    installation.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "headers"}, "data": {"X-From": "settings"}}])
    front.wait_live("/", "shop.test", lambda answer: answer.header("X-From") == "settings")
    pod, = [pod for pod in installation.pods() if is_ready(pod)]
    assert installation.kubectl("get", "lease", "ingress-nginx-leader", "-o", "jsonpath={.spec.holderIdentity}").startswith(pod["metadata"]["name"])
    # Its rights are enough.
    assert not re.search(r"answers 403|no right to|forbidden", installation.log())
    # Its pods end as they should: readiness first, then the program, none of them killed.
    with Load([(front.address, 80)], "shop.test") as load:
        installation.kubectl("scale", f"deployment/{CONTROLLER}", "--replicas=2")
        wait_until(lambda: len([one for one in installation.pods() if is_ready(one)]) == 2, 30, "the second replica")
        wait_until(load.at_least(100))
    assert load.failures == []
    installation.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=true", timeout=60)


def test_its_webhook_is_answered(cluster, installation, space, tmp_path):
    """failurePolicy Fail, as installed there: an Ingress can be made only if we answer."""
    installation.change_image()
    made = webhook()
    made["webhooks"][0]["clientConfig"]["caBundle"] = base64.b64encode((tmp_path / "admission.crt").read_bytes()).decode()
    installation.apply([made])
    space.apply([deployment(), service()])
    wait_until(lambda: space.apply(ingress("shop", "shop.test"), check=False).returncode == 0, 20, "an Ingress to be taken")
    refused = space.apply(ingress("bad", "bad.test", annotations={"nginx.ingress.kubernetes.io/proxy-body-size": "nonsense"}), check=False)
    assert refused.returncode != 0 and "proxy-body-size" in refused.stderr and "nonsense" in refused.stderr
