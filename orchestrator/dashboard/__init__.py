"""Web pages of a sweep: MLflow and optuna-dashboard, served on loopback."""
