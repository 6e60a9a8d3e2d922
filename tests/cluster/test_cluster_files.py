"""Files that start clusters, each validated as its tool validates it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from orchestrator.config import load_sweep
from tests.support.kuberay_schema import RAY_CLUSTER_SPEC, RAY_JOB_SPEC

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = "1.33"

MLFLOW = ("Deployment", "mlflow")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / "kuberay" / name).read_text()))


def ray_clusters() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("raycluster.yaml", "rayjob.yaml"):
        spec = documents(name)[-1]["spec"]
        yield name, spec.get("rayClusterSpec", spec)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_up_accepts_its_configuration(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    given = yaml.safe_load((CLUSTER / "ray-up" / f"{name}.yaml").read_text())
    prepared = prepare_config(given)
    validate_config(prepared)
    kinds = prepared["available_node_types"]
    assert kinds["head"]["resources"]["CPU"] == 0
    assert (kinds["gpu_spot"]["min_workers"], kinds["gpu_spot"]["max_workers"]) == (0, prepared["max_workers"])
    for command in prepared["head_start_ray_commands"][1:] + prepared["worker_start_ray_commands"][1:]:
        assert "RAY_AUTH_MODE=token ray start" in command
    # A typing error in the file's own settings would be filled up with a default.
    assert set(given) <= set(prepared)


def test_ec2_accepts_the_instances() -> None:
    from botocore.session import get_session
    from botocore.validate import validate_parameters

    shape = get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for kind in yaml.safe_load((CLUSTER / "ray-up" / "aws.yaml").read_text())["available_node_types"].values():
        validate_parameters({**kind["node_config"], "MinCount": 1, "MaxCount": 1}, shape)


def test_kubernetes_accepts_the_manifests() -> None:
    for name in ("services.yaml", "raycluster.yaml", "rayjob.yaml"):
        for document in documents(name):
            if not document["apiVersion"].startswith("ray.io/"):
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
    for name, spec in ray_clusters():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
            mounted = {mount["name"] for box in pod["spec"]["containers"] for mount in box["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}, name


def test_kuberay_accepts_cluster_and_job() -> None:
    for _, spec in ray_clusters():
        jsonschema.validate(spec, RAY_CLUSTER_SPEC)
        assert spec["rayVersion"] == version("ray")
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert spec["authOptions"] == {"mode": "token", "secretName": "spatialsweep-token"}
    jsonschema.validate(documents("rayjob.yaml")[-1]["spec"], RAY_JOB_SPEC)


def test_the_manifests_refer_to_each_other() -> None:
    services = documents("services.yaml")
    names = {(document["kind"], document["metadata"]["name"]) for document in services}
    assert {("Service", "mlflow"), ("Service", "postgresql"), ("PersistentVolumeClaim", "spatialsweep-shared")} <= names
    for _, spec in ray_clusters():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            claims = [volume.get("persistentVolumeClaim") for volume in group["template"]["spec"]["volumes"]]
            assert {"claimName": "spatialsweep-shared"} in claims


def test_mlflow_has_users_and_every_secret_is_one_to_be_made() -> None:
    from cluster.mlflow import ServerSettings

    made = set(re.findall(r"create secret generic (\S+)", (CLUSTER / "kuberay" / "services.yaml").read_text()))
    texts = [path.read_text() for path in (CLUSTER / "kuberay").glob("*.yaml")]
    named = {name for text in texts for name in re.findall(r"secretKeyRef: \{name: ([^,]+)", text)}
    assert named | {"spatialsweep-token"} == made
    (server,) = [one for one in documents("services.yaml") if (one["kind"], one["metadata"]["name"]) == MLFLOW]
    (box,) = server["spec"]["template"]["spec"]["containers"]
    assert box["args"][:3] == ["python", "-m", "cluster.mlflow"]
    options = dict(argument.removeprefix("--").split("=", 1) for argument in box["args"][3:])
    variables = {variable["name"]: variable.get("value", "of a secret") for variable in box["env"]}
    settings = ServerSettings(
        database=variables["MLFLOW_BACKEND_STORE_URI"],
        artifacts=options["artifacts"],
        host=options["host"],
        allowed_hosts=tuple(options["allowed-hosts"].split(",")),
        admin_password=variables["MLFLOW_AUTH_ADMIN_PASSWORD"] * 2,
    )
    assert list(settings.problems()) == []


def test_the_sweep_of_the_job_is_one_and_its_command_begins_it_or_goes_on(tmp_path: Path) -> None:
    (config_map, job) = documents("rayjob.yaml")
    (tmp_path / "sweep.yaml").write_text(config_map["data"]["sweep.yaml"])
    sweep = load_sweep(tmp_path / "sweep.yaml")
    assert sweep.name == job["metadata"]["name"]
    _, _, script = shlex.split(job["spec"]["entrypoint"])
    assert f"{sweep.runs_dir}/{sweep.name}/journal.jsonl && exec python -m orchestrator resume {sweep.name}" in script
    assert "\n" not in job["spec"]["entrypoint"]


def test_the_image_is_made_of_files_that_exist() -> None:
    text = (CLUSTER / "Containerfile").read_text()
    for name, value in re.findall(r"^ARG (\w+)=(\S*)$", text, re.M):
        text = text.replace(f"${{{name}}}", value)
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for name in line.split()]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == {Path(name).parts[0] for name in copied}
