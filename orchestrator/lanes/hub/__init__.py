"""Code that runs in the LaneHub actor: mailbox, leases and lane table."""
