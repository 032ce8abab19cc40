"""Images for the node agent: a folder IMAGE/rootfs with programs and the shared libraries that they load, and IMAGE/image.json (see controlplane/process.go)."""
import json
import pathlib
import re
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def libraries(*files):
    """The paths that the loader would open, the loader's own among them."""
    output = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=True).stdout
    return sorted(set(re.findall(r"(/\S+) \(0x", output)))


def copy(source, root, target=None):
    place = root / str(target or source).lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(pathlib.Path(source).resolve(), place)


def make_moongate(images, name="moongate"):
    """The image of the program in build/, as `make install` lays it out; the paths that manifests name are those of kube/deploy/image."""
    folder = images / name
    root = folder / "rootfs"
    subprocess.run(["make", "--no-print-directory", "-s", "install", f"DESTDIR={root}", "PREFIX=/usr"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root / "usr/lib/moongate")
    program = root / "usr/bin/moongate"
    cjson = next(pathlib.Path("/usr/lib").glob("*/lua/5.1/cjson.so"))
    for file in [cjson, *libraries(program, cjson)]:
        copy(file, root)
    for alias in ("nginx-ingress-controller", "wait-shutdown"):
        (root / alias).symlink_to("/usr/bin/moongate")
    # The build's PREFIX may be another one.
    (folder / "image.json").write_text(json.dumps({"Cmd": ["/nginx-ingress-controller"], "User": "101:82", "Env": ["MOONGATE_HOME=/usr/share/moongate"]}))
    return name
