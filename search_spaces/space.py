"""Search spaces: domains with resolved conditions, sampling, and a fingerprint of the whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from search_spaces.domains import ChoiceDomain, ConstantDomain, Domain, FloatDomain, IntDomain, Scalar, as_tuple

if TYPE_CHECKING:
    import optuna


class SpaceError(ValueError):
    """Condition that no trial could meet, or that leads back to itself."""


class SearchSpace(Mapping[str, Domain]):
    """Named domains in an order in which every condition follows the choice it depends on.

    Args:
        domains: Name to domain; their order is kept where conditions allow.

    Raises:
        SpaceError: A condition names something that is no choice of this space, or leads back to itself.
    """

    def __init__(self, domains: Mapping[str, Domain]) -> None:
        problems = list(_structure_problems(domains))
        if problems:
            raise SpaceError("; ".join(f"{name}: {message}" for name, message in problems))
        self._domains = {name: domains[name] for name in _parents_first(domains)}

    def __getitem__(self, name: str) -> Domain:
        return self._domains[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._domains)

    def __len__(self) -> int:
        return len(self._domains)

    def sample(
        self, trial: optuna.trial.BaseTrial, stored_choices: Mapping[str, tuple[Scalar, ...]] = MappingProxyType({})
    ) -> dict[str, Any]:
        """Draw one configuration from an Optuna trial; names whose condition does not hold are absent.

        Args:
            trial: Trial of Optuna.
            stored_choices: Values with which the study has stored choices that have changed since, by searched name.
        """
        values: dict[str, Any] = {}
        for name, domain in self._domains.items():
            if domain.is_active(values):
                values[name] = _suggest(trial, name, domain, stored_choices.get(name))
        return values

    def branches(self) -> Iterator[dict[str, Any]]:
        """Iterate over the combinations of the choices that conditions depend on, each with its active names.

        Yields:
            Values of the deciding choices; other names are absent.
        """
        named = {"model", *(parent for domain in self._domains.values() for parent in domain.when)}
        deciding = [name for name in self._domains if name in named]  # parents come first
        left: list[tuple[int, dict[str, Any]]] = [(0, {})]
        while left:
            depth, values = left.pop()
            if depth == len(deciding):
                yield values
                continue
            name = deciding[depth]
            if self._domains[name].is_active(values):
                left += [(depth + 1, {**values, name: value}) for value in reversed(self._domains[name].corners())]
            else:
                left.append((depth + 1, values))

    def active(self, values: Mapping[str, Any]) -> list[str]:
        """Return the names whose condition holds for the given deciding values."""
        return [name for name, domain in self._domains.items() if domain.is_active(values)]

    def with_choice(self, name: str, value: Scalar) -> SearchSpace:
        """Return the part of this space that has one value of a choice, without the names that it excludes.

        Args:
            name: Name of a choice without a condition.
            value: One of its values.
        """
        part = SearchSpace({**self, name: ChoiceDomain(choices=(value,))})
        reached = {active for branch in part.branches() for active in part.active(branch)}
        return SearchSpace({other: domain for other, domain in part.items() if other in reached})

    def setting(self, setting: str) -> list[str]:
        """Return the searched names that set this, in order.

        Several of them have conditions that exclude each other.
        """
        return [name for name in self._domains if setting_of(name) == setting]

    def strays(self, values: Mapping[str, Any]) -> list[str]:
        """Return the reasons why this space could never draw a configuration, one line per name.

        Args:
            values: One value per active name, as `sample` returns them.
        """
        active = self.active(values)
        problems = [f"{name}: is missing" for name in active if name not in values]
        for name, value in values.items():
            if name not in active:
                problems.append(f"{name}: got {value!r}; is not searched here")
            elif not self._domains[name].contains(value):
                problems.append(f"{name}: got {value!r}; is outside its domain ({self._domains[name]})")
        return problems

    def project(self, settings: Mapping[str, Any]) -> Projection:
        """Return the part of a configuration from elsewhere that this space could have drawn.

        Args:
            settings: Values by setting, or by searched name.
        """
        values: dict[str, Any] = {}
        left_out: dict[str, str] = {}
        used: set[str] = set()
        for name, domain in self._domains.items():
            key = name if name in settings else setting_of(name)
            if not domain.is_active(values):
                continue
            if isinstance(domain, ConstantDomain):
                values[name] = domain.value
            elif key in settings and domain.contains(settings[key]):
                values[name] = settings[key]
            if key in settings:
                used.add(key)
                if name not in values or values[name] != settings[key]:
                    left_out[key] = f"is outside its domain ({domain})"
        left_out |= {key: "is not searched here" for key in settings if key not in used}
        return Projection(values, {key: left_out[key] for key in settings if key in left_out})

    @property
    def fingerprint(self) -> str:
        """Hash of names, domains and conditions; two spaces with equal fingerprints search the same set."""
        content = {name: domain.model_dump(mode="json") for name, domain in sorted(self._domains.items())}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Projection:
    """Part of a configuration from elsewhere that fits a space, and the reasons for the rest.

    Args:
        values: Values by searched name, constants included; names that the configuration does not decide are absent.
        left_out: Reason why a value does not fit, by its name in the configuration.
    """

    values: Mapping[str, Any]
    left_out: Mapping[str, str]


def setting_of(name: str) -> str:
    """Return the setting of a searched name: its last part, behind the label that keeps domains apart.

    `sgd/lr` and `adamw/lr` both set `lr`, each under a condition of its own.
    """
    return name.rpartition("/")[2]


def condition_problems(
    domains: Mapping[str, Domain], elsewhere: Mapping[str, Collection[Scalar]] = MappingProxyType({})
) -> list[tuple[str, str]]:
    """Return all faults of the conditions, as (name, message); empty for a sound space.

    Args:
        domains: Name to domain.
        elsewhere: Values that exist although this space does not offer them, by the name of the choice: a condition
            on one of these never holds here, and is no fault. So a space stays valid when a choice is narrowed.
    """
    return [*_structure_problems(domains), *_unoffered_values(domains, elsewhere)]


def _suggest(trial: optuna.trial.BaseTrial, name: str, domain: Domain, stored: tuple[Scalar, ...] | None = None) -> Any:
    """Draw a value of a domain through the distribution of Optuna that corresponds to it."""
    match domain:
        case FloatDomain():
            low, high = domain.corners()
            return domain.nearest(trial.suggest_float(name, low, high, log=domain.log, step=domain.step))
        case IntDomain():
            least, most = domain.corners()
            return trial.suggest_int(name, least, most, log=domain.log, step=domain.step)
        case ChoiceDomain():
            return trial.suggest_categorical(name, stored or domain.choices)
        case ConstantDomain():
            return domain.value


def _structure_problems(domains: Mapping[str, Domain]) -> Iterator[tuple[str, str]]:
    for name, domain in domains.items():
        for parent in domain.when:
            if not isinstance(domains.get(parent), (ChoiceDomain, ConstantDomain)):
                yield name, f"its condition names '{parent}', which is no choice of this space"
        if name in _ancestors(name, domains):
            yield name, "its condition leads back to itself"


def _unoffered_values(
    domains: Mapping[str, Domain], elsewhere: Mapping[str, Collection[Scalar]]
) -> Iterator[tuple[str, str]]:
    for name, domain in domains.items():
        for parent, wanted in domain.when.items():
            other = domains.get(parent)
            if isinstance(other, ConstantDomain) and parent not in elsewhere:
                continue  # a choice narrowed to one value; its other values are not known here
            if not isinstance(other, (ChoiceDomain, ConstantDomain)):
                continue
            known = {*other.corners(), *elsewhere.get(parent, ())}
            unoffered = [value for value in as_tuple(wanted) if value not in known]
            if unoffered:
                offered = ", ".join(map(str, other.corners()))
                yield name, f"its condition needs {parent} = {unoffered[0]}; '{parent}' offers {offered}"


def _ancestors(name: str, domains: Mapping[str, Domain]) -> set[str]:
    found: set[str] = set()
    frontier = list(domains[name].when)
    while frontier:
        parent = frontier.pop()
        if parent not in found and parent in domains:
            found.add(parent)
            frontier.extend(domains[parent].when)
    return found


def _parents_first(domains: Mapping[str, Domain]) -> list[str]:
    position = {name: index for index, name in enumerate(domains)}
    return sorted(domains, key=lambda name: (len(_ancestors(name, domains)), position[name]))
