"""Networks that replace or repair self-attention, native to timm.

Importing this package registers every network with timm, so that `timm.create_model` builds it by name. The functions
below find, check and build networks by name, and collect the penalties, projections and diagnostics of a network for
the loop that trains it.
"""

# ruff: noqa: E402 - timm is imported first, in a way of its own
from models.import_of_timm import import_timm

import_timm()

from models.adaptive_span import variants as adaptive_span_variants
from models.adaptive_span.frozen_span import freeze_spans
from models.common.options import ModelOption, ModelOptionError, OptionProblem, OptionValue
from models.common.sync_batch_norm import synchronise_batch_norm
from models.common.training_hooks import TrainingHooks, diagnostics, has_training_hooks, penalty, project_
from models.fcvit import variants as fcvit_variants
from models.lesa import variants as lesa_variants
from models.lsas import variants as lsas_variants
from models.non_local import variants as nonlocal_variants
from models.registry.arithmetic import ModelCost, ModelFacts, model_cost, model_facts, model_params
from models.registry.authors import (
    AuthorsCheckpointError,
    AuthorsOptionError,
    Weights,
    create_model_for,
    fit_weights,
    from_authors,
    keywords_for,
    load_authors_checkpoint,
    load_weights,
    read_weights,
)
from models.registry.catalogue import (
    check_options,
    create_model,
    list_models,
    model_family,
    model_options,
    options_of_record,
    options_to_record,
    searchable_options,
    takes_any_option,
)
from models.registry.first_map import first_map_side
from models.registry.outside.files import (
    NetworkFile,
    NetworkFileError,
    forget_network_file,
    network_file,
    register_network_file,
    split_reference,
)
from models.registry.outside.network import list_timm_models, name_problem
from models.registry.recomputation import recompute_blocks, supports_recomputation
from models.spatial_bias import variants as spatial_bias_variants
from models.stand_alone import variants as stand_alone_variants

__all__ = [
    "AuthorsCheckpointError",
    "AuthorsOptionError",
    "ModelCost",
    "ModelFacts",
    "ModelOption",
    "ModelOptionError",
    "NetworkFile",
    "NetworkFileError",
    "OptionProblem",
    "OptionValue",
    "TrainingHooks",
    "Weights",
    "adaptive_span_variants",
    "check_options",
    "create_model",
    "create_model_for",
    "diagnostics",
    "fcvit_variants",
    "first_map_side",
    "fit_weights",
    "forget_network_file",
    "freeze_spans",
    "from_authors",
    "has_training_hooks",
    "keywords_for",
    "lesa_variants",
    "list_models",
    "list_timm_models",
    "load_authors_checkpoint",
    "load_weights",
    "lsas_variants",
    "model_cost",
    "model_facts",
    "model_family",
    "model_options",
    "model_params",
    "name_problem",
    "network_file",
    "nonlocal_variants",
    "options_of_record",
    "options_to_record",
    "penalty",
    "project_",
    "read_weights",
    "recompute_blocks",
    "register_network_file",
    "searchable_options",
    "spatial_bias_variants",
    "split_reference",
    "stand_alone_variants",
    "supports_recomputation",
    "synchronise_batch_norm",
    "takes_any_option",
]
