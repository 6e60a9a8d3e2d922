"""Verdicts: which choice of a setting is better on the trials of a sweep, and how sure that is."""
