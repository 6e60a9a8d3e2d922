"""Optuna behind Ray Tune: proposes trials through ask and tell, and learns what really became of them.

Ray's own `OptunaSearch` tells a trial that was stopped early as complete, and forgets failed ones (see
docs/decisions). Here the searcher only asks; a Tune callback sees every report and every end, and tells.
"""
