"""An upstream written by a test: a function gets the connection of each client and plays a script over raw bytes."""
import contextlib
import socket
import threading


class Origin:
    """`script(origin, connection)` runs in a thread for each accepted connection; what it raised is in `errors`."""

    def __init__(self, script):
        self.script, self.errors, self.connections, self.heads = script, [], 0, []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        connection.settimeout(10)
        with connection, contextlib.suppress(ConnectionError, EOFError):
            try:
                self.script(self, Connection(self, connection))
            except (ConnectionError, EOFError):
                raise
            except Exception as error:  # noqa: BLE001: shown by the test
                self.errors.append(error)

    def close(self):
        self.listener.close()


class Connection:
    def __init__(self, origin, raw):
        self.origin, self.raw, self.rest = origin, raw, b""

    def read_until(self, mark):
        while mark not in self.rest:
            part = self.raw.recv(65536)
            if not part:
                raise EOFError
            self.rest += part
        taken, _, self.rest = self.rest.partition(mark)
        return taken + mark

    def read_head(self):
        head = self.read_until(b"\r\n\r\n")
        self.origin.heads.append(head.decode())
        return head

    def read_exactly(self, count):
        while len(self.rest) < count:
            part = self.raw.recv(65536)
            if not part:
                raise EOFError
            self.rest += part
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def send(self, data):
        self.raw.sendall(data)

    def close(self):
        self.raw.close()


def answering(response):
    """A script that answers each request on a connection with these bytes."""

    def script(_, connection):
        while True:
            connection.read_head()
            connection.send(response)

    return script
