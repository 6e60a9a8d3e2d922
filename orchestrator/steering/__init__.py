"""Requests to a running sweep: stop, pause or resume a trial, enqueue a configuration, change settings."""
