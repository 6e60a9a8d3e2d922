"""Code of the authors: their checkpoints, and the arguments of their constructors."""

from models.registry.authors.family import AuthorsOptionError
from models.registry.authors.loading import AuthorsCheckpointError, from_authors, load_authors_checkpoint

__all__ = ["AuthorsCheckpointError", "AuthorsOptionError", "from_authors", "load_authors_checkpoint"]
