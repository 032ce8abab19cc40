"""Who a client says it is: PROXY headers and forwarded fields, honest, broken and forged."""
import re
import socket
import ssl
import struct

import pytest
from hostile import obedient, request, statuses

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY TCP4 6.6.6.6 7.7.7.7 1000 443\r\n"
V4 = bytes([6, 6, 6, 6, 7, 7, 7, 7]) + struct.pack(">HH", 1000, 443)
FORGED = "X-Forwarded-For: 9.9.9.9\r\nX-Real-IP: 8.8.8.8\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 8443\r\nConnection: close\r\n"


def v2(command=1, family=0x11, addresses=V4, tlvs=b"", version=2, size=None):
    body = addresses + tlvs
    return SIGNATURE + bytes([version << 4 | command, family]) + struct.pack(">H", len(body) if size is None else size) + body


TAKEN = {
    "v1": V1, "v2": v2(), "v2 with TLVs": v2(tlvs=b"\x04\0\3abc\x20\0\5\1\0\0\0\0"), "v2 with much": v2(tlvs=b"\x04\x0f\0" + b"a" * 3840),
}
LOCAL = {
    "v1 unknown": b"PROXY UNKNOWN\r\n", "v1 unknown with more": b"PROXY UNKNOWN ffff::1 x 1 2\r\n", "v2 local": v2(0, 0, b""), "v2 local with addresses": v2(0), "v2 unspecified": v2(1, 0, b"xyz"),
}
REFUSED = {
    "v1 of v6": b"PROXY TCP4 ::1 ::2 1 2\r\n", "v1 with LF": V1.replace(b"\r", b""), "v1 spaces": V1.replace(b" 1000", b"  1000"), "v1 space behind": V1.replace(b"\r", b" \r"),
    "v1 port": V1.replace(b"443", b"65536"), "v1 signed port": V1.replace(b"443", b"+443"), "v1 octal": V1.replace(b" 6.", b" 06."), "v1 list": V1.replace(b"6.6 ", b"6.6,1.1.1.1 "),
    "v1 NUL": V1.replace(b"6.6 ", b"6.6\0 "), "v1 in small": V1.lower(), "v1 datagrams": V1.replace(b"TCP", b"UDP"), "v1 too long": b"PROXY UNKNOWN " + b"a" * 100 + b"\r\n",
    "v2 unix": v2(1, 0x31, b"x" * 216), "v2 datagrams": v2(1, 0x12), "v2 command": v2(2), "v2 version 1": v2(version=1), "v2 version 3": v2(version=3), "v2 family": v2(1, 0xff),
    "v2 without addresses": v2(1, 0x11, b""), "v2 short": v2(1, 0x11, b"abc"), "v2 long TLV": v2(tlvs=b"\x04\0\x09abc"), "v2 cut TLV": v2(tlvs=b"\x04\0"),
    "v2 too large": v2(tlvs=b"\x04\x10\0" + b"a" * 4096), "v2 of 64 KiB": v2(tlvs=b"x" * 65000, size=65535), "signature alone": SIGNATURE + b"!",
}


def fields_of(head):
    return dict(re.findall(r"(?im)^(x-real-ip|x-forwarded-(?:for|proto|port|host)): (.*)\r$", head))


def test_proxy_headers_of_a_trusted_peer(through):
    proxy = through(obedient, settings={"use-proxy-protocol": "true", "proxy-real-ip-cidr": "127.0.0.0/8"})
    wrong = {}
    for group, address in ((TAKEN, "6.6.6.6"), (LOCAL, "127.0.0.1")):
        for name, header in group.items():
            answer = proxy.raw(header + request(headers=FORGED), half_close=False)
            seen = fields_of(proxy.origin.heads[-1])
            good = {"X-Real-IP": address, "X-Forwarded-For": address, "X-Forwarded-Host": "foo.example", "X-Forwarded-Proto": "https" if group is TAKEN else "http"}
            if statuses(answer) != [200] or {key: seen[key] for key in good} != good:
                wrong[name] = (statuses(answer), seen)
    for name, header in REFUSED.items():
        if statuses(proxy.raw(header + request(headers=FORGED), half_close=False)):
            wrong[name] = "taken"
    for name in ("v1", "v2 with TLVs"):  # a second one is no request
        if statuses(proxy.raw(TAKEN[name] * 2 + request(headers=FORGED), half_close=False)) != [400]:
            wrong[name] = "twice"
    assert not wrong


def test_proxy_headers_byte_by_byte_and_before_tls(through):
    proxy = through(obedient, settings={"use-proxy-protocol": "true", "proxy-real-ip-cidr": "127.0.0.0/8"})
    for header in (V1, v2(tlvs=b"\x04\0\3abc")):
        with socket.create_connection(("127.0.0.1", proxy.http_port), 5) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in header + request(headers=FORGED):
                client.send(bytes([byte]))
            assert statuses(client.recv(1000)) == [200]
        assert fields_of(proxy.origin.heads[-1])["X-Real-IP"] == "6.6.6.6"
        with socket.create_connection(("127.0.0.1", proxy.https_port), 5) as raw:
            raw.sendall(header)
            with ssl._create_unverified_context().wrap_socket(raw, server_hostname="foo.example") as client:
                client.sendall(request(headers=FORGED))
                assert statuses(client.recv(1000)) == [200]
        assert fields_of(proxy.origin.heads[-1])["X-Real-IP"] == "6.6.6.6"


def test_proxy_headers_of_a_stranger_say_nothing(through):
    proxy = through(obedient, settings={"use-proxy-protocol": "true", "proxy-real-ip-cidr": "10.0.0.0/8"})
    for header in (*TAKEN.values(), *LOCAL.values()):
        assert statuses(proxy.raw(header + request(headers=FORGED), half_close=False)) == [200]
        seen = fields_of(proxy.origin.heads[-1])
        assert (seen["X-Real-IP"], seen["X-Forwarded-Proto"], seen["X-Forwarded-Port"]) == ("127.0.0.1", "http", str(proxy.http_port))


@pytest.mark.parametrize("settings", [{}, {"use-forwarded-headers": "true", "proxy-real-ip-cidr": "10.0.0.0/8"}, {"enable-real-ip": "true", "proxy-real-ip-cidr": "10.0.0.0/8,::1/128"}])
def test_without_the_option_a_proxy_header_is_no_request_and_forged_fields_say_nothing(through, settings):
    proxy = through(obedient, settings=settings)
    for header in (*TAKEN.values(), *LOCAL.values(), *REFUSED.values()):
        assert statuses(proxy.raw(header + request(headers=FORGED), half_close=False)) == [400]
    assert not proxy.origin.heads
    for line in ("", "X-Forwarded-For: 6.6.6.6, 10.0.0.1\r\n", "Forwarded: for=6.6.6.6;proto=https\r\n"):
        assert statuses(proxy.raw(request(headers=FORGED + line), half_close=False)) == [200]
        seen = fields_of(proxy.origin.heads[-1])
        assert seen == {"X-Real-IP": "127.0.0.1", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "foo.example", "X-Forwarded-Proto": "http", "X-Forwarded-Port": str(proxy.http_port)}


@pytest.mark.parametrize("cidrs, chain, address", [
    ("127.0.0.0/8", "6.6.6.6, 9.9.9.9", "9.9.9.9"), ("127.0.0.0/8,9.9.9.9", "6.6.6.6, 9.9.9.9", "6.6.6.6"), ("127.0.0.0/8,9.0.0.0/8", "evil, 9.9.9.9", "9.9.9.9"),
    ("127.0.0.0/8", "", "127.0.0.1"), ("127.0.0.0/8", ", ,", "127.0.0.1"), ("127.0.0.0/8", "unknown", "127.0.0.1"), ("127.0.0.0/8", "6.6.6.6:1234", "6.6.6.6"), ("127.0.0.0/8", "[2001:db8::6]:99", "2001:db8::6"),
    ("127.0.0.0/8", "::ffff:6.6.6.6", "6.6.6.6"), ("127.0.0.0/8,::ffff:9.0.0.0/104", "6.6.6.6, 9.9.9.9", None), ("127.0.0.1/32", "6.6.6.6\t", "6.6.6.6"), ("127.0.0.0/8", "6.6.6.6, 256.1.1.1", "127.0.0.1"),
    ("127.0.0.0/8", "1.2.3.4" + ", 127.0.0.1" * 400, "1.2.3.4"), ("0.0.0.0/0", "6.6.6.6, 9.9.9.9", "6.6.6.6"), ("127.0.0.0/8", "6.6.6.6%eth0", "127.0.0.1")])
def test_chains_of_forwarded_addresses(through, cidrs, chain, address):
    """The rightmost one that is not trusted; nothing left of what cannot be read."""
    proxy = through(obedient, settings={"use-forwarded-headers": "true", "proxy-real-ip-cidr": cidrs}, expect_errors=["proxy-real-ip-cidr"] if address is None else [])
    assert statuses(proxy.raw(request(headers=f"X-Forwarded-For: {chain}\r\nConnection: close\r\n"), half_close=False)) == [200]
    seen = fields_of(proxy.origin.heads[-1])
    if address:
        assert seen["X-Real-IP"] == seen["X-Forwarded-For"] == address
