"""Tools as OpenAI's API describes them, checked before an engine sees them.

Engines meet a schema that isn't one in very different ways: they refuse it, take it for "anything", or fail
later. So what the JSON Schema specification (draft 2020-12) says about the form of the keywords that tools
use is checked here, once for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from ..errors import InvalidInput

_TYPES: Final = ("string", "number", "integer", "boolean", "object", "array", "null")
# OpenAI's rule for names; engines put them into grammars.
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# A schema that is nested deeper is a mistake, or an attack on the recursion.
_DEPTH_MAX: Final = 64


def check_tool(tool: object) -> dict[str, Any]:
    """The tool, if it is one.

    Raises:
        InvalidInput: it has not the form {"type": "function", "function": {"name": …, "parameters": …}}, or
            its parameters are not a JSON schema of an object; the message says where.
    """
    function = _object(_object(tool).get("function"))
    name = function.get("name")
    if (
        _object(tool).get("type") != "function"
        or not isinstance(name, str)
        or not _NAME.fullmatch(name)
    ):
        raise InvalidInput(
            'a tool is {"type": "function", "function": {"name": …, "description": …, '
            f'"parameters": a JSON schema}}}}, not {tool!r}'
        )
    parameters = function.get("parameters")
    if parameters is not None:
        where = f"tool {name!r}: its parameters"
        _check_schema(parameters, where, 0)
        if _object(parameters).get("type", "object") != "object":
            raise InvalidInput(f"{where} are not of type object")
    return dict(_object(tool))


def tool_name(tool: Mapping[str, Any]) -> str:
    return str(tool["function"]["name"])


def _check_schema(schema: object, where: str, depth: int) -> None:
    if isinstance(schema, bool) and depth:
        return
    if not isinstance(schema, Mapping):
        raise InvalidInput(f"{where} are no JSON schema: {schema!r} is no object")
    if depth > _DEPTH_MAX:
        raise InvalidInput(f"{where} are nested deeper than {_DEPTH_MAX}")
    for keyword, value in _object(cast("object", schema)).items():
        check = _KEYWORDS.get(keyword)
        if check is not None:
            check(value, f"{where}, `{keyword}`" if depth or check is not _type else where, depth)


def _type(value: object, where: str, _depth: int) -> None:
    for one in _list(value) or (value,):
        if one not in _TYPES:
            raise InvalidInput(f"{where} are no JSON schema: there is no type {one!r}")


def _names(value: object, where: str, _depth: int) -> None:
    names = _list(value)
    if names is None or not all(isinstance(name, str) for name in names):
        raise InvalidInput(f"{where} is a list of names, not {value!r}")


def _values(value: object, where: str, _depth: int) -> None:
    if not _list(value):
        raise InvalidInput(f"{where} is a list of values, not {value!r}")


def _schema(value: object, where: str, depth: int) -> None:
    _check_schema(value, where, depth + 1)


def _schemas(value: object, where: str, depth: int) -> None:
    schemas = _list(value)
    if schemas is None:
        raise InvalidInput(f"{where} is a list of schemas, not {value!r}")
    for schema in schemas:
        _check_schema(schema, where, depth + 1)


def _named_schemas(value: object, where: str, depth: int) -> None:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{where} are schemas by name, not {value!r}")
    for name, schema in _object(cast("object", value)).items():
        _check_schema(schema, f"{where}, {name!r}", depth + 1)


_KEYWORDS: Final[Mapping[str, Callable[[object, str, int], None]]] = {
    "type": _type,
    "required": _names,
    "enum": _values,
    **dict.fromkeys(("items", "additionalProperties", "not", "contains", "propertyNames"), _schema),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _schemas),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), _named_schemas),
}


def _object(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[object] | None:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return cast("Sequence[object]", value)
    return None
