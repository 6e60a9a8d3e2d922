"""Parts of an optimiser step: groups of parameters, learning rate, clipping, and recomputed activations."""
