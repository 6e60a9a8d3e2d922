"""Summary of a search in words: what a named space varies, what the sweep fixes, and the prior of its sampler."""

from __future__ import annotations

from orchestrator.config.fixed_settings import shown
from orchestrator.config.plans import SearchPlan
from orchestrator.config.sections.first_trials import PAPERS
from orchestrator.search.proposals.enqueued_trials import paper_configurations
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


def summarize_prior(plan: SearchPlan) -> list[tuple[str, str]]:
    """Return a line on the prior of the sampler, with a heading; none where it has no prior.

    Args:
        plan: Search plan of the sweep.
    """
    if plan.sampler.prior != PAPERS:
        return []
    known = len(paper_configurations(plan))
    if not known:
        return [("Prior", "the papers have no values that this sweep searches; the sampler proposes all trials")]
    near = f"{known} configurations of the papers" if known > 1 else "the configuration of a paper"
    fades = f"half of the first trials; a quarter after {plan.sampler.startup_trials} results, and so on"
    return [("Prior", f"near {near}: {fades}")]
