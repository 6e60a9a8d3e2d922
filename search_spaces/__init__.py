"""Search spaces of a sweep: typed domains, conditions between them, and a natural space for every network.

from search_spaces import ChoiceDomain, FloatDomain, SearchSpace

space = SearchSpace({
    "model": ChoiceDomain(choices=("adaptive_resnet26_small", "conv_resnet26_small")),
    "lr": FloatDomain(low=1e-3, high=1e-1, log=True),
    "ramp": FloatDomain(low=1.0, high=4.0, when={"model": "adaptive_resnet26_small"}),
})

`named_space` has the natural one of each family of networks and `spatial_zoo`, which holds them all.
"""

from search_spaces.domains import (
    ChoiceDomain,
    ConstantDomain,
    Domain,
    FloatDomain,
    IntDomain,
    Scalar,
)
from search_spaces.families import KINDS, Kind, kind_of
from search_spaces.named import list_spaces, named_space, networks_of, open_conditions, refine, without_fixed
from search_spaces.papers import PaperSetting, paper_settings
from search_spaces.space import Projection, SearchSpace, SpaceError, setting_of

__all__ = [
    "KINDS",
    "ChoiceDomain",
    "ConstantDomain",
    "Domain",
    "FloatDomain",
    "IntDomain",
    "Kind",
    "PaperSetting",
    "Projection",
    "Scalar",
    "SearchSpace",
    "SpaceError",
    "kind_of",
    "list_spaces",
    "named_space",
    "networks_of",
    "open_conditions",
    "paper_settings",
    "refine",
    "setting_of",
    "without_fixed",
]
