"""Security of the Kubernetes files: pod permissions, network access, and rights in the database and in MLflow."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support.servers.postgresql import PASSWORD, PostgresqlServer, server_programs

KUBERAY = Path(__file__).resolve().parents[2] / "cluster" / "kuberay"
FILES = ("services.yaml", "raycluster.yaml", "rayjob.yaml")
NAMED_BY_DIGEST = re.compile(r"(REGISTRY/spatialsweep:(cpu|cuda)|docker\.io/library/postgres:\d+)@sha256:DIGEST")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERAY / name).read_text()))


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Return every pod template by a unique name."""
    for name in FILES:
        for document in documents(name):
            spec = document.get("spec", {})
            kind = document["kind"]
            if kind in ("Deployment", "StatefulSet", "Job"):
                yield document["metadata"]["name"], spec["template"]
            if kind in ("RayCluster", "RayJob"):
                cluster = spec.get("rayClusterSpec", spec)
                yield f"{kind} head", cluster["headGroupSpec"]["template"]
                for group in cluster["workerGroupSpecs"]:
                    yield f"{kind} {group['groupName']}", group["template"]
            if "submitterPodTemplate" in spec:
                yield f"{kind} submitter", spec["submitterPodTemplate"]


PODS = dict(pods())


def test_all_pods_are_looked_at() -> None:
    ray = {f"{kind} {part}" for kind in ("RayCluster", "RayJob") for part in ("head", "gpu")}
    assert set(PODS) == ray | {"RayJob submitter", "postgresql", "mlflow", "mlflow-user"}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_not_root_and_cannot_become_it(name: str) -> None:
    """Check the Pod Security Standard `restricted`, and a read-only root file system."""
    template = PODS[name]
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **template}, "1.33", strict=True)
    spec = template["spec"]
    user = spec["securityContext"]
    assert user["runAsNonRoot"] is True
    assert user["runAsUser"] == user["runAsGroup"] == (999 if name == "postgresql" else 1000)
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    kinds = {kind for volume in spec.get("volumes", ()) for kind in volume if kind != "name"}
    assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim"}
    assert not kinds & {"persistentVolumeClaim"} or user["fsGroup"] == user["runAsGroup"]
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        assert key not in spec
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert NAMED_BY_DIGEST.fullmatch(container["image"])
        assert not any("hostPort" in port for port in container.get("ports", ()))


@pytest.mark.parametrize("name", PODS)
def test_only_the_head_may_ask_kubernetes(name: str) -> None:
    assert PODS[name]["spec"].get("automountServiceAccountToken", True) is name.endswith(" head")


def test_the_autoscaler_beside_the_head_cannot_become_root() -> None:
    for name in FILES[1:]:
        spec = documents(name)[-1]["spec"]
        options = spec.get("rayClusterSpec", spec)["autoscalerOptions"]
        assert options["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_only_pods_of_the_namespace_reach_ray_mlflow_and_the_database() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in documents("services.yaml") if "Policy" in one["kind"]}
    labels = {name: template.get("metadata", {}).get("labels", {}) for name, template in PODS.items()}
    assert policies["postgresql"]["podSelector"]["matchLabels"] == labels["postgresql"]
    assert policies["mlflow"]["podSelector"]["matchLabels"] == labels["mlflow"]
    of_ray = {"matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}]}  # KubeRay's label
    assert policies["ray"]["podSelector"] == of_ray
    for spec in policies.values():
        assert "Ingress" in spec["policyTypes"]
        assert all(rule.get("from") for rule in spec["ingress"])
    foreign = [
        (name, rule["ports"], sender)
        for name, spec in policies.items()
        for rule in spec["ingress"]
        for sender in rule["from"]
        if "namespaceSelector" in sender or "ipBlock" in sender
    ]
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    assert foreign == [("ray", [{"protocol": "TCP", "port": 8265}], operator)]
    assert policies["postgresql"]["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policies["postgresql"]  # none
    reaching = [sender["podSelector"] for sender in policies["postgresql"]["ingress"][0]["from"]]
    assert reaching == [of_ray, {"matchLabels": labels["mlflow"]}]


def test_sweeps_have_no_password_of_an_administrator() -> None:
    for name, template in PODS.items():
        secrets = {
            variable["valueFrom"]["secretKeyRef"]["name"]
            for container in template["spec"]["containers"]
            for variable in container.get("env", ())
            if "valueFrom" in variable
        }
        administrators = {secret for secret in secrets if secret.endswith("-administrator")}
        assert not name.startswith("Ray") or not administrators
        assert not name.startswith("Ray") or secrets <= {"spatialsweep-database", "spatialsweep-mlflow"}
        assert name == "postgresql" or "postgresql-administrator" not in administrators


@pytest.mark.slow
def test_a_role_of_the_database_owns_one_and_reaches_no_other(postgresql: PostgresqlServer) -> None:
    programs = server_programs()
    assert programs is not None
    (script,) = [one for one in documents("services.yaml") if one["metadata"]["name"] == "postgresql-first-start"]
    options = ("-v", "ON_ERROR_STOP=1", "--no-psqlrc", "--tuples-only", "--no-align")

    def ask(text: str, role: str = "postgres", database: str = "postgres") -> str:
        password = {"postgres": PASSWORD, "spatialsweep": "one's", "mlflow": "two's"}[role]
        done = subprocess.run(
            [programs / "psql", "-h", "127.0.0.1", "-p", str(postgresql.port), "-U", role, "-d", database, *options],
            env={**os.environ, "PGPASSWORD": password, "STUDIES_PASSWORD": "one's", "MLFLOW_PASSWORD": "two's"},
            input=text,
            capture_output=True,
            text=True,
        )
        return (done.stdout + done.stderr).strip()

    ask(script["data"]["databases.sql"])
    roles = "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1"
    assert ask(roles).splitlines() == ["mlflow|f|f|f", "postgres|t|t|t", "spatialsweep|f|f|f"]
    table = "CREATE TABLE one (number int); DROP TABLE one; SELECT 'made'"
    assert ask(table, "spatialsweep", "studies").splitlines()[-1] == "made"
    assert ask(table, "mlflow", "mlflow").splitlines()[-1] == "made"
    for role, foreign in (("spatialsweep", "mlflow"), ("mlflow", "studies"), ("spatialsweep", "postgres")):
        assert f'permission denied for database "{foreign}"' in ask("SELECT 1", role, foreign)
