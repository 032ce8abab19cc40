"""Which host and which route: the table of controller-behaviour, over real HTTP."""
import pytest
from harness import Echo, ingress, service, slice_of, wait_until
from worlds import named, running


def aged(name, host, path="/", day=1, service_name="a", annotations=None, **more):
    metadata = {"creationTimestamp": f"2024-01-{day:02}T00:00:00Z"}
    return ingress(name, host, path, service_name, annotations=annotations, metadata={**metadata, **more.pop("metadata", {})}, **more)


def kind(name, host, paths, day=1, annotations=None, default=None, **more):
    """An Ingress with paths of different types: (path, type, service)."""
    made = ingress(name, host, "/", annotations=annotations, metadata={"creationTimestamp": f"2024-01-{day:02}T00:00:00Z"}, **more)
    rule = made["spec"]["rules"][0]
    rule["http"]["paths"] = [{"path": path, "pathType": path_type, "backend": {"service": {"name": to, "port": {"number": 80}}}} for path, path_type, to in paths]
    if not paths:
        del rule["http"]
    if default:
        made["spec"]["defaultBackend"] = {"service": {"name": default, "port": {"number": 80}}}
    return made


def only_default(name, to, day=1, annotations=None):
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "creationTimestamp": f"2024-01-{day:02}T00:00:00Z", "annotations": annotations or {}},
            "spec": {"ingressClassName": "nginx", "defaultBackend": {"service": {"name": to, "port": {"number": 80}}}}}


def resource(name, host):
    made = kind(name, host, [("/x", "Prefix", "a"), ("/bucket", "Prefix", "a")])
    made["spec"]["rules"][0]["http"]["paths"][1]["backend"] = {"resource": {"apiGroup": "k8s.example.com", "kind": "StorageBucket", "name": "icons"}}
    return made


OBJECTS = [
    resource("resource", "resource.example"),
    # hosts
    aged("exact", "exact.hosts.example", service_name="a"),
    aged("wild", "*.hosts.example", service_name="b"),
    aged("deep-wild", "*.deep.hosts.example", service_name="c"),
    # kinds of paths
    kind("kinds", "kinds.example", [("/aaa", "Prefix", "a"), ("/aaa/bbb", "Prefix", "b"), ("/exact", "Exact", "c"), ("/slash/", "Prefix", "d"), ("/Case", "Prefix", "e"),
                                    ("/both", "Exact", "a"), ("/both", "Prefix", "b"), ("/impl", "ImplementationSpecific", "c"), ("/exact-slash/", "Exact", "d")]),
    kind("many", "many.example", [(f"/p{n}", "Prefix", "a") for n in range(40)] + [("/p1/deeper", "Prefix", "b"), ("/p2", "Exact", "c"), ("/slash/", "Prefix", "d")]),
    # age
    aged("old", "age.example", "/x", day=1, service_name="a"),
    aged("young", "age.example", ["/x", "/y"], day=2, service_name="b"),
    aged("tie-a", "tie.example", "/", day=3, service_name="a"),
    aged("tie-b", "tie.example", "/", day=3, service_name="b"),
    # the implicit "/"
    kind("with-default", "default.example", [("/x", "Prefix", "a")], default="d", annotations=named(upstream_vhost="vhost.example")),
    kind("no-paths", "no-paths.example", [], default="e"),
    kind("empty", "empty.example", []),
    kind("without-default", "without.example", [("/x", "Prefix", "a")]),
    # regex mode
    kind("regex", "regex.example", [("/foo/bar/bar", "ImplementationSpecific", "a"), ("/foo/bar/[a-z]{3}", "ImplementationSpecific", "b"), ("/Exact", "Exact", "c")], day=1,
         annotations=named(use_regex="true")),
    kind("not-regex", "regex.example", [("/foo", "Prefix", "d"), ("/zed", "Exact", "e")], day=2),
    kind("by-target", "target.example", [("/a/(.*)", "ImplementationSpecific", "a")], annotations=named(rewrite_target="/$1")),
    kind("beside-target", "target.example", [("/plain", "Exact", "b")], day=2),
    kind("same-target", "same.example", [("/same", "Prefix", "a")], annotations=named(rewrite_target="/same")),
    kind("ties", "ties.example", [("/a.c", "ImplementationSpecific", "a"), ("/abc", "ImplementationSpecific", "b"), ("/ab.", "ImplementationSpecific", "c")],
         annotations=named(use_regex="true")),
    kind("broken", "broken.example", [("/a(", "ImplementationSpecific", "a"), ("/b", "ImplementationSpecific", "b")], annotations=named(use_regex="true")),
    kind("beside-broken", "broken.example", [("/c", "Prefix", "c")], day=2),
    # catch-all
    aged("no-host", "", "/hostless", service_name="c"),
    # names
    aged("alias", "named.example", service_name="a", annotations=named(server_alias="other-name.example,exact.hosts.example")),
    aged("upper", "Upper.Example", service_name="b"),
    aged("dot", "dot.example.", service_name="c"),
    # classes and namespaces
    aged("foreign", "foreign.example", class_name="other"),
    aged("ours-by-annotation", "by-annotation.example", class_name=None, annotations={"kubernetes.io/ingress.class": "nginx"}),
    aged("foreign-by-annotation", "foreign-annotation.example", class_name=None, annotations={"kubernetes.io/ingress.class": "traefik"}),
    aged("no-class", "no-class.example", class_name=None),
    aged("second-class", "second-class.example", class_name="second"),
    aged("field-wins", "field-wins.example", class_name="other", annotations={"kubernetes.io/ingress.class": "nginx"}),
    {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "other"}, "spec": {"controller": "example.com/other"}},
    {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "second"}, "spec": {"controller": "k8s.io/ingress-nginx"}},
    aged("elsewhere", "elsewhere.example", service_name="a", namespace="other"),
]


@pytest.fixture(scope="module")
def proxy():
    apps = [Echo(name) for name in "abcde"]
    objects = [item for app in apps for item in (service(app.name), *slice_of([app.port], name=app.name))]
    other = Echo("a-of-other")
    for item in (service("a"), *slice_of([other.port], name="a")):
        item["metadata"]["namespace"] = "other"
        objects.append(item)
    expected = [r"is ignored: ", r"backend.resource", r"broken", r"Ingress default/broken", r"host=broken"]
    with running({"app.json": objects, "ingress.json": OBJECTS}, [*apps, other], expect_errors=expected) as it:
        yield it


@pytest.mark.parametrize("host, path, served", [
    ("exact.hosts.example", "/", "a"), ("any.hosts.example", "/", "b"), ("under_score-1.hosts.example", "/", "b"), ("x.deep.hosts.example", "/", "c"), ("deep.hosts.example", "/", "b"),
    ("a.b.hosts.example", "/", 404), ("hosts.example", "/", 404), ("EXACT.Hosts.Example", "/", "a"), ("exact.hosts.example.", "/", "a"), ("exact.hosts.example:8443", "/", "a"),
    ("exact.hosts.example.:80", "/", "a"), ("unknown.example", "/", 404),
    ("kinds.example", "/aaa", "a"), ("kinds.example", "/aaa/", "a"), ("kinds.example", "/aaa/x", "a"), ("kinds.example", "/aaaccc", 404), ("kinds.example", "/aaa/bbb", "b"),
    ("kinds.example", "/aaa/bbb/ccc", "b"), ("kinds.example", "/aaa/bbbxyz", "a"), ("kinds.example", "/exact", "c"), ("kinds.example", "/exact/", 404), ("kinds.example", "/exact?a=b", "c"),
    ("kinds.example", "/slash/", "d"), ("kinds.example", "/slash/x", "d"), ("kinds.example", "/slashed", 404), ("kinds.example", "/case", 404), ("kinds.example", "/Case/x", "e"),
    ("kinds.example", "/both", "a"), ("kinds.example", "/both/x", "b"), ("kinds.example", "/impl/x", "c"), ("kinds.example", "/implx", 404), ("kinds.example", "/", 404),
    ("kinds.example", "/exact-slash/", "d"), ("kinds.example", "/exact-slash", 404), ("kinds.example", "/exact-slash/x", 404),
    ("kinds.example", "/x/../aaa", "a"), ("kinds.example", "/a%61a", "a"), ("kinds.example", "//aaa//x", "a"), ("kinds.example", "/aaa%2Fbbb", "b"), ("kinds.example", "/aaa/./bbb", "b"),
    ("many.example", "/p39/x", "a"), ("many.example", "/p1/deeper/x", "b"), ("many.example", "/p1/deep", "a"), ("many.example", "/p2", "c"), ("many.example", "/p2/x", "a"),
    ("many.example", "/p40", 404), ("many.example", "/slash/x", "d"), ("many.example", "/", 404),
    ("resource.example", "/x", "a"), ("resource.example", "/bucket", 404),
    ("age.example", "/x", "a"), ("age.example", "/y", "b"), ("tie.example", "/", "b"),
    ("default.example", "/x", "a"), ("default.example", "/else", "d"), ("no-paths.example", "/any", "e"), ("empty.example", "/", 404), ("without.example", "/", 404),
    ("regex.example", "/foo/bar/bar", "b"), ("regex.example", "/foo/bar/xyz", "b"), ("regex.example", "/FOO/BAR/abc", "b"), ("regex.example", "/foo/bar/ba", "d"),
    ("regex.example", "/foobar", "d"), ("regex.example", "/foo/x", "d"), ("regex.example", "/Exactly", "c"), ("regex.example", "/exact/x", "c"), ("regex.example", "/zedx", "e"),
    ("regex.example", "/other", 404),
    ("target.example", "/a/x", "a"), ("target.example", "/plainer", "b"), ("target.example", "/PLAIN", "b"),
    ("same.example", "/same/x", "a"), ("same.example", "/samex", 404), ("same.example", "/Same", 404),
    ("ties.example", "/abc", "b"), ("ties.example", "/abx", "c"), ("ties.example", "/axc", "a"),
    ("broken.example", "/b", "b"), ("broken.example", "/a(", 503), ("broken.example", "/a", 404), ("broken.example", "/c", "c"),
    ("whatever.example", "/hostless/x", "c"), ("", "/hostless", 400), ("127.0.0.1", "/hostless", "c"), ("[::1]:80", "/hostless", "c"),
    ("other-name.example", "/", "a"), ("upper.example", "/", "b"), ("dot.example", "/", "c"),
    ("foreign.example", "/", 404), ("by-annotation.example", "/", "a"), ("foreign-annotation.example", "/", 404), ("no-class.example", "/", "a"), ("second-class.example", "/", "a"),
    ("field-wins.example", "/", 404), ("elsewhere.example", "/", "a-of-other"),
])
def test_routes(proxy, host, path, served):
    answer = proxy.request(path, host)
    assert (answer.header("x-echo-name") if answer.status == 200 else answer.status) == served


@pytest.mark.parametrize("host", ["kinds.example", "many.example"])
def test_the_slash_redirect(proxy, host):
    for path, location in (("/slash", "/slash/"), ("/slash?a=b", "/slash/?a=b")):
        answer = proxy.request(path, host)
        assert (answer.status, answer.header("location")) == (301, f"http://{host}{location}")
        answer = proxy.request(path, f"{host}:8080", https=True)
        assert (answer.status, answer.header("location")) == (301, f"https://{host}{location}")


def test_the_implicit_route_has_the_annotations_of_the_oldest(proxy):
    assert proxy.echo("/else", "default.example")["lower"]["host"] == "vhost.example"


def test_the_404_page(proxy):
    answer = proxy.request("/nowhere", "unknown.example")
    assert (answer.status, answer.text) == (404, "default backend - 404")


# ---- what flags and changes decide

def served(proxy, path="/", host="unknown.example"):
    answer = proxy.request(path, host)
    return answer.header("x-echo-name") if answer.status == 200 else answer.status


def two_apps(echo):
    one, two = echo("one"), echo("two")
    return [service("one"), *slice_of([one.port], name="one"), service("two"), *slice_of([two.port], name="two")]


def test_the_oldest_default_backend_is_the_catch_all(moongate, echo):
    proxy = moongate({"app.json": two_apps(echo), "old.json": [only_default("old", "one", 1, named(rewrite_target="/x", permanent_redirect="/y", app_root="/z", force_ssl_redirect="true", use_regex="true"))],
                      "young.json": [only_default("young", "two", 2)], "rules.json": [ingress("rules", None, "/Case", "two")]},
                     expect_errors=["."])
    assert served(proxy) == "one"
    assert proxy.echo("/any", "unknown.example")["path"] == "/any"
    assert proxy.echo("/", "unknown.example")["path"] == "/"
    assert (served(proxy, "/Case"), served(proxy, "/case")) == ("two", "one")
    proxy.remove("old.json")
    wait_until(lambda: served(proxy) == "two", what="the younger one")
    proxy.remove("young.json")
    wait_until(lambda: served(proxy) == 404, what="nothing")


def test_default_backend_service(moongate, echo):
    app = echo("default")
    proxy = moongate({"app.json": [service("fallback"), *slice_of([app.port], name="fallback"), service("web")], "ingress.json": [ingress("a", "a.example", "/x", "web")]},
                     flags=["--default-backend-service", "default/fallback"], expect_errors=["Service default/web", "host=a.example"])
    assert served(proxy) == "default" and served(proxy, "/y", "a.example") == "default"
    assert served(proxy, "/x", "a.example") == 503
    proxy.write("app.json", [service("fallback")])
    proxy.expect_errors.append("default/fallback")
    wait_until(lambda: served(proxy) == 404, what="our own page")


def test_disable_catch_all(moongate, echo):
    with_default = kind("a", "a.example", [("/", "Prefix", "one")], default="two")
    proxy = moongate({"app.json": two_apps(echo), "ingress.json": [only_default("old", "one"), with_default, ingress("b", "", "/x", "two")]}, flags=["--disable-catch-all"], expect_errors=["disable-catch-all"])
    assert served(proxy) == 404 and served(proxy, "/", "a.example") == 404 and served(proxy, "/x") == "two"


def test_watch_namespace(moongate, echo):
    app = echo("app")
    objects = [service(), *slice_of([app.port])]
    for item in objects:
        item["metadata"]["namespace"] = "mine"
    proxy = moongate({"app.json": objects, "ingress.json": [ingress("a", "a.example", namespace="mine"), ingress("b", "b.example", namespace="theirs")]}, flags=["--watch-namespace", "mine"], expect_errors=["namespace"])
    assert served(proxy, "/", "a.example") == "app" and served(proxy, "/", "b.example") == 404


def test_ingress_class_flags(moongate, echo):
    classes = [{"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name}, "spec": {"controller": controller}}
               for name, controller in (("mine", "example.com/mine"), ("nginx", "k8s.io/ingress-nginx"))]
    ours = [ingress(name, f"{name}.example", service_name="one", class_name=name if name != "none" else None) for name in ("mine", "nginx", "none")]
    proxy = moongate({"app.json": two_apps(echo), "class.json": classes, "ingress.json": ours},
                     flags=["--controller-class", "example.com/mine", "--ingress-class", "mine", "--watch-ingress-without-class=false"], expect_errors=["is ignored"])
    assert [served(proxy, "/", f"{name}.example") for name in ("mine", "nginx", "none")] == ["one", 404, 404]
    classes[1]["spec"]["controller"] = "example.com/mine"
    proxy.write("class.json", classes)
    wait_until(lambda: served(proxy, "/", "nginx.example") == "one", what="the class to change hands")
    proxy.write("class.json", classes[1:])
    proxy.write("ingress.json", [{**ours[0], "spec": {**ours[0]["spec"], "ingressClassName": "gone"}}])
    wait_until(lambda: served(proxy, "/", "mine.example") == 404, what="the class to go")


def test_an_alias_gives_way_to_a_host(moongate, echo):
    proxy = moongate({"app.json": two_apps(echo), "a.json": [ingress("a", "a.example", service_name="one", annotations=named(server_alias="alias.example"))]}, expect_errors=["server-alias"])
    assert served(proxy, "/", "alias.example") == "one"
    proxy.write("b.json", [ingress("b", "alias.example", service_name="two")])
    wait_until(lambda: served(proxy, "/", "alias.example") == "two", what="the host")
    proxy.remove("b.json")
    wait_until(lambda: served(proxy, "/", "alias.example") == "one", what="the alias again")


def test_one_bad_ingress_holds_nobody_back(moongate, echo):
    proxy = moongate({"app.json": two_apps(echo), "a.json": [ingress("a", "a.example", service_name="one")]}, expect_errors=["b.json"])
    proxy.write("b.json", [ingress("b", "-bad-.example", service_name="one"), ingress("c", "c.example", service_name="two")])
    wait_until(lambda: served(proxy, "/", "c.example") == "two", what="the good one")
    assert served(proxy, "/", "a.example") == "one"
