"""Parts shared by the families."""
