"""Typed, frozen sections of a sweep file."""
