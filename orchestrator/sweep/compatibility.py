"""Compatibility of a sweep with its earlier sessions: settings that decide the results must not have changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from orchestrator.config import SweepConfig, load_sweep
from orchestrator.config.flat_names import flat_names
from orchestrator.config.network_files import Finder, network_files_from
from orchestrator.config.plans import SweepPlans
from orchestrator.config.sections.study import TrialSchedulerConfig
from orchestrator.config.tasks.networks import facts_of_images
from orchestrator.config.tasks.registry import DEFAULT_TASK
from orchestrator.config.validation.sampler_rules import WITH_STARTUP
from orchestrator.config.validation.training_rules import unused_accepted
from orchestrator.data import current_hash, open_any_dataset
from orchestrator.errors import ConfigError, Problem, ResumeError
from orchestrator.records.folder.known_servers import note_server
from orchestrator.records.folder.network_copies import hashes_as_identity, recorded_files
from orchestrator.records.folder.recorded_addresses import moved_config, recorded_address, require_confirmed
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.history import History, read_begun
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.provenance import code_fingerprint
from orchestrator.search.samplers.choice import FIRST_RULES

# Settings that may change between sessions: they decide how much is searched, where, and where it is recorded.
_FREE = (
    "name",
    "trials",
    "seeds",
    "tournament",
    "budget",
    "resources",
    "tracking",
    "notify",
    "storage",
    "keep",
    "runs_dir",
    "recipe",
    "sampler",
    "trial_scheduler",
)
_DATASET = "dataset content"
_SPACE = "search space"
_ALLOW = "--allow-changed resumes all the same"
_PROMOTION, _STOPPING = "asha", "asha_stopping"
_CHOSEN = ("name", "rules")  # settings that a strategy decides


def identity(config: SweepConfig, located: str) -> dict[str, Any]:
    """Return all that decides the results of a sweep, as a flat mapping.

    Args:
        config: Configuration of the sweep.
        located: Dataset as `locate_dataset` returns it.
    """
    content = config.model_dump(mode="json", exclude=set(_FREE))
    content["dataset"] = {
        key: value for key, value in content["dataset"].items() if key not in ("uri", "decode_processes")
    }
    facts = {_SPACE: config.space.fingerprint, _DATASET: content_hash(located)}
    facts |= hashes_as_identity(config.network_files.hashes)
    return {**dict(flat_names(content)), **facts, "code": code_fingerprint()}


def identity_of_search(before: Mapping[str, Any], config: SweepConfig) -> dict[str, Any]:
    """Return the identity of a sweep after its search space was changed while it ran.

    Args:
        before: Identity until now.
        config: Changed configuration.
    """
    content = config.model_dump(mode="json", include={"search", "try_first"})
    kept = {name: value for name, value in before.items() if name.partition(".")[0] not in content}
    return {**kept, **dict(flat_names(content)), _SPACE: config.space.fingerprint}


def content_hash(located: str) -> str:
    """Return a hash of all images and labels of a dataset.

    Args:
        located: Dataset as `locate_dataset` returns it.
    """
    return open_any_dataset(located).content_hash


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], *, name: str) -> None:
    """Check that a sweep is resumed with the identity of its last session.

    Args:
        before: Identity in the last session.
        now: Identity in this session.
        name: Name of the sweep.

    Raises:
        ResumeError: The two differ; the text lists every difference.
    """
    absent = "nothing"
    before, now = ({"task": DEFAULT_TASK, **each} for each in (before, now))  # earlier versions name none
    if recorded := before.get(_DATASET):
        before = {**before, _DATASET: current_hash(recorded)}
    changed = [key for key in sorted({*before, *now}) if before.get(key, absent) != now.get(key, absent)]
    lines = [f"  {key}: was {before.get(key, absent)}, is {now.get(key, absent)}" for key in changed]
    if lines:
        listing = "\n".join(lines)
        raise ResumeError(f"sweep '{name}' was begun with other settings:\n{listing}\nRestore them, or {_ALLOW}")


def with_former_scheduler(plans: SweepPlans, ledger: Ledger) -> SweepPlans:
    """Return the plans of a sweep, with `asha_stopping` for `asha` where trials of the sweep were stopped for good.

    Args:
        plans: Plans of the sweep.
        ledger: Ledger of the sweep, with the events of earlier sessions.
    """
    scheduler = plans.search.trial_scheduler
    if scheduler.name != _PROMOTION or all(trial.status is not TrialStatus.PRUNED for trial in ledger.trials()):
        return plans
    return replace(plans, search=replace(plans.search, trial_scheduler=_stopping(scheduler)))


def _stopping(scheduler: TrialSchedulerConfig) -> TrialSchedulerConfig:
    return scheduler.model_copy(update={"name": _STOPPING})


def _with_former_names(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return recorded settings in today's names.

    `asha` stopped trials for good before trials could pause, and `auto` chose by the first rules before it had others.
    """
    scheduler, keep = content.get("trial_scheduler") or {}, content.get("keep") or {}
    content = {**content, "sampler": {"rules": FIRST_RULES, **(content.get("sampler") or {})}}
    if scheduler.get("name") != _PROMOTION or "paused" in keep:
        return content
    return {**content, "trial_scheduler": {**scheduler, "name": _STOPPING}}


def _had_pillow_alone(content: Mapping[str, Any], config: SweepConfig) -> bool:
    """Return whether recorded settings are from before training images of files had a choice of decoders."""
    if config.task != DEFAULT_TASK or "decoder" in (content.get("dataset") or {"decoder": ""}):
        return False
    return facts_of_images(config.dataset, config.task).files


@unused_accepted()
def steered_again(config: SweepConfig, history: History) -> tuple[SweepConfig, str]:
    """Return the configuration of a sweep file with the settings that were changed while the sweep ran.

    A setting is replaced where the file has it as it was before such a change: the file was not edited since.

    Args:
        config: Configuration of the sweep file.
        history: State of the sweep that it resumes.

    Returns:
        The configuration, and a line for the user; empty where nothing is replaced.
    """
    content, now = config.model_dump(mode="json"), history.config
    replaced = [
        key
        for key in ("search", "trials", "budget")
        if content[key] != now.get(key) and any(content[key] == before.get(key) for before in history.superseded)
    ]
    if not replaced:
        return config, ""
    kept = [*replaced, *(["try_first"] if "search" in replaced else [])]
    with network_files_from(_sent_files(config)):
        steered = load_sweep({**content, **{key: now[key] for key in kept}}, label=f"sweep '{config.name}'")
    names = sorted(name for name in history.changed if name.partition(".")[0] in replaced)
    return steered, f"Kept as changed while the sweep ran, in place of what the sweep file has: {', '.join(names)}"


@unused_accepted()
def chosen_before(config: SweepConfig, history: History) -> tuple[SweepConfig, str]:
    """Return a configuration with the sampler and the trial scheduler that its sweep has used, where it names none.

    Where the sampler is chosen again, since it depends on the number of trials, the rules of the sweep apply; they
    also say how the first trials are drawn.

    Args:
        config: Configuration of this session.
        history: State of the sweep that it resumes.

    Returns:
        The configuration, and a line for the user; empty where nothing that was written is replaced.
    """
    before, now = _with_former_names(history.config), config.model_dump(mode="json")
    used = {
        section: {key: recorded[key] for key in _CHOSEN if key in recorded}
        for section in config.strategy_use.chosen
        if (recorded := before.get(section) or {}).get("name")
    }
    if config.sampler.name in WITH_STARTUP:
        used.setdefault("sampler", {"rules": before["sampler"]["rules"]})
    changed = {section: {**now[section], **names} for section, names in used.items()}
    if all(now[section] == wanted for section, wanted in changed.items()):
        return config, ""
    with network_files_from(_sent_files(config)):
        former = load_sweep({**now, **changed}, label=f"sweep '{config.name}'")
    given, kept = config.sampler.rules, former.sampler.rules
    if given == kept or "rules" not in config.sampler.model_fields_set:
        return former, ""
    return former, f"Kept as the sweep was begun: sampler.rules {kept}, in place of {given}"


def _sent_files(config: SweepConfig) -> Finder:
    """Return the finder of the files of networks that a configuration has read."""
    return {source.name: source for source in config.network_files.sources}.get


@unused_accepted()
def stored_config(
    folder: SweepFolder,
    overrides: Sequence[str] = (),
    *,
    values: Mapping[str, Any] = MappingProxyType({}),
    contacted: Sequence[str] = ("tracking", "storage"),
    allow_code: bool = False,
) -> SweepConfig:
    """Return the configuration of a sweep's last session, for the place where its folder is now.

    Files of networks are those that the session recorded; one that the user has not run before is withheld.

    Args:
        folder: Folder of the sweep.
        overrides: Assignments to lay over it, as for `load_sweep`.
        values: Values of settings to lay over it.
        contacted: Sections whose address will be used; one that only the journal names must be a known server.
        allow_code: Run files of networks that the user has not run before.

    Raises:
        JournalError: A line of the journal is damaged.
        ConfigError: A setting is wrong, a stored address lacks the password that is never stored, or the user has
            never named it.
    """
    runs_dir = folder.path.parent
    history = read_begun(folder.journal)
    content = _with_former_names(moved_config(history.config, runs_dir))
    with network_files_from(recorded_files(folder, history, allow_code=allow_code)):
        label = f"sweep '{folder.name}'"
        config = load_sweep(content, overrides, values=values, label=label)
        if _had_pillow_alone(content, config):
            content = {**content, "dataset": {**content["dataset"], "decoder": "pillow"}}
            config = load_sweep(content, overrides, values=values, label=label)
        named = {section: _named(content, overrides, values, section) for section in contacted}
    uris = {"tracking": config.tracking.uri, "storage": config.storage.uri, "dataset": config.dataset.uri}
    secret = [section for section, uri in uris.items() if uri and "***" in uri]
    if secret:
        raise ConfigError(
            [
                Problem(f"{section}.uri", f"its password is not stored. Give the address: --set {section}.uri=...")
                for section in secret
            ],
            f"sweep '{folder.name}'",
        )
    for section in contacted:
        if uri := named[section]:
            note_server(uri)
        else:
            uri = getattr(config, section).uri or recorded_address(section, {}, runs_dir)
            require_confirmed(uri, runs_dir, section=section, sweep=folder.name)
    return config


def _named(content: Mapping[str, Any], overrides: Sequence[str], values: Mapping[str, Any], section: str) -> str | None:
    """Return the address that the overrides name; None where they name none."""
    if not overrides and not values:
        return None
    without = {**content, section: {**(content.get(section) or {}), "uri": None}}
    uri: str | None = getattr(load_sweep(without, overrides, values=values), section).uri
    return uri
