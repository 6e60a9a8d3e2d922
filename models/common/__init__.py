"""Layers, options and training hooks that the families share."""
