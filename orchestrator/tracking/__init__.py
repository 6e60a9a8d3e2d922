"""Tracking in MLflow: a thread replays the journal of a sweep to a server or database."""
