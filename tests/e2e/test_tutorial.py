"""docs/tutorial.md, done step by step: files are written, commands are run, and what the page says they print is looked for."""
import os
import re
import socket
import subprocess

from harness import ROOT
from test_user import release_binary

BLOCK = re.compile(r"(?:^`(?P<file>[\w./]+)`\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_the_tutorial_works_as_it_is_written(tmp_path):
    page = (ROOT / "docs/tutorial.md").read_text()
    ports = dict(zip(("8080", "8443", "10254", "9000"), free_ports(4)))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/moongate").symlink_to(os.path.abspath(release_binary()))
    work = tmp_path / "my-policies"
    (work / "manifests").mkdir(parents=True)
    shell = subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=work, start_new_session=True,
                             env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    commands = 0
    try:
        printed = ""
        for block in BLOCK.finditer(page):
            text = re.sub(r"\b(8080|8443|10254|9000)\b", lambda match: ports[match[1]], block["text"])
            if block["file"]:
                (work / block["file"]).write_text(text)
            elif block["kind"] == "sh":
                shell.stdin.write(text + "echo; echo 'that was all'\n")
                shell.stdin.flush()
                lines = []
                while not lines or lines[-1] != "that was all\n":
                    lines.append(shell.stdout.readline())
                    assert lines[-1], "".join(lines)
                printed = "".join(lines)
                commands += 1
            elif block["kind"] == "text":
                for line in text.splitlines():
                    assert line in printed, f"{line}\n is not in\n{printed}"
    finally:
        os.killpg(shell.pid, 9)
        shell.wait()
    assert commands == 3
