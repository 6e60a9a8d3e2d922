"""Trial schedulers by name; each replays the reports of earlier sessions."""
