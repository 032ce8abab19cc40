"""Limits of requests and connections, over real HTTP and with several workers."""
import collections
import threading
import time

import pytest
from harness import Echo, config_map, service, slice_of, wait_until
from origin import Origin
from worlds import case, running


def settings(**data):
    return [config_map("settings", {"use-forwarded-headers": "true", **{key.replace("_", "-"): value for key, value in data.items()}})]


class Gate(Origin):
    """Answers nobody until it is opened."""

    def __init__(self):
        self.is_open = threading.Event()
        super().__init__(self.answer)

    def answer(self, _, connection):
        while True:
            connection.read_head()
            assert self.is_open.wait(10)
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture(scope="module")
def proxy():
    app, gate = Echo("app"), Gate()
    ingresses = [
        case("rpm.example", path=["/", "/b"], limit_rpm="2", limit_burst_multiplier="3"), case("rps.example", limit_rps="20", limit_burst_multiplier="1"), case("other.example", limit_rpm="2"),
        case("exempt.example", limit_rpm="1", limit_burst_multiplier="1", limit_whitelist="10.0.0.0/8"), case("auth.example", limit_rpm="1", limit_burst_multiplier="1", allowlist_source_range="10.0.0.0/8"),
        case("gate.example", path=["/", "/b"], service_name="gate", limit_connections="3")]
    with running({"app.json": [service(), *slice_of([app.port]), service("gate"), *slice_of([gate.port], name="gate")], "ingress.json": ingresses, "settings.json": settings()}, [app], workers=3,
                 flags=["--configmap", "default/settings"], expect_errors=["limit-rp|limit-connections"]) as it:
        it.gate = gate
        yield it
    gate.close()
    assert not gate.errors


def statuses(proxy, host, count, client="192.0.2.1", path="/"):
    return collections.Counter(proxy.request(path, host, headers={"X-Forwarded-For": client}).status for _ in range(count))


def test_a_burst_passes_in_all_workers_together(proxy):
    assert statuses(proxy, "rpm.example", 20) == {200: 7, 503: 13}  # the first, and three times two
    assert statuses(proxy, "rpm.example", 5, path="/b") == {503: 5}  # the same Ingress
    assert statuses(proxy, "rpm.example", 8, client="192.0.2.2") == {200: 7, 503: 1}
    assert statuses(proxy, "other.example", 5) == {200: 5}


def test_room_comes_back_with_time(proxy):
    client = "192.0.2.3"
    began = time.monotonic()
    good = statuses(proxy, "rps.example", 100, client)[200]
    took = time.monotonic() - began
    assert 21 <= good <= 22 + 20 * took
    wait_until(lambda: statuses(proxy, "rps.example", 1, client)[200] == 1, 2, "room")
    # For 21 the bucket must have leaked for a second in all.
    good = 1
    while good < 21:
        good += statuses(proxy, "rps.example", 1, client)[200]
    assert time.monotonic() - began >= 0.9


def test_who_is_exempt_and_who_is_asked_first(proxy):
    assert statuses(proxy, "exempt.example", 5, client="10.1.1.1") == {200: 5}
    assert statuses(proxy, "exempt.example", 5) == {200: 2, 503: 3}
    assert statuses(proxy, "auth.example", 5) == {403: 2, 503: 3}  # refused ones count


def test_the_status_is_a_setting(proxy):
    proxy.write("settings.json", settings(limit_req_status_code="429", limit_conn_status_code="420"))
    wait_until(lambda: 429 in statuses(proxy, "other.example", 12, "192.0.2.4"), what="the setting")
    proxy.write("settings.json", settings())
    wait_until(lambda: 503 in statuses(proxy, "other.example", 1, "192.0.2.4"), what="the default")


def test_requests_in_flight(proxy):
    seen, lock = collections.Counter(), threading.Lock()

    def ask(client, path):
        status = proxy.request(path, "gate.example", headers={"X-Forwarded-For": client}).status
        with lock:
            seen[client, status] += 1

    threads = [threading.Thread(target=ask, args=(client, path)) for client in ("192.0.2.1", "192.0.2.2") for path in ("/", "/b") * 4]
    for thread in threads:
        thread.start()
    wait_until(lambda: seen["192.0.2.1", 503] == 5 and seen["192.0.2.2", 503] == 5, what="refusals")
    proxy.gate.is_open.set()
    for thread in threads:
        thread.join()
    assert seen == {("192.0.2.1", 503): 5, ("192.0.2.2", 503): 5, ("192.0.2.1", 200): 3, ("192.0.2.2", 200): 3}
    assert statuses(proxy, "gate.example", 10) == {200: 10}  # one after the other


def test_answers_at_a_pace(moongate, echo):
    """What the arithmetic is, is a unit test's; here: two at once keep to it, and everybody else is served meanwhile."""
    app = echo("app")
    proxy = moongate({"app.json": [service(), *slice_of([app.port]), case("slow.example", limit_rate="200", limit_rate_after="100"), case("fast.example")]})
    took, size = [], 500 * 1024

    def ask():
        began = time.monotonic()
        answer = proxy.request(f"/bytes/{size}", "slow.example", timeout=30)
        assert answer.status == 200 and len(answer.body) == size
        took.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        assert len(proxy.request(f"/bytes/{size}", "fast.example").body) == size
        assert time.monotonic() - began < 1.5
    assert len(took) == 2 and all(1.7 < seconds < 6 for seconds in took), took
