"""Endpoints as the API server tells of them: conditions, ports, addresses, kinds of Services."""
import json
import time

import pytest
from cluster import wait_until
from controllers import Controller, apply_rights
from harness import ingress
from spaces import deployment, ingress_class, service


@pytest.fixture
def controller(cluster, space, tmp_path):
    apply_rights(cluster, space)
    space.apply(ingress_class())
    # An echo pod that ends is gone some milliseconds before the API server says so.
    made = Controller(cluster, space, tmp_path, expect_errors=["answered with an error", "finding", "upstream failed"])
    yield made
    made.stop()


def names(controller, host="shop.test", count=12):
    return {controller.echo("/", host)["name"] for _ in range(count)}


def test_endpoints_come_and_go_within_milliseconds_of_the_event(cluster, space, controller):
    space.apply([deployment(replicas=2), service(), ingress("shop", "shop.test")])
    space.wait_endpoints("echoheaders", 2)
    pods = {pod["metadata"]["name"] for pod in space.pods()}
    # The server tells us of the slice at the same time as it tells us: until then the answer is 503.
    controller.wait_live("/", "shop.test", lambda answer: answer.status == 200)
    wait_until(lambda: names(controller) == pods, what="both pods")
    pod = pods.pop()
    took = []
    for ready in ("false", "true") * 4:
        patch = {"metadata": {"annotations": {"moongate.test/ready": ready}}}
        cluster.api("PATCH", space.path(f"pods/{pod}"), patch, "application/merge-patch+json")
        space.wait_endpoints("echoheaders", 1 if ready == "false" else 2)
        begun = time.monotonic()
        wait_until(lambda: (pod in names(controller, count=4)) == (ready == "true"), what=f"ready={ready} to count")
        took.append(time.monotonic() - begun)
    # Four requests and the poll of the slice included; under the sanitizers.
    assert sorted(took)[len(took) // 2] < 0.1, took


def test_no_ready_endpoint_is_503_until_one_is(cluster, space, controller):
    space.apply([deployment(annotations={"moongate.test/ready": "false"}), service(), ingress("shop", "shop.test")])
    controller.wait_live("/", "shop.test", lambda answer: answer.status == 503)
    wait_until(lambda: space.endpoints("echoheaders"), what="the unready endpoint")
    assert controller.request("/", "shop.test").status == 503
    space.kubectl("annotate", "--overwrite", "pod", "-l", "app=echoheaders", "moongate.test/ready=true")
    controller.wait_live("/", "shop.test", lambda answer: answer.status == 200)
    space.kubectl("scale", "deployment/echoheaders", "--replicas=0")
    controller.wait_live("/", "shop.test", lambda answer: answer.status == 503)


def test_ports_by_number_by_name_and_by_name_of_the_container(cluster, space, controller):
    two = [{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9090}]
    ports = [{"name": "web", "port": 80, "targetPort": "http"}, {"name": "control", "port": 81, "targetPort": 9090}]
    def to(name, port):
        one = ingress(name, f"{name}.test")
        one["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"] = port
        return one
    space.apply([deployment(container={"ports": two}), service(ports=ports), to("number", {"number": 80}), to("named", {"name": "control"}), to("second", {"number": 81}),
                 to("none", {"name": "missing"})])
    space.wait_endpoints("echoheaders", 1)
    controller.wait_live("/", "second.test", lambda answer: answer.status == 200)
    address, = space.endpoints("echoheaders")
    for name, port in (("number", 8080), ("named", 9090), ("second", 9090)):
        controller.request(f"/port/{name}", f"{name}.test")
        wait_until(lambda: controller.access_lines(rf'"GET /port/{name} HTTP/1.1" 200 .* {address}:{port} '), what=f"{name} to reach port {port}")
    assert controller.request("/", "none.test").status == 503


def test_service_upstream_dials_the_clusters_own_address(cluster, space, controller):
    space.apply([deployment(replicas=2), service(), ingress("shop", "shop.test", annotations={"nginx.ingress.kubernetes.io/service-upstream": "true"})])
    space.wait_endpoints("echoheaders", 2)
    address = space.get("service", "echoheaders")["spec"]["clusterIP"]
    controller.wait_live("/", "shop.test", lambda answer: answer.status == 200)
    controller.request("/by-address", "shop.test")
    wait_until(lambda: controller.access_lines(rf'"GET /by-address HTTP/1.1" 200 .* {address}:80 '), what="the line in the log")


def test_slices_and_services_deleted_in_any_order_and_made_again(cluster, space, controller):
    for _ in range(3):
        space.apply([deployment(), service(), ingress("shop", "shop.test")])
        space.wait_endpoints("echoheaders", 1)
        controller.wait_live("/", "shop.test", lambda answer: answer.status == 200)
        pod = space.ready_pods("app=echoheaders")[0]["metadata"]["name"]
        assert names(controller) == {pod}
        space.kubectl("delete", "service", "echoheaders")
        controller.wait_live("/", "shop.test", lambda answer: answer.status == 503)
        space.kubectl("delete", "deployment", "echoheaders")
        space.kubectl("delete", "ingress", "shop")
        controller.wait_live("/", "shop.test", lambda answer: answer.status == 404)


def test_the_class_decides_and_its_deletion_counts(cluster, space, controller):
    space.apply([deployment(), service(), ingress_class("others", "example.com/other"), ingress("ours", "ours.test"), ingress("theirs", "theirs.test", class_name="others"),
                 ingress("none", "none.test", class_name=None), ingress("old", "old.test", class_name=None, annotations={"kubernetes.io/ingress.class": "nginx"})])
    space.wait_endpoints("echoheaders", 1)
    for host in ("ours.test", "old.test"):
        controller.wait_live("/", host, lambda answer: answer.status == 200)
    for host in ("theirs.test", "none.test"):
        assert controller.request("/", host).status == 404
    # Changing the class adds and removes live.
    space.kubectl("patch", "ingress", "theirs", "--type=merge", "-p", '{"spec": {"ingressClassName": "nginx"}}')
    controller.wait_live("/", "theirs.test", lambda answer: answer.status == 200)
    space.kubectl("patch", "ingress", "ours", "--type=merge", "-p", '{"spec": {"ingressClassName": "others"}}')
    controller.wait_live("/", "ours.test", lambda answer: answer.status == 404)
    cluster.kubectl("delete", "ingressclass", "nginx")
    controller.wait_live("/", "theirs.test", lambda answer: answer.status == 404)
    assert controller.request("/", "old.test").status == 200


def test_namespaces_are_chosen_by_name_and_by_label(cluster, space, tmp_path):
    """Two controllers: one for this namespace, one for a label that another one gets and loses."""
    apply_rights(cluster, space)
    own = f"moongate-{space.name}"
    space.apply([ingress_class(), deployment(), service(), ingress("shop", "shop.test"),
                 {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": own + "-namespaces"},
                  "rules": [{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]}]},
                 {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": own + "-namespaces"},
                  "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": own + "-namespaces"},
                  "subjects": [{"kind": "ServiceAccount", "name": "moongate", "namespace": space.name}]}])
    wait_until(lambda: cluster.kubectl("auth", "can-i", "list", "namespaces", "--as", f"system:serviceaccount:{space.name}:moongate", check=False).returncode == 0,
               what="the right to list namespaces")
    by_name = Controller(cluster, space, tmp_path, [f"--watch-namespace={space.name}"], pod="by-name", expect_errors=["answered with an error", "finding"])
    by_label = Controller(cluster, space, tmp_path, [f"--watch-namespace-selector=watched-by={space.name}"], pod="by-label", expect_errors=["answered with an error", "finding"])
    other = f"{space.name}-other"
    cluster.kubectl("create", "namespace", other)
    try:
        cluster.kubectl("-n", other, "apply", "-f", "-", input=json.dumps(ingress("other", "other.test")))
        by_name.wait_live("/", "shop.test", lambda answer: answer.status == 200)
        assert by_label.request("/", "shop.test").status == 404
        cluster.kubectl("label", "namespace", other, f"watched-by={space.name}")
        by_label.wait_live("/", "other.test", lambda answer: answer.status == 503)
        assert by_name.request("/", "other.test").status == 404
        cluster.kubectl("label", "namespace", other, "watched-by-")
        by_label.wait_live("/", "other.test", lambda answer: answer.status == 404)
    finally:
        # First: in a namespace that ends no Event can be made, of which the next test's controller would complain.
        cluster.kubectl("-n", other, "delete", "ingress", "other")
        cluster.kubectl("delete", "namespace", other, "--wait=false")
    by_name.stop()
    by_label.stop()


def test_topology_aware_routing_keeps_to_the_zone_of_our_node(cluster, space, tmp_path):
    """The node agent's nodes have zones; the hints are the server's own, which it gives where a Service asks for it."""
    apply_rights(cluster, space)
    space.apply([{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": f"{space.name}-nodes"},
                  "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]},
                 {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": f"{space.name}-nodes"},
                  "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"{space.name}-nodes"},
                  "subjects": [{"kind": "ServiceAccount", "name": "moongate", "namespace": space.name}]}])
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"on-{number}", "labels": {"app": "echoheaders"}}, "spec": {
        "nodeName": f"node-{number}", "containers": [{"name": "main", "image": "echo", "ports": [{"name": "http", "containerPort": 8080}]}]}} for number in (1, 2)]
    space.apply([ingress_class(), *pods, service(trafficDistribution="PreferClose"), ingress("shop", "shop.test")])
    space.wait_endpoints("echoheaders", 2)
    path = space.path("endpointslices", "/apis/discovery.k8s.io/v1") + "?labelSelector=kubernetes.io/service-name=echoheaders"

    def are_hinted():
        endpoints = [endpoint for one in cluster.api("GET", path)["items"] for endpoint in one["endpoints"]]
        return len(endpoints) == 2 and all(endpoint.get("hints") for endpoint in endpoints)
    wait_until(are_hinted, 20, "hints")
    made = Controller(cluster, space, tmp_path, ["--enable-topology-aware-routing"], pod="on-2", expect_errors=["finding"])
    try:
        assert names(made) == {"on-2"}
        space.kubectl("annotate", "pod", "on-2", "moongate.test/ready=false")
        wait_until(lambda: names(made, count=4) == {"on-1"}, what="the other zone's endpoint, where ours has none")
    finally:
        made.stop()
