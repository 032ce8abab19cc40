"""Constant load: clients that keep connections and clients that do not, and every request that was not answered as it should be."""
import collections
import http.client
import threading
import time


class Load:
    """`with Load(targets, host) as load:` ... afterwards `load.failures` holds (seconds, address, what) and `load.names` counts the answering pods."""

    def __init__(self, targets, host, path="/", clients=8, pause=0.01, expect=200):
        self.targets, self.host, self.path, self.pause, self.expect = targets, host, path, pause, expect
        self.failures, self.names, self.count, self.stale = [], collections.Counter(), 0, 0
        self.lock, self.over, self.begun = threading.Lock(), threading.Event(), time.monotonic()
        self.threads = [threading.Thread(target=self._run, args=(targets[number % len(targets)], number // len(targets) % 2 == 0)) for number in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(30)

    def at_least(self, more):
        """A condition for wait_until: so many requests since now."""
        goal = self.count + more
        return lambda: self.count >= goal

    def _run(self, target, is_kept):
        connection, is_fresh = None, True
        while not self.over.is_set():
            if connection is None:
                connection, is_fresh = http.client.HTTPConnection(*target, timeout=20), True
            try:
                connection.request("GET", self.path, headers={"Host": self.host, "Accept": "application/json"})
                answer = connection.getresponse()
                body = answer.read()
                with self.lock:
                    self.count += 1
                    self.names[answer.getheader("X-Echo-Name")] += 1
                    if answer.status != self.expect:
                        self.failures.append((round(time.monotonic() - self.begun, 3), target[0], f"{answer.status} {body[:60]}"))
                is_fresh = False
                if not is_kept or answer.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                connection = None
                with self.lock:
                    # A kept connection may be closed while the request is on its way: each HTTP client sends it again.
                    if is_fresh or not isinstance(error, (ConnectionError, http.client.RemoteDisconnected)):
                        self.failures.append((round(time.monotonic() - self.begun, 3), target[0], repr(error)))
                    else:
                        self.stale += 1
            self.over.wait(self.pause)
        if connection:
            connection.close()
