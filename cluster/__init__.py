"""Clusters: starting one to run sweeps on."""
