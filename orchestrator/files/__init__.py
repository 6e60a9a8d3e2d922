"""Files and paths: atomic writes, checks of untrusted paths, SQLite databases, the folder of all results."""
