"""Finds everything wrong with a sweep before any work starts.

Two passes share one list: every section is checked by its own types, then the rules that join sections run on those
sections that are sound. A user sees all faults of a file at once, each with the nearest valid name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.config import schema
from orchestrator.config.budget import budget_problems
from orchestrator.config.objective import (
    SPAN,
    ObjectiveConfig,
    constraint_problems,
    is_constraint,
    objective_problems,
    parse_constraint,
)
from orchestrator.config.sampler_rules import sampler_problems
from orchestrator.config.section import Section
from orchestrator.config.spaces import domains_of
from orchestrator.config.storage_rules import storage_problems
from orchestrator.config.training_rules import augmentation_problems, training_problems
from orchestrator.data.datasets import DatasetFacts
from orchestrator.errors import DataError, Problem, did_you_mean
from orchestrator.tracking.addresses import SCHEMES, scheme_of, without_password
from search_spaces import Domain, SearchSpace, setting_of
from search_spaces.space import SpaceError, condition_problems

if TYPE_CHECKING:
    from models import OptionProblem

_DOMAIN: TypeAdapter[Any] = TypeAdapter(Domain)
_SEARCHED_NAME = re.compile(r"([A-Za-z0-9_.-]+/)*[^/]+")
_EXCLUDE = "Give them conditions (when) that exclude each other"
_LABEL_RULE = (
    "a searched name is what it sets, or a label, a slash and what it sets, such as sgd/lr, of letters, digits, "
    "'_', '-' and '.'; model has no label"
)
_SCALAR_TAGS = {"bool", "int", "float", "str"}
_DOMAIN_TAGS = {"float", "int", "choice", "constant"}


def find_problems(raw: Mapping[str, Any]) -> list[Problem]:
    """All faults of a sweep's settings; empty when it may start.

    Args:
        raw: Section name to content, as read from YAML or given to `SweepConfig`.
    """
    sections, problems = _check_sections(raw)
    problems.extend(_check_together(sections))
    return list(dict.fromkeys(problems))


def _check_sections(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Validates each section alone; returns the sound ones and the faults of the others."""
    fields = {field.alias or name: field for name, field in schema.SweepConfig.model_fields.items()}
    sections: dict[str, Any] = {}
    problems: list[Problem] = [
        Problem(key, f"unknown setting. {did_you_mean(key, [*fields, 'space'])}") for key in raw if key not in fields
    ]
    for name, field in fields.items():
        if name not in raw and field.is_required():
            problems.append(Problem(name, "is missing; every sweep needs it"))
        elif name == "search":
            sections[name], faults = _check_domains(raw.get(name, {}))
            problems.extend(faults)
        elif name == "objective" and name in raw:
            sections[name], faults = _check_objectives(raw[name])
            problems.extend(faults)
        elif name in raw:
            section = _section_class(field.annotation)
            rules = None if section else Section.model_config  # a section brings its own
            adapter: TypeAdapter[Any] = TypeAdapter(_annotated(field), config=rules)
            try:
                sections[name] = adapter.validate_python(raw[name])
            except ValidationError as error:
                problems.extend(_translate(error, name, section))
        else:
            sections[name] = field.get_default()
    return sections, problems


def _check_domains(raw: Any) -> tuple[dict[str, Any], list[Problem]]:
    if not isinstance(raw, Mapping):
        return {}, [Problem("search", f"got {raw!r}; must map names to domains, such as lr: {{type: float, ...}}")]
    domains: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, content in raw.items():
        if not isinstance(name, str):
            problems.append(Problem(f"search.{name}", f"got {name!r}; a searched name is text. Write it in quotes"))
            continue
        if not _SEARCHED_NAME.fullmatch(name) or (setting_of(name) == "model" != name):
            problems.append(Problem(f"search.{name}", _LABEL_RULE))
            continue
        try:
            domains[name] = _DOMAIN.validate_python(content)
        except ValidationError as error:
            problems.extend(_translate(error, f"search.{name}", None))
    return domains, problems


def _check_objectives(raw: Any) -> tuple[tuple[ObjectiveConfig, ...], list[Problem]]:
    """The sound ones among the objectives, of which a single one is no list."""
    listed = isinstance(raw, list | tuple)
    sound, problems = [], []
    if listed and not raw:
        problems.append(Problem("objective", "is empty; name at least one metric, such as {metric: val/top1}"))
    for index, content in enumerate(raw if listed else (raw,)):
        try:
            sound.append(ObjectiveConfig.model_validate(content))
        except ValidationError as error:
            where = f"objective.{index}" if listed else "objective"
            problems.extend(_translate(error, where, ObjectiveConfig))
    return tuple(sound) if not problems else (), problems


def _check_together(sections: Mapping[str, Any]) -> Iterator[Problem]:
    facts, problems = _dataset_facts(sections.get("dataset"))
    yield from problems
    yield from _check_names(sections)
    training, scheduler, search = sections.get("training"), sections.get("trial_scheduler"), sections["search"]
    if training and scheduler and scheduler.name == "asha":
        longest = schema.max_epochs(training, search)
        if scheduler.grace_epochs > longest:
            where = "search.epochs allows at most" if any(domains_of("epochs", search)) else "training.epochs, which is"
            yield Problem(
                "trial_scheduler.grace_epochs", f"got {scheduler.grace_epochs}; must not exceed {where} {longest}"
            )
    resources = sections.get("resources")
    if resources and training:
        yield from training_problems(training, search, resources.max_workers)
    if budget := sections.get("budget"):
        yield from budget_problems(budget, next(iter(sections.get("objective", ())), None), resources)
    if facts and training:
        yield from augmentation_problems(training, search, files=facts.files)
    if resources and resources.max_workers > 1 and resources.gpus_per_worker and resources.gpus_per_worker % 1:
        yield Problem(
            "resources.gpus_per_worker",
            f"got {resources.gpus_per_worker}; workers of one trial cannot share a GPU (NCCL refuses it). "
            "Use a whole number, or workers: 1",
        )
    yield from _check_search(sections, facts)


def _dataset_facts(dataset: schema.DatasetConfig | None) -> tuple[DatasetFacts | None, list[Problem]]:
    """What is known of the images, read once; or why they cannot be used."""
    from orchestrator.data import dataset_facts, list_datasets

    if dataset is None:
        return None, []
    if (dataset.name is None) == (dataset.uri is None):
        both = "give one of name and uri, not both" if dataset.name else "is missing"
        remedy = f"{both}. Use name: digits, or the uri of a dataset that `spatialsweep data prepare` made"
        return None, [Problem("dataset.name", remedy)]
    if dataset.name is not None and dataset.name not in list_datasets():
        return None, [_unknown("dataset.name", dataset.name, list_datasets())]
    try:
        facts = dataset_facts(dataset.name, dataset.uri, dataset.crop_size)
    except DataError as error:
        return None, [Problem("dataset.uri", str(error))]
    if dataset.image_size is not None and not facts.files:
        size = f"got {dataset.image_size}; these images have {facts.image_size} px and keep them. Leave it out"
        return facts, [Problem("dataset.image_size", size), *_check_split(dataset, facts)]
    return facts, list(_check_split(dataset, facts))


def _check_split(dataset: schema.DatasetConfig, facts: DatasetFacts) -> Iterator[Problem]:
    if dataset.select_on == "test":
        return
    share = facts.num_classes / facts.train_images
    if not share <= dataset.validation_fraction <= 1 - share:
        yield Problem(
            "dataset.validation_fraction",
            f"got {dataset.validation_fraction}; both parts of the {facts.train_images} training images need one per "
            f"class. Use {math.ceil(share * 1000) / 1000:g} to {math.floor((1 - share) * 1000) / 1000:g}",
        )


def _check_names(sections: Mapping[str, Any]) -> Iterator[Problem]:
    from timm.optim import list_optimizers

    training, search = sections.get("training"), sections["search"]
    if training and training.optimizer not in list_optimizers():
        yield _unknown("training.optimizer", training.optimizer, list_optimizers())
    for name, domain in domains_of("optimizer", search):
        strangers = [value for value in domain.corners() if value not in list_optimizers()]
        yield from (_unknown(f"search.{name}", str(value), list_optimizers()) for value in strangers)
    if storage := sections.get("storage"):
        yield from storage_problems(storage)
    tracking = sections.get("tracking")
    if tracking and tracking.uri is not None and scheme_of(tracking.uri) not in SCHEMES:
        yield Problem(
            "tracking.uri",
            f"got {without_password(tracking.uri)!r}; must name a server or a database. "
            "Use http://host:port, or sqlite:////absolute/path/mlflow.db",
        )
    yield from objective_problems(sections.get("objective", ()))
    yield from constraint_problems(sections.get("constraints", ()))


def _check_search(sections: Mapping[str, Any], facts: DatasetFacts | None) -> Iterator[Problem]:
    """Whether every value the search may draw is one its network and the training loop accept."""
    import models

    search = sections["search"]
    known = models.list_models()
    strangers = [name for name in search["model"].corners() if name not in known] if "model" in search else []
    yield from (_unknown("search.model", str(name), known) for name in strangers)
    # A condition on a network that the user took out of the choice is no fault.
    for name, message in condition_problems(search, {"model": known}):
        yield Problem(f"search.{name}.when", message)
    fixed = sections.get("model")
    if "model" not in search and not fixed and "model" in sections:
        yield Problem("model", "is missing; name a network under model.name, or several under search.model.choices")
    try:
        space = SearchSpace(search)
    except SpaceError:
        return
    if sampler := sections.get("sampler"):
        objectives, constraints = sections.get("objective", ()), sections.get("constraints", ())
        yield from sampler_problems(sampler, search, objectives=len(objectives), constraints=len(constraints))
    for branch in space.branches():
        model = branch.get("model", fixed.name if fixed else None)
        if model is None or model in strangers:
            continue
        if model not in known:
            yield _unknown("model.name", str(model), known)
            continue
        yield from _check_spans(str(model), sections)
        active = [key for key in space.active(branch) if key != "model"]
        yield from _check_branch(str(model), active, search, fixed, facts)


def _check_spans(model: str, sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Only attention with learned spans has spans to report."""
    import models

    asked = [objective.metric for objective in sections.get("objective", ())]
    asked += [parse_constraint(text).metric for text in sections.get("constraints", ()) if is_constraint(text)]
    if SPAN in asked and "span_penalty" not in models.model_options(model):
        where = "objective" if SPAN in asked[: len(sections.get("objective", ()))] else "constraints"
        yield Problem(where, f"asks for {SPAN}, and {model} learns no spans. Leave one of them out")


def _check_branch(
    model: str,
    active: list[str],
    search: Mapping[str, Any],
    fixed: schema.ModelConfig | None,
    facts: DatasetFacts | None,
) -> Iterator[Problem]:
    """The rules for one network: known names, and corner values that it accepts."""
    import models

    options = models.searchable_options(model)
    names: dict[str, str] = {}  # setting to the searched name that sets it
    for name in active:
        setting = setting_of(name)
        if setting in names:
            yield Problem(f"search.{name}", f"sets {setting}, as search.{names[setting]} does. {_EXCLUDE}")
        elif setting in schema.TrainingConfig.model_fields:
            yield from _check_training_domain(name, search[name])
        elif setting not in options:
            yield _unknown_searched(name, model, search)
        names.setdefault(setting, name)
    searched = {setting: search[name].corners() for setting, name in names.items() if setting in options}
    base = {**(fixed.options if fixed else {}), **{setting: corners[0] for setting, corners in searched.items()}}
    for fault in _hopeless(model, base, searched, facts):
        where = f"search.{names[fault.option]}" if fault.option in searched else f"model.options.{fault.option}"
        yield Problem(where, f"got {fault.given!r} for {model}; {fault.rule}. {fault.remedy}".rstrip())


def _hopeless(
    model: str, base: Mapping[str, Any], searched: Mapping[str, tuple[Any, ...]], facts: DatasetFacts | None
) -> Iterator[OptionProblem]:
    """What is wrong with a network at a corner of the search, whatever one other option is there.

    Values that only do not go together are left to the searcher, which rejects such configurations.
    """
    import models

    def faults(values: Mapping[str, Any]) -> list[OptionProblem]:
        return models.check_options(model, values, **_geometry(facts))

    corners: list[dict[str, Any]] = [{name: value} for name, values in searched.items() for value in values]
    for corner in [{}, *corners]:
        found = faults({**base, **corner})
        others = (other for other in corners if not other.keys() & corner.keys())
        if found and all(faults({**base, **other, **corner}) for other in others):
            yield from found


def _check_training_domain(name: str, domain: Any) -> Iterator[Problem]:
    for value in domain.corners():
        try:
            schema.TrainingConfig(**{setting_of(name): value})
        except ValidationError as error:
            for problem in _translate(error, "", schema.TrainingConfig):
                yield Problem(f"search.{name}", problem.message)


def _geometry(facts: DatasetFacts | None) -> dict[str, Any]:
    if facts is None:
        return {}
    return {"image_size": facts.image_size, "in_chans": facts.in_chans, "num_classes": facts.num_classes}


def _unknown(where: str, given: str, known: Any) -> Problem:
    return Problem(where, f"unknown '{given}'. {did_you_mean(given, list(known))}")


def _unknown_searched(name: str, model: str, search: Mapping[str, Any]) -> Problem:
    """A searched name the network does not have: misspelt, or meant for another network of the sweep."""
    import models

    setting = setting_of(name)
    choices = search["model"].corners() if "model" in search else (model,)
    owners = [
        other for other in choices if other in models.list_models() and setting in models.searchable_options(other)
    ]
    if owners:
        wanted = owners[0] if len(owners) == 1 else f"[{', '.join(owners)}]"
        return Problem(f"search.{name}", f"{model} has no such option. Add when: {{model: {wanted}}}")
    known = [*schema.TrainingConfig.model_fields, *models.searchable_options(model)]
    return Problem(
        f"search.{name}", f"neither a training setting nor an option of {model}. {did_you_mean(setting, known)}"
    )


def _translate(error: ValidationError, prefix: str, section: type[BaseModel] | None) -> Iterator[Problem]:
    """Pydantic's faults in our words: where, what was given, the rule, the remedy."""
    for fault in error.errors(include_url=False):
        keys = [str(key) for key in fault["loc"] if str(key) not in _DOMAIN_TAGS]
        where = ".".join([prefix, *keys] if prefix else keys)
        if fault["type"] == "extra_forbidden":
            known = list(section.model_fields) if section else _domain_keys(fault["loc"])
            yield Problem(where, f"unknown setting. {did_you_mean(keys[-1], known)}")
        elif fault["type"] == "missing":
            yield Problem(where, "is missing")
        elif (member := _union_member(fault["loc"])) is not None:
            # One fault for each type a value could have had; the last key names that type.
            if member == len(fault["loc"]) - 1:
                place = ".".join([prefix, *(str(key) for key in fault["loc"][:member] if str(key) not in _DOMAIN_TAGS)])
                yield Problem(place, f"got {fault['input']!r}; must be a number, a text, true or false")
        else:
            rule = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
            given = "" if isinstance(fault["input"], Mapping) else f"got {fault['input']!r}; "
            yield Problem(where, f"{given}{rule[:1].lower()}{rule[1:]}{_nearest_choice(fault)}")


def _nearest_choice(fault: Mapping[str, Any]) -> str:
    """For a misspelt one of several words, the one that was meant."""
    if fault["type"] != "literal_error" or not isinstance(fault["input"], str):
        return ""
    remedy = did_you_mean(fault["input"], re.findall("'([^']*)'", fault["ctx"]["expected"]))
    return f". {remedy}" if remedy.startswith("Did") else ""


def _union_member(location: tuple[Any, ...]) -> int | None:
    """Position of the key with which pydantic names a member of `Scalar` or its like; None where there is none."""
    for index, key in enumerate(location):
        if index and isinstance(key, str) and (key in _SCALAR_TAGS or key.startswith("tuple[")):
            return index
    return None


def _domain_keys(location: tuple[Any, ...]) -> list[str]:
    tag = next((key for key in location if key in _DOMAIN_TAGS), None)
    classes = [member for member in get_args(get_args(Domain)[0]) if hasattr(member, "__metadata__")]
    for member in classes:
        domain = get_args(member)[0]
        if tag is not None and domain.model_fields["type"].default == tag:
            return list(domain.model_fields)
    return ["type", "low", "high", "log", "step", "choices", "value", "when"]


def _section_class(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *get_args(annotation)]
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def _annotated(field: Any) -> Any:
    """The annotation of a field together with its constraints."""
    from typing import Annotated

    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
