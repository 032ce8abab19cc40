"""Where messages begin and end, on both sides: what leaves us is one unambiguous message, whatever came in."""
import re

from hostile import CHUNKED, UPSTREAM_ERRORS, obedient, request, statuses


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
