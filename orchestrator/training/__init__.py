"""Training of one trial in plain torch; imports neither Ray nor MLflow nor Optuna."""
