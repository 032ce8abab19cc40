"""Fixtures: `moongate` starts proxies and makes the default assertions at the end; `echo` starts applications."""
import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import harness  # noqa: E402


@pytest.fixture
def echo():
    started = []

    def start(name="echo"):
        started.append(harness.Echo(name))
        return started[-1]

    yield start
    for one in started:
        one.stop()


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
