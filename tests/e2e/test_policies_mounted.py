"""Policies that a user mounts: what they may do, how they fail, and how they change."""
import os
import re

import pytest
from harness import ROOT, ingress, service, slice_of, wait_until
from worlds import named

POLICY = '''
local policy = { name = "%(name)s", summary = "A test.", annotations = { ["%(name)s"] = { type = "string", doc = "Text." } }, %(more)s }
function policy.attach(_, annotations) if annotations["%(name)s"] then return { text = annotations["%(name)s"] } end end
%(body)s
return policy
'''


def policy(name, body, more=""):
    return POLICY % {"name": name, "body": body, "more": more}


SET = 'function policy.header_filter(exchange, config) exchange.response.headers:set("X-Test", config.text) end'


def trail(name):
    return f'function policy.rewrite(exchange) exchange.request.headers:add("X-Trail", "{name}") end'


def start(moongate, echo, policies, annotations=None, expect_errors=(), **more):
    app = echo("app")
    return moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [
        ingress("a", "a.example", annotations={f"moongate.io/{name}": value for name, value in (annotations or {}).items()}), ingress("plain", "plain.example")]},
        policies=policies, expect_errors=expect_errors, **more)


@pytest.mark.parametrize("hook, status", [("server_rewrite", 500), ("rewrite", 500), ("access", 500), ("balancer", 500), ("header_filter", 500)])
def test_an_error_in_a_hook_is_500_and_logged_with_its_line(moongate, echo, hook, status):
    body = f'\n\nfunction policy.{hook}(exchange, config)\n  local nothing\n  return nothing.field\nend'
    if hook == "server_rewrite":
        body += "\nfunction policy.attach_host(_, annotations) return { text = 1 } end"
    proxy = start(moongate, echo, {"bad_one.lua": policy("bad-one", body)}, {"bad-one": "x"}, [r"bad_one\.lua", "status=500", "bad-one"])
    answer = proxy.request("/", "a.example")
    assert answer.status == status and "nothing" not in answer.text
    line = (policy("bad-one", body).split("\n").index("  return nothing.field")) + 1
    wait_until(lambda: proxy.errors.find(rf"bad_one\.lua:{line}"), what="the place in the log")
    if hook != "server_rewrite":
        assert proxy.request("/", "plain.example").status == 200


def test_a_setting_that_is_none_takes_nobody_along(moongate, echo):
    text = policy("odd", "").replace("return { text", 'route:set("protocol", annotations.odd) return { text').replace("attach(_,", "attach(route,")
    proxy = start(moongate, echo, {"odd.lua": text}, {"odd": "ftp"}, [r"odd\.lua:3: route:set: protocol: has the unknown value .ftp", "protocol"])
    assert wait_until(lambda: proxy.errors.find(r"Ingress default/a: .*odd\.lua:3: route:set: protocol: has the unknown value"), what="the finding")
    assert proxy.request("/", "a.example").status == 200  # without the policy


def test_a_version_that_does_not_attach_leaves_the_one_before(moongate, echo):
    proxy = start(moongate, echo, {"fine.lua": policy("fine", SET), "other.lua": policy("other", trail("old"))}, {"fine": "yes", "other": "x"}, [r"fine\.lua:3: oops"])
    assert proxy.request("/", "a.example").header("x-test") == "yes"
    proxy.write_policy("fine.lua", policy("fine", SET).replace("then return", "then error('oops') return"))
    wait_until(lambda: proxy.errors.find(r"fine\.lua:3: oops \(host a\.example\) \(the version before stays\)"), what="the report")
    assert proxy.request("/", "a.example").header("x-test") == "yes"
    proxy.write_policy("other.lua", policy("other", trail("new")))
    wait_until(lambda: "x-trail: new" in proxy.request("/", "a.example").text.lower(), what="another's change")
    assert proxy.request("/", "a.example").header("x-test") == "yes"
    proxy.write_policy("fine.lua", policy("fine", SET.replace("config.text", '"new"')))
    proxy.wait_live("/", "a.example", lambda answer: answer.header("x-test") == "new")


def test_required_policies_keep_it_unready_from_the_start_until_they_load(moongate, echo):
    proxy = start(moongate, echo, {"fine.lua": "return {"}, {"fine": "yes"}, [r"fine\.lua", "not ready"], flags=["--require-policies"])
    assert proxy.admin("/healthz").status == 500 and proxy.request("/", "plain.example").status == 200
    proxy.write_policy("fine.lua", policy("fine", SET))
    proxy.wait_live("/", "a.example", lambda answer: answer.header("x-test") == "yes")
    wait_until(lambda: proxy.admin("/healthz").status == 200, what="being ready")
    proxy.write_policy("fine.lua", "return {")
    wait_until(lambda: proxy.errors.find(r"fine\.lua:1: .*\(the version before stays\)"), what="the report")
    assert proxy.admin("/healthz").status == 200  # all replicas have that file, and the version before serves


def test_on_error_skip(moongate, echo):
    proxy = start(moongate, echo, {"bad_one.lua": policy("bad-one", 'function policy.access() error("no") end', 'on_error = "skip"')}, {"bad-one": "x"}, ["bad_one", "bad-one"])
    assert proxy.request("/", "a.example").status == 200
    assert wait_until(lambda: proxy.errors.find(r"bad_one\.lua:4"), what="the log")


def test_a_hook_that_never_ends_is_stopped(moongate, echo):
    proxy = start(moongate, echo, {"loop.lua": policy("loop", "function policy.access() while true do end end")}, {"loop": "x"}, ["loop", "status=500"])
    assert proxy.request("/", "a.example", timeout=20).status == 500
    assert proxy.request("/", "plain.example").status == 200


@pytest.mark.parametrize("code", ['io.open("/etc/passwd")', 'os.execute("true")', 'require("ffi")', 'debug.getinfo(1)', 'package.loadlib("x", "y")', 'loadstring("return 1")()', 'string.dump(print)',
                                  'require "moongate.core"', 'getmetatable("").__index.upper = nil', 'os.getenv("PATH")'])
def test_a_guest_reaches_nothing_outside(moongate, echo, code):
    proxy = start(moongate, echo, {"guest.lua": policy("guest", f"function policy.access() local x = {code.replace(' = nil', '') if '=' not in code else '1; ' + code} end")}, {"guest": "x"}, ["guest", "status=500"])
    assert proxy.request("/", "a.example").status == 500


def test_a_file_with_a_built_ins_name_replaces_it(moongate, echo):
    source = (ROOT / "policies" / "upstream_vhost.lua").read_text()
    app = echo("app")
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("a", "a.example", annotations=named(upstream_vhost="inner.example"))]},
                     policies={"upstream_vhost.lua": source.replace('route:set("upstream_host", annotations["upstream-vhost"])', 'route:set_request_header("X-Mine", "yes")')}, expect_errors=["upstream_vhost"])
    seen = proxy.echo("/", "a.example")["lower"]
    assert (seen["host"], seen.get("x-mine")) == ("a.example", "yes")
    proxy.write_policy("upstream_vhost.lua", source)
    wait_until(lambda: proxy.echo("/", "a.example")["lower"]["host"] == "inner.example", what="the change")
    (proxy.policies / "upstream_vhost.lua").unlink()
    wait_until(lambda: proxy.echo("/", "a.example")["lower"]["host"] == "inner.example", what="the built-in again")


def test_a_replacement_that_does_not_load_closes_its_routes(moongate, echo):
    app = echo("app")
    proxy = moongate({"app.json": [service(), *slice_of([app.port])],
                      "ingress.json": [ingress("a", "a.example", annotations=named(upstream_vhost="inner.example")), ingress("plain", "plain.example")]},
                     policies={"upstream_vhost.lua": "this is not Lua"}, expect_errors=["upstream_vhost", "upstream-vhost", "status=503"])
    assert proxy.request("/", "a.example").status == 503
    assert proxy.request("/", "plain.example").status == 200
    wait_until(lambda: proxy.errors.find(r"upstream_vhost\.lua:1"), what="the report")
    proxy.write_policy("upstream_vhost.lua", (ROOT / "policies" / "upstream_vhost.lua").read_text())
    proxy.wait_live("/", "a.example", lambda answer: answer.status == 200)


def test_before_and_after(moongate, echo):
    files = {"one.lua": policy("one", trail("one"), 'after = { "two" }'), "two.lua": policy("two", trail("two")), "three.lua": policy("three", trail("three"), 'before = { "two" }, after = { "redirect" }')}
    proxy = start(moongate, echo, files, {"one": "x", "two": "x", "three": "x"})

    def order():
        head = proxy.raw(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", half_close=False).decode()
        return re.findall(r"X-Trail: (\w+)", head)

    assert order() == ["three", "two", "one"]
    proxy.write_policy("one.lua", policy("one", trail("one"), 'before = { "two" }, after = { "three" }'))
    wait_until(lambda: order() == ["three", "one", "two"], what="the new order")


@pytest.mark.parametrize("more, reason", [('before = { "nobody" }', "nobody"), ('before = { "other" }, after = { "other" }', "before and after"), ('after = { "hsts" }, before = { "redirect" }', "contradict")])
def test_a_place_that_cannot_be_refuses_that_file(moongate, echo, more, reason):
    proxy = start(moongate, echo, {"one.lua": policy("one", SET, more), "other.lua": policy("other", SET)}, {"one": "x", "other": "y"}, [r"one\.lua"])
    wait_until(lambda: proxy.errors.find(rf"one\.lua.*{reason}"), what="the report")
    assert proxy.request("/", "a.example").header("x-test") == "y"


def test_a_cycle_refuses_both(moongate, echo):
    proxy = start(moongate, echo, {"one.lua": policy("one", SET, 'before = { "two" }'), "two.lua": policy("two", SET, 'before = { "one" }')}, {"one": "x", "two": "y"}, [r"(one|two)\.lua"])
    wait_until(lambda: proxy.errors.find("cycle"), what="the report")
    assert proxy.request("/", "a.example").header("x-test") is None
    assert proxy.request("/", "a.example").status == 200


def test_what_a_bad_value_does(moongate, echo):
    def source(how):
        return f'''
return {{ name = "count", summary = "A test.", annotations = {{ count = {{ type = "integer", max = 9, on_invalid = "{how}", doc = "A number." }} }},
  attach = function(route, annotations) if annotations.count then route:set_response_header("X-Count", tostring(annotations.count)) end end }}'''

    for how, status in (("default", 200), ("deny", 503)):
        proxy = start(moongate, echo, {"count.lua": source(how)}, {"count": "10"}, ["count", "status=503"])
        assert proxy.request("/", "a.example").status == status
        wait_until(lambda: proxy.errors.find("count: 10 is more than 9"), what="the report")
    app = echo("app")
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("a", "a.example", annotations={"moongate.io/count": "3"})]}, policies={"count.lua": source("reject")},
                     expect_errors=["count"])
    assert proxy.request("/", "a.example").header("x-count") == "3"
    proxy.write("ingress.json", [ingress("a", "a.example", path="/other", annotations={"moongate.io/count": "10"})])
    wait_until(lambda: proxy.errors.find("count: 10 is more than 9.*version before stays"), what="the refusal")
    assert proxy.request("/", "a.example").header("x-count") == "3"


def mount(folder, files):
    """As kubelet does: a new directory, then the `..data` link is swapped; files are links through it."""
    version = folder / f"..{len(list(folder.iterdir()))}"
    version.mkdir()
    for name, text in files.items():
        (version / name).write_text(text)
    (folder / "..data_tmp").symlink_to(version.name)
    os.rename(folder / "..data_tmp", folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def test_a_mounted_config_map_changes_at_once(moongate, echo, tmp_path):
    """Two files that must agree: no request sees one new and one old."""
    def files(text):
        return {"one.lua": policy("one", f'function policy.rewrite(exchange) exchange.request.headers:set("X-One", "{text}") end'),
                "two.lua": policy("two", f'function policy.rewrite(exchange) exchange.request.headers:set("X-Two", "{text}") end')}

    mounted = tmp_path / "mounted"
    mounted.mkdir()
    mount(mounted, files("0"))
    proxy = start(moongate, echo, {}, {"one": "x", "two": "x"}, flags=["--policies", str(mounted)])

    def pair():
        seen = proxy.echo("/", "a.example")["lower"]
        return seen.get("x-one"), seen.get("x-two")

    assert pair() == ("0", "0")
    for n in range(1, 6):
        mount(mounted, files(str(n)))
        seen = set()
        wait_until(lambda: seen.add(pair()) or (str(n), str(n)) in seen, what="the swap")
        assert seen <= {(str(n - 1), str(n - 1)), (str(n), str(n))}, seen


def test_the_example_new_shop(moongate, echo):
    old, new = echo("old"), echo("new")
    example = (ROOT / "policies" / "examples" / "new_shop.lua").read_text()

    def shop(percent):
        return [ingress("shop", "shop.example", service_name="old", annotations={"moongate.io/new-shop-percent": str(percent), "moongate.io/new-shop-service": "new:80"})]

    objects = [service("old"), *slice_of([old.port], name="old"), service("new"), *slice_of([new.port], name="new")]
    proxy = moongate({"app.json": objects, "ingress.json": shop(100)}, expect_errors=["new_shop"])
    assert proxy.request("/", "shop.example").header("x-echo-name") == "old"
    proxy.write_policy("new_shop.lua", example)
    answer = proxy.wait_live("/", "shop.example", lambda answer: answer.header("x-echo-name") == "new")
    assert answer.header("set-cookie").startswith("shop=new; ") and "HttpOnly" in answer.header("set-cookie")
    back = proxy.request("/", "shop.example", headers={"Cookie": "shop=old"})
    assert back.header("x-echo-name") == "old" and back.header("set-cookie") is None
    proxy.write("ingress.json", shop(0))
    proxy.wait_live("/", "shop.example", lambda answer: answer.header("x-echo-name") == "old")
    assert proxy.request("/", "shop.example", headers={"Cookie": "shop=new"}).header("x-echo-name") == "new"
    proxy.write("ingress.json", shop(50))
    wait_until(lambda: {proxy.request("/", "shop.example").header("x-echo-name") for _ in range(20)} == {"old", "new"}, what="both sides")
    (proxy.policies / "new_shop.lua").unlink()
    proxy.wait_live("/", "shop.example", lambda answer: answer.header("x-echo-name") == "old" and answer.header("set-cookie") is None)


def hits(proxy, **labels):
    """The count of a series of `moongate_policy_hits_total`; None: it is not shown."""
    text = "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
    found = re.search(rf"^moongate_policy_hits_total{re.escape(text)} (\d+)$", proxy.admin("/metrics").text, re.M)
    return found and int(found.group(1))


def test_a_policy_counts_for_all_workers_and_through_its_reloads(moongate, echo, tmp_path):
    def body(labels='"side"', values='exchange.request.headers:get("X-Side") or ""', more=""):
        return (f'local hits = require("moongate").counter("hits", {{ {labels} }}, "Visitors.")\n'
                f'function policy.access(exchange) hits:add(1, {values}) end {more}')

    neighbours = tmp_path / "neighbours"
    neighbours.mkdir()
    (neighbours / "neighbour.lua").write_text(policy("neighbour", body(values='"neighbour"')))
    proxy = start(moongate, echo, {"counting.lua": policy("counting", body())}, {"counting": "x", "neighbour": "x"}, workers=4, flags=["--policies", str(neighbours)])
    owner = str(proxy.policies)
    assert "# TYPE moongate_policy_hits_total counter" in proxy.admin("/metrics").text and hits(proxy, owner=owner, side="new") is None
    for _ in range(20):  # a connection each: all workers
        assert proxy.request("/", "a.example", headers={"X-Side": "new"}).status == 200
    assert hits(proxy, owner=owner, side="new") == 20
    assert hits(proxy, owner=str(neighbours), side="neighbour") == 20
    assert proxy.request("/", "a.example", headers=[("X-Side", 'a"b\\c\td\xff')]).status == 200
    assert hits(proxy, owner=owner, side='a\\"b\\\\c?d?') == 1

    proxy.write_policy("counting.lua", policy("counting", body(more=SET)))
    proxy.wait_live("/", "a.example", lambda answer: answer.header("x-test") == "x", headers={"X-Side": "seen"})
    before = hits(proxy, owner=owner, side="new")
    assert before == 20
    proxy.request("/", "a.example", headers={"X-Side": "new"})
    assert hits(proxy, owner=owner, side="new") == 21

    proxy.write_policy("counting.lua", policy("counting", body(labels='"colour"', values='"red"')))
    proxy.wait_live("/", "a.example", lambda answer: answer.header("x-test") is None)
    assert hits(proxy, owner=owner, colour="red") >= 1 and hits(proxy, owner=owner, side="new") is None
    assert proxy.admin("/metrics").text.count("# TYPE moongate_policy_hits_total counter") == 1


def test_a_count_while_loading_refuses_the_file(moongate, echo):
    body = 'local hits = require("moongate").counter("hits", {}, "Visitors.") hits:add(1)'
    proxy = start(moongate, echo, {"early.lua": policy("early", body)}, {"early": "x"}, [r"early\.lua"])
    assert wait_until(lambda: proxy.errors.find(r"early\.lua:4: counter:add: counts in hooks only"), what="the report")
    assert proxy.request("/", "a.example").status == 200


def test_a_shared_dictionary_is_one_for_all_workers_and_outlives_its_policies(moongate, echo, tmp_path):
    def body(more=""):
        return ('local seen = require("moongate").shared.dict("seen")\n'
                f'function policy.header_filter(exchange) exchange.response.headers:set("X-Seen", ("%d"):format(seen:incr(exchange.request.host, 1))) end {more}')

    neighbours = tmp_path / "neighbours"
    neighbours.mkdir()
    (neighbours / "neighbour.lua").write_text(policy("neighbour", body().replace("X-Seen", "X-Neighbour")))
    proxy = start(moongate, echo, {"seeing.lua": policy("seeing", body())}, {"seeing": "x", "neighbour": "x"}, workers=4, flags=["--policies", str(neighbours)])

    def count(name="x-seen"):
        return int(proxy.request("/", "a.example").header(name))

    assert [count() for _ in range(20)] == list(range(1, 21))  # a connection each: all workers
    proxy.write_policy("seeing.lua", policy("seeing", body('function policy.rewrite(exchange) exchange.request.headers:set("X-Trail", "new") end')))
    asked = [0]

    def is_new():
        asked[0] += 1
        return "x-trail" in proxy.echo("/", "a.example")["lower"]

    wait_until(is_new, what="the new policy")
    assert count() == 21 + asked[0]
    assert count("x-neighbour") == 22 + asked[0]
    (proxy.policies / "seeing.lua").unlink()
    proxy.wait_live("/", "a.example", lambda answer: answer.header("x-seen") is None)
    proxy.write_policy("seeing.lua", policy("seeing", body()))
    proxy.wait_live("/", "a.example", lambda answer: answer.header("x-seen") and int(answer.header("x-seen")) > 22 + asked[0])
