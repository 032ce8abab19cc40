"""Policies that wait: nobody else waits with them, changes and clients that leave do not disturb them, nothing is left behind."""
import contextlib
import hashlib
import socket
import threading

import pytest
from harness import ingress, service, slice_of, wait_until

POLICY = '''
local moongate = require "moongate"
local policy = { name = "waits", summary = "A test.", annotations = { waits = { type = "number", doc = "Seconds." } } }
function policy.attach(_, annotations) if annotations.waits then return { seconds = annotations.waits } end end
%s
return policy
'''
SLEEPS = '''function policy.access(exchange, config)
  moongate.sleep(config.seconds)
  return exchange:respond { body = "%s" }
end'''


def start(moongate, echo, body, seconds="0.3", **more):
    app = echo("app")
    hosts = [ingress("a", "a.example", annotations={"moongate.io/waits": seconds}), ingress("plain", "plain.example")]
    return moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": hosts}, policies={"waits.lua": POLICY % body}, **more)


def waiting(proxy, count):
    wait_until(lambda: proxy.metric("moongate_hooks_waiting") == count, what=f"{count} waiting hooks")


def begin(proxy, stack, head=b""):
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.http_port), 10))
    connection.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n" + head + b"\r\n")
    return connection


def test_a_hook_sleeps_and_answers(moongate, echo):
    proxy = start(moongate, echo, SLEEPS % "slept", "0.05")
    assert proxy.request("/", "a.example").text == "slept"


def test_clients_that_leave_leave_nothing(moongate, echo):
    proxy = start(moongate, echo, SLEEPS % "slept", "50")
    with contextlib.ExitStack() as stack:
        for head in [b"", b"Content-Length: 100\r\n"] * 20:
            begin(proxy, stack, head)
        waiting(proxy, 40)
        assert proxy.request("/", "plain.example").status == 200
    waiting(proxy, 0)
    wait_until(lambda: proxy.metric("moongate_exchanges") == 0, what="no exchange")


def test_policies_change_while_exchanges_wait_in_old_ones(moongate, echo):
    body = """function policy.access(exchange)
      local seconds = exchange.request.headers:get("X-Wait")
      if seconds then moongate.sleep(tonumber(seconds)) end
      return exchange:respond { body = "set %d." }
    end"""
    proxy = start(moongate, echo, body % 0)
    for number in range(1, 4):
        with contextlib.ExitStack() as stack:
            old = [begin(proxy, stack, b"X-Wait: 2\r\n") for _ in range(5)]
            waiting(proxy, 5)
            proxy.write_policy("waits.lua", POLICY % (body % number))
            wait_until(lambda: proxy.request("/", "a.example").text == f"set {number}.", what=f"set {number}")
            assert (proxy.metric("moongate_hooks_waiting"), proxy.metric("moongate_superseded_units") > 0) == (5, True)
            for connection in old:
                assert f"set {number - 1}.".encode() in connection.recv(4096)
            wait_until(lambda: proxy.metric("moongate_superseded_units") == 0, 1, "the old set to go")


def test_shutdown_waits_for_hooks_and_then_does_not(moongate, echo):
    proxy = start(moongate, echo, SLEEPS % "slept", "1", flags=["--shutdown-grace-period=0", "--post-shutdown-grace-period=0"])
    with contextlib.ExitStack() as stack:
        connection = begin(proxy, stack)
        waiting(proxy, 1)
        proxy.process.terminate()
        assert b"slept" in connection.recv(4096)
    assert proxy.process.wait(20) == 0


def test_a_body_that_a_policy_reads_is_sent_on(moongate, echo):
    body = '''function policy.rewrite(exchange)
      local text, why = exchange.request:body { max = 200000 }
      exchange.request.headers:set("X-Seen", text and moongate.hash.sha256(text) or why)
    end'''
    proxy = start(moongate, echo, body)
    for data in (b"", b"hello", bytes(range(256)) * 700):
        seen = proxy.echo("/", "a.example", method="POST", body=data)
        assert seen["lower"]["x-seen"] == hashlib.sha256(data).hexdigest()
        assert seen["lower"]["content-length"] == str(len(data))
    assert proxy.echo("/", "a.example", method="POST", body=b"x" * 200001)["lower"]["x-seen"] == "too large"


@pytest.mark.parametrize("more", ["", "route:set('request_buffering', false)"])
@pytest.mark.parametrize("most", [1, 50000, 100000])
def test_a_body_that_is_too_large_to_hold_is_sent_on(moongate, echo, most, more):
    body = f'''local attach = policy.attach
    function policy.attach(route, annotations) {more} return attach(route, annotations) end
    function policy.access(exchange) exchange.request.headers:set("X-Seen", select(2, exchange.request:body {{ max = {most} }})) end'''
    proxy = start(moongate, echo, body)
    chunk = b"4e20\r\n" + b"x" * 20000 + b"\r\n"
    for headers, data in (({}, b"x" * 300000), ({"Transfer-Encoding": "chunked"}, chunk * 15 + b"0\r\n\r\n")):
        seen = proxy.echo("/", "a.example", method="POST", headers=headers, body=data)
        assert (seen["lower"]["x-seen"], seen["body_bytes"]) == ("too large", 300000)


def test_many_that_wait_delay_nobody(moongate, echo):
    proxy = start(moongate, echo, SLEEPS % "slept", "50", workers=1)
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            begin(proxy, stack)
        waiting(proxy, 300)
        threads = [threading.Thread(target=lambda: [proxy.request("/", "plain.example") for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert proxy.metric("moongate_hooks_waiting") == 300
    waiting(proxy, 0)
