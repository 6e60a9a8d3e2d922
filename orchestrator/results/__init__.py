"""Results of finished and running sweeps, read from their folders."""
