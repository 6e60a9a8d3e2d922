"""Settings as a journal records them, and the domains of a search whose space has changed."""
