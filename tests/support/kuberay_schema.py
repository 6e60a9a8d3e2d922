"""Schema of a RayCluster and a RayJob of `ray.io/v1`: names and types of the fields, for `jsonschema`.

The definitions that KubeRay publishes are two files of a megabyte each, most of it Kubernetes' own pods. These are the
fields from its API reference (https://ray-project.github.io/kuberay/reference/api/, version 1.7), without those pods,
which are checked against Kubernetes' schemas.
"""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_POD = {"type": "object"}


def _fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """Return the schema of an object with exactly these fields: an API server drops what it does not know, silently."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_HEAD = _fields(
    ("template",),
    serviceType=_TEXT,
    headService={"type": "object"},
    enableIngress=_FLAG,
    resources=_TEXTS,
    labels=_TEXTS,
    rayStartParams=_TEXTS,
    template=_POD,
)
_WORKERS = _fields(
    ("groupName", "maxReplicas", "minReplicas", "template"),
    groupName=_TEXT,
    suspend=_FLAG,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    idleTimeoutSeconds=_COUNT,
    numOfHosts=_COUNT,
    resources=_TEXTS,
    labels=_TEXTS,
    rayStartParams=_TEXTS,
    template=_POD,
    scaleStrategy={"type": "object"},
)
_AUTOSCALER = _fields(
    version={"enum": ["v1", "v2"]},
    idleTimeoutSeconds=_COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    resources={"type": "object"},
    image=_TEXT,
    imagePullPolicy=_TEXT,
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
    securityContext={"type": "object"},
)
RAY_CLUSTER_SPEC = _fields(
    ("headGroupSpec",),
    rayVersion=_TEXT,
    suspend=_FLAG,
    managedBy=_TEXT,
    authOptions=_fields(mode={"enum": ["disabled", "token"]}, secretName=_TEXT, enableK8sTokenAuth=_FLAG),
    enableInTreeAutoscaling=_FLAG,
    autoscalerOptions=_AUTOSCALER,
    gcsFaultToleranceOptions={"type": "object"},
    upgradeStrategy={"type": "object"},
    headServiceAnnotations=_TEXTS,
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)
RAY_JOB_SPEC = _fields(
    (),
    entrypoint=_TEXT,
    runtimeEnvYAML=_TEXT,
    jobId=_TEXT,
    metadata=_TEXTS,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=_TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterPodTemplate=_POD,
    submitterConfig=_fields(backoffLimit=_COUNT),
    clusterSelector=_TEXTS,
    managedBy=_TEXT,
    deletionStrategy={"type": "object"},
    suspend=_FLAG,
    backoffLimit=_COUNT,
    activeDeadlineSeconds=_COUNT,
    preRunningDeadlineSeconds=_COUNT,
    shutdownAfterJobFinishes=_FLAG,
    ttlSecondsAfterFinished=_COUNT,
    rayClusterSpec=RAY_CLUSTER_SPEC,
)
