"""Processes of the bench: started pinned to a core, measured through /proc, ended at the end."""

import glob
import os
import signal
import subprocess
import time


class Process:
    """One server: `pid` and its children (nginx's worker) count together."""

    def __init__(self, name, command, core, log):
        self.name = name
        self.log = log
        with open(log, "wb") as file:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        self.pid = self.popen.pid

    def fail_if_ended(self):
        if self.popen.poll() is not None:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                raise SystemExit(f"{self.name} ended with status {self.popen.returncode}:\n{file.read()[-2000:]}")

    def pids(self):
        pids = [self.pid]
        for path in glob.glob(f"/proc/{self.pid}/task/*/children"):
            with open(path, encoding="ascii") as file:
                pids += [int(pid) for pid in file.read().split()]
        return pids

    def cpu_nanoseconds(self):
        """Time on a CPU of all threads: the first field of schedstat, in nanoseconds, softirq work done meanwhile included."""
        total = 0
        for pid in self.pids():
            for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
                with open(path, encoding="ascii") as file:
                    total += int(file.read().split()[0])
        return total

    def user_share_ticks(self):
        """(user, system) clock ticks of all threads."""
        user = system = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            user += int(fields[11])
            system += int(fields[12])
        return user, system

    def stop(self):
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(5)
            except subprocess.TimeoutExpired:
                for pid in self.pids()[1:] + [self.pid]:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                self.popen.wait(5)
        return self.popen.returncode


def wait_until(what, condition, process, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        process.fail_if_ended()
        if condition():
            return
        time.sleep(0.05)
    raise SystemExit(f"{process.name}: {what} did not happen within {seconds} s (log: {process.log})")
