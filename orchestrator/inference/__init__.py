"""Use of trained networks: load, images, then evaluate, export or explain."""
