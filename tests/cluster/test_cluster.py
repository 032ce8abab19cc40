"""The ground itself: what the other tests take for granted about the cluster, the node agent and the faults proxy."""
import json
import socket
import subprocess
import time
import urllib.request

import pytest
from cluster import wait_until
from harness import WebSocket
from spaces import deployment, echo_deployment, ingress_class, is_ready, restarts, service


def fetch(address, path="/", headers=None, timeout=5):
    """A request from outside of the pods; returns the body."""
    request = urllib.request.Request(f"http://{address}{path}", headers={"Accept": "application/json", **(headers or {})})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read().decode()


def seen(address, path="/", **more):
    return json.loads(fetch(address, path, **more))


def is_listening(address, port=8080):
    with socket.socket() as connection:
        connection.settimeout(2)
        return connection.connect_ex((address, port)) == 0


# ---- the control plane

def test_it_starts_within_seconds_and_is_real(cluster, space):
    assert cluster.started_in < 20
    assert "v1.36" in cluster.kubectl("version")
    assert [one["metadata"]["name"] for one in cluster.get("nodes")["items"]] == ["node-1", "node-2"]
    refused = space.apply({"apiVersion": "extensions/v1beta1", "kind": "Ingress", "metadata": {"name": "old"}, "spec": {}}, check=False)
    assert refused.returncode != 0 and "no matches for kind" in refused.stderr


def test_a_deployment_becomes_available_scales_and_loses_a_pod(cluster, space):
    space.apply([deployment(replicas=3), service(), ingress_class("other", "example.com/other")])
    space.wait_rolled_out("echoheaders")
    addresses = space.wait_endpoints("echoheaders", 3)
    assert len({seen(f"{address}:8080")["name"] for address in addresses}) == 3
    space.kubectl("scale", "deployment/echoheaders", "--replicas=1")
    left = space.wait_endpoints("echoheaders", 1)
    wait_until(lambda: not any(is_listening(address) for address in set(addresses) - set(left)), what="the others to be gone")
    name = space.wait_ready("app=echoheaders", 1)[0]["metadata"]["name"]
    space.kubectl("delete", "pod", name)
    assert space.wait_endpoints("echoheaders", 1) != left
    assert space.wait_ready("app=echoheaders", 1)[0]["metadata"]["name"] != name


def test_the_server_is_killed_and_comes_back_with_its_data_while_pods_go_on(cluster, space):
    space.apply([echo_deployment(replicas=2), deployment("other"), service(), service("other")])
    addresses = space.wait_endpoints("echoheaders", 2) + space.wait_endpoints("other", 1)
    names = {seen(f"{address}:8080")["name"] for address in addresses}
    cluster.kill_server()
    with pytest.raises(OSError):
        cluster.api("GET", "/version")
    assert {seen(f"{address}:8080")["name"] for address in addresses} == names
    cluster.start_server()
    assert sorted(space.endpoints("echoheaders")) + sorted(space.endpoints("other")) == addresses
    # The controllers and the node agent have found it again.
    space.kubectl("scale", "deployment/echoheaders", "--replicas=3")
    assert set(addresses[:2]) < set(space.wait_endpoints("echoheaders", 3))
    assert all(restarts(pod) == 0 for pod in space.pods())


def test_after_compaction_and_a_restart_the_past_is_gone(cluster, space):
    """Before the restart the server's own cache may still know it."""
    path = space.path("configmaps")
    for number in range(4):
        cluster.api("POST", path, {"metadata": {"name": f"one-{number}"}})
    page = cluster.api("GET", f"{path}?limit=2")["metadata"]
    cluster.api("PUT", f"{path}/one-0", {"metadata": {"name": "one-0"}, "data": {"changed": "yes"}})
    assert cluster.compact() > int(page["resourceVersion"])
    cluster.kill_server()
    cluster.start_server()
    code, status = cluster.api("GET", f"{path}?limit=2&continue={page['continue']}", check=False)
    assert (code, status.get("reason")) == (410, "Expired"), status
    code, status = cluster.api("GET", f"{path}?watch=true&resourceVersion={page['resourceVersion']}&timeoutSeconds=1", check=False)
    answer = status if code != 200 else status.get("object", status)
    assert answer["code"] == 410, answer


def test_rights_are_enforced(cluster, space, tmp_path):
    space.apply([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}},
                 {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"},
                  "rules": [{"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list"]}]},
                 {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "reader"},
                  "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}, "subjects": [{"kind": "ServiceAccount", "name": "reader"}]}])
    kubeconfig = cluster.write_kubeconfig(tmp_path / "kubeconfig", {"token": cluster.token("reader", space.name)}, space.name)
    # The authorizer learns of a new role by a watch.
    wait_until(lambda: cluster.kubectl("--kubeconfig", kubeconfig, "get", "services", check=False).returncode == 0, what="the right to read Services")
    denied = cluster.kubectl("--kubeconfig", kubeconfig, "get", "secrets", check=False)
    assert denied.returncode != 0 and "forbidden" in denied.stderr


# ---- endpoints

def test_readiness_by_annotation_is_in_the_slice_and_a_terminating_endpoint_serves_on(space):
    space.apply([deployment(annotations={"moongate.test/stop-after": "3s"}, pod={"terminationGracePeriodSeconds": 20}), service()])
    address, = space.wait_endpoints("echoheaders", 1)
    pod = space.pods()[0]["metadata"]["name"]
    space.kubectl("annotate", "pod", pod, "moongate.test/ready=false")
    space.wait_endpoints("echoheaders", 0)
    space.kubectl("annotate", "--overwrite", "pod", pod, "moongate.test/ready=true")
    space.wait_endpoints("echoheaders", 1)
    space.kubectl("delete", "pod", pod, "--wait=false")
    wait_until(lambda: space.endpoints("echoheaders").get(address) == {"ready": False, "serving": True, "terminating": True}, what="the terminating endpoint")
    assert seen(f"{address}:8080")["name"] == pod
    wait_until(lambda: address not in space.endpoints("echoheaders"), what="the endpoint to go")
    assert not is_listening(address)


def test_services_have_addresses_that_lead_to_ready_endpoints(cluster, space):
    space.apply([deployment(replicas=3), service(type="LoadBalancer"), service("empty")])
    space.wait_endpoints("echoheaders", 3)
    shown = wait_until(lambda: space.get("service", "echoheaders")["status"]["loadBalancer"].get("ingress"), what="the balancer's address")
    cluster_ip = space.get("service", "echoheaders")["spec"]["clusterIP"]
    for address in (shown[0]["ip"], cluster_ip):
        assert len({wait_until(lambda: seen(address)["name"]) for _ in range(6)}) == 3
    with pytest.raises(OSError):
        fetch(space.get("service", "empty")["spec"]["clusterIP"])
    pod = space.pods()[0]["metadata"]["name"]
    space.kubectl("annotate", "pod", pod, "moongate.test/ready=false")
    space.wait_endpoints("echoheaders", 2)
    wait_until(lambda: len({seen(cluster_ip)["name"] for _ in range(9)}) == 2, what="the unready pod to get nothing")


def test_a_load_balancer_speaks_proxy_protocol_where_asked(space):
    listening = service(type="LoadBalancer")
    listening["metadata"]["annotations"] = {"moongate.test/proxy-protocol": "true"}
    space.apply([deployment(replicas=1), listening])
    space.wait_endpoints("echoheaders", 1)
    address = wait_until(lambda: space.get("service", "echoheaders")["status"]["loadBalancer"].get("ingress"), what="the balancer's address")[0]["ip"]
    # The echo does not know the protocol: its refusal shows that the line came.
    def refused():
        try:
            fetch(address)
        except OSError as error:
            return getattr(error, "code", None) == 400
        return False
    wait_until(refused, what="the PROXY line")


# ---- processes as pods

def test_moongate_echo_runs_as_a_pod(cluster, space):
    space.apply([echo_deployment(replicas=2), service()])
    addresses = space.wait_endpoints("echoheaders", 2)
    names = {pod["status"]["podIP"]: pod["metadata"]["name"] for pod in space.pods()}
    for address in addresses:
        assert seen(f"{address}:8080")["name"] == names[address]
        web = WebSocket(8080, "/", address, address=address)
        web.send(b"hello")
        assert web.receive() == (1, b"hello")
        web.close()
    name = names[addresses[0]]
    assert "GET / name=" + name in space.log(name)
    assert "GET / name=" + name in space.kubectl("logs", name)
    assert space.kubectl("logs", "-l", "app=echoheaders", "--tail=1").count("\n") == 2


def test_a_pod_has_its_own_namespaces_user_and_rights(cluster, space):
    security = {"runAsUser": 101, "runAsGroup": 82, "runAsNonRoot": True, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}
    space.apply([echo_deployment(container={"securityContext": security, "command": ["/usr/bin/moongate", "echo", "--listen=0.0.0.0:80"],
                                            "ports": [{"name": "http", "containerPort": 80}],
                                            "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}]},
                                 pod={"volumes": [{"name": "scratch", "emptyDir": {}}], "securityContext": {"fsGroup": 82}})])
    pod = space.wait_ready("app=echoheaders", 1)[0]
    pid = int(pod["status"]["containerStatuses"][0]["containerID"].removeprefix("process://"))
    assert seen(pod["status"]["podIP"])["client"]
    status = dict(line.split(":\t", 1) for line in open(f"/proc/{pid}/status").read().splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["101"] * 4 and status["Gid"].split() == ["82"] * 4
    net_bind = f"{1 << 10:016x}"
    assert [status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")] == [net_bind] * 4
    assert status["NoNewPrivs"] == "1"
    assert status["NSpid"].split()[-1] == "1"
    mounts = {line.split()[1]: line.split()[3].split(",") for line in open(f"/proc/{pid}/mounts").read().splitlines()}
    assert "ro" in mounts["/"] and "rw" in mounts["/tmp"] and "proc" not in mounts["/"]
    assert subprocess.run(["nsenter", "-t", str(pid), "-n", "ip", "-o", "addr", "show", "eth0"], capture_output=True, text=True, check=True).stdout.count(pod["status"]["podIP"]) == 1


def test_environment_arguments_and_downward_api(space):
    space.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"A": "1", "B": "2"}},
                 {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"key": "s3cret"}},
                 echo_deployment(container={
                     "command": ["/usr/bin/moongate"], "args": ["echo", "--listen=0.0.0.0:8080", "--name=$(POD)/$(A)/$(KEY)/$(IP)/$(MISSING)"],
                     "envFrom": [{"configMapRef": {"name": "settings"}}],
                     "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                             {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                             {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "key"}}}]})])
    ip = space.wait_ready("app=echoheaders", 1)[0]["status"]["podIP"]
    assert seen(f"{ip}:8080")["name"] == f"echoheaders/1/s3cret/{ip}/$(MISSING)"


def files(cluster, space, pod, *paths):
    """Files of a pod's container as it sees them. The image has no cat."""
    status = cluster.api("GET", space.path(f"pods/{pod}"))["status"]["containerStatuses"][0]
    root = f"/proc/{status['containerID'].removeprefix('process://')}/root"
    return [open(root + path).read() for path in paths]


def test_configmap_and_secret_volumes_change_by_one_rename(cluster, space):
    space.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a.lua": "one", "b.lua": "one"}},
                 {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"key": "one"}},
                 echo_deployment(container={"volumeMounts": [{"name": "settings", "mountPath": "/settings", "readOnly": True}, {"name": "hidden", "mountPath": "/hidden"}]},
                                 pod={"volumes": [{"name": "settings", "configMap": {"name": "settings"}},
                                                  {"name": "hidden", "secret": {"secretName": "hidden", "items": [{"key": "key", "path": "here/it"}]}}]})])
    pod = space.wait_ready("app=echoheaders", 1)[0]["metadata"]["name"]
    assert files(cluster, space, pod, "/settings/a.lua", "/settings/b.lua", "/hidden/here/it") == ["one", "one", "one"]
    pid = cluster.api("GET", space.path(f"pods/{pod}"))["status"]["containerStatuses"][0]["containerID"].removeprefix("process://")
    link = f"/proc/{pid}/root/settings/..data"
    first = subprocess.run(["readlink", link], capture_output=True, text=True, check=True).stdout
    space.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a.lua": "two"}},
                 {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"key": "two"}}])
    applied = time.monotonic()
    wait_until(lambda: files(cluster, space, pod, "/settings/a.lua", "/hidden/here/it") == ["two", "two"], 5, "the new content")
    assert time.monotonic() - applied < 1
    with pytest.raises(FileNotFoundError):
        files(cluster, space, pod, "/settings/b.lua")
    assert subprocess.run(["readlink", link], capture_output=True, text=True, check=True).stdout != first


def test_a_pod_waits_for_its_configmap(space):
    space.apply(echo_deployment(container={"volumeMounts": [{"name": "late", "mountPath": "/late"}]}, pod={"volumes": [{"name": "late", "configMap": {"name": "late"}}]}))
    def waiting():
        pods = space.pods()
        statuses = pods[0]["status"].get("containerStatuses") if pods else None
        return statuses and "late" in statuses[0]["state"].get("waiting", {}).get("message", "")
    wait_until(waiting, what="the pod to say what it waits for")
    space.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}, "data": {}})
    space.wait_ready("app=echoheaders", 1)


def test_service_account_tokens_are_projected_and_rotate(cluster, space):
    space.apply(echo_deployment(annotations={"moongate.test/token-refresh": "1s"}))
    pod = space.wait_ready("app=echoheaders", 1)[0]["metadata"]["name"]
    base = "/var/run/secrets/kubernetes.io/serviceaccount/"
    first, authority, name = files(cluster, space, pod, base + "token", base + "ca.crt", base + "namespace")
    assert name == space.name and authority == (cluster.state / "ca.crt").read_text()
    second = wait_until(lambda: next((text for text in files(cluster, space, pod, base + "token") if text != first), None), 10, "another token")
    # From the pod's network, by the address that the pod is given.
    environment = files(cluster, space, pod, "/proc/1/environ")[0].split("\0")
    assert "KUBERNETES_SERVICE_HOST=10.96.0.1" in environment and "KUBERNETES_SERVICE_PORT=443" in environment
    pid = cluster.api("GET", space.path(f"pods/{pod}"))["status"]["containerStatuses"][0]["containerID"].removeprefix("process://")
    who = subprocess.run(["nsenter", "-t", pid, "-n", "curl", "-sS", "--cacert", str(cluster.state / "ca.crt"), "-H", f"Authorization: Bearer {second}",
                          "https://10.96.0.1:443/apis/authentication.k8s.io/v1/selfsubjectreviews", "-XPOST", "-HContent-Type: application/json", "-d",
                          '{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}'], capture_output=True, text=True, check=True).stdout
    assert json.loads(who)["status"]["userInfo"]["username"] == f"system:serviceaccount:{space.name}:default"


# ---- the life of a container

def test_readiness_follows_the_probe_and_liveness_restarts(space):
    """The probes ask for files of a ConfigMap: what is taken away fails."""
    probe = {"exec": {"command": ["/usr/bin/moongate", "check", "/state/ready.yaml"]}, "periodSeconds": 1, "failureThreshold": 1}
    live = {**probe, "exec": {"command": ["/usr/bin/moongate", "check", "/state/live.yaml"]}}
    def state(**files_):
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "state"}, "data": {f"{name}.yaml": text for name, text in files_.items()}}
    space.apply([state(ready="", live=""), service(),
                 echo_deployment(container={"readinessProbe": probe, "livenessProbe": live, "volumeMounts": [{"name": "state", "mountPath": "/state"}]},
                                 pod={"volumes": [{"name": "state", "configMap": {"name": "state"}}], "terminationGracePeriodSeconds": 5})])
    space.wait_endpoints("echoheaders", 1)
    space.apply(state(live=""))
    space.wait_endpoints("echoheaders", 0)
    assert restarts(space.pods()[0]) == 0
    space.apply(state(ready=""))
    wait_until(lambda: restarts(space.pods()[0]) == 1, what="the restart")
    status = wait_until(lambda: space.pods()[0]["status"]["containerStatuses"][0].get("lastState", {}).get("terminated"), what="the end that was")
    assert status["exitCode"] == 0 and status["reason"] == "Completed"
    space.apply(state(ready="", live=""))
    wait_until(lambda: is_ready(space.pods()[0]), 30, "the pod to be well again")
    space.wait_endpoints("echoheaders", 1)


def test_a_program_that_ends_is_restarted_with_its_status_kept(space):
    space.apply(echo_deployment("failing", container={"command": ["/usr/bin/moongate", "echo", "--nonsense"], "readinessProbe": None}))
    wait_until(lambda: (lambda pods: pods and restarts(pods[0]) >= 2)(space.pods()), 20, "two restarts")
    last = space.pods()[0]["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (2, "Error")
    assert space.log(space.pods()[0]["metadata"]["name"]).count("unknown flag") >= 2


@pytest.mark.parametrize("policy,command,phase", [("Never", "echo --help", "Succeeded"), ("Never", "echo --nonsense", "Failed"), ("OnFailure", "echo --help", "Succeeded")])
def test_pods_that_end(space, policy, command, phase):
    space.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "once"}, "spec": {
        "restartPolicy": policy, "containers": [{"name": "main", "image": "moongate:dev", "command": ["/usr/bin/moongate", *command.split()]}]}})
    wait_until(lambda: space.pods()[0]["status"]["phase"] == phase, what=phase)
    space.kubectl("delete", "pod", "once")


def end_of(space, pod, service_name="echoheaders"):
    """Deletes a pod; returns seconds until it was gone."""
    begun = time.monotonic()
    space.kubectl("delete", "pod", pod, "--wait=true", timeout=60)
    return time.monotonic() - begun


def test_stop_runs_the_hook_then_terminates(space):
    """The hook calls the echo: what the pod wrote tells the order."""
    hook = {"httpGet": {"path": "/sleep/1", "port": "http"}}
    space.apply([echo_deployment(container={"lifecycle": {"preStop": hook}}), service()])
    pod = space.wait_ready("app=echoheaders", 1)[0]["metadata"]["name"]
    assert 1 <= end_of(space, pod) < 6
    assert f"GET /sleep/1 name={pod}" in space.log(pod)


def test_an_exec_hook_runs_in_the_container_as_its_user(space):
    hook = {"exec": {"command": ["/usr/bin/moongate", "echo", "--listen=0.0.0.0:8081", "--name=hook"]}}
    space.apply([echo_deployment(container={"lifecycle": {"preStop": hook}}, pod={"terminationGracePeriodSeconds": 3}), service()])
    pod = space.wait_ready("app=echoheaders", 1)[0]
    space.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    address = pod["status"]["podIP"]
    wait_until(lambda: is_listening(address, 8081), what="the hook's program")
    found = subprocess.run(["pgrep", "-u", "101", "-f", "name=hook"], capture_output=True, text=True, check=False).stdout.split()
    assert found
    assert is_listening(address, 8080) and seen(f"{address}:8081")["name"] == "hook"
    # The hook never ends: the grace period does, and all goes.
    wait_until(lambda: not is_listening(address, 8080) and not is_listening(address, 8081), 10, "the end")


def test_what_ignores_sigterm_is_killed_when_its_time_is_over(space):
    """As process 1 of its namespace, a program without a handler does not get the signal at all: moongate check on a pipe that nobody writes."""
    space.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "deaf"}, "spec": {
        "terminationGracePeriodSeconds": 2, "containers": [{"name": "main", "image": "moongate:dev", "command": ["/usr/bin/moongate", "echo", "--listen=0.0.0.0:8080"]}]}})
    wait_until(lambda: is_ready(space.pods()[0]), what="the pod")
    pid = space.pods()[0]["status"]["containerStatuses"][0]["containerID"].removeprefix("process://")
    subprocess.run(["kill", "-STOP", pid], check=True)
    assert 2 <= end_of(space, "deaf") < 8


# ---- faults

def test_the_faults_proxy_answers_wrongly_as_told(cluster, space, faults, tmp_path):
    kubeconfig = cluster.write_kubeconfig(tmp_path / "kubeconfig", {"token": cluster.token("default", space.name)}, server=faults.url)
    def run(*arguments):
        return cluster.kubectl("--kubeconfig", kubeconfig, *arguments, check=False, timeout=30)
    assert run("version").returncode == 0
    with faults.under({"path": "^/version", "status": 500, "body": "broken"}):
        assert "error" in run("version").stderr.lower()
    with faults.under({"path": "^/version", "truncate_after": 5}):
        assert run("version").returncode != 0
    with faults.under({"path": "^/version", "status": 429, "times": 1, "headers": {"Retry-After": "1"}}):
        assert run("version").returncode == 0
    assert len(faults.seen("/version", faulty=True)) >= 3 and faults.seen("/version")[0]["proto"] == "HTTP/2.0"
    with faults.under({"path": "^/version", "stall_after": 5}):
        assert run("version", "--request-timeout=1s").returncode != 0


def test_the_faults_proxy_cuts_stalls_and_refuses(cluster, space, faults):
    token = cluster.token("default", space.name)
    def curl(*more):
        return subprocess.run(["curl", "-sS", "--cacert", str(cluster.state / "ca.crt"), "-H", f"Authorization: Bearer {token}", f"{faults.url}/version", *more],
                              capture_output=True, text=True, check=False)
    assert "v1.36" in curl().stdout
    with faults.under({"path": "^/version", "stall_after": 5}):
        stalled = subprocess.Popen(["curl", "-sS", "--cacert", str(cluster.state / "ca.crt"), "-H", f"Authorization: Bearer {token}", f"{faults.url}/version"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_until(lambda: faults.seen("/version", faulty=True), what="the request")
        assert faults.cut() == 1
        assert stalled.wait(5) != 0
        stalled.communicate()
    faults.gate("stall")
    assert curl("--max-time", "1").returncode == 28
    faults.gate("refuse")
    assert curl().returncode in (7, 35, 56)
    faults.gate("open")
    assert "v1.36" in curl().stdout
