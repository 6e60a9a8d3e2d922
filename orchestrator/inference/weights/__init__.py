"""Weights from elsewhere: their sources, networks built for them, and trainings that start from them."""
