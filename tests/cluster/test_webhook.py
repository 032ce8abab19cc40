"""The admission webhook as a real API server asks it: what kubectl apply is told, while the controller follows the cluster."""
import base64
import json
import signal

import pytest
from cluster import Program
from harness import BINARY, certificate, ingress, wait_until
from spaces import ingress_class, service

PREFIX = "nginx.ingress.kubernetes.io/"


@pytest.fixture
def webhook(cluster, space, tmp_path):
    """A Moongate beside the cluster, and a configuration that asks it about this namespace's Ingresses."""
    pem, key = certificate(tmp_path, "webhook", ["localhost"])
    (tmp_path / "cert").write_text(pem)
    (tmp_path / "key").write_text(key)
    space.apply([ingress_class(), service()])
    program = Program("moongate", [BINARY, "run", "--kubeconfig", str(cluster.kubeconfig), "--watch-namespace", space.name, "--disable-leader-election", "--update-status=false",
                                   "--http-port=0", "--https-port=0", "--healthz-port=0", "--bind-address=127.0.0.1", "--workers=1", "-v=2", "--validating-webhook=127.0.0.1:0",
                                   f"--validating-webhook-certificate={tmp_path}/cert", f"--validating-webhook-key={tmp_path}/key", "--post-shutdown-grace-period=0"],
                      tmp_path / "moongate.log")
    program.start()

    def said(text):
        return program.alive() and [line for line in program.log.read_text().splitlines() if text in line]

    wait_until(lambda: said("http_port="), 30, "the first sync")
    port = said("admission webhook listens")[0].rsplit("port=", 1)[1].split()[0]
    space.apply({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": f"moongate-{space.name}"}, "webhooks": [{
        "name": "validate.moongate.io", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail", "timeoutSeconds": 5,
        "namespaceSelector": {"matchLabels": {"moongate.test/space": space.name}},
        "rules": [{"apiGroups": ["networking.k8s.io"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["ingresses"]}],
        "clientConfig": {"url": f"https://localhost:{port}/networking/v1/ingresses", "caBundle": base64.b64encode(pem.encode()).decode()}}]})
    bad = ingress("probe", "probe.example", annotations={PREFIX + "ssl-redirect": "maybe"})
    # The API server learns of the configuration by a watch.
    wait_until(lambda: space.apply(bad, check=False).returncode != 0, 20, "the webhook to be asked")
    program.said = said
    yield program
    program.stop()
    assert program.process.returncode == 0, program.tail()
    wrong = [line for line in program.log.read_text().splitlines() if "level=error" in line or "ERROR: " in line]
    assert not wrong, wrong


def test_kubectl_is_told_what_is_wrong(space, webhook):
    refused = space.apply(ingress("shop", "shop.example", annotations={PREFIX + "ssl-redirect": "maybe"}), check=False)
    assert refused.returncode != 0
    assert 'admission webhook "validate.moongate.io" denied the request: ssl-redirect: maybe is neither true nor false' in refused.stderr
    warned = space.apply(ingress("shop", "shop.example", service_name="none", annotations={PREFIX + "no-such-name": "1"}), check=False)
    assert warned.returncode == 0, warned.stderr
    assert "Warning: no-such-name: is not a known annotation" in warned.stderr
    assert f"Warning: Service {space.name}/none does not exist: its routes answer 503" in warned.stderr
    assert space.apply(ingress("shop", "shop.example"), check=False).stderr == ""

    # A generated name, a dry run, another's path, a deletion.
    manifest = ingress("x", "shop.example", "/other")
    manifest["metadata"] = {"generateName": "made-"}
    assert space.kubectl("create", "-f", "-", input=json.dumps(manifest)).startswith("ingress.networking.k8s.io/made-")
    taken = ingress("thief", "shop.example")
    wait_until(lambda: "Ingress {}/shop has it already".format(space.name) in space.apply(taken, check=False).stderr, what="the path to be known as taken")
    dry = space.kubectl("apply", "--dry-run=server", "-f", "-", input=json.dumps(ingress("dry", "dry.example", annotations={PREFIX + "ssl-redirect": "maybe"})),
                        check=False)
    assert dry.returncode != 0 and "ssl-redirect: maybe" in dry.stderr
    space.kubectl("delete", "ingress", "shop")
    wait_until(lambda: space.apply(taken, check=False).returncode == 0, what="the path to be free")


def test_an_ingress_that_is_wrong_already_can_be_deleted_and_let_go(cluster, space, webhook):
    """Its finalizer is removed by an update of an object that would be refused."""
    webhook.process.send_signal(signal.SIGSTOP)
    try:
        name = f"moongate-{space.name}"
        path = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{name}"
        cluster.api("PATCH", path, [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}, {"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": 1}],
                    "application/json-patch+json")
        wrong = ingress("wrong", "wrong.example", annotations={PREFIX + "ssl-redirect": "maybe"}, metadata={"finalizers": ["moongate.test/stay"]})
        wait_until(lambda: space.apply(wrong, check=False).returncode == 0, 20, "the webhook to be ignored")
    finally:
        webhook.process.send_signal(signal.SIGCONT)
    refused = space.kubectl("annotate", "ingress", "wrong", "a=b", check=False)
    assert refused.returncode != 0 and "ssl-redirect: maybe" in refused.stderr
    space.kubectl("delete", "ingress", "wrong", "--wait=false")
    space.kubectl("patch", "ingress", "wrong", "--type=json", "-p", '[{"op": "remove", "path": "/metadata/finalizers"}]')
    wait_until(lambda: space.kubectl("get", "ingress", "wrong", check=False).returncode != 0, what="it to be gone")


def test_what_was_never_looked_for_is_not_called_missing(space, webhook):
    """Only ConfigMaps that something names are read, and a question names nothing."""
    space.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "headers"}, "data": {}})
    asked = space.kubectl("apply", "--dry-run=server", "-f", "-", check=False,
                          input=json.dumps(ingress("dry", "dry.example", annotations={PREFIX + "custom-headers": "headers"})))
    assert (asked.returncode, asked.stderr) == (0, "")
