"""What the tests of hostile clients and upstreams share: raw requests, an application that answers each, what came back."""
import re

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
UPSTREAM_ERRORS = ["upstream failed", "answered with an error", "answer was cut", "protocol error"]
CHUNKED = "Transfer-Encoding: chunked\r\n"


def obedient(_, connection):
    """Answers "ok" behind each whole request."""
    while True:
        head = connection.read_head().lower()
        length = re.search(rb"content-length: (\d+)", head)
        if length:
            connection.read_exactly(int(length.group(1)))
        elif b"chunked" in head:
            connection.read_until(b"0\r\n\r\n")
        connection.send(OK)


def request(path="/", method="GET", headers="", body=b"", host="foo.example", version="1.1"):
    return f"{method} {path} HTTP/{version}\r\nHost: {host}\r\n{headers}\r\n".encode("latin-1") + body


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


def resident(proxy):
    with open(f"/proc/{proxy.process.pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1))
