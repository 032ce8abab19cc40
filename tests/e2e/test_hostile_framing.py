"""Where messages begin and end, on both sides: what leaves us is one unambiguous message, whatever came in."""
import contextlib
import re
import socket

import pytest
from hostile import CHUNKED, OK, UPSTREAM_ERRORS, obedient, request, statuses


def test_trailers_cannot_say_what_the_head_says(through):
    """Some applications read trailers as if they had stood in the head."""
    bodies = []

    def script(_, connection):
        connection.read_head()
        bodies.append(connection.read_until(b"\r\n\r\n"))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    proxy = through(script)
    trailers = "X-Real-IP: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nAuthorization: x\r\nCookie: a=b\r\nConnection: close\r\nX-User: root\r\nX-Sum: 1\r\n"
    body = ("2\r\nab\r\n0\r\n" + trailers + "\r\n").encode()
    assert statuses(proxy.raw(request(method="POST", headers="Connection: close\r\nX-User: me\r\n" + CHUNKED, body=body), half_close=False)) == [200]
    assert bodies == [b"2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n"]


TAKES = """
local policy = { name = "takes", summary = "A test.", applies = "always" }
function policy.attach(route)
  route:remove_request_header("X-Fixed")
  route:set_request_header("X-Empty", "$http_x_nothing")
  return {}
end
function policy.access(exchange) exchange.request.headers:remove("X-Taken") end
return policy
"""


def test_trailers_cannot_bring_back_what_a_policy_took_away(through):
    bodies = []

    def script(_, connection):
        connection.read_head()
        bodies.append(connection.read_until(b"\r\n\r\n"))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    proxy = through(script, policies={"takes.lua": TAKES})
    for head in ("", "X-Taken: a\r\nX-Fixed: a\r\nX-Empty: a\r\n"):
        body = b"0\r\nX-TAKEN: root\r\nx-fixed: root\r\nX-Empty: root\r\nX-Sum: 1\r\n\r\n"
        assert statuses(proxy.raw(request(method="POST", headers="Connection: close\r\n" + head + CHUNKED, body=body), half_close=False)) == [200]
    assert bodies == [b"0\r\nX-Sum: 1\r\n\r\n"] * 2


def test_upgrades_to_http_do_not_pass(through):
    """An upstream that took one would read what follows as requests that nobody looked at."""
    proxy = through(obedient)
    for value in ("h2c", "H2C", "websocket, h2c", "h2c;q=1", "foo h2c", "h2c/1", '"h2c"', "HTTP/2.0", "x\th2c", "websocket\r\nUpgrade: h2c", "a/", "/a", "a/b/c", ","):
        answer = proxy.raw(request(headers=f"Connection: close, Upgrade\r\nUpgrade: {value}\r\n") + request("/smuggled"), half_close=False)
        assert statuses(answer) == [200], value
    passed = [re.findall(r"(?i)^upgrade: (.*)\r$", head, re.M) for head in proxy.origin.heads]
    assert [values for values in passed if values] == [["websocket"]]
    assert not any("/smuggled" in head for head in proxy.origin.heads)
    for value in ("websocket", "SPDY/3.1", "a, b/1.0"):
        proxy.raw(request(headers=f"Connection: close, Upgrade\r\nUpgrade: {value}\r\n"), half_close=False)
        assert f"\r\nUpgrade: {value}\r\n" in proxy.origin.heads[-1]


BROKEN_BODIES = {
    "chunk size": b"2\r\nok\r\nzz\r\n", "bare LF": b"2\nok\n0\n\n", "no CRLF": b"2\r\nokXX0\r\n\r\n", "framing in trailers": b"2\r\nok\r\n0\r\nContent-Length: 5\r\n\r\n",
    "folded trailer": b"2\r\nok\r\n0\r\nX: a\r\n b\r\n\r\n", "end": b"5\r\nok", "long line": b"2;" + b"x" * 300 + b"\r\nok\r\n0\r\n\r\n",
}


def test_broken_bodies_of_answers_look_broken(through):
    """The head goes out even when the break came with it: a client that gets nothing at all may ask again, also for what must not be done twice."""
    current = [b""]

    def script(_, connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + current[0])

    proxy = through(script, expect_errors=UPSTREAM_ERRORS)
    wrong = {}
    for name, current[0] in BROKEN_BODIES.items():
        answer = proxy.raw(request(method="POST", headers="Content-Length: 0\r\n") + request("/next"), half_close=False)
        if statuses(answer) != [200] or answer.endswith(b"0\r\n\r\n"):
            wrong[name] = answer
    assert not wrong


INNER = request("/smuggled")


@pytest.mark.parametrize("early", [b"HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 401 U\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"])
def test_what_is_left_of_a_body_is_never_a_request(through, early):
    """The answer comes before the body; the body is a request; a real one is behind it."""

    def script(_, connection):
        while True:
            head = connection.read_head()
            connection.send(early if b"POST" in head else OK)
            if b"POST" in head:
                connection.read_until(b"\r\n0\r\n\r\n") if b"chunked" in head else connection.read_exactly(len(INNER))

    proxy = through(script, {"nginx.ingress.kubernetes.io/proxy-request-buffering": "off"})
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER)
    for headers, body in ((f"Content-Length: {len(INNER)}\r\n", INNER), (CHUNKED, chunked), (f"Content-Length: {len(INNER)}\r\nExpect: 100-continue\r\n", INNER)):
        for cut in (0, 1, len(body) - 1):
            with socket.create_connection(("127.0.0.1", proxy.http_port), 5) as client:
                client.sendall(request("/first", method="POST", headers=headers, body=body[:cut]))
                answer = b""
                while not [status for status in statuses(answer) if status >= 200]:
                    answer += client.recv(65536)
                with contextlib.suppress(ConnectionError):
                    client.sendall(body[cut:] + request("/next", headers="Connection: close\r\n"))
                    while part := client.recv(65536):
                        answer += part
            final = [status for status in statuses(answer) if status >= 200]
            assert final[0] == statuses(early)[0] and final[1:] in ([], [200])
    assert not any("/smuggled" in head for head in proxy.origin.heads)


@pytest.mark.parametrize("annotations, status", [
    ({"proxy-body-size": "10"}, 413), ({"permanent-redirect": "https://else.example/", "proxy-body-size": "0"}, 301), ({"force-ssl-redirect": "true", "proxy-body-size": "0"}, 308)])
def test_what_is_left_behind_our_own_answers_is_never_a_request(through, annotations, status):
    proxy = through(obedient, {"nginx.ingress.kubernetes.io/" + name: value for name, value in annotations.items()})
    big = INNER * 100
    for headers, body in ((f"Content-Length: {len(big)}\r\n", big), (CHUNKED, b"%x\r\n%s\r\n0\r\n\r\n" % (len(big), big)), (f"Content-Length: {len(big)}\r\nExpect: 100-continue\r\n", big),
                          (f"Content-Length: {10 ** 12}\r\n", INNER * 6000), (CHUNKED, b"fffffffff\r\n" + INNER * 6000)):
        answer = proxy.raw(request(method="POST", headers=headers, body=body) + request("/next", headers="Connection: close\r\n"), half_close=False)
        final = [code for code in statuses(answer) if code >= 200]
        assert final[:1] == [status] and final[1:] in ([], [status] if status != 413 else [200]), (headers, final)
    assert not any("/smuggled" in head for head in proxy.origin.heads)


def test_nothing_is_parsed_behind_an_answer_that_closes(through):
    proxy = through(obedient, settings={"keep-alive-requests": "3"})
    for first in (request(headers="Connection: close\r\n"), request(version="1.0"), b"GARBAGE\r\n\r\n", request(headers="X : y\r\n"), request("/%00"), request(method="POST", headers=CHUNKED, body=b"zz\r\n"),
                  request() * 3, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"):
        proxy.raw(first + INNER * 3, half_close=False)
    assert proxy.origin.heads and not any("/smuggled" in head for head in proxy.origin.heads)


def test_requests_behind_an_upgrade(through):
    """Behind one that is taken they are bytes of the tunnel; behind one that is not, requests."""

    def script(_, connection):
        while True:
            head = connection.read_head()
            if b"/ws" in head:
                connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
                while True:
                    connection.send(connection.read_exactly(1))
            connection.send(OK)

    proxy = through(script)
    upgrade = "Connection: Upgrade\r\nUpgrade: echo\r\n"
    answer = proxy.raw(request("/ws", headers=upgrade) + INNER, timeout=1, half_close=False)
    head, _, echoed = answer.partition(b"\r\n\r\n")
    assert statuses(head) == [101] and echoed == INNER
    assert statuses(proxy.raw(request("/no", headers=upgrade) + request("/behind", headers="Connection: close\r\n"), half_close=False)) == [200, 200]
    assert [head.split(" ")[1] for head in proxy.origin.heads] == ["/ws", "/no", "/behind"]
