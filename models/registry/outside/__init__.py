"""Networks that this package does not register: those of timm, and those in files of the user's own."""
