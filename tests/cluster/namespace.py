"""The network namespace: the test process moves into one of its own, so that nothing of a test reaches outside and fixed ports are free."""
import ctypes
import os
import signal
import subprocess

CLONE_NEWNET, PR_SET_PDEATHSIG = 0x40000000, 1
LIBC = ctypes.CDLL(None, use_errno=True)


def enter():
    """To be called once, before any thread exists."""
    if os.geteuid() != 0:
        raise PermissionError("tests/cluster needs root, for network namespaces (sudo make test-cluster)")
    if LIBC.unshare(CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"tests/cluster cannot make a network namespace: {os.strerror(code)}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def die_with_us():
    """For Popen's preexec_fn: what we start does not outlive us."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
