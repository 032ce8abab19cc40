"""Guards: policies that decide about admission, over real HTTP, built in and mounted."""
import pytest
from harness import Echo, service, slice_of
from worlds import case, running

# Allows, denies or breaks, as its annotation says.
DOOR = """
local policy = { name = "%(name)s", summary = "A door.", guard = true, after = { %(after)s }, annotations = { ["%(name)s"] = { type = "enum", values = { "allow", "deny", "nothing", "error" }, doc = "x" } } }
function policy.attach(_, annotations) return { does = annotations["%(name)s"] } end
function policy.access(exchange, config)
  if config.does == "allow" then return exchange:allow() end
  if config.does == "deny" then return exchange:deny(%(status)d, "a door of its own") end
  if config.does == "error" then error("broken door") end
end
return policy
"""
ANY = 'return { name = "any", summary = "Any door will do.", annotations = { any = { type = "boolean", doc = "x" } }, attach = function(route) route:set("satisfy", "any") end }'
POLICIES = {"any.lua": ANY, "front.lua": DOOR % {"name": "front", "status": 401, "after": ""}, "side.lua": DOOR % {"name": "side", "status": 403, "after": '"front"'}}

CASES = {("allow", "allow"): (200, 200), ("allow", "deny"): (403, 200), ("deny", "allow"): (401, 200), ("deny", "deny"): (401, 403), ("nothing", "nothing"): (200, 200),
         ("deny", "nothing"): (401, 401), ("error", "allow"): (500, 200), ("error", "nothing"): (500, 500), ("allow", "error"): (500, 200), ("deny", "error"): (401, 500)}


@pytest.fixture(scope="module")
def proxy():
    app = Echo("app")
    ingresses = []
    for front, side in CASES:
        ingresses.append(case(f"all.{front}.{side}.example", front=front, side=side))
        ingresses.append(case(f"any.{front}.{side}.example", front=front, side=side, any="true"))
    ingresses.append(case("wrong.example", path=["/", "/other"], front="ajar"))
    with running({"app.json": [service(), *slice_of([app.port])], "ingress.json": ingresses}, [app], policies=POLICIES,
                 expect_errors=["broken door", "status=50[03]", "front: ajar is none of"]) as it:
        yield it


@pytest.mark.parametrize("doors", CASES, ids="-".join)
def test_what_two_guards_say(proxy, doors):
    seen = tuple(proxy.request("/", ".".join((how, *doors, "example"))).status for how in ("all", "any"))
    assert seen == CASES[doors]


def test_a_guard_that_cannot_be_set_up_closes_its_ingress(proxy):
    assert [proxy.request(path, "wrong.example").status for path in ("/", "/other")] == [503, 503]
