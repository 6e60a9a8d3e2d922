"""Registration, lookup, options, cost and verification of the networks."""
