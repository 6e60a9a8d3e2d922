"""Modules that the processes of a lane import, by name: this module itself imports nothing.

Optimisers and DDP import torch's compiler when they are created.
"""

LANE_MODULES = (
    "orchestrator.lanes.hub.hub",
    "orchestrator.lanes.trial_client",
    "orchestrator.lanes.controller.preemption_watch",
    "orchestrator.lanes.controller.process_group",
    "orchestrator.lanes.controller.status_reporter",
    "orchestrator.lanes.worker.rendezvous",
    "orchestrator.lanes.worker.worker",
    "orchestrator.runtime.ray_private.lane_controller",
    "ray.data._internal.cluster_autoscaler",
    "ray.train.torch.config",
    "ray.tune",
    "torch._dynamo",
    "torch.nn.parallel.distributed",
)
