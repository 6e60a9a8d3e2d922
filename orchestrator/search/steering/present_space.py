"""Present space of a sweep whose space has changed, as its sampler sees it.

Optuna lets the bounds of a number change within a study, and the values of a choice not. A choice is therefore stored
with all values that it ever had, and the sampler draws from those that it has now. Of the earlier trials the sampler
sees those that the present space could have drawn, as if they had been drawn from it; the others stay in the study.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from pydantic import TypeAdapter

from orchestrator.search.write_behind import WriteBehindStorage
from search_spaces import ChoiceDomain, ConstantDomain, Domain, FloatDomain, IntDomain, Scalar, SearchSpace

_DOMAINS: TypeAdapter[Mapping[str, Domain]] = TypeAdapter(Mapping[str, Domain])


def union_space(searched: Mapping[str, Any]) -> SearchSpace:
    """Return a space from which every trial of a sweep could have been drawn.

    Args:
        searched: Domains of all searched names there ever were, as plain data; `records/history.py` unites them.
    """
    return SearchSpace(_DOMAINS.validate_python(searched))


def union_if_changed(searched: Mapping[str, Any], space: SearchSpace) -> SearchSpace | None:
    """Return the space from which every trial could have been drawn; None where it is the present one.

    Args:
        searched: Domains of all searched names there ever were, as plain data.
        space: Present space.
    """
    union = union_space(searched)
    return union if len(union) and union.fingerprint != space.fingerprint else None


def known_choices(searched: Mapping[str, Any]) -> dict[str, tuple[Scalar, ...]]:
    """Return all values that each choice of a sweep ever had, in the order in which they are stored.

    Args:
        searched: Domains of all searched names there ever were, as plain data.
    """
    domains = _DOMAINS.validate_python(searched)
    return {name: domain.choices for name, domain in domains.items() if isinstance(domain, ChoiceDomain)}


class PresentSpace:
    """Present space of a sweep, and the choices that its study has stored.

    Args:
        space: Present space.
        union: Space from which every trial of the sweep could have been drawn.
    """

    def __init__(self, space: SearchSpace, union: SearchSpace) -> None:
        self._space = space
        self._stored = {name: domain.choices for name, domain in union.items() if isinstance(domain, ChoiceDomain)}
        self._distributions = {
            name: found for name, domain in space.items() if (found := _distribution(domain)) is not None
        }

    def drawn(self, name: str, stored: BaseDistribution) -> BaseDistribution:
        """Return the distribution to draw a name from, in the place of the one that is stored."""
        return self._distributions.get(name, stored)

    def stored(self, name: str, drawn: BaseDistribution) -> BaseDistribution:
        """Return the distribution to store for a name, in the place of the one that is drawn from."""
        choices = self._stored.get(name)
        return CategoricalDistribution(choices) if choices and isinstance(drawn, CategoricalDistribution) else drawn

    def seen(self, trial: FrozenTrial) -> FrozenTrial | None:
        """Return a trial as if the present space had drawn it; None where it could not."""
        if any(name not in self._space or not self._space[name].contains(to) for name, to in trial.params.items()):
            return None
        shown = copy.copy(trial)
        shown.distributions = {
            name: self._distributions.get(name, before) for name, before in trial.distributions.items()
        }
        return shown


def single_value(distribution: BaseDistribution) -> Any:
    """Return the value of a distribution that has only one."""
    match distribution:
        case CategoricalDistribution():
            return distribution.choices[0]
        case FloatDistribution() | IntDistribution():
            return distribution.low
    raise TypeError(f"{distribution} has more than one value")


def store_choices(study: optuna.Study, choices: Mapping[str, tuple[Scalar, ...]]) -> None:
    """Write choices with all their values into the study, where it has them with fewer.

    New values come last, so that the stored indices of values keep their meaning.

    Args:
        study: Study of the sweep; no other driver uses it.
        choices: All values that each choice ever had.
    """
    storage = study._storage
    if not isinstance(storage, WriteBehindStorage):
        return
    storage.flush()
    changed = [
        name
        for name, values in choices.items()
        if _rewrite(storage.database, storage.study_row, name, CategoricalDistribution(values))
    ]
    if changed:
        storage.read_again(study._study_id)


def _rewrite(database: RDBStorage, study_id: int, name: str, wanted: CategoricalDistribution) -> bool:
    """Replace the stored distributions of a name that have fewer values; return whether there were any."""
    import sqlalchemy

    text = distribution_to_json(wanted)
    of_study = "param_name = :name AND trial_id IN (SELECT trial_id FROM trials WHERE study_id = :study)"
    where = {"name": name, "study": study_id}
    with database.engine.begin() as connection:
        found = connection.execute(
            sqlalchemy.text(f"SELECT DISTINCT distribution_json FROM trial_params WHERE {of_study}"),  # noqa: S608
            where,
        )
        stored = [row[0] for row in found]
        fewer = [each for each in stored if each != text and _is_beginning(each, wanted.choices)]
        for each in fewer:
            connection.execute(
                sqlalchemy.text(
                    f"UPDATE trial_params SET distribution_json = :wanted WHERE {of_study}"  # noqa: S608
                    " AND distribution_json = :before"
                ),
                {**where, "wanted": text, "before": each},
            )
    return bool(fewer)


def _is_beginning(stored: str, values: tuple[Any, ...]) -> bool:
    """Return whether a stored choice has the first of some values, so that their indices agree."""
    content = json.loads(stored)
    before = content.get("attributes", {}).get("choices")
    return isinstance(before, list) and tuple(before) == values[: len(before)]


def _distribution(domain: Domain) -> BaseDistribution | None:
    match domain:
        case FloatDomain():
            low, high = domain.corners()
            return FloatDistribution(low, high, log=domain.log, step=domain.step)
        case IntDomain():
            least, most = domain.corners()
            return IntDistribution(least, most, log=domain.log, step=domain.step)
        case ChoiceDomain():
            return CategoricalDistribution(domain.choices)
        case ConstantDomain():
            return None
