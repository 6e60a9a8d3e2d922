"""Validation of a whole sweep before any work starts.

Two passes share one list: every section is checked by its own types, then the rules that join sections run on the
valid sections. All problems of a file are reported at once, each with the nearest valid name.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from orchestrator.config.recipes import list_recipes
from orchestrator.config.searched_values import domains_of, max_epochs
from orchestrator.config.sections.budget import budget_problems
from orchestrator.config.sections.objective import ObjectiveConfig, constraint_problems, objective_problems
from orchestrator.config.sections.section import Section
from orchestrator.config.tasks.classification import CLASSIFICATION
from orchestrator.config.tasks.registry import DEFAULT_TASK, list_tasks, task_facts, unknown_task
from orchestrator.config.validation.dataset_rules import decoder_problems, fraction_problems, image_facts, map_problems
from orchestrator.config.validation.optimizer_rules import optimizer_name_problems, optimizer_problems
from orchestrator.config.validation.plain_data import shown
from orchestrator.config.validation.pydantic_problems import translate, unknown
from orchestrator.config.validation.resource_rules import resource_problems
from orchestrator.config.validation.scheduler_rules import scheduler_problems
from orchestrator.config.validation.search_rules import search_problems
from orchestrator.config.validation.seed_rules import seed_problems, tournament_problems
from orchestrator.config.validation.storage_rules import storage_problems
from orchestrator.config.validation.task_rules import task_problems
from orchestrator.config.validation.training_rules import augmentation_problems, training_problems, unused_problems
from orchestrator.errors import Problem, did_you_mean
from orchestrator.server_addresses import names_server, truncation_problem
from orchestrator.uris import without_password
from search_spaces import Domain, setting_of

_MOST_FAULTS = 100
_MOST_SEARCHED = 1_000
_DOMAIN: TypeAdapter[Any] = TypeAdapter(Domain)
_SEARCHED_NAME = re.compile(r"([A-Za-z0-9_.-]+/)*[^/]+")
_LABEL_RULE = (
    "a searched name is what it sets, or a label, a slash and what it sets, such as sgd/lr, of letters, digits, "
    "'_', '-' and '.'; model has no label"
)


def find_problems(raw: Mapping[str, Any], fields: Mapping[str, FieldInfo]) -> list[Problem]:
    """Return the problems of the settings of a sweep, up to a limit; empty when it may start.

    Args:
        raw: Section name to content, as read from YAML or passed to `SweepConfig`.
        fields: Fields of `SweepConfig`.
    """
    sections, problems = _check_sections(raw, fields)
    problems = list(dict.fromkeys([*problems, *islice(_check_together(sections), _MOST_FAULTS)]))
    if len(problems) <= _MOST_FAULTS:
        return problems
    return [*problems[:_MOST_FAULTS], Problem("", f"has more than {_MOST_FAULTS} faults; mend these first")]


def section_problems(raw: Mapping[str, Any], fields: Mapping[str, FieldInfo]) -> list[Problem]:
    """Return the problems that each section has alone.

    Args:
        raw: Section name to content, as for `find_problems`.
        fields: Fields of `SweepConfig`.
    """
    return _check_sections(raw, fields)[1]


def _check_sections(raw: Mapping[str, Any], fields: Mapping[str, FieldInfo]) -> tuple[dict[str, Any], list[Problem]]:
    """Validate each section alone; return the valid ones and the problems of the others."""
    known = {field.alias or name: field for name, field in fields.items()}
    sections: dict[str, Any] = {}
    unknown_keys = islice((key for key in raw if key not in known), _MOST_FAULTS + 1)
    problems = [
        Problem(key, f"unknown setting. {did_you_mean(key, [*known, 'space', 'strategy'])}") for key in unknown_keys
    ]
    for name, field in known.items():
        if name not in raw and field.is_required():
            problems.append(Problem(name, "is missing; every sweep needs it"))
        elif name == "search":
            sections[name], faults = _check_domains(raw.get(name, {}))
            problems.extend(faults)
        elif name == "objective" and name in raw:
            sections[name], faults = _check_objectives(raw[name])
            problems.extend(faults)
        elif name in raw:
            section = section_class(field.annotation)
            rules = None if section else Section.model_config  # a section class has its own configuration
            adapter: TypeAdapter[Any] = TypeAdapter(_annotated(field), config=rules)
            try:
                sections[name] = adapter.validate_python(raw[name])
            except ValidationError as error:
                problems.extend(translate(error, name, section))
        else:
            sections[name] = field.get_default()
    return sections, problems


def _check_domains(raw: Any) -> tuple[dict[str, Any], list[Problem]]:
    if not isinstance(raw, Mapping):
        return {}, [Problem("search", f"got {shown(raw)}; must map names to domains, such as lr: {{type: float, ...}}")]
    if len(raw) > _MOST_SEARCHED:
        return {}, [Problem("search", f"has {len(raw):,} names; at most {_MOST_SEARCHED:,} are searched together")]
    domains: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, content in raw.items():
        if len(problems) > _MOST_FAULTS:
            break
        if not _SEARCHED_NAME.fullmatch(name) or (setting_of(name) == "model" != name):
            problems.append(Problem(f"search.{name}", _LABEL_RULE))
            continue
        try:
            domains[name] = _DOMAIN.validate_python(content)
        except ValidationError as error:
            problems.extend(translate(error, f"search.{name}", None))
    return domains, problems


def _check_objectives(raw: Any) -> tuple[tuple[ObjectiveConfig, ...], list[Problem]]:
    """Validate the objectives, a list or a single one; return them if all are valid, and the problems."""
    listed = isinstance(raw, list | tuple)
    sound, problems = [], []
    if listed and not raw:
        problems.append(
            Problem("objective", f"is empty; name at least one metric, such as {{metric: {CLASSIFICATION.objective}}}")
        )
    for index, content in enumerate(raw if listed else (raw,)):
        if len(problems) > _MOST_FAULTS:
            break
        try:
            sound.append(ObjectiveConfig.model_validate(content))
        except ValidationError as error:
            where = f"objective.{index}" if listed else "objective"
            problems.extend(translate(error, where, ObjectiveConfig))
    return tuple(sound) if not problems else (), problems


def _check_together(sections: Mapping[str, Any]) -> Iterator[Problem]:
    facts, problems = image_facts(sections.get("dataset"), sections.get("task", DEFAULT_TASK))
    yield from problems
    yield from _check_names(sections)
    yield from _check_task(sections)
    training, scheduler, search = sections.get("training"), sections.get("trial_scheduler"), sections["search"]
    if training and scheduler:
        epochs, trials = max_epochs(training, search), sections.get("trials", 1)
        yield from scheduler_problems(
            scheduler, search, epochs=epochs, trials=trials, validate_every=training.validate_every
        )
    yield from seed_problems(sections)
    yield from tournament_problems(sections)
    if training:
        yield from optimizer_problems(training, search)
    resources = sections.get("resources")
    if resources and training:
        task = sections.get("task", DEFAULT_TASK)
        of_task = task_facts(task) if task in list_tasks() else CLASSIFICATION
        yield from training_problems(training, search, resources.max_workers, task=of_task)
    if budget := sections.get("budget"):
        yield from budget_problems(budget, next(iter(sections.get("objective", ())), None), resources)
    if facts and training:
        yield from augmentation_problems(training, search, facts)
        yield from unused_problems(training, search) if facts.files else ()
        yield from decoder_problems(sections["dataset"], training, search)
    if facts:
        yield from map_problems(sections.get("model"), search, facts)
    if facts and resources:
        yield from fraction_problems(sections["dataset"], facts, resources)
    if resources:
        yield from resource_problems(resources, training)
    yield from search_problems(sections, facts)


def _check_task(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Check the task, and what depends on it."""
    name = sections.get("task", DEFAULT_TASK)
    if name not in list_tasks():
        yield unknown_task(name)
        return
    facts = task_facts(name)
    yield from task_problems(facts, sections.get("training"), sections.get("dataset"), sections["search"])
    yield from objective_problems(sections.get("objective", ()), facts)
    yield from constraint_problems(sections.get("constraints", ()), facts)


def _check_names(sections: Mapping[str, Any]) -> Iterator[Problem]:
    importlib.import_module("models")  # first: it imports timm without torch's compiler

    training, search = sections.get("training"), sections["search"]
    if training:
        yield from optimizer_name_problems("training.optimizer", [training.optimizer])
    for name, domain in domains_of("optimizer", search):
        yield from optimizer_name_problems(f"search.{name}", map(str, domain.corners()))
    if (recipe := sections.get("recipe")) is not None and recipe not in list_recipes():
        yield unknown("recipe", recipe, list_recipes())
    tracking = sections.get("tracking")
    if storage := sections.get("storage"):
        yield from storage_problems(storage, tracking.uri if tracking else None)
    if tracking and tracking.uri is not None and (fault := truncation_problem(tracking.uri)):
        yield Problem("tracking.uri", fault)
    elif tracking and tracking.uri is not None and not names_server(tracking.uri):
        yield Problem(
            "tracking.uri",
            f"got {shown(without_password(tracking.uri))}; must name a server or a database. "
            "Use http://host:port, or sqlite:////absolute/path/mlflow.db",
        )


def section_class(annotation: Any) -> type[BaseModel] | None:
    """Return the class of a section among the types that a field may have; None where it is no section."""
    candidates = [annotation, *get_args(annotation)]
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def _annotated(field: Any) -> Any:
    """Return the annotation of a field together with its constraints."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
