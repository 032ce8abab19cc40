"""Values from hostile clients in paths, hosts and fields: where a request goes, what the application sees, what comes back."""
import re

import pytest
from harness import ingress, service, slice_of
from hostile import obedient, request, statuses
from origin import Origin
from worlds import named, running


@pytest.fixture(scope="module")
def world():
    origins = {name: Origin(obedient) for name in ("open", "guarded")}
    objects = [item for name, origin in origins.items() for item in (service(name), *slice_of([origin.port], name))]
    objects += [
        ingress("open", "foo.example", "/", "open"), ingress("guarded", "foo.example", "/admin", "guarded"), ingress("exact", "foo.example", "/exact", "guarded", path_type="Exact"),
        ingress("wild", "*.wild.example", "/", "open"), ingress("slash", "slash.example", "/dir/", "open"),
        ingress("rewrite", "rewrite.example", "/(.*)", "open", named(rewrite_target="$1", use_regex="true"), "ImplementationSpecific"),
        ingress("prefix", "prefix.example", "/p/(.*)", "open", named(rewrite_target="/$1", x_forwarded_prefix="$1"), "ImplementationSpecific"),
        ingress("tls", "tls.example", "/", "open", named(force_ssl_redirect="true")), ingress("www", "www.dom.example", "/", "open", named(from_to_www_redirect="true")),
        ingress("root", "root.example", "/", "open", named(app_root="/app")), ingress("moved", "moved.example", "/", "open", named(permanent_redirect="https://else.example/x")),
    ]
    with running({"all.json": objects}) as proxy:
        proxy.origins = origins
        yield proxy
    for origin in origins.values():
        origin.close()
        assert not origin.errors


def ask(proxy, host, path, headers=""):
    """Statuses, Location, and the application with the head that it saw."""
    before = {name: len(origin.heads) for name, origin in proxy.origins.items()}
    answer = proxy.raw(request(path, host=host, headers=headers + "Connection: close\r\n"), half_close=False)
    seen = [(name, head) for name, origin in proxy.origins.items() for head in origin.heads[before[name]:]]
    location = re.search(rb"(?im)^location: (.*)\r$", answer)
    assert len(seen) <= 1 and answer.count(b"\r\n\r\n") == 1
    return statuses(answer), location and location.group(1).decode(), *(seen[0] if seen else (None, None))


GUARDED = ["/admin", "/admin/", "/%61dmin", "/./admin", "/x/../admin", "/x/%2e%2e/admin", "/x/%2E./admin", "/x%2f..%2fadmin", "//admin", "/%2fadmin", "/admin%2f", "/admin/..;/", "/admin?", "/x/.%2e/admin",
           "/exact", "//exact", "/x/../exact", "/exact?x=/../", "/e%78act", "/admin/x/../../admin"]
OPEN = ["/ADMIN", "/%2561dmin", "/admin/..", "/admin/%2e%2e", "/admin%2f..%2f", "/admin;x", "/admin%20", "/admin%0d%0a", "/admin%3f", "/admin%23", "/%c0%ae%c0%ae/admin", "/x/..%c0%afadmin", "/x\\..\\admin",
        "/..%5cadmin", "/x/.../admin", "/x/%252e%252e/admin", "/exact/", "/exact%2f", "/adminx"]


@pytest.mark.parametrize("name, paths", [("guarded", GUARDED), ("open", OPEN)])
def test_what_is_matched_is_what_the_application_gets(world, name, paths):
    """Decoded once, dots resolved, slashes merged for matching; the bytes as received for the application."""
    for path in paths:
        status, _, where, head = ask(world, "foo.example", path)
        assert (status, where) == ([200], name) and head.startswith(f"GET {path} HTTP/1.1\r\n"), path


@pytest.mark.parametrize("path", ["/admin%00", "/%u0061dmin", "/%", "/%4", "/%zz", "/..", "/%2e%2e", "/a/../../b", "/x/.%00./admin", "/\xc3\xa9", "/a\tb", "/a#b"])
def test_paths_that_are_none(world, path):
    assert ask(world, "foo.example", path)[0] == [400]


@pytest.mark.parametrize("host, status", [
    ("a.wild.example", 200), ("A.WILD.example.", 200), ("a.wild.example:99", 200), ("_.wild.example", 200), ("a.b.wild.example", 404), ("'a.wild.example", 404), ("*.wild.example", 400), (".wild.example", 400),
    ("%61.wild.example", 400), ("a.wild.example,foo.example", 400), ("a.wild.example foo.example", 400), ("u@a.wild.example", 400), ("a..wild.example", 400), ("a.wild.example:80:80", 400), ("a.wild.example:+80", 400),
    ("a.wild.example:65536", 400), ("[::1]", 404), ("[::1]:80", 404), ("[::1", 400), ("::1", 400), ("_", 404), ("", 400), (".", 400),
    ("a.wild.example/", 400), ("a.wild.example\\", 400), ("a.wild.example#", 400), ("\xff", 400)])
def test_hosts(world, host, status):
    assert ask(world, host, "/")[0] == [status]


def test_a_rewritten_target_is_a_path(world):
    """Whatever the groups hold: not another form of a target, no second line, no query that was none."""
    for path, target in (("/http://evil/", "/http:/evil/"), ("/@evil", "/@evil"), ("/evil:80", "/evil:80"), ("/*", "/*"), ("/%2f%2fevil", "/evil"), ("/", "/"), ("/a%20b", "/a%20b"), ("/a%0dX:%20y", "/a%0DX:%20y"),
                         ("/a%3fb", "/a%3Fb"), ("/a%23b", "/a%23b"), ("/a%25%30%30", "/a%2500"), ("/$1", "/$1"), ("/%24%31", "/$1"), ("/a?b%0d%0a", "/a?b%0d%0a"), ("/%ff", "/%FF")):
        status, _, _, head = ask(world, "rewrite.example", path)
        assert status == [200] and head.startswith(f"GET {target} HTTP/1.1\r\nHost: rewrite.example\r\n"), path


def test_a_prefix_of_the_clients_making_stays_one_field(world):
    for path, prefix in (("/p/a%0d%0aX: y".replace(" ", "%20"), "a%0D"), ("/p/a%20b", "a b"), ("/p/%7f", "%7F"), ("/p/", None)):
        status, _, _, head = ask(world, "prefix.example", path, "X-Forwarded-Prefix: /forged\r\n")
        assert status == [200] and re.findall(r"(?im)^x-forwarded-prefix: (.*)\r$", head) == ([prefix] if prefix else []), path


def test_redirects_stay_on_their_host_and_in_their_line(world):
    for path in ("/", "/a%0d%0aX:y", "//evil.example/x", "/\\evil.example", "/a?b=%0d%0a", "/%0d%0a/dir", "/dir", "/dir/..//evil.example/%2e%2e/dir", "/dir?%0a"):
        for host, start in (("tls.example", "https://tls.example"), ("dom.example", f"http://www.dom.example:{world.http_port}"), ("root.example", "http://root.example/app"), ("moved.example", "https://else.example/x"),
                            ("slash.example", "http://slash.example/dir/")):
            status, location, _, _ = ask(world, host, path)
            assert location is None or (location.startswith(start) and location[len(start):len(start) + 1] in ("", "/", "?") and not re.search(r"[\x00-\x20\x7f]", location)), (host, path, location)
            assert (location is None) == (status[0] not in (301, 302, 308))
