"""Checkpoint files of a trial: format, content and retention within the trial."""
