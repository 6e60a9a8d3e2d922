"""Parameters without weight decay, as the modules of a network declare them."""

from torch import nn

__all__ = ["declared_without_decay"]


def declared_without_decay(network: nn.Module) -> set[str]:
    """Return the names of the parameters that the modules inside a network declare by `no_weight_decay()`.

    Args:
        network: Network, whose own declaration is not asked for.
    """
    names: set[str] = set()
    for prefix, module in network.named_modules():
        declare = getattr(module, "no_weight_decay", None)
        if module is not network and callable(declare):
            names |= {f"{prefix}.{name}" for name in declare()}
    return names & {name for name, _ in network.named_parameters()}
