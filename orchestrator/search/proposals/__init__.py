"""Proposed configurations: those not worth a trial, and the space they come from, for messages."""
