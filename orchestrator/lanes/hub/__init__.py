"""Code that runs in the hub actor: mailbox, leases and lane table."""
