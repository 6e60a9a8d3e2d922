"""Registration, lookup, cost and verification of networks; loading of the authors' checkpoints."""
