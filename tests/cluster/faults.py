"""The proxy before the API server that breaks things on request: see controlplane/faults.go."""
import contextlib
import json

import cluster as clusters


class Faults:
    def __init__(self, cluster, folder, arguments=()):
        self.orders = folder / "faults"
        self.program = clusters.Program("faults", [str(cluster.tools / "controlplane"), "faults", "-dir", str(cluster.state), "-orders", str(self.orders),
                                                   "-target", f"127.0.0.1:{cluster.PORT}", *arguments], folder / "faults.log")
        self.program.start()
        clusters.wait_until(lambda: self.program.alive() and "listening" in self.program.tail(), 10, "the faults proxy")
        self.port = int(self.program.tail().split("port ")[1].split()[0])
        self.url = f"https://127.0.0.1:{self.port}"

    def cut(self):
        """Resets all connections; returns how many there were."""
        return int(clusters.order(self.orders, "POST", "/cut"))

    def gate(self, to):
        clusters.order(self.orders, "POST", f"/gate?to={to}")

    def rules(self, *rules):
        clusters.order(self.orders, "PUT", "/rules", list(rules))

    @contextlib.contextmanager
    def under(self, *rules):
        self.rules(*rules)
        try:
            yield
        finally:
            self.rules()

    def seen(self, path="", faulty=None):
        """Requests so far whose path holds `path`."""
        lines = clusters.order(self.orders, "GET", "/seen").splitlines()
        return [one for one in map(json.loads, lines) if path in one["path"] and faulty in (None, one["fault"])]

    def stop(self):
        self.program.stop()
