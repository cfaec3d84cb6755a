# SPDX-License-Identifier: Apache-2.0
"""The arguments of tools: their schema for clients, and what is made of the values sent.

Models and their hosts send ``"5"`` and ``5.0`` for 5, ``"false"``, ``null`` for an argument that
they leave out. What has one meaning is taken. Anything else is refused in words that a model can
act on, all problems of a call at once.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final, NamedTuple, get_args

# A longer value is shown shortened in an error.
_MAX_SHOWN_CHARACTERS: Final = 40

# A client that sends nonsense may send much of it.
_MAX_SHOWN_PROBLEMS: Final = 8

# Python converts no longer ones, and no argument comes near.
_MAX_DIGITS: Final = 20

#: The largest number of labels of a call, and of characters of the key and the text of each.
MAX_LABELS: Final = 20
_MAX_LABEL_CHARACTERS: Final = 200

_PAIR: Final = re.compile(r"\s*([\w./-]+)\s*=\s*(.*?)\s*")
_WHOLE_NUMBER: Final = re.compile(rf"[+-]?\d{{1,{_MAX_DIGITS}}}(?:\.0*)?", re.ASCII)
_FLAGS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What an argument may be. Annotate the parameter of the tool with it.

    ``alias`` is a second name for clients that cannot pass an argument of the first one.
    """

    description: str
    alias: str = ""

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema, of one plain type: some clients refuse others."""
        raise NotImplementedError

    def parse(self, value: object) -> Any:
        """Return the value that is meant. Raises ``ValueError`` with what it must be."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Text(Kind):
    """A string. A whole number is taken as its digits."""

    max_length: int | None = None

    def schema(self) -> dict[str, Any]:
        """See :meth:`Kind.schema`."""
        length = {} if self.max_length is None else {"maxLength": self.max_length}
        return {"type": "string", **length}

    def parse(self, value: object) -> str:
        """See :meth:`Kind.parse`."""
        if type(value) is int:
            value = str(value) if abs(value) < 10**_MAX_DIGITS else None
        if not isinstance(value, str):
            raise ValueError("must be a text")
        if self.max_length is not None and len(value) > self.max_length:
            raise ValueError(f"must be a text of at most {self.max_length} characters")
        return value


@dataclass(frozen=True, kw_only=True)
class Texts(Kind):
    """A list of strings. One string is taken as the list of its words."""

    max_count: int

    def schema(self) -> dict[str, Any]:
        """See :meth:`Kind.schema`."""
        texts = {"type": "string"}
        return {"type": "array", "items": texts, "minItems": 1, "maxItems": self.max_count}

    def parse(self, value: object) -> list[str]:
        """See :meth:`Kind.parse`."""
        texts = value.split() if isinstance(value, str) else value
        is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        if not is_list or not 1 <= len(texts) <= self.max_count:  # type: ignore[arg-type]
            raise ValueError(f"must be a list of 1 to {self.max_count} texts")
        return texts  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Labels(Kind):
    """An object of strings. One string is taken as its pairs, such as ``team=red,tier=gold``."""

    min_count: int = 0

    def schema(self) -> dict[str, Any]:
        """See :meth:`Kind.schema`."""
        return {"type": "object", "additionalProperties": {"type": "string"}}

    def parse(self, value: object) -> dict[str, str]:
        """See :meth:`Kind.parse`."""
        labels = _pairs(value) if isinstance(value, str) else value
        if not isinstance(labels, dict) or not all(map(_is_label, labels.items())):
            raise ValueError(
                'must be an object of texts, such as {"team": "red"}: each key of 1 to '
                f"{_MAX_LABEL_CHARACTERS} printable characters without =, each text of at most "
                f"{_MAX_LABEL_CHARACTERS}"
            )
        if not self.min_count <= len(labels) <= MAX_LABELS:
            raise ValueError(f"must have {self.min_count} to {MAX_LABELS} labels")
        return {key: str(text) for key, text in labels.items()}


@dataclass(frozen=True, kw_only=True)
class WholeNumber(Kind):
    """An integer from ``low`` to ``high``, 0 for any that is not below ``low``."""

    low: int
    high: int = 0

    def schema(self) -> dict[str, Any]:
        """See :meth:`Kind.schema`."""
        limit = {"maximum": self.high} if self.high else {}
        return {"type": "integer", "minimum": self.low, **limit}

    def parse(self, value: object) -> int:
        """See :meth:`Kind.parse`."""
        number = _whole_number(value)
        if number is not None and number >= self.low and (self.high or number) >= number:
            return number
        limits = f"from {self.low} to {self.high}" if self.high else f"of at least {self.low}"
        raise ValueError(f"must be a whole number {limits}")


@dataclass(frozen=True, kw_only=True)
class Cursor(Text):
    """The cursor of an event, or its number."""

    def parse(self, value: object) -> str:
        """See :meth:`Kind.parse`."""
        number = _whole_number(value)
        return super().parse(value if number is None else number)


@dataclass(frozen=True, kw_only=True)
class Flag(Kind):
    """True or false."""

    def schema(self) -> dict[str, Any]:
        """See :meth:`Kind.schema`."""
        return {"type": "boolean"}

    def parse(self, value: object) -> bool:
        """See :meth:`Kind.parse`."""
        if isinstance(value, int) and value in (0, 1):
            return bool(value)
        text = value.strip().lower() if isinstance(value, str) else ""
        if text not in _FLAGS:
            raise ValueError("must be true or false")
        return _FLAGS[text]


@dataclass(frozen=True, kw_only=True)
class Choice(Kind):
    """One of the values of an enum, in any case."""

    values: type[StrEnum]

    def schema(self) -> dict[str, Any]:
        """See :meth:`Kind.schema`."""
        return {"type": "string", "enum": list(self.values)}

    def parse(self, value: object) -> StrEnum:
        """See :meth:`Kind.parse`."""
        text = value.strip().lower() if isinstance(value, str) else ""
        if text not in list(self.values):
            *others, last = self.values
            raise ValueError(f"must be {', '.join(others)} or {last}")
        return self.values(text)


def _pairs(text: str) -> dict[str, str] | None:
    """Return the pairs of a text such as ``a=1,b=2``, ``None`` for any other text."""
    if not text.strip():
        return {}
    found = [_PAIR.fullmatch(part) for part in text.split(",")]
    pairs = {match[1]: match[2] for match in found if match}
    return pairs if len(pairs) == len(found) else None


def _is_label(label: tuple[object, object]) -> bool:
    """Return whether these may be the key and the text of a label; a whole number is a text."""
    key, text = label
    if type(text) is int and abs(text) < 10**_MAX_DIGITS:
        text = str(text)
    if not isinstance(key, str) or not isinstance(text, str) or not key or "=" in key:
        return False
    return max(len(key), len(text)) <= _MAX_LABEL_CHARACTERS and f"{key}{text}".isprintable()


def _whole_number(value: object) -> int | None:
    """Return the whole number that a value means, if any."""
    if isinstance(value, str):
        text = value.strip()
        return int(text.partition(".")[0]) if _WHOLE_NUMBER.fullmatch(text) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if type(value) is int else None


class _Argument(NamedTuple):
    kind: Kind
    default: object

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Arguments:
    """The arguments of the tool that a function implements.

    They are the parameters that are annotated with a :class:`Kind`, with their defaults.
    """

    tool: str
    known: dict[str, _Argument] = field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[..., object]) -> "Arguments":
        """Return the arguments of a function that implements the tool of its name."""
        known = {}
        for name, parameter in inspect.signature(function).parameters.items():
            for kind in get_args(parameter.annotation)[1:]:
                known[name] = _Argument(kind, parameter.default)
        return cls(function.__name__, known)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the object that holds the arguments."""
        properties: dict[str, dict[str, Any]] = {}
        for name, (kind, default) in self.known.items():
            properties[name] = {**kind.schema(), "description": kind.description}
            if default is not None and default is not inspect.Parameter.empty:
                properties[name]["default"] = default
            if kind.alias:
                reason = f"The same as '{name}', for clients that cannot pass that argument."
                properties[kind.alias] = {**kind.schema(), "description": reason}
        return {
            "type": "object",
            "properties": properties,
            "required": [name for name, argument in self.known.items() if argument.is_required],
            "additionalProperties": False,
        }

    def parse(self, sent: Mapping[str, object]) -> dict[str, Any]:
        """Return the values by parameter, without those that were not given.

        Raises ``ValueError`` with all problems.
        """
        names = {name: name for name in self.known}
        names |= {one.kind.alias: name for name, one in self.known.items() if one.kind.alias}
        values: dict[str, Any] = {}
        unknown = [name for name in sent if name not in names]
        problems = [self._unknown(name, list(names)) for name in unknown[:_MAX_SHOWN_PROBLEMS]]
        for given, name in names.items():
            if sent.get(given) is None:  # Many hosts send null for what they leave out.
                continue
            try:
                value = self.known[name].kind.parse(sent[given])
            except ValueError as error:
                problems.append(f"{given} {error}, not {_shown(sent[given])}")
                value = None
            if values.setdefault(name, value) != value:
                problems.append(f"{name} and {given} differ: give one of them")
        for name, argument in self.known.items():
            if argument.is_required and name not in values:
                problems.append(self._missing(name, argument.kind))
        if problems:
            raise ValueError("; ".join(problems))
        return values

    def _unknown(self, name: str, known: list[str]) -> str:
        [nearest] = get_close_matches(name[:_MAX_SHOWN_CHARACTERS], known, n=1) or [""]
        hint = f"did you mean {nearest}?" if nearest else f"it takes {', '.join(known)}"
        return f"{self.tool} has no argument {_shown(name)}: {hint}"

    def _missing(self, name: str, kind: Kind) -> str:
        alias = f" (or {kind.alias})" if kind.alias else ""
        choices = f": {', '.join(kind.values)}" if isinstance(kind, Choice) else ""
        return f"{name}{alias} is required{choices}"


def _shown(value: object) -> str:
    """Return a value for an error: quoted, escaped, and of bounded length."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**_MAX_DIGITS:
        return f"a number of more than {_MAX_DIGITS} digits"
    text = ascii(value)
    is_short = len(text) <= _MAX_SHOWN_CHARACTERS
    return text if is_short else f"{text[:_MAX_SHOWN_CHARACTERS]}..."
