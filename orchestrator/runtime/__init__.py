"""Ray as the driver uses it: connection or private instance, token, capacity of the cluster."""
