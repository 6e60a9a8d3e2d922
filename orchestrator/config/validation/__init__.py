"""Rules that a whole configuration must satisfy, checked before any work starts."""
