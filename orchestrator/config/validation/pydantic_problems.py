"""Translation of pydantic's errors into problems."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from orchestrator.config.validation.plain_data import shown
from orchestrator.errors import Problem, did_you_mean
from search_spaces import Domain

_SCALAR_TAGS = {"bool", "int", "float", "str"}
_MOST_FAULTS = 101  # one more than is reported, so that a caller sees that there are more
_FLAGS = {**dict.fromkeys(("yes", "on", "y", "1"), "true"), **dict.fromkeys(("no", "off", "n", "0"), "false")}
_DOMAIN_TAGS = {"float", "int", "choice", "constant"}


def translate(error: ValidationError, prefix: str, section: type[BaseModel] | None) -> Iterator[Problem]:
    """Translate the errors of pydantic: place, given value, rule, remedy."""
    for fault in error.errors(include_url=False)[:_MOST_FAULTS]:
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
                yield Problem(place, f"got {shown(fault['input'])}; must be a number, a text, true or false")
        else:
            rule = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
            given = "" if isinstance(fault["input"], Mapping) else f"got {shown(fault['input'])}; "
            yield Problem(where, f"{given}{rule[:1].lower()}{rule[1:]}{_nearest_choice(fault)}{_remedy(fault)}")


def _nearest_choice(fault: Mapping[str, Any]) -> str:
    """Return the nearest of the allowed words for a misspelt one; empty where none is near."""
    if fault["type"] != "literal_error" or not isinstance(fault["input"], str):
        return ""
    remedy = did_you_mean(fault["input"], re.findall("'([^']*)'", fault["ctx"]["expected"]))
    return f". {remedy}" if remedy.startswith("Did") else ""


def _remedy(fault: Mapping[str, Any]) -> str:
    """Return the remedy for text without quotes that YAML reads as a number or a flag; empty otherwise."""
    if fault["type"] == "string_type" and isinstance(fault["input"], bool | int | float):
        return ". Write it in quotes"
    if fault["type"] == "bool_type" and str(fault["input"]).lower() in _FLAGS:
        return f". Write {_FLAGS[str(fault['input']).lower()]}"
    return ""


def _union_member(location: tuple[Any, ...]) -> int | None:
    """Return the position of the key with which pydantic names a member of a union such as `Scalar`, or None."""
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


def unknown(where: str, given: str, known: Any) -> Problem:
    """Return the problem of an unknown name, with the nearest known one."""
    return Problem(where, f"unknown {shown(given)}. {did_you_mean(given, list(known))}")
