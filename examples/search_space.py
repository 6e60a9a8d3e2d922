"""Narrow the search space of a family, and check a sweep without starting it.

    python examples/search_space.py

Nothing is trained or written. `run_sweep(sweep())` would run the sweep.
"""

from __future__ import annotations

from orchestrator import ConfigError, SweepConfig, dry_run
from search_spaces import FloatDomain, IntDomain, named_space, refine

NETWORK = "sb_resnet29_cifar"


def sweep(**search: object) -> SweepConfig:
    """Return a sweep over Spatial Bias networks.

    Args:
        search: Domains that replace or extend those of the family.
    """
    space = refine(
        named_space("spatial_bias", [NETWORK]),
        {"bias_channels": IntDomain(low=1, high=4), "lr": FloatDomain(low=1e-3, high=1e-1, log=True)},
    )
    return SweepConfig(
        name="bias-space",
        dataset={"name": "digits"},
        model={"name": NETWORK},
        search={**space, **search},
        training={"epochs": 5, "crop_padding": 1},
        limits={"max_params": 1e6},  # a larger network is rejected before it costs a trial
        trials=4,
    )


def main() -> None:
    """Print the faults of a wrong search, then the first configurations and the cost of a correct one."""
    try:
        sweep(bias_channel=[1, 2])
    except ConfigError as error:
        print(error)  # every fault with its place and its remedy

    plan = dry_run(sweep(), shown=2)
    for proposal in plan.proposals:
        origin = proposal.source or "the sampler"
        print(f"{origin}: {proposal.params} parameters, {dict(proposal.values)}")
    print(f"at most {plan.bounds.epochs} epochs, {plan.largest.footprint.total / 2**20:.0f} MiB per worker")


if __name__ == "__main__":
    main()
