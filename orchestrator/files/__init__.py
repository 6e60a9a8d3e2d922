"""Files and paths: atomic writes, checks of untrusted paths, sqlite databases, the folder of all results."""
