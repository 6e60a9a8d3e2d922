"""Exit codes of the command line."""

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
