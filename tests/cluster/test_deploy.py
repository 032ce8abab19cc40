"""kube/deploy: every manifest is applied to the real API server, and what it makes comes up."""
import os
import subprocess

import pytest
import yaml
from cluster import ROOT, wait_until
from controllers import Deployed
from spaces import is_ready

CASES = {"base": ("moongate", "moongate"), "overlays/ingress-nginx": ("ingress-nginx", "ingress-nginx-controller"), "examples/policy": ("moongate", "moongate")}


@pytest.fixture(params=CASES)
def deployed(cluster, request):
    made = Deployed(cluster, request.param)
    yield made
    made.remove()


def test_it_is_applied_and_answers(cluster, deployed, request):
    namespace, name = CASES[request.node.callspec.params["deployed"]]
    assert (deployed.namespace, deployed.deployment, deployed.service) == (namespace, name, name)
    # The autoscaler sees to it that there are two; the admission of pods holds the namespace to `restricted`.
    pods = deployed.wait_ready(2)
    assert {pod["spec"]["securityContext"]["runAsUser"] for pod in pods} == {101}
    answer = deployed.balanced().request("/", "nobody.test")
    assert (answer.status, answer.text) == (404, "default backend - 404")
    for one in deployed.objects:
        scope = [] if one["kind"] in ("Namespace", "ClusterRole", "ClusterRoleBinding", "IngressClass", "ValidatingWebhookConfiguration") else ["-n", namespace]
        cluster.kubectl("get", one["kind"], one["metadata"]["name"], *scope)
    # A second apply changes nothing.
    difference = cluster.kubectl("diff", "-f", "-", input=yaml.safe_dump_all(deployed.objects), check=False)
    assert (difference.returncode, difference.stdout) == (0, ""), difference.stderr
    # The budget counts the pods.
    wait_until(lambda: '"expectedPods":2' in deployed.kubectl("get", "pdb", name, "-o", "jsonpath={.status}"), what="the disruption budget")


def test_the_webhooks_certificate_is_made_and_known(cluster):
    made = Deployed(cluster)
    try:
        made.wait_ready(2)
        environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "PATH": f"{cluster.tools}:{os.environ['PATH']}"}
        for _ in range(2):  # a second run replaces it
            subprocess.run([ROOT / "kube/deploy/webhook-certificate.sh"], env=environment, check=True, capture_output=True)
        secret = cluster.api("GET", "/api/v1/namespaces/moongate/secrets/moongate-admission")["data"]
        configuration = cluster.api("GET", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/moongate-admission")
        assert configuration["webhooks"][0]["clientConfig"]["caBundle"] == secret["ca"]
        # The files are there without a restart.
        pod = made.pods()[0]
        pid = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("process://")
        wait_until(lambda: os.path.exists(f"/proc/{pid}/root/usr/local/certificates/tls.crt"), what="the certificate in the pod")
        assert all(map(is_ready, made.pods()))
    finally:
        made.remove()
