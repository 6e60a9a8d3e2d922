"""Checks of an epoch while it trains."""
