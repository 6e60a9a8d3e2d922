"""Summary of a named space: the settings that it varies, and those that the sweep fixes."""

from __future__ import annotations

from orchestrator.config.fixed_settings import shown
from orchestrator.config.plans import SearchPlan
from search_spaces import setting_of


def summarize_space(plan: SearchPlan) -> list[tuple[str, str]]:
    """Return lines, each with a heading; none where the space has no name.

    Args:
        plan: Search plan of the sweep.
    """
    use = plan.space_use
    if not use.name:
        return []
    varied = ", ".join(dict.fromkeys(map(setting_of, plan.searched))) or "nothing"
    lines = [("Space", f"{use.name} varies {varied}")]
    if use.fixed:
        fixed = ", ".join(f"{where} {shown(value)}" for where, value in use.fixed.items())
        lines.append(("Fixed", f"{fixed}: written in the sweep, so the space leaves it alone"))
    if use.unvaried:
        defaults = plan.training.model_dump()
        named = ", ".join(f"{name} {shown(defaults[name])}" if name in defaults else name for name in use.unvaried)
        reason = "by default; the space varies it only beside other values of what is fixed"
        lines.append(("Default", f"{named}: {reason}. Write it under search or training to choose"))
    return lines
