"""Search of a space that changes while the sweep runs."""
