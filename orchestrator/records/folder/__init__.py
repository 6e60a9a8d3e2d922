"""Folder of a sweep: layout, driver lock, identity, and addresses recorded in it."""
