"""Code of the authors: their checkpoints, and the arguments of their constructors."""

from models.registry.authors.family import AuthorsOptionError
from models.registry.authors.loading import (
    create_model_for,
    fit_weights,
    from_authors,
    keywords_for,
    load_authors_checkpoint,
    load_weights,
)
from models.registry.authors.mismatch import AuthorsCheckpointError
from models.registry.authors.weights_file import WEIGHTS, Weights, read_weights

__all__ = [
    "WEIGHTS",
    "AuthorsCheckpointError",
    "AuthorsOptionError",
    "Weights",
    "create_model_for",
    "fit_weights",
    "from_authors",
    "keywords_for",
    "load_authors_checkpoint",
    "load_weights",
    "read_weights",
]
