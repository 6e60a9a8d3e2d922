"""Ray as the driver uses it: connection or private instance, token, number of lanes that the cluster holds."""
