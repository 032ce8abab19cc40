"""Mirrors: a copy of each request for somebody else, whom nobody waits for."""
import threading
import time

import pytest
from harness import Echo, service, slice_of, wait_until
from origin import Origin, answering
from worlds import case, running


class Target(Origin):
    """Keeps what it got; answers when it may."""

    def __init__(self):
        self.bodies, self.may_answer = [], threading.Event()
        self.may_answer.set()
        super().__init__(self.play)

    def play(self, _, connection):
        while True:
            head = connection.read_head().decode()
            length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length:")), 0)
            self.bodies.append(connection.read_exactly(length))
            self.may_answer.wait(20)
            connection.send(b"HTTP/1.1 500 Wrong\r\nSet-Cookie: a=b\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000)


@pytest.fixture(scope="module")
def target():
    it = Target()
    yield it
    it.close()


@pytest.fixture(scope="module")
def world(target):
    app, other = Echo("app"), Origin(answering(b"HTTP/1.1 204 No\r\n\r\n"))
    url = f"http://127.0.0.1:{target.port}"
    cases = [case("one.example", mirror_target=url + "/copy$request_uri", mirror_host="mirror.example"), case("none.example", mirror_target=url, mirror_request_body="off"),
             case("other.example", mirror_target=f"http://127.0.0.1:{other.port}/"), case("gone.example", mirror_target="http://127.0.0.1:1/")]
    with running({"app.json": [service(), *slice_of([app.port])], "ingress.json": cases}, [app], workers=1, expect_errors=["leads back to us"]) as proxy:
        proxy.other = other
        yield proxy
    other.close()


def got(target, before, count=1):
    wait_until(lambda: len(target.bodies) >= before + count, what="a copy")
    return target.heads[before:before + count]


def test_a_copy(world, target):
    before = len(target.bodies)
    seen = world.echo("/a?b=c", "one.example", method="POST", body=b"text", headers={"X-A": "b", "Cookie": "c=d"})
    assert seen["lower"]["content-length"] == "4" and seen["answer"].header("Set-Cookie") is None
    head = got(target, before)[0]
    lines = head.split("\r\n")
    assert lines[0] == "POST /copy/a?b=c HTTP/1.1"
    for line in ("Host: mirror.example", "X-A: b", "Cookie: c=d", "Content-Length: 4", "CDN-Loop: moongate"):
        assert line in lines, head
    assert target.bodies[before] == b"text"


def test_its_connection_is_used_again(world, target):
    before, connections = len(target.bodies), target.connections
    for number in range(3):
        world.request(f"/{number}", "one.example")
        got(target, before + number)
        wait_until(lambda: world.metric("moongate_mirrors_running") == 0, what="its end")
    assert target.connections - connections <= 1


def test_without_a_body(world, target):
    before = len(target.bodies)
    assert world.echo("/", "none.example", method="POST", body=b"text")["lower"]["content-length"] == "4"
    got(target, before)
    assert target.bodies[before] == b""


def test_what_is_too_large_is_counted(world, target):
    before, copies = world.metric("moongate_mirrors_skipped_total"), len(target.bodies)
    assert world.echo("/", "one.example", method="POST", body=b"x" * 65537)["lower"]["content-length"] == "65537"
    assert world.metric("moongate_mirrors_skipped_total") == before + 1
    world.request("/", "one.example", method="POST", body=b"x" * 65536)
    got(target, copies)
    assert len(target.bodies[copies]) == 65536


def test_nobody_waits(world, target):
    wait_until(lambda: world.metric("moongate_mirrors_running") == 0, what="no copies")
    target.may_answer.clear()
    copies, before, began = len(target.bodies), world.metric("moongate_limit_service_mirrors_total"), time.monotonic()
    for _ in range(140):
        assert world.request("/", "one.example").status == 200
    assert time.monotonic() - began < 5
    got(target, copies, 64)  # half of what a worker has on their way
    assert world.metric("moongate_limit_service_mirrors_total") == before + 76
    assert world.request("/", "other.example").status == 200
    wait_until(lambda: len(world.other.heads) == 1, what="the copy for somebody who does answer")
    target.may_answer.set()
    wait_until(lambda: world.request("/after", "one.example").status == 200 and any("/copy/after" in head for head in target.heads), what="room for copies")


def test_a_target_that_is_not_there(world):
    before = world.metric("moongate_mirrors_failed_total")
    assert world.request("/", "gone.example").status == 200
    wait_until(lambda: world.metric("moongate_mirrors_failed_total") == before + 1, what="the failure")


def test_a_mirror_of_itself_ends(world):
    world.write("loop.json", [case("loop.example", mirror_target=f"http://127.0.0.1:{world.http_port}/again", mirror_host="loop.example")])
    wait_until(lambda: world.request("/", "loop.example").status == 200, what="the route")
    wait_until(lambda: world.metric("moongate_limit_passes_total") > 0, what="the end of the loop")


def test_copies_do_not_hold_up_the_end():
    app, target = Echo("app"), Target()
    target.may_answer.clear()
    began = time.monotonic()
    with running({"app.json": [service(), *slice_of([app.port])], "ingress.json": [case("a.example", mirror_target=f"http://127.0.0.1:{target.port}/")]}, [app],
                 flags=["--shutdown-grace-period=0", "--post-shutdown-grace-period=0"]) as proxy:
        assert proxy.request("/", "a.example").status == 200
        got(target, 0)
        assert proxy.metric("moongate_mirrors_running") == 1
    assert time.monotonic() - began < 9
    target.may_answer.set()
    target.close()
