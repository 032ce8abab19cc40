"""What the controller writes: the status of Ingresses, its Lease, Events."""
import signal
import time

import pytest
from cluster import wait_until
from controllers import Controller, apply_rights
from harness import ingress
from spaces import deployment, ingress_class, service

EXPECT = ["answered with an error", "finding"]


@pytest.fixture
def shop(cluster, space):
    apply_rights(cluster, space)
    space.apply([ingress_class(), deployment(), service(), ingress("shop", "shop.test")])
    space.wait_endpoints("echoheaders", 1)
    return space


def version(space, name="shop"):
    return space.get("ingress", name)["metadata"]["resourceVersion"]


def holder(space):
    code, lease = space.cluster.api("GET", space.path("leases/moongate-leader", "/apis/coordination.k8s.io/v1"), check=False)
    return lease["spec"].get("holderIdentity") if code == 200 else None


@pytest.mark.parametrize("flag,service_type,expected", [
    ("--publish-status-address=192.0.2.7,front.example.com", None, ["192.0.2.7", "front.example.com"]), ("--publish-service", "LoadBalancer", "balancer"),
    ("--publish-service", "ClusterIP", "cluster")])
def test_the_address_is_published_from(cluster, shop, tmp_path, flag, service_type, expected):
    if service_type:
        shop.apply(service("moongate", type=service_type))
        flag += f"={shop.name}/moongate"
        front = shop.get("service", "moongate")
        expected = [front["spec"]["clusterIP"]]
        if service_type == "LoadBalancer":
            expected = [wait_until(lambda: shop.get("service", "moongate")["status"]["loadBalancer"].get("ingress"), what="the balancer")[0]["ip"]]
    controller = Controller(cluster, shop, tmp_path, [flag], expect_errors=EXPECT)
    wait_until(lambda: sorted(shop.ingress_addresses("shop")) == sorted(expected), what=f"the status {expected}")
    shop.apply([ingress("late", "late.test"), ingress("theirs", "theirs.test", class_name="others")])
    wait_until(lambda: sorted(shop.ingress_addresses("late")) == sorted(expected), what="the status of a new one")
    assert shop.ingress_addresses("theirs") == []
    controller.stop()


def test_only_what_differs_is_written(cluster, shop, tmp_path):
    controller = Controller(cluster, shop, tmp_path, ["--status-update-interval=5"], expect_errors=EXPECT)
    wait_until(lambda: shop.ingress_addresses("shop") == ["192.0.2.10"], what="the status")
    before = version(shop)
    # Somebody else takes it away: it is written again, and only that.
    shop.apply(ingress("mark", "mark.test"))
    wait_until(lambda: shop.ingress_addresses("mark"), what="another status")
    cluster.api("PATCH", shop.path("ingresses/mark/status", "/apis/networking.k8s.io/v1"), {"status": {"loadBalancer": None}}, "application/merge-patch+json")
    wait_until(lambda: shop.ingress_addresses("mark") == ["192.0.2.10"], 15, "the status again")
    assert version(shop) == before
    controller.stop()


def test_exactly_one_leads_and_a_killed_leader_is_replaced_within_the_lease(cluster, shop, tmp_path):
    replicas = {name: Controller(cluster, shop, tmp_path, ["--election-ttl=6s"], pod=name, expect_errors=EXPECT) for name in ("one", "two", "three")}
    first = wait_until(lambda: holder(shop), what="a leader")
    assert first in replicas
    wait_until(lambda: shop.ingress_addresses("shop"), what="the status")
    leading = [name for name, replica in replicas.items() if replica.errors.find('message="leading"')]
    assert leading == [first]
    replicas[first].process.send_signal(signal.SIGKILL)
    replicas[first].process.wait()
    begun = time.monotonic()
    wait_until(lambda: holder(shop) != first, 15, "another leader")
    # The lease was renewed some time before the kill, and is looked at every quarter of its time.
    assert time.monotonic() - begun < 6 * 1.5
    shop.apply(ingress("late", "late.test"))
    wait_until(lambda: shop.ingress_addresses("late"), what="the new leader's writing")
    # One that ends as it should gives the lease back at once.
    second = holder(shop)
    replicas[second].stop()
    begun = time.monotonic()
    third = next(name for name in replicas if name not in (first, second))
    wait_until(lambda: holder(shop) == third, 15, "the third leader")
    assert time.monotonic() - begun < 4
    replicas[third].stop()


def test_traffic_does_not_depend_on_the_lease(cluster, shop, tmp_path):
    """Without the right to write leases nothing is published, and everything is served."""
    cluster.kubectl("-n", shop.name, "delete", "role", "moongate")
    wait_until(lambda: cluster.kubectl("auth", "can-i", "create", "leases", "--as", f"system:serviceaccount:{shop.name}:moongate", "-n", shop.name, check=False).returncode != 0,
               what="the right to be gone")
    controller = Controller(cluster, shop, tmp_path, expect_errors=[*EXPECT, "leader election"])
    controller.wait_live("/", "shop.test", lambda answer: answer.status == 200)
    wait_until(lambda: controller.errors.find("leader election.*403"), what="the complaint")
    assert shop.ingress_addresses("shop") == []
    controller.stop()


def test_events_tell_what_was_refused_once_and_counted(cluster, shop, tmp_path):
    controller = Controller(cluster, shop, tmp_path, expect_errors=EXPECT)
    wait_until(lambda: controller.errors.find('message="leading"'), what="the controller to lead")
    shop.apply(ingress("good", "good.test"))
    shop.apply(ingress("bad", "bad.test", annotations={"nginx.ingress.kubernetes.io/proxy-body-size": "nonsense"}))
    def warnings():
        return [one for one in shop.events("bad") if one["type"] == "Warning" and "proxy-body-size" in one["message"]]
    wait_until(warnings, what="the Event")
    assert wait_until(lambda: shop.events("good", "Sync"), what="the Sync event")[0]["type"] == "Normal"
    for number in range(3):
        shop.kubectl("annotate", "--overwrite", "ingress", "bad", f"example.com/touched={number}")
        controller.wait_live("/", "bad.test", lambda answer: answer.status == 200)
    assert len(warnings()) == 1
    assert "proxy-body-size" in shop.kubectl("describe", "ingress", "bad")
    controller.stop()
