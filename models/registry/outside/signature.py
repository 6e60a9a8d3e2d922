"""Options of a network, read from the signature of its class or of its factory."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from models.common.options import ModelOption, ModelOptionError, OptionProblem, OptionValue, nearest_name

__all__ = ["Signature", "SignatureOption", "signature_of"]

_PLAIN = (bool, int, float, str, tuple)
_WORDS = {bool: "true or false", int: "an int", float: "a number", str: "a text", tuple: "a sequence such as [2, 2]"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignatureOption(ModelOption):
    """Keyword of a signature.

    Args:
        kinds: Plain types it takes: `bool`, `int`, `float`, `str`, `tuple`; empty where the signature does not tell.
        required: True for a keyword without a default.
    """

    type: type = object
    default: OptionValue = ""
    description: str = ""
    kinds: tuple[Any, ...] = ()
    required: bool = False

    @property
    def rule(self) -> str:
        """Allowed values as a clause."""
        if self.choices:
            return "one of " + ", ".join(map(repr, self.choices))
        return " or ".join(_WORDS[kind] for kind in self.kinds if kind is not int or float not in self.kinds)

    def problem(self, given: object) -> OptionProblem | None:
        """Return the problem with `given`, or None."""
        if self._allows(self._plain(given)):
            return None
        if self.choices and isinstance(given, str):
            near = nearest_name(given, self.choices)
            return OptionProblem(self.name, given, f"{self.name} is {self.rule}", f"Use {near or self.choices[0]!r}.")
        return OptionProblem(self.name, given, f"{self.name} is {self.rule}", "Leave it out for its default.")

    def normalise(self, given: object) -> OptionValue:
        """Return `given` as the network takes it: a list, or numbers in a text such as `2, 2`, as a tuple.

        Raises:
            ModelOptionError: The option does not take this value.
        """
        if problem := self.problem(given):
            raise ModelOptionError([problem])
        plain: Any = self._plain(given)
        return float(plain) if type(plain) is int and float in self.kinds and int not in self.kinds else plain

    def _plain(self, given: object) -> object:
        if isinstance(given, str) and tuple in self.kinds and str not in self.kinds:
            return _numbers(given)
        return tuple(given) if isinstance(given, list) else given

    def _allows(self, given: object) -> bool:
        if not self.kinds:
            return True
        if self.choices:
            return given in self.choices
        kinds: set[Any] = {*self.kinds, *((int,) if float in self.kinds else ())}
        return type(given) in kinds


@dataclasses.dataclass(frozen=True)
class Signature:
    """Keywords of a network.

    Args:
        options: Keywords by name, in the order of the signature.
        is_open: True where it takes any further keyword (`**kwargs`), of which nothing is known.
        positional: Names that can only be given by position.
    """

    options: Mapping[str, SignatureOption]
    is_open: bool = False
    positional: tuple[str, ...] = ()


def signature_of(called: Callable[..., Any]) -> Signature:
    """Read the keywords of a class or a function.

    `**kwargs` of a class stand for the keywords of the classes it inherits from, and for the fields of a dataclass that
    it takes as an argument `cfg`, as classes of timm do.

    Args:
        called: Class or function.
    """
    options: dict[str, SignatureOption] = {}
    positional: list[str] = []
    is_open = has_fields = False
    for function in _constructors(called) if isinstance(called, type) else (called,):
        hints, is_open = _hints(function), False
        for parameter in _parameters(function):
            annotation = hints.get(parameter.name, parameter.annotation)
            if parameter.kind is parameter.VAR_KEYWORD:
                is_open = True
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(parameter.name)
            elif parameter.kind is not parameter.VAR_POSITIONAL and parameter.name not in options:
                if parameter.name == "cfg" and dataclasses.is_dataclass(annotation):
                    has_fields = True
                    options |= {
                        field.name: SignatureOption(name=field.name) for field in dataclasses.fields(annotation)
                    }
                options[parameter.name] = _option(parameter, annotation)
        if not is_open:
            break
    return Signature(options, is_open and not has_fields, tuple(positional))


def _constructors(called: type) -> Iterator[Callable[..., Any]]:
    """Yield the constructors of a class and of those it inherits from, up to torch's own classes."""
    for each in called.__mro__:
        if each.__module__.startswith("torch.nn"):
            return
        if "__init__" in vars(each):
            yield vars(each)["__init__"]


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # of compiled code
        return [inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)]
    return parameters[1:] if getattr(function, "__name__", "") == "__init__" else parameters


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation may name anything, also what is not imported
        return {}


def _option(parameter: inspect.Parameter, annotation: Any) -> SignatureOption:
    required = parameter.default is parameter.empty
    choices: tuple[str, ...] = ()
    if annotation is parameter.empty or isinstance(annotation, str):
        kinds = _kinds_of_default(parameter.default)
    else:
        kinds, choices = _kinds(annotation)
    default: Any = parameter.default if isinstance(parameter.default, _PLAIN) else ""
    return SignatureOption(name=parameter.name, kinds=kinds, choices=choices, required=required, default=default)


def _kinds_of_default(default: object) -> tuple[type, ...]:
    """Return the types of a keyword without annotation: those of its default, where any number is a number."""
    if isinstance(default, list):
        return (tuple,)
    if isinstance(default, int | float) and not isinstance(default, bool):
        return (int, float)
    return tuple(kind for kind in _PLAIN if isinstance(default, kind))[:1]


def _kinds(annotation: Any) -> tuple[tuple[type, ...], tuple[str, ...]]:
    """Return the plain types that an annotation allows, and the texts of a `Literal`; both empty where unknown."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        texts = typing.get_args(annotation)
        return ((str,), texts) if all(isinstance(text, str) for text in texts) else ((), ())
    if origin in (typing.Union, types.UnionType):
        members = [_kinds(member)[0] for member in typing.get_args(annotation)]
        return tuple(dict.fromkeys(kind for kinds in members for kind in kinds)), ()
    plain = origin or annotation
    if plain in _PLAIN:
        return (plain,), ()
    return ((tuple,), ()) if isinstance(plain, type) and issubclass(plain, Sequence) else ((), ())


def _numbers(text: str) -> object:
    """Return the numbers of a text such as `2, 2` or `[2, 2]` as a tuple; the text where it holds anything else."""
    parts = text.strip().removeprefix("[").removesuffix("]").split(",")
    try:
        return tuple(float(part) if set(part) & set(".eE") else int(part) for part in parts)
    except ValueError:
        return text
