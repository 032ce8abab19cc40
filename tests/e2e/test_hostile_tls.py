"""TLS from hostile clients: on raw bytes, by OpenSSL's own client, and broken off at every step."""
import itertools
import socket
import ssl
import struct
import subprocess
import threading
import time

from harness import Lines, certificate, ingress, service, slice_of, tls_secret, wait_until
from hostile import obedient, request, statuses

UNVERIFIED = ssl._create_unverified_context()


def connect(proxy):
    return socket.create_connection(("127.0.0.1", proxy.https_port), 5)


def read_all(client):
    received = b""
    try:
        while part := client.recv(65536):
            received += part
    except ConnectionError:
        pass
    return received


def hello(name="foo.example"):
    """The first flight of a client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        UNVERIFIED.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def test_plain_http_to_the_tls_port_is_told(through):
    proxy = through(obedient)
    for data in (request(), request(method="POST", headers="Content-Length: 2\r\n", body=b"ab") + request(), b"GET / HTTP/1.0\r\n\r\n"):
        with connect(proxy) as client:
            client.sendall(data)
            answer = read_all(client)
        assert statuses(answer) == [400] and b"The plain HTTP request was sent to HTTPS port" in answer and b"Connection: close" in answer
    with connect(proxy) as client:
        for byte in request():
            client.sendall(bytes([byte]))
        assert b"The plain HTTP request was sent to HTTPS port" in read_all(client)
    for data in (b"get / http/1.1\r\n\r\n", b"\r\n", b"\0" * 9, b"\x80\x2e\x01\x03\x01"):
        with connect(proxy) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert b"HTTP" not in read_all(client)
    assert not proxy.origin.heads
    wait_until(lambda: proxy.access.find(r'"GET / HTTP/1.1" 400 '), what="the access log's line")


def test_tls_to_the_plain_port_is_refused_at_once(through):
    proxy = through(obedient)
    assert statuses(proxy.raw(hello(), half_close=False)) == [400]


def test_handshakes_are_counted_once(through):
    proxy = through(obedient)
    with connect(proxy) as raw, UNVERIFIED.wrap_socket(raw) as client:
        client.sendall(request(headers="Connection: close\r\n"))
        read_all(client)
    with connect(proxy) as client:
        client.sendall(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
        read_all(client)
    with connect(proxy):
        pass
    wait_until(lambda: proxy.metric("moongate_connections") == 0, what="connections to end")
    assert (proxy.metric("moongate_tls_handshakes_total"), proxy.metric("moongate_tls_failed_total")) == (1, 1)


def test_handshakes_broken_off_at_every_byte(through):
    proxy = through(obedient)
    data = hello()
    for end in range(len(data) + 1):
        with connect(proxy) as client:
            client.sendall(data[:end])
            if end % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for end in range(6, len(data)):  # a bit wrong at every byte
        with connect(proxy) as client:
            client.sendall(data[:end] + bytes([data[end] ^ 0x40]) + data[end + 1:])
            client.shutdown(socket.SHUT_WR)
            read_all(client)
    with connect(proxy) as raw, UNVERIFIED.wrap_socket(raw, server_hostname="foo.example") as client:
        client.sendall(request(headers="Connection: close\r\n"))
        assert statuses(read_all(client)) == [200]
    wait_until(lambda: proxy.metric("moongate_connections") == 0, what="connections to end")


def test_renegotiation_is_refused(through):
    proxy = through(obedient)
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.https_port}", "-tls1_2", "-servername", "foo.example"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        out = Lines(client.stdout)
        wait_until(lambda: out.find("Verify return code"), what="the handshake")
        client.stdin.write(b"R\n")
        client.stdin.flush()
        wait_until(lambda: out.find("RENEGOTIATING"), what="the attempt")
        wait_until(lambda: out.find("no renegotiation"), what="the refusal")
        client.kill()
        client.stdin.close()
    wait_until(lambda: proxy.metric("moongate_connections") == 0, what="connections to end")


def test_names_that_are_none(through):
    """A name that cannot be one is an alert; any other odd one gets the default certificate, and Host decides where a request goes."""
    proxy = through(obedient)
    first = hello("foo.example")
    for name, is_taken in ((b"foo.example", True), (b"foo.exampl.", True), (b"*.exampleXY", True), (b"foo..ampleX", True), (b"foo.exam\0le", False), (b"foo.exam\nle", False), (b"foo/../amp/", False)):
        with connect(proxy) as client:
            client.sendall(first.replace(b"foo.example", name))
            assert (client.recv(1) == b"\x16") == is_taken, name


def test_certificates_change_while_hands_are_shaken(moongate, echo, tmp_path):
    pairs = [certificate(tmp_path, f"c{i}", ["foo.example"]) for i in range(2)]
    proxy = moongate({"app.json": [service(), *slice_of([echo().port])], "ingress.json": [ingress("app", "foo.example", tls="cert")], "cert.json": [tls_secret("cert", *pairs[0])]},
                     expect_errors=["default certificate", "does not belong"])
    wrong, is_over = [], threading.Event()

    def shake():
        while not is_over.is_set():
            try:
                with connect(proxy) as raw, UNVERIFIED.wrap_socket(raw, server_hostname="foo.example") as client:
                    client.sendall(request(headers="Connection: close\r\n"))
                    if statuses(read_all(client)) != [200]:
                        wrong.append("no answer")
            except OSError as error:
                wrong.append(error)

    def leave():
        first = hello()
        for end in itertools.cycle(range(0, len(first), 7)):
            if is_over.is_set():
                return
            with connect(proxy) as client:
                client.sendall(first[:end])

    threads = [threading.Thread(target=what) for what in (shake, shake, leave, leave)]
    for thread in threads:
        thread.start()
    for i in range(60):
        proxy.write("cert.json", [tls_secret("cert", *pairs[i % 2])] if i % 5 else [tls_secret("cert", pairs[0][0], pairs[1][1])])
        time.sleep(0.02)
    is_over.set()
    for thread in threads:
        thread.join()
    assert not wrong
