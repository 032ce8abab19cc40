"""Fixtures: `cluster`, one for all tests; `space`, a namespace for each test; `faults`, a proxy before the API server. Run as root, by tests/run.sh cluster."""
import itertools
import pathlib
import shutil
import sys
import tempfile

import pytest

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

import cluster as clusters  # noqa: E402
import faults as faultiness  # noqa: E402
import images  # noqa: E402
import namespace  # noqa: E402
import spaces  # noqa: E402

COUNT = itertools.count(1)


def pytest_sessionstart(session):
    """Builds while the network is there, then leaves it."""
    if session.config.option.collectonly:
        return
    try:
        clusters.tools()
        namespace.enter()
    except (RuntimeError, OSError) as error:
        pytest.exit(str(error), returncode=2)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    setattr(item, "report_" + report.when, report)


def has_failed(request):
    return getattr(request.node, "report_call", None) is None or request.node.report_call.failed


@pytest.fixture(scope="session")
def cluster():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="moongate-cluster-"))
    made = clusters.Cluster(folder)
    images.make_moongate(made.images)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def space(cluster, request):
    made = spaces.Space(cluster, f"test-{next(COUNT)}")
    yield made
    if has_failed(request):
        print(cluster.kubectl("get", "all,ingress,endpointslice,event", "-n", made.name, "-o", "wide", check=False).stdout)
        # The test's own pods, and the controllers of the deployed ones.
        for folder in [folder for name in (made.name, "moongate", "ingress-nginx") for folder in (cluster.state / "logs" / name).glob("*")]:
            lines = cluster.log(folder.parent.name, folder.name).splitlines()
            print(f"== {folder.parent.name}/{folder.name}\n" + "\n".join([line for line in lines if "level=" in line][-40:] or lines[-20:]))
        print("== nodes\n" + cluster.nodes.tail() + "\n== server\n" + cluster.server.tail(10))
    made.end()


@pytest.fixture
def faults(cluster, tmp_path):
    made = faultiness.Faults(cluster, tmp_path)
    yield made
    made.stop()
