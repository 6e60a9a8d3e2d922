"""Private Ray instance that starts while the command still imports its modules."""
