"""Check that the network and the training loop accept every value that a search may draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.config.fixed_settings import CHECKPOINT, fixed_settings
from orchestrator.config.searched_values import Setting
from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.sections.first_trials import first_problems
from orchestrator.config.sections.model import ModelConfig
from orchestrator.config.sections.objective import SPAN, is_constraint, parse_constraint
from orchestrator.config.sections.section import Seed
from orchestrator.config.sections.training import WHOLE_OR_DIVIDED, TrainingConfig
from orchestrator.config.tasks.networks import option_problems, searchable_options
from orchestrator.config.tasks.registry import DEFAULT_TASK, list_tasks, task_facts
from orchestrator.config.trial import ROW, SEED
from orchestrator.config.validation.plain_data import shown
from orchestrator.config.validation.pydantic_problems import translate
from orchestrator.config.validation.sampler_rules import sampler_problems
from orchestrator.errors import Problem, did_you_mean
from search_spaces import SearchSpace, setting_of
from search_spaces.domains import as_tuple
from search_spaces.space import SpaceError, condition_problems

if TYPE_CHECKING:
    from models import OptionProblem
    from orchestrator.data import DatasetFacts

_MOST_DECIDING = 200
_MOST_BRANCHES = 2_000
_MOST_REJECTED = 20
_RECOMPUTATION = "gradient_checkpointing"
_SEED: TypeAdapter[int] = TypeAdapter(Seed)
_EXCLUDE = "Give them conditions (when) that exclude each other"


def search_problems(sections: Mapping[str, Any], facts: DatasetFacts | None) -> Iterator[Problem]:
    """Yield the values that a search may draw and that the network or the training loop rejects.

    Args:
        sections: Valid sections of the sweep by name.
        facts: Facts about its dataset; None where they are unknown.
    """
    import models

    search = sections["search"]
    unknown_names = [name for name in search["model"].corners() if not _is_network(name)] if "model" in search else []
    yield from (_unknown_network("search.model", name) for name in unknown_names if not _is_unread(name))
    # A condition on a network that the user removed from the choice is valid.
    elsewhere = [*models.list_models(), *filter(_is_network, _networks_of_conditions(search))]
    for name, message in condition_problems(search, {"model": elsewhere}):
        yield Problem(f"search.{name}.when", message)
    fixed, task = sections.get("model"), sections.get("task", DEFAULT_TASK)
    if "model" not in search and not fixed and "model" in sections:
        yield Problem("model", "is missing; name a network under model.name, or several under search.model.choices")
    try:
        space = SearchSpace(search)
    except SpaceError:
        return
    if (too_many := _too_many_branches(space)) is not None:
        yield too_many
        return
    written = fixed_settings(sections.get("training"), fixed)
    yield from first_problems(sections.get("try_first", ()), space, written)
    if sampler := sections.get("sampler"):
        objectives, constraints = sections.get("objective", ()), sections.get("constraints", ())
        yield from sampler_problems(sampler, search, objectives=len(objectives), constraints=len(constraints))
    for model, active in _different_branches(space, fixed.name if fixed else None):
        if model in unknown_names or _is_unread(model):
            continue
        if not _is_network(model):
            yield _unknown_network("model.name", model)
            continue
        yield from _check_spans(model, sections)
        yield from _check_division(model, sections)
        yield from _check_crop(model, sections.get("training"), facts)
        yield from _check_ratio(model, task, sections.get("dataset"))
        yield from _check_recomputation(model, active, sections, facts)
        yield from _check_branch(model, active, search, fixed, facts, task=task)


def _is_network(name: Any) -> bool:
    """Return whether a value is the name of a network: of this package, of timm, or of a file that was read."""
    import models

    return isinstance(name, str) and models.name_problem(name) is None


def _is_unread(name: Any) -> bool:
    """Return whether a value names a file that was not read, which is reported, or withheld, elsewhere."""
    import models

    return isinstance(name, str) and models.split_reference(name) is not None and models.network_file(name) is None


def _unknown_network(where: str, name: Any) -> Problem:
    import models

    fault = models.name_problem(str(name))
    if fault is None:
        return Problem(where, f"got {shown(name)}; the name of a network is a text. Write it in quotes")
    if models.split_reference(str(name)) is None:
        return Problem(where, f"unknown {shown(name)}. {fault.remedy}")
    return Problem(where, f"got {shown(name)}; {fault.rule}. {fault.remedy}")


def _networks_of_conditions(search: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the names of networks that conditions use, each once."""
    names = (value for domain in search.values() for value in as_tuple(domain.when.get("model", ())))
    yield from dict.fromkeys(names)


def _too_many_branches(space: SearchSpace) -> Problem | None:
    """Return the problem of a space with too many combinations of conditions to check one by one, or None."""
    parents = {parent for domain in space.values() for parent in domain.when}
    if len(parents) > _MOST_DECIDING:
        return Problem("search", f"conditions (when) use {len(parents)} names; use at most {_MOST_DECIDING}")
    if sum(1 for _ in islice(space.branches(), _MOST_BRANCHES + 1)) > _MOST_BRANCHES:
        message = f"the names that conditions (when) use make more than {_MOST_BRANCHES:,} combinations"
        return Problem("search", f"{message}. Use fewer names, or split the sweep")
    return None


def _different_branches(space: SearchSpace, fixed: str | None) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield network and active names of every branch, each pair once."""
    seen = set()
    for branch in space.branches():
        model = branch.get("model", fixed)
        pair = (str(model), tuple(key for key in space.active(branch) if key != "model"))
        if model is not None and pair not in seen:
            seen.add(pair)
            yield pair


def _check_spans(model: str, sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that the network learns spans where an objective or a constraint uses them."""
    import models

    asked = [objective.metric for objective in sections.get("objective", ())]
    asked += [parse_constraint(text).metric for text in sections.get("constraints", ()) if is_constraint(text)]
    if SPAN in asked and "span_penalty" not in models.model_options(model):
        where = "objective" if SPAN in asked[: len(sections.get("objective", ()))] else "constraints"
        yield Problem(where, f"asks for {SPAN}, and {model} learns no spans. Leave one of them out")


def _check_division(model: str, sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that the optimiser takes the network, whose spans stay whole where other parameters are divided."""
    import models

    training, search = sections.get("training"), sections["search"]
    if training is None or "fsdp" not in Setting.of("parallel", training, search).values:
        return
    given = [name for name in Setting.of("optimizer", training, search).values if name in WHOLE_OR_DIVIDED]
    if given and "span_penalty" in models.model_options(model):
        where, rule = Setting.of("parallel", training, search).where, f"got fsdp with optimizer: {given[0]}"
        remedy = "whose spans are not divided. Use another optimizer, or ddp"
        yield Problem(where, f"{rule}, which takes divided parameters alone, and {model}, {remedy}")


def _check_crop(model: str, training: TrainingConfig | None, facts: DatasetFacts | None) -> Iterator[Problem]:
    """Check that the network takes a crop of training images smaller than those it is evaluated on."""
    crop = training.crop_px if training else None
    if crop is not None and facts is not None and (message := crop_fault(model, crop, facts.image_size)):
        yield Problem("training.crop_px", message)


def crop_fault(model: str, crop_px: int, image_size: int) -> str | None:
    """Return why a network cannot train on crops; None where it can.

    Args:
        model: Registered name of the network.
        crop_px: Side of the crops, in pixels.
        image_size: Side of the images, in pixels.
    """
    import models

    if crop_px == image_size or "img_size" not in models.model_options(model):
        return None
    return f"got {crop_px}; {model} is built for one size of images, {image_size} px here. Leave it out"


def _check_ratio(model: str, task: str, dataset: DatasetConfig | None) -> Iterator[Problem]:
    """Check that images are squares where the task resizes them so for networks that are built for one size."""
    from models.backbones.head_options import only_side

    takes_squares = task in list_tasks() and "square" in task_facts(task).resize
    if dataset is not None and takes_squares and dataset.resize != "square" and only_side(model, 1) is not None:
        rule = f"{model} is built for images of one size"
        yield Problem("dataset.resize", f"got {dataset.resize}; {rule}. Use dataset.resize: square")


def _check_recomputation(
    model: str, active: tuple[str, ...], sections: Mapping[str, Any], facts: DatasetFacts | None
) -> Iterator[Problem]:
    """Check that the network supports gradient checkpointing where its trials may use it."""
    import models

    training, search, fixed = sections.get("training"), sections["search"], sections.get("model")
    searched = [name for name in active if setting_of(name) == _RECOMPUTATION]
    values = [value for name in searched for value in search[name].corners()]
    if not searched and training:
        values = [training.gradient_checkpointing]
    shape = _geometry(facts) or {"image_size": None, "in_chans": 3, "num_classes": 10}
    if True in values and not models.supports_recomputation(model, fixed.options if fixed else {}, **shape):
        where = f"search.{searched[0]}" if searched else f"training.{_RECOMPUTATION}"
        yield Problem(
            where,
            f"got True; {model} does not support it. Leave it out, or save memory with training.accumulation_steps",
        )


def _check_branch(
    model: str,
    active: tuple[str, ...],
    search: Mapping[str, Any],
    fixed: ModelConfig | None,
    facts: DatasetFacts | None,
    *,
    task: str,
) -> Iterator[Problem]:
    """Check one network: known names, and corner values that it accepts."""
    import models

    options, takes_any = searchable_options(task, model), models.takes_any_option(model)
    names: dict[str, str] = {}  # setting to the searched name that sets it
    for name in active:
        setting = setting_of(name)
        if setting in names:
            yield Problem(f"search.{name}", f"sets {setting}, as search.{names[setting]} does. {_EXCLUDE}")
        elif setting in TrainingConfig.model_fields:
            yield from _check_training_domain(name, search[name])
        elif setting == CHECKPOINT:
            yield from _check_checkpoints(name, search[name])
        elif setting == SEED:
            yield from _check_seeds(name, search[name])
        elif setting not in options and setting != ROW and not takes_any:
            yield _unknown_searched(name, model, search, task)
        names.setdefault(setting, name)
    others = {*TrainingConfig.model_fields, CHECKPOINT, SEED, ROW}
    searched = {
        setting: tuple(value for value in search[name].corners() if _keeps_active(name, value, active, search))
        for setting, name in names.items()
        if setting in options or (takes_any and setting not in others)
    }
    base = {**(fixed.options if fixed else {}), **{setting: corners[0] for setting, corners in searched.items()}}
    for fault in islice(_always_rejected(model, base, searched, facts, task), _MOST_REJECTED):
        if fault.option == "name" and fault.given == model:
            where = "search.model" if "model" in search else "model.name"
            yield Problem(where, f"got {shown(model)}; {fault.rule}. {fault.remedy}")
            continue
        where = f"search.{names[fault.option]}" if fault.option in searched else f"model.options.{fault.option}"
        given = "is missing" if fault.given is None else f"got {shown(fault.given)}"
        yield Problem(where, f"{given} for {model}; {fault.rule}. {fault.remedy}".rstrip())


def _keeps_active(parent: str, value: Any, active: tuple[str, ...], search: Mapping[str, Any]) -> bool:
    """Return whether the active names of a branch are so with a value of one of them."""
    conditions = (search[name].when[parent] for name in active if parent in search[name].when)
    return all(value in as_tuple(wanted) for wanted in conditions)


def _always_rejected(
    model: str,
    base: Mapping[str, Any],
    searched: Mapping[str, tuple[Any, ...]],
    facts: DatasetFacts | None,
    task: str,
) -> Iterator[OptionProblem]:
    """Yield the problems of option values that the network rejects with every value of any one other option.

    Values that are only incompatible with some others are left to the searcher, which rejects such configurations.
    """
    import models

    def faults(values: Mapping[str, Any]) -> list[OptionProblem]:
        return option_problems(task, model, values, **_geometry(facts))

    corners: list[dict[str, Any]] = [{name: value} for name, values in searched.items() for value in values]
    for corner in [{}, *corners]:
        found = faults({**base, **corner})
        others = (other for other in corners if not other.keys() & corner.keys())
        if found and all(faults({**base, **other, **corner}) for other in others):
            yield from found
            if not corner and model not in models.list_models():
                return  # it is built for each check, and would fail again with every value


def _check_training_domain(name: str, domain: Any) -> Iterator[Problem]:
    for value in domain.corners():
        try:
            TrainingConfig(**{setting_of(name): value})
        except ValidationError as error:
            for problem in translate(error, "", TrainingConfig):
                yield Problem(f"search.{name}", problem.message)


def _check_checkpoints(name: str, domain: Any) -> Iterator[Problem]:
    """Check the type of searched checkpoints; the files are read when the sweep starts."""
    wrong = [value for value in domain.corners() if not isinstance(value, str) or not value]
    if wrong:
        rule = "a checkpoint is a file, runs:/<id> or timm:TAG, and random stands for random weights"
        yield Problem(f"search.{name}", f"got {shown(wrong[0])}; {rule}. Use choices such as [random, weights.pth]")


def _check_seeds(name: str, domain: Any) -> Iterator[Problem]:
    for value in domain.corners():
        try:
            _SEED.validate_python(value, strict=True)
        except ValidationError:
            yield Problem(f"search.{name}", f"got {shown(value)}; a seed is a whole number from 0 to 2^32 - 1. Use 0")


def _geometry(facts: DatasetFacts | None) -> dict[str, Any]:
    if facts is None:
        return {}
    return {"image_size": facts.image_size, "in_chans": facts.in_chans, "num_classes": facts.num_classes}


def _unknown_searched(name: str, model: str, search: Mapping[str, Any], task: str) -> Problem:
    """Return the problem of a searched name that the network lacks: misspelt, or an option of another network."""
    setting = setting_of(name)
    choices = search["model"].corners() if "model" in search else (model,)
    owners = [other for other in choices if _is_network(other) and setting in searchable_options(task, other)]
    if owners:
        wanted = owners[0] if len(owners) == 1 else f"[{', '.join(owners)}]"
        return Problem(f"search.{name}", f"{model} has no such option. Add when: {{model: {wanted}}}")
    known = [*TrainingConfig.model_fields, CHECKPOINT, *searchable_options(task, model)]
    return Problem(
        f"search.{name}", f"neither a training setting nor an option of {model}. {did_you_mean(setting, known)}"
    )
