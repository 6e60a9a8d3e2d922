"""What a sweep may vary: typed domains and the space they form.

from search_spaces import ChoiceDomain, FloatDomain, SearchSpace

space = SearchSpace({
    "model": ChoiceDomain(choices=("adaptive_resnet26_small", "conv_resnet26_small")),
    "lr": FloatDomain(low=1e-3, high=1e-1, log=True),
    "ramp": FloatDomain(low=1.0, high=4.0, when={"model": "adaptive_resnet26_small"}),
})

`FAMILY_SPACES` has the natural one of each family of networks.
"""

from search_spaces.domains import (
    ChoiceDomain,
    ConstantDomain,
    Domain,
    FloatDomain,
    IntDomain,
    Scalar,
)
from search_spaces.families import FAMILY_SPACES
from search_spaces.space import SearchSpace

__all__ = [
    "FAMILY_SPACES",
    "ChoiceDomain",
    "ConstantDomain",
    "Domain",
    "FloatDomain",
    "IntDomain",
    "Scalar",
    "SearchSpace",
]
