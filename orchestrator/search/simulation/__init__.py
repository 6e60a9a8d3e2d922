"""Simulation of sweeps on recorded learning curves: samplers and allocation of epochs, without training."""
