"""The admission webhook of kube/deploy/base: what would be refused when it is served is refused by kubectl apply already."""
import json
import os
import subprocess
import time

import pytest
from cluster import ROOT, wait_until
from controllers import Deployed
from harness import ingress, tls_secret
from spaces import deployment, ingress_class, service

BAD = {"nginx.ingress.kubernetes.io/proxy-body-size": "nonsense"}


def make_certificate(cluster):
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "PATH": f"{cluster.tools}:{os.environ['PATH']}"}
    subprocess.run([ROOT / "kube/deploy/webhook-certificate.sh"], env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def deployed(cluster):
    made = Deployed(cluster)
    make_certificate(cluster)
    made.wait_ready(2)
    yield made
    made.remove()


def is_refused(space, name="probe", annotations=None):
    """Asks without storing; failurePolicy is Ignore, hence only an answer refuses."""
    done = space.kubectl("apply", "--dry-run=server", "-f", "-", input=json.dumps(ingress(name, f"{name}.test", annotations=annotations or BAD)), check=False)
    return done.stderr if done.returncode != 0 else None


def test_a_wrong_ingress_is_refused_with_annotation_value_and_reason(deployed, space):
    text = wait_until(lambda: is_refused(space), 20, "the webhook to answer")
    assert "proxy-body-size" in text and "nonsense" in text and "validate.moongate.io" in text
    good = space.apply(ingress("good", "good.test"), check=False)
    assert good.returncode == 0
    # An update is asked about as well.
    assert space.apply(ingress("good", "good.test", annotations=BAD), check=False).returncode != 0
    refusal = space.apply(ingress("attack", "attack.test", "/;alias /etc/;", path_type="ImplementationSpecific"), check=False).stderr
    assert "spec.rules[0].http.paths[0].path" in refusal and "/;alias /etc/;" in refusal


def test_another_class_is_none_of_our_business(deployed, space):
    wait_until(lambda: is_refused(space), 20, "the webhook to answer")
    space.apply([ingress_class("others", "example.com/other"), ingress("theirs", "theirs.test", annotations=BAD, class_name="others")])


def test_one_path_belongs_to_one_ingress(deployed, space):
    wait_until(lambda: is_refused(space), 20, "the webhook to answer")
    space.apply([deployment(), service(), ingress("first", "one.test", "/a")])
    def second():
        done = space.kubectl("apply", "--dry-run=server", "-f", "-", input=json.dumps(ingress("second", "one.test", "/a")), check=False)
        return done.stderr if done.returncode != 0 else None
    assert "first" in wait_until(second, 10, "the second one to be refused")


def test_nothing_depends_on_other_objects_being_valid(cluster, deployed, space):
    """Garbage that came in while nobody was asked changes no answer."""
    wait_until(lambda: is_refused(space), 20, "the webhook to answer")
    cluster.kubectl("delete", "validatingwebhookconfiguration", "moongate-admission")
    space.apply([ingress("bad", "bad.test", annotations=BAD), tls_secret("bad", "no certificate", "no key"), ingress("bad-tls", "bad-tls.test", tls="bad")])
    deployed.apply()
    make_certificate(cluster)
    wait_until(lambda: is_refused(space), 30, "the webhook to answer")
    space.apply([ingress("good", "good.test")])


def test_a_new_certificate_is_taken_without_a_restart(cluster, deployed, space):
    wait_until(lambda: is_refused(space), 20, "the webhook to answer")
    before = {(pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]) for pod in deployed.pods()}
    make_certificate(cluster)
    # The API server trusts the new authority only: an answer means that the new certificate is shown.
    wait_until(lambda: is_refused(space), 30, "an answer with the new certificate")
    wait_until(lambda: all(is_refused(space) for _ in range(4)), 30, "both replicas to show it")
    assert {(pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]) for pod in deployed.pods()} == before


def test_it_answers_quickly(cluster, deployed, space):
    wait_until(lambda: is_refused(space), 20, "the webhook to answer")
    path = space.path("ingresses", "/apis/networking.k8s.io/v1") + "?dryRun=All"
    took = []
    for number in range(20):
        begun = time.monotonic()
        cluster.api("POST", path, ingress(f"quick-{number}", f"quick-{number}.test"))
        took.append(time.monotonic() - begun)
    assert sorted(took)[10] < 0.05, took
