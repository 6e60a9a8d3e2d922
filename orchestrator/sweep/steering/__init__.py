"""Requests of the user to a running sweep, carried out by its driver."""
