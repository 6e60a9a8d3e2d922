"""Spatial Bias: bottleneck ResNets with global context in a few extra channels."""
