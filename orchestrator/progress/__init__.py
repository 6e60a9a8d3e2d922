"""Progress of a running sweep in a terminal, a log or a notebook."""
