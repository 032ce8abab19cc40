"""One Moongate for many cases: each case is a host of its own, so a module of tests starts one proxy and its applications once."""
import contextlib
import shutil

import harness

PREFIX = "nginx.ingress.kubernetes.io/"


def named(**annotations):
    """Annotations with their prefix; `_` in a name is `-`."""
    return {PREFIX + name.replace("_", "-"): value for name, value in annotations.items()}


def case(host, path="/", more=None, service_name="echoheaders", path_type="Prefix", name=None, **annotations):
    """An Ingress named after its host."""
    spec = dict(more or {})
    return harness.ingress(name or host.replace("*", "star").replace(".", "-"), host, path, service_name, named(**annotations), path_type, **spec)


@contextlib.contextmanager
def running(manifests, echoes=(), **options):
    """A Moongate with these manifests; its default assertions are made at the end, unless the body raised."""
    proxy = harness.Moongate(manifests, **options)
    try:
        yield proxy
        proxy.stop()
    finally:
        proxy.kill()
        shutil.rmtree(proxy.folder, ignore_errors=True)
        for one in echoes:
            one.stop()
