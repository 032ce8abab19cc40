"""Layering: inside core/ an include points only to the left; each library is included only where its room may use it."""
import pathlib
import re
import sys

ROOMS = ["base", "net", "http", "route", "proxy", "script", "app"]
# room -> rooms that it may include; the rest of the order is "all to the left"
ALLOWED = {room: set(ROOMS[: i + 1]) for i, room in enumerate(ROOMS)}
ALLOWED["route"] = {"base", "route"}
KUBE = {"base", "kube"}
LIBRARIES = {
    "uv.h": {"net", "http", "proxy", "script", "app"},
    "openssl/": {"net", "http", "proxy", "script", "app"},
    "ares.h": {"net"},
    "llhttp.h": {"http"},
    "nghttp2/": {"http"},
    "pcre2.h": {"route"},
    "lua.h": {"script", "app", "kube"},
    "lauxlib.h": {"script", "app", "kube"},
    "lualib.h": {"script", "app", "kube"},
    "luajit.h": {"script", "app", "kube"},
    "curl/": {"script", "app", "kube"},
    "crypt.h": {"script"},
    "yaml.h": {"kube"},
}

problems = []
for path in sorted(list(pathlib.Path("core").rglob("*.[ch]")) + list(pathlib.Path("kube").rglob("*.[ch]"))):
    room = path.parts[1] if path.parts[0] == "core" else "kube"
    allowed = ALLOWED.get(room, KUBE)
    if room == "app":
        allowed = allowed | {"kube"}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        quoted = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if quoted:
            target = quoted.group(1).split("/")[0]
            if "/" not in quoted.group(1) or target not in allowed:
                problems.append(f"{path}:{number}: {room} may not include {quoted.group(1)}")
        angled = re.match(r"\s*#\s*include\s+<([^>]+)>", line)
        if angled:
            for library, rooms in LIBRARIES.items():
                if angled.group(1).startswith(library) and room not in rooms:
                    problems.append(f"{path}:{number}: {room} may not use {angled.group(1)}")

for path in sorted(pathlib.Path("lua").rglob("*.lua")) + sorted(pathlib.Path("policies").rglob("*.lua")):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if re.search(r"require\s*\(?\s*[\"']kube", line):
            problems.append(f"{path}:{number}: the data side may not require kube")

print("\n".join(problems) or "layering: clean")
sys.exit(1 if problems else 0)
