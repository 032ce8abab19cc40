"""Certificates by name, the default one, what is wrong with a Secret, and sessions across workers."""
import socket
import ssl

import pytest
from harness import Echo, certificate, ingress, service, slice_of, tls_secret, wait_until
from worlds import running


def serves(proxy, name, **options):
    """The certificate (DER) that a name gets."""
    context = ssl._create_unverified_context()
    with socket.create_connection(("127.0.0.1", proxy.https_port), 5) as raw, context.wrap_socket(raw, server_hostname=name, **options) as tls:
        return tls.getpeercert(True)


def with_tls(name, host, secret, hosts=None, day=1, **more):
    made = ingress(name, host, metadata={"creationTimestamp": f"2024-01-{day:02}T00:00:00Z"}, **more)
    entry = {"hosts": [host] if hosts is None else hosts}
    if secret:
        entry["secretName"] = secret
    made["spec"]["tls"] = [entry]
    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder, app = tmp_path_factory.mktemp("certificates"), Echo("app")
    names = {"exact": ["exact.tls.example"], "wild": ["*.tls.example"], "default": ["default.example"], "two": ["two.example"], "old": ["both.example"], "young": ["both.example"],
             "other": ["unrelated.example"], "unlisted": ["unlisted.example"], "upper": ["upper.example"]}
    made = {name: certificate(folder, name, hosts) for name, hosts in names.items()}
    broken = tls_secret("broken", "not PEM", "not PEM")
    mismatched = tls_secret("mismatched", made["exact"][0], made["wild"][1])
    cases = [
        with_tls("exact", "exact.tls.example", "exact"), with_tls("wild", "*.tls.example", "wild"), with_tls("below", "below.tls.example", "wild"),
        ingress("plain-below", "plain.tls.example"), ingress("plain-deeper", "a.b.tls.example"),
        with_tls("wrong", "wrong.example", "other"), with_tls("missing", "missing.example", "nowhere"), with_tls("broken", "broken.example", "broken"),
        with_tls("mismatched", "mismatched.example", "mismatched"), with_tls("no-secret", "no-secret.example", None), ingress("no-tls", "no-tls.example"),
        with_tls("young", "both.example", "young", day=2), with_tls("old", "both.example", "old", day=1),
        with_tls("unlisted", "unlisted.example", "unlisted", hosts=["another.example"]), with_tls("upper", "upper.example", "upper", hosts=["UPPER.example"]),
    ]
    secrets = [tls_secret(name, *pair) for name, pair in made.items()]
    expected = ["gets the default certificate", "Secret default/", "path / of host both.example is ignored"]
    with running({"app.json": [service(), *slice_of([app.port])], "secrets.json": [*secrets, broken, mismatched], "ingress.json": cases}, [app],
                 flags=["--default-ssl-certificate", "default/default"], expect_errors=expected) as proxy:
        proxy.name_of = {ssl.PEM_cert_to_DER_cert(pair[0]): name for name, pair in made.items()}
        yield proxy


@pytest.mark.parametrize("name, served", [
    ("exact.tls.example", "exact"), ("EXACT.tls.example", "exact"), ("any.tls.example", "wild"), ("below.tls.example", "wild"), ("plain.tls.example", "wild"), ("a.b.tls.example", "default"), ("tls.example", "default"),
    ("wrong.example", "default"), ("missing.example", "default"), ("broken.example", "default"), ("mismatched.example", "default"), ("no-secret.example", "default"), ("no-tls.example", "default"),
    ("both.example", "old"), ("unlisted.example", "unlisted"), ("upper.example", "upper"), ("unknown.example", "default"), (None, "default"),
])
def test_certificate_of_a_name(world, name, served):
    assert world.name_of.get(serves(world, name)) == served


@pytest.mark.parametrize("host, is_redirected", [
    ("exact.tls.example", True), ("wrong.example", True), ("missing.example", True), ("no-secret.example", True), ("no-tls.example", False), ("plain.tls.example", True), ("a.b.tls.example", False)])
def test_a_tls_section_redirects_whatever_its_certificate(world, host, is_redirected):
    assert (world.request("/", host).status == 308) is is_redirected
    assert world.request("/", host, https=True).status == 200


def test_what_is_wrong_is_said(world):
    for name in ("other", "nowhere", "broken", "mismatched"):
        wait_until(lambda name=name: world.errors.find(rf"Secret default/{name} .*gets the default certificate"), what=f"the report about {name}")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_resume_across_workers(world, version):
    """Workers share the ticket keys: of many connections, spread by the kernel, each resumes."""
    context = ssl._create_unverified_context()
    context.minimum_version = context.maximum_version = version
    session, resumed = None, []
    for _ in range(16):
        with socket.create_connection(("127.0.0.1", world.https_port), 5) as raw, context.wrap_socket(raw, server_hostname="exact.tls.example", session=session) as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: exact.tls.example\r\nConnection: close\r\n\r\n")
            while tls.recv(65536):
                pass
            resumed.append(tls.session_reused)
            session = tls.session
    assert resumed == [False] + [True] * 15


def test_a_session_is_for_its_name_only(world):
    context = ssl._create_unverified_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", world.https_port), 5) as raw, context.wrap_socket(raw, server_hostname="exact.tls.example") as tls:
        session = tls.session
    with socket.create_connection(("127.0.0.1", world.https_port), 5) as raw, context.wrap_socket(raw, server_hostname="any.tls.example", session=session) as tls:
        assert not tls.session_reused and world.name_of[tls.getpeercert(True)] == "wild"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_protocols_and_garbage_are_refused(world):
    context = ssl._create_unverified_context()
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", world.https_port), 5) as raw, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(raw, server_hostname="exact.tls.example")
    with socket.create_connection(("127.0.0.1", world.https_port), 5) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: exact.tls.example\r\n\r\n")
        try:
            assert b" 200 " not in raw.recv(4096)
        except ConnectionError:
            pass


def test_a_wildcard_covers_hosts_without_a_section_of_their_own(moongate, echo, tmp_path):
    """Live: as the section of the wildcard's Ingress comes and goes."""
    app, pair = echo(), certificate(tmp_path, "wild", ["*.a.example"])
    plain, wild = ingress("plain", "x.a.example"), with_tls("wild", "*.a.example", "wild")
    proxy = moongate({"app.json": [service(), *slice_of([app.port]), tls_secret("wild", *pair)], "ingress.json": [plain]})
    assert proxy.request("/", "x.a.example").status == 200
    der = ssl.PEM_cert_to_DER_cert(pair[0])
    for _ in range(2):
        proxy.write("wild.json", [wild])
        proxy.wait_live("/", "x.a.example", lambda answer: answer.status == 308)
        assert serves(proxy, "x.a.example") == der
        proxy.write("wild.json", [ingress("wild", "*.a.example")])
        proxy.wait_live("/", "x.a.example", lambda answer: answer.status == 200)
        wait_until(lambda: serves(proxy, "x.a.example") != der, what="the default certificate")
    proxy.write("wild.json", [wild])
    proxy.wait_live("/", "x.a.example", lambda answer: answer.status == 308)
    proxy.remove("wild.json")
    proxy.wait_live("/", "x.a.example", lambda answer: answer.status == 200)


def test_without_a_default_certificate_one_is_made(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("a", "a.example")]})
    assert serves(proxy, "a.example") == serves(proxy, None)
    assert proxy.request("/", "a.example", https=True).status == 200


def test_a_secret_that_comes_late_and_breaks_later(moongate, echo, tmp_path):
    app = echo()
    good, better = certificate(tmp_path, "good", ["a.example"]), certificate(tmp_path, "better", ["a.example"])
    name_of = {ssl.PEM_cert_to_DER_cert(pair[0]): name for name, pair in (("good", good), ("better", better))}
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [with_tls("a", "a.example", "cert")]}, expect_errors=["Secret default/cert"])
    assert serves(proxy, "a.example") not in name_of
    proxy.write("secret.json", [tls_secret("cert", *good)])
    wait_until(lambda: name_of.get(serves(proxy, "a.example")) == "good", what="the certificate")
    proxy.write("secret.json", [tls_secret("cert", good[0], better[1])])
    wait_until(lambda: proxy.errors.find("Secret default/cert.*certificate before stays"), what="the report")
    assert name_of.get(serves(proxy, "a.example")) == "good"
    proxy.write("secret.json", [tls_secret("cert", *better)])
    wait_until(lambda: name_of.get(serves(proxy, "a.example")) == "better", what="the next one")
    proxy.remove("secret.json")
    wait_until(lambda: serves(proxy, "a.example") not in name_of, what="the default one")
