"""Fixtures: `moongate` starts proxies and makes the default assertions at the end; `echo` starts applications."""
import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import harness  # noqa: E402
from names import Dns  # noqa: E402
from origin import Origin  # noqa: E402


@pytest.fixture
def echo():
    started = []

    def start(name="echo"):
        started.append(harness.Echo(name))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def dns():
    started = []

    def start(names, **more):
        started.append(Dns(names, **more))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    setattr(item, "report_" + report.when, report)


@pytest.fixture
def moongate(request, echo):
    started = []

    def start(*arguments, **more):
        started.append(harness.Moongate(*arguments, **more))
        return started[-1]

    yield start
    failed = getattr(request.node, "report_call", None) is None or request.node.report_call.failed
    try:
        for one in started:
            if failed:
                print("\n".join(one.errors.all()[-60:]))
                one.kill()
            else:
                one.stop()
    finally:
        for one in started:
            one.kill()
            shutil.rmtree(one.folder, ignore_errors=True)


@pytest.fixture
def through(moongate):
    opened = []

    def start(script, annotations=None, settings=None, path="/", path_type="Prefix", **options):
        origin = Origin(script)
        opened.append(origin)
        manifests = {"app.json": [harness.service(), *harness.slice_of([origin.port])], "ingress.json": [harness.ingress("app", "foo.example", path, path_type=path_type, annotations=annotations)]}
        if settings:
            manifests["settings.json"] = [harness.config_map("settings", settings)]
            options["flags"] = [*options.get("flags", ()), "--configmap", "default/settings"]
        proxy = moongate(manifests, **options)
        proxy.origin = origin
        return proxy

    yield start
    for origin in opened:
        origin.close()
        assert not origin.errors
