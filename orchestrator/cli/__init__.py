"""Command line of SpatialSweep: one module per noun, shared options, and the tables that commands print."""
