"""Code that runs in the Ray Train controller of a lane; imports no torch."""
