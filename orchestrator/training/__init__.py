"""Training of one trial in plain torch; knows neither Ray nor MLflow nor Optuna."""
