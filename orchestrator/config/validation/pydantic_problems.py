"""Translation of pydantic's errors into problems."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from orchestrator.config.validation.plain_data import shortened, shown
from orchestrator.errors import Problem, did_you_mean
from search_spaces import Domain

_SCALAR_TAGS = {"bool", "int", "float", "str"}
_MOST_FAULTS = 101  # one more than is reported, so that a caller sees that there are more
_FLAGS = {
    **dict.fromkeys(("yes", "on", "y", "1", "true"), "true"),
    **dict.fromkeys(("no", "off", "n", "0", "false"), "false"),
}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_MAIN_SETTINGS = ("name", "metric", "uri")
"""First settings of sections of which a user may write that one alone, as in `dataset: digits`."""
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
            given = "" if isinstance(fault["input"], Mapping) else f"got {shown(fault['input'])}; "
            yield Problem(where, f"{given}{_rule(fault, section)}{_nearest_choice(fault)}{_remedy(fault)}")


def _rule(fault: Mapping[str, Any], section: type[BaseModel] | None) -> str:
    """Return the rule of a fault in the words of a sweep file, where pydantic's are those of Python."""
    given, kind = fault["input"], fault["type"]
    if kind in ("tuple_type", "list_type"):
        example = f". Write [{given}]" if isinstance(given, str | int | float) else ""
        return f"must be a list{example}"
    if kind == "model_type" and section is not None:
        first = next(iter(section.model_fields))
        if isinstance(given, str) and first in _MAIN_SETTINGS:
            return f"must be a group of settings. Write {{{first}: {shortened(given)}}}"
        return f"must be a group of settings. {did_you_mean('', list(section.model_fields))}"
    if kind == "dict_type":
        return "must be a group of settings, such as {name: value}"
    if kind == "domain_type" and isinstance(given, Mapping) and isinstance(given.get("type"), str):
        return f"type is {shown(given['type'])}; {fault['msg']}"
    rule = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{rule[:1].lower()}{rule[1:]}"


def _nearest_choice(fault: Mapping[str, Any]) -> str:
    """Return the nearest of the allowed words for a misspelt one; empty where none is near."""
    if fault["type"] != "literal_error" or not isinstance(fault["input"], str):
        return ""
    remedy = did_you_mean(fault["input"], re.findall("'([^']*)'", fault["ctx"]["expected"]))
    return f". {remedy}" if remedy.startswith("Did") else ""


def _remedy(fault: Mapping[str, Any]) -> str:
    """Return the remedy for a value that YAML reads as another type than is meant; empty otherwise."""
    given, kind = fault["input"], fault["type"]
    if kind == "string_type" and isinstance(given, bool | int | float):
        return ". Write it in quotes"
    if kind == "bool_type" and str(given).lower() in _FLAGS:
        return f". Write {_FLAGS[str(given).lower()]}{' without quotes' if given in ('true', 'false') else ''}"
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        return f". Write {int(given)}"
    if kind in ("int_type", "float_type") and isinstance(given, str) and _NUMBER.fullmatch(given):
        return ". Write it without quotes"
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
