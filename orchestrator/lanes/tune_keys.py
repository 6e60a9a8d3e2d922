"""Keys of Tune's configurations, and of the results that its trial actors return; this module imports no Ray."""

from __future__ import annotations

TRIAL = "trial"
EPOCHS_DONE = "epochs_done"
EPOCH = "epoch"
FAILURES = "failures"
REPORTED = "reported"
ENDED = "ended"
HELD = "held_s"
LANE = "lane"
NODES = "nodes"
