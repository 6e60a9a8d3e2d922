"""Use of trained networks: loading, evaluation, export and explanation."""
