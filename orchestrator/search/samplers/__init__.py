"""Optuna samplers by name, and the view of a study that they receive."""
