"""Kubernetes manifests as kubectl renders them: against their schemas, and against each other.

Rendered and validated, never applied to a cluster. CRD schemas are read from the folder in TAFS_CRDS (KubeRay's and the
Prometheus operator's, as published); without it those kinds are not validated, and that is said.
"""

import inspect
import os
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import jsonschema
import pytest
import yaml

from services.cli.run_file import load_run_file
from services.fleet.planning.placement import GIB, Node, bundles_of, crowded_out, plan

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "deploy/k8s"
OVERLAYS = ("cpu-dev", "gpu")
CUSTOM = {
    "RayCluster": "rayclusters",
    "RayJob": "rayjobs",
    "PodMonitor": "podmonitors",
    "ServiceMonitor": "servicemonitors",
    "PrometheusRule": "prometheusrules",
}
KUBERNETES = "1.33"

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@lru_cache
def rendered(folder: Path) -> tuple[dict, ...]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@lru_cache
def with_components(tmp: Path, names: tuple[str, ...]) -> tuple[dict, ...]:
    """The gpu overlay with components, as a user's own overlay names them."""
    components = [os.path.relpath(K8S / "components" / name, tmp) for name in names]
    base = os.path.relpath(K8S / "overlays/gpu", tmp)
    images = [{"name": "tafs", "newName": "registry.example/tafs", "newTag": "0.1.0-cuda"}]
    overlay = {"namespace": "tafs", "resources": [base], "components": components, "images": images}
    (tmp / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return rendered(tmp)


COMPONENTS = {"fetch and rayjob": ("rayjob", "fetch-model"), "store and judge": ("object-store", "judge")}


@pytest.fixture(scope="session", params=[*OVERLAYS, *COMPONENTS])
def manifests(request, tmp_path_factory):
    if request.param in OVERLAYS:
        return rendered(K8S / "overlays" / request.param)
    return with_components(tmp_path_factory.mktemp("overlay"), COMPONENTS[request.param])


def of_kind(manifests, *kinds):
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def pods(manifests) -> list[tuple[str, dict, dict]]:
    """(name, labels, spec) of every pod that would be made."""
    found = []
    for manifest in of_kind(manifests, "StatefulSet", "Deployment", "Job"):
        template = manifest["spec"]["template"]
        found.append((manifest["metadata"]["name"], template["metadata"]["labels"], template["spec"]))
    for cluster in of_kind(manifests, "RayCluster"):
        for group in (cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]):
            name = group.get("groupName", "head")
            found.append((name, group["template"]["metadata"]["labels"], group["template"]["spec"]))
    return found


def submitted(manifests) -> list[str]:
    """What is trained: the run file and its overrides."""
    for job in of_kind(manifests, "RayJob"):
        return job["spec"]["entrypoint"].split()[4:]
    (job,) = (job for job in of_kind(manifests, "Job") if job["metadata"]["name"] == "tafs-run")
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[:2] == ["tafs", "submit"]
    return [argument for argument in arguments[2:] if not argument.startswith("--")]


def ray_groups(manifests) -> dict[str, dict]:
    """Ray's own reading of the cluster's groups: limits and resources of a node of each."""
    from ray.autoscaler._private.kuberay import autoscaling_config

    (cluster,) = of_kind(manifests, "RayCluster")
    return autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]


def selects(selector: dict, labels: dict) -> bool:
    wanted = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions") or ()
    )


def test_built_in_kinds_are_valid(manifests) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    templates = [
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": {"spec": spec}}
        for name, _, spec in pods(manifests)
    ]
    for manifest in (*manifests, *templates):
        if manifest["kind"] not in CUSTOM:
            validate(manifest, KUBERNETES, strict=True)


def closed(schema: dict) -> dict:
    """The schema with unknown fields refused."""
    if not isinstance(schema, dict):
        return schema
    inner = {
        key: {name: closed(value) for name, value in given.items()} if key == "properties" else closed(given)
        for key, given in schema.items()
    }
    if "properties" in inner and not schema.get("x-kubernetes-preserve-unknown-fields"):
        inner.setdefault("additionalProperties", False)
    return inner


@lru_cache
def schema_of(kind: str) -> dict:
    crd = yaml.load((Path(os.environ["TAFS_CRDS"]) / f"{CUSTOM[kind]}.yaml").read_text(), Loader=yaml.CSafeLoader)
    (version,) = (version for version in crd["spec"]["versions"] if version["storage"])
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@pytest.mark.skipif(
    "TAFS_CRDS" not in os.environ, reason="TAFS_CRDS names no folder of CRDs: their kinds are unchecked"
)
def test_custom_kinds_are_valid(manifests) -> None:
    for manifest in of_kind(manifests, *CUSTOM):
        jsonschema.Draft7Validator(schema_of(manifest["kind"])).validate(manifest)


def test_ray_itself_reads_the_groups_for_its_autoscaler(manifests) -> None:
    types = ray_groups(manifests)
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["rollout"]["resources"]["spot"] == 64
    assert types["learner"]["min_workers"] == types["learner"]["max_workers"] == 1


def test_the_pods_hold_the_submitted_fleet_with_the_learner_where_nothing_vanishes_and_the_run_waits_for_them(
    manifests, monkeypatch
) -> None:
    monkeypatch.setenv("TAFS_CHECKPOINTS", "s3://bucket/tafs")
    monkeypatch.setenv("TAFS_BLOBS", "s3://bucket/payloads")
    file, *overrides = submitted(manifests)
    fleet = load_run_file(ROOT / file, overrides).fleet
    assert fleet.room_timeout_s >= 600, "the head is there first, and a fleet that finds no room ends with 64"
    nodes = [
        Node(
            name=name,
            cpus=have.pop("CPU"),
            gpus=int(have.pop("GPU", 0)),
            memory_gib=have.pop("memory") / GIB,
            resources=have,
        )
        for name, group in ray_groups(manifests).items()
        for have in [dict(group["resources"])]
    ]
    found = plan(bundles_of(fleet), nodes)
    assert found.homeless == crowded_out(bundles_of(fleet), nodes) == ()
    if fleet.learner.gpus:
        where = {placed.bundle.slots[0].partition("-")[0]: placed.node for placed in found.placed}
        assert where == {"learner": "learner", "rollout": "rollout", "reward": "rollout"}


def test_rays_object_store_fits_into_the_shared_memory_of_its_pod(manifests) -> None:
    """As ray._private.utils.resolve_object_store_memory takes its size; a store that does not fit goes to the disk."""
    from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION, REQUIRE_SHM_SIZE_THRESHOLD

    for name, _, spec in pods(manifests):
        for volume in spec.get("volumes", ()):
            if volume["name"] == "shm" and spec["containers"][0]["name"].startswith("ray-"):
                shared = size_bytes(volume["emptyDir"]["sizeLimit"])
                memory = size_bytes(spec["containers"][0]["resources"]["limits"]["memory"])
                cap = max(REQUIRE_SHM_SIZE_THRESHOLD, 0.95 * shared)
                assert shared > min(DEFAULT_OBJECT_STORE_MEMORY_PROPORTION * memory, cap), name


def size_bytes(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([MG])i", text).groups()
    return float(number) * 2 ** {"M": 20, "G": 30}[unit]


def test_a_budget_counts_pods_of_a_ray_cluster_from_below_and_what_may_vanish_has_none(manifests) -> None:
    """Kubernetes refuses every eviction under maxUnavailable of pods whose owner has no scale, as a RayCluster."""
    selectors = []
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        assert isinstance(budget["spec"].get("minAvailable"), int)
        assert "maxUnavailable" not in budget["spec"]
        selectors.append(budget["spec"]["selector"])
    held = {name for name, labels, _ in pods(manifests) if any(selects(selector, labels) for selector in selectors)}
    assert held == {"head", "learner", "tafs-redis"}


def test_what_the_submitted_run_reads_offline_is_fetched(manifests) -> None:
    from rewards.pick_score import build_pick_score

    for name, _, spec in pods(manifests):
        if name == "tafs-fetch-model":
            (script,) = (text for text in spec["containers"][0]["args"] if "hf download" in text)
            file, *overrides = submitted(rendered(K8S / "overlays/gpu"))
            config = load_run_file(ROOT / file, overrides)
            (reward,) = config.rewards
            assert reward.use == "pick_score"
            assert f"--local-dir /models/{config.model.path.name}\n" in script
            defaults = inspect.signature(build_pick_score).parameters
            for named in ("model", "tokenizer"):
                assert f"hf download {defaults[named].default}" in script
    caches = {
        variable["value"]
        for _, _, spec in pods(manifests)
        for container in spec["containers"]
        for variable in container.get("env", ())
        if variable["name"] == "HF_HUB_CACHE"
    }
    assert caches == {"/models/hub"}


def test_every_container_is_pinned_bounded_probed_and_restricted(manifests) -> None:
    for name, _, spec in pods(manifests):
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        if name != "head":
            assert spec["automountServiceAccountToken"] is False, name
        for container in spec["containers"]:
            assert re.search(r":\d+\.\d+\.\d+", container["image"]), container["image"]
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            if spec.get("restartPolicy") != "Never" or "worker" in container["name"]:
                assert {"readinessProbe", "livenessProbe"} <= container.keys(), name


def test_every_pod_is_under_a_policy_that_lets_it_speak_and_nothing_else_may(manifests) -> None:
    policies = of_kind(manifests, "NetworkPolicy")
    assert any(policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} for policy in policies)
    for name, labels, _ in pods(manifests):
        own = [p for p in policies if p["spec"]["podSelector"] and selects(p["spec"]["podSelector"], labels)]
        assert own, f"{name} may not speak to anybody"
    for policy in policies:
        if policy["spec"]["podSelector"]:
            assert any(selects(policy["spec"]["podSelector"], labels) for _, labels, _ in pods(manifests))


def test_every_selector_finds_a_pod_and_every_named_port_is_one(manifests) -> None:
    found = [
        (labels, {port["name"] for container in spec["containers"] for port in container.get("ports", ())})
        for _, labels, spec in pods(manifests)
    ]
    wanted = [
        (s["spec"]["selector"], [p["targetPort"] for p in s["spec"]["ports"]]) for s in of_kind(manifests, "Service")
    ]
    wanted = [({"matchLabels": selector}, ports) for selector, ports in wanted]
    wanted += [(b["spec"]["selector"], []) for b in of_kind(manifests, "PodDisruptionBudget")]
    for monitor in of_kind(manifests, "PodMonitor"):
        wanted.append((monitor["spec"]["selector"], [e["port"] for e in monitor["spec"]["podMetricsEndpoints"]]))
    for policy in of_kind(manifests, "NetworkPolicy"):
        ports = [port["port"] for rule in policy["spec"].get("ingress", ()) for port in rule.get("ports", ())]
        if policy["spec"]["podSelector"]:
            wanted.append((policy["spec"]["podSelector"], ports))
    for monitor in of_kind(manifests, "ServiceMonitor"):
        (service,) = (
            service
            for service in of_kind(manifests, "Service")
            if selects(monitor["spec"]["selector"], service["metadata"].get("labels", {}))
        )
        assert {e["port"] for e in monitor["spec"]["endpoints"]} <= {p["name"] for p in service["spec"]["ports"]}
    assert len(wanted) > 8
    for selector, ports in wanted:
        matching = [names for labels, names in found if selects(selector, labels)]
        assert matching, selector
        assert set(ports) <= set().union(*matching), (selector, ports)


def test_secrets_are_references_and_each_is_documented(manifests) -> None:
    assert of_kind(manifests, "Secret") == []
    text = yaml.safe_dump_all(manifests)
    named = set(re.findall(r"(?:secretName|secretRef:\n +name|secretKeyRef:\n +key: \S+\n +name): (\S+)", text))
    assert {"tafs-ray", "tafs-redis"} <= named
    guide = (ROOT / "docs/cluster.md").read_text()
    for name in named:
        assert f"create secret generic {name}" in guide, name


def test_only_the_head_is_told_of_the_redis_users_and_all_of_them_are_what_the_guides_command_writes(
    manifests, tmp_path
) -> None:
    (command,) = re.findall(
        r"^    (deploy/redis/secret.sh .*) redis-users/", (ROOT / "docs/cluster.md").read_text(), re.M
    )
    subprocess.run(f"{command} {tmp_path}/made", shell=True, cwd=ROOT, check=True)
    made = {path.name for path in (tmp_path / "made").iterdir()}
    read = set()
    for name, _, spec in pods(manifests):
        for variable in (variable for container in spec["containers"] for variable in container.get("env", ())):
            reference = variable.get("valueFrom", {}).get("secretKeyRef", {})
            if reference.get("name") == "tafs-redis":
                assert name == "head", variable
                read.add(reference["key"])
                (url,) = [(tmp_path / "made" / reference["key"]).read_text()]
                assert re.fullmatch(r"redis://tafs-\w+:\w{48}@tafs-redis:6379/0", url)
        for volume in spec.get("volumes", ()):
            read |= {item["key"] for item in volume.get("secret", {}).get("items", ())}
    assert read == made
    users = (tmp_path / "made/users.acl").read_text()
    assert "RUN" not in users
    assert "PASSWORD" not in users


def test_the_pod_ends_after_its_drain_and_the_jobs_drain_is_within_it(manifests) -> None:
    waits = yaml.safe_load((ROOT / "deploy/ray/runtime-env.yaml").read_text())["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]
    for name, _, spec in pods(manifests):
        if name == "head":
            command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            assert float(waits) < float(command[-1]) < spec["terminationGracePeriodSeconds"]


def test_a_bad_configuration_and_a_bug_are_not_tried_again_and_what_may_pass_is() -> None:
    from services.errors import ExitCode

    (job,) = of_kind(rendered(K8S / "overlays/gpu"), "Job")
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert "onPodConditions" in rules[0], "a pod that is moved may end with any code"
    action = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", ())}
    assert action == {
        ExitCode.BAD_CONFIG: "FailJob",
        ExitCode.BUG: "FailJob",
        ExitCode.DRAINED: "FailJob",
        ExitCode.TRY_AGAIN: "Count",
    }
    assert (ROOT / job["spec"]["template"]["spec"]["containers"][0]["args"][2]).is_file()


def test_alerts_and_dashboards_are_those_of_deploy_observability(manifests) -> None:
    from deploy.observability.kubernetes import TARGET, prometheus_rule, render

    assert TARGET.read_text() == render(), "run `make manifests`"
    (rule,) = of_kind(manifests, "PrometheusRule")
    assert rule["spec"] == prometheus_rule()["spec"]
    maps = [m for m in of_kind(manifests, "ConfigMap") if m["metadata"].get("labels", {}).get("grafana_dashboard")]
    texts = {name: text for m in maps for name, text in m["data"].items()}
    folder = ROOT / "deploy/observability/dashboards"
    assert texts == {file.name: file.read_text() for file in folder.glob("*.json")}


def test_the_guides_commands_that_render_are_run() -> None:
    commands = re.findall(r"^    (kubectl kustomize \S+)", (ROOT / "docs/cluster.md").read_text(), re.M)
    assert commands
    for command in commands:
        done = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
