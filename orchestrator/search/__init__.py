"""Optuna behind Ray Tune: proposes trials through ask and tell, and records how each trial really ended.

Ray's own `OptunaSearch` reports a trial that was stopped early as complete, and forgets failed ones (see
docs/decisions). Here the searcher only asks; a Tune callback receives every report and end, and calls `study.tell`.
"""
