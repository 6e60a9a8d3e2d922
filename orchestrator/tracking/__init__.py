"""From events to MLflow: a journal on disk, and one thread that replays it."""
