"""Code that runs in the driver: opens lanes, restarts them and releases their resources."""
