"""Memory of a worker: estimate, largest batch that fits, and answers to a failed allocation."""
