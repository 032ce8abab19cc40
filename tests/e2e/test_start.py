"""Starts that cannot succeed, wrong input, and the end."""
import socket
import subprocess
import threading
import time

from harness import BINARY, ROOT, ingress, service, slice_of, wait_until


def run(*arguments, timeout=20):
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def one_line(result):
    assert result.returncode != 0 and result.stderr.count("\n") == 1, (result.returncode, result.stderr)
    return result.stderr


def test_bad_starts_are_one_clear_line(tmp_path):
    assert "--nonsense" in one_line(run("--nonsense"))
    assert "--http-port" in one_line(run("--manifests", str(tmp_path), "--http-port", "many"))
    assert "nowhere" in one_line(run("--manifests", str(tmp_path / "nowhere"), "--http-port", "0", "--https-port", "0", "--healthz-port", "0"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in one_line(run("--manifests", str(tmp_path), "--bind-address", "127.0.0.1", "--http-port", port, "--https-port", "0", "--healthz-port", "0"))
    assert run("--help").stdout.count("--") > 70
    assert run("--version").returncode == 0


def test_check_names_file_object_and_field(tmp_path):
    (tmp_path / "bad.yaml").write_text("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: shop\n  annotations:\n    nginx.ingress.kubernetes.io/proxy-body-size: lots\n"
                                       "spec:\n  rules:\n    - host: UPPER_case!.example\n---\nkind: [broken\n")
    result = run("check", str(tmp_path))
    assert result.returncode == 1
    assert "bad.yaml" in result.stdout and "shop" in result.stdout and "host" in result.stdout
    (tmp_path / "bad.yaml").unlink()
    (tmp_path / "good.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n")
    assert run("check", str(tmp_path)).returncode == 0
    assert run("check", str(tmp_path / "nowhere")).returncode == 2


def test_broken_files_hurt_nobody_else(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("app", "foo.example")], "broken.yaml": "kind: [unclosed"}, expect_errors=["broken"])
    assert proxy.request("/", "foo.example").status == 200
    proxy.write("more.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: 7}\nspec: nothing\n")
    proxy.expect_errors.append("more.yaml")
    proxy.write("second.json", [ingress("second", "second.example")])
    assert proxy.wait_live("/", "second.example", lambda answer: answer.status == 200)


def test_duplicates_name_both_places(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "a.json": [ingress("same", "one.example")], "b.json": [ingress("same", "two.example")]}, expect_errors=["a\\.json.*b\\.json|b\\.json.*a\\.json"])
    assert proxy.request("/", "one.example").status == 200 and proxy.request("/", "two.example").status == 404
    assert proxy.errors.find(r"a\.json") and proxy.errors.find(r"b\.json")


def test_shutdown_lets_requests_end(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("app", "foo.example")]})
    got = []
    thread = threading.Thread(target=lambda: got.append(proxy.request("/sleep/2", "foo.example", timeout=20)))
    thread.start()
    wait_until(lambda: proxy.metric("moongate_exchanges") == 1, what="the request")
    proxy.process.terminate()
    thread.join(20)
    assert got and got[0].status == 200
    assert proxy.process.wait(20) == 0


def test_grace_period_still_accepts_and_says_close(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("app", "foo.example")]}, flags=["--shutdown-grace-period", "2"])
    proxy.process.terminate()
    wait_until(lambda: proxy.admin("/healthz").status == 500, what="unready")
    answer = proxy.request("/", "foo.example")
    assert answer.status == 200 and answer.header("connection") == "close"
    started = time.monotonic()
    assert proxy.process.wait(20) == 0
    assert time.monotonic() - started < 6
