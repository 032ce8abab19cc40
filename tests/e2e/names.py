"""A name server written by a test, and the address that this host has for others."""
import socket
import struct
import threading


class Dns:
    """A name server over UDP: `names` maps a name to its IPv4 addresses; None is NXDOMAIN."""

    def __init__(self, names, ttl=1):
        self.names, self.ttl, self.asked = names, ttl, []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(4096)
            except OSError:
                return
            at, labels = 12, []
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode())
                at += query[at] + 1
            question = query[12:at + 5]
            kind = struct.unpack(">H", query[at + 1:at + 3])[0]
            name = ".".join(labels).lower()
            self.asked.append(name)
            addresses = self.names.get(name)
            answers = [b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, self.ttl, 4) + socket.inet_aton(one) for one in (addresses or []) if kind == 1]
            self.socket.sendto(query[:2] + struct.pack(">HHHHH", 0x8180 | (3 if addresses is None else 0), 1, len(answers), 0, 0) + question + b"".join(answers), client)

    def close(self):
        self.socket.close()


def our_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]
