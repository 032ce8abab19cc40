"""What a newcomer does in the first ten minutes, and what is said when it goes wrong."""
import functools
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import time

import pytest

from harness import BINARY, ROOT, Lines, ingress, service, slice_of, wait_until


@functools.cache
def release_binary():
    """What users run: sanitizers bring handlers of their own, and their core.so loads into no plain luajit."""
    if "/dev/" in BINARY or "/tsan/" in BINARY:
        subprocess.run(["make", "-s", "--no-print-directory", "VARIANT=release", "binary", "library"], cwd=ROOT, check=True, timeout=300, stdout=subprocess.DEVNULL)
        return str(ROOT / "build" / "moongate")
    return BINARY


def run(*arguments, timeout=60, cwd=ROOT, **more):
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=timeout, cwd=cwd, **more)


@pytest.mark.parametrize("arguments, text", [
    (["help"], "moongate check PATH"), (["check", "--help"], "usage: moongate check"), (["test", "--help"], "usage: moongate test"), (["echo", "--help"], "usage: moongate echo"),
])
def test_help_is_an_answer(arguments, text):
    result = run(*arguments)
    assert result.returncode == 0 and text in result.stdout and result.stderr == ""


@pytest.mark.parametrize("flags, text", [
    (["--http-port", "7777", "--https-port", "7777"], "--http-port and --https-port are both 7777"),
    (["--configmap", "settings"], '--configmap: "settings" is not NAMESPACE/NAME'),
    (["--default-ssl-certificate", "/tls"], '--default-ssl-certificate: "/tls" is not NAMESPACE/NAME'),
])
def test_wrong_flags_say_what_they_want(tmp_path, flags, text):
    result = run("--manifests", str(tmp_path), *flags)
    assert result.returncode == 2 and result.stderr == f"moongate: {text}\n"


def test_unknown_command():
    result = run("serve")
    assert result.returncode == 2 and 'unknown command "serve"' in result.stderr and result.stderr.count("\n") == 1


def test_check_takes_flags_anywhere_and_names_who_asks(tmp_path):
    (tmp_path / "settings").mkdir()
    (tmp_path / "a.yaml").write_text("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: shop}\nspec:\n  rules: [{host: shop.example, http: {paths: "
                                     "[{path: /, pathType: Prefix, backend: {service: {name: gone, port: {number: 80}}}}]}}]\n")
    for arguments in (["--policies", str(tmp_path / "settings"), str(tmp_path)], [str(tmp_path), "--policies", str(tmp_path / "settings")]):
        result = run("check", *arguments)
        assert result.returncode == 0, result.stderr
        assert "Service default/gone: does not exist: its routes answer 503 (host shop.example uses it)" in result.stdout
        assert result.stderr == "0 denied, 0 errors, 1 warning, 0 notes\n"


def test_the_slice_to_add_can_be_taken_from_the_log(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service()], "ingress.json": [ingress("app", "foo.example")]}, expect_errors=["no EndpointSlice", "answered with an error"])
    assert proxy.request("/", "foo.example").status == 503
    line = wait_until(lambda: proxy.errors.find(r"One to add, with your own address: (\{.*\}) \(host foo.example uses it\)"), what="the finding")
    proxy.write("slice.yaml", line.group(1).replace("8080", str(app.port)) + "\n")
    assert proxy.wait_live("/", "foo.example", lambda answer: answer.status == 200)


def test_policies_are_tested_by_an_installed_program(tmp_path):
    """The program as `make install` places it, and a copy of the example folder with its three-line Makefile."""
    prefix = tmp_path / "prefix"
    binary = pathlib.Path(release_binary()).resolve()
    for source, target in ((binary, prefix / "bin/moongate"), (binary.parent / "lib/moongate/core.so", prefix / "lib/moongate/core.so")):
        target.parent.mkdir(parents=True)
        shutil.copy(source, target)
    for name in ("lua", "policies", "kube"):
        shutil.copytree(ROOT / name, prefix / "share/moongate" / name)
    own = tmp_path / "own"
    shutil.copytree(ROOT / "policies/examples", own)
    environment = {**os.environ, "PATH": f"{prefix / 'bin'}:{os.environ['PATH']}"}
    environment.pop("MOONGATE_HOME", None)

    def test():
        return subprocess.run(["make"], cwd=own, env=environment, capture_output=True, text=True, timeout=60)

    result = test()
    assert result.returncode == 0, result.stdout + result.stderr
    policy = own / "new_shop.lua"
    policy.write_text(policy.read_text().replace('"new" or "old"', '"old" or "new"'))
    assert test().returncode != 0, "the copy is what is tested, not the installed example"
    text = policy.read_text()
    policy.write_text(text.replace("local side = exchange.request.cookies", "local side = exchange.request.cookie"))
    line = text[:text.index("local side = exchange.request.cookies")].count("\n") + 1
    output = test().stdout
    assert f"new_shop.lua:{line}: exchange.request has no member 'cookie' (new-shop, access)" in output.split("Raised by hooks in tests that failed:")[1], output


def test_interrupt_while_manifests_are_read(tmp_path):
    for file in range(60):
        (tmp_path / f"{file}.yaml").write_text("---\n".join(
            f"apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: i{file}-{n}}}\nspec:\n  rules: [{{host: h{file}-{n}.example, http: {{paths: "
            "[{path: /, pathType: Prefix, backend: {service: {name: app, port: {number: 80}}}}]}}]\n" for n in range(300)))
    process = subprocess.Popen([BINARY, "--manifests", str(tmp_path), "--http-port", "0", "--https-port", "0", "--healthz-port", "0"], stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    assert process.poll() is None
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "ended before serving" in errors and "level=error" not in errors
    assert time.monotonic() - started < 2


SPIN = """local policy = { name = "spin", summary = "Never ends.", annotations = { spin = { type = "boolean", doc = "Never ends." } } }
function policy.attach(_, annotations) if annotations.spin then return {} end end
function policy.access() while true do end end
return policy
"""


def test_a_crash_names_exchange_step_and_policy(tmp_path):
    """A fatal signal while a policy runs: what is dumped is enough to know which request and whose code it was."""
    manifests, policies = tmp_path / "manifests", tmp_path / "policies"
    manifests.mkdir()
    policies.mkdir()
    (policies / "spin.lua").write_text(SPIN)
    (manifests / "all.yaml").write_text("\n---\n".join(json.dumps(item) for item in [service(), *slice_of([9]), ingress("spin", "spin.example", annotations={"moongate.io/spin": "true"})]))
    process = subprocess.Popen([release_binary(), "--manifests", str(manifests), "--policies", str(policies), "--trust-policies", "--http-port", "0", "--https-port", "0",
                                "--healthz-port", "0", "--workers", "1", "--bind-address", "127.0.0.1"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT,
                               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
    try:
        errors = Lines(process.stderr)
        port = int(wait_until(lambda: errors.find(r"http_port=(\d+)"), what="start").group(1))
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /endless HTTP/1.1\r\nHost: spin.example\r\nX-Request-ID: 0123456789abcdef\r\n\r\n")
            time.sleep(0.5)
            process.send_signal(signal.SIGSEGV)
            assert process.wait(10) == -signal.SIGSEGV
        errors.thread.join(5)
        dump = "\n".join(errors.all())
        assert re.search(r"moongate \S+ crashed: Segmentation fault", dump), dump
        assert re.search(r"worker-0: policy=spin id=\S+ host=spin\.example route=/ step=ACCESS steps=READ_HEAD>\S*>ACCESS", dump), dump
    finally:
        process.kill()
        process.wait()


def test_a_broken_policy_is_named_once(tmp_path):
    (tmp_path / "manifests").mkdir()
    (tmp_path / "p").mkdir()
    (tmp_path / "p/x.lua").write_text('return { name = "x", annotations = { a = { type = "bool" } } }\n')
    result = run("check", str(tmp_path / "manifests"), "--policies", str(tmp_path / "p"))
    assert result.returncode == 1
    assert result.stdout == f"error: {tmp_path}/p/x.lua: has a wrong specification in 'annotations': a: has the unknown type 'bool'\n"


def test_sample_says_what_to_do_when_a_port_is_taken():
    release_binary()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {**os.environ, "HTTP_PORT": str(taken.getsockname()[1]), "HTTPS_PORT": "0", "HEALTHZ_PORT": "0"}
        result = subprocess.run(["bash", "tests/sample/run.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1 and "Address already in use" in result.stderr and "HTTP_PORT=" in result.stderr
    assert "Try:" not in result.stdout
