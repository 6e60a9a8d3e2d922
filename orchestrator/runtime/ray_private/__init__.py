"""Names that Ray (2.60) keeps private and that this code base relies on; no other file imports them.

One module for each part of Ray, so that a process imports no more than it uses. Each name has the reason for its use
beside it, and a contract test in `tests/orchestrator/runtime/test_ray_private.py`.
"""
