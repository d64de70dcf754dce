"""Tools as OpenAI's API describes them, checked before an engine sees them.

Engines meet a schema that isn't one in very different ways: they refuse it, take it for "anything", or end
the process. So what the JSON Schema specification (draft 2020-12) says about the form of the keywords that
tools use is checked here, once for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from ..errors import InvalidInput

_TYPES: Final = ("string", "number", "integer", "boolean", "object", "array", "null")
# OpenAI's rule for names; engines put them into grammars.
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# A schema that is nested deeper is a mistake, or an attack on the recursion.
_DEPTH_MAX: Final = 64

# Keywords whose value is a schema, a list of schemas, or schemas by name.
_SCHEMA: Final = ("items", "additionalProperties", "not", "contains", "propertyNames")
_SCHEMAS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED_SCHEMAS: Final = ("properties", "patternProperties", "$defs", "definitions")


def check_tool(tool: object) -> dict[str, Any]:
    """The tool, if it is one.

    Raises:
        InvalidInput: it has not the form {"type": "function", "function": {"name": …, "parameters": …}}, or
            its parameters are not a JSON schema of an object; the message says where.
    """
    match tool:
        case {"type": "function", "function": {"name": str(name), **rest}} if _NAME.fullmatch(name):
            parameters = rest.get("parameters")
            if parameters is not None:
                where = f"tool {name!r}: its parameters"
                _check_schema(parameters, where, 0)
                if parameters.get("type", "object") != "object":
                    raise InvalidInput(f"{where} are not of type object")
            return dict(cast("Mapping[str, Any]", tool))
        case _:
            raise InvalidInput(
                'a tool is {"type": "function", "function": {"name": …, "description": …, '
                f'"parameters": a JSON schema}}}}, not {tool!r}'
            )


def tool_name(tool: Mapping[str, Any]) -> str:
    return str(tool["function"]["name"])


def _check_schema(schema: object, where: str, depth: int) -> None:
    if isinstance(schema, bool) and depth:
        return
    if not isinstance(schema, Mapping):
        raise InvalidInput(f"{where} are no JSON schema: {schema!r} is no object")
    if depth > _DEPTH_MAX:
        raise InvalidInput(f"{where} are nested deeper than {_DEPTH_MAX}")
    fields = cast("Mapping[str, object]", schema)
    _check_type(fields.get("type"), where)
    required = fields.get("required", ())
    if not _is_list(required) or not all(isinstance(name, str) for name in required):
        raise InvalidInput(f"{where}: `required` is a list of names, not {required!r}")
    choices = fields.get("enum", (None,))
    if not _is_list(choices) or not choices:
        raise InvalidInput(f"{where}: `enum` is a list of values, not {choices!r}")
    for key in _SCHEMA:
        if key in fields:
            _check_schema(fields[key], f"{where}, `{key}`", depth + 1)
    for key in _SCHEMAS:
        inner = fields.get(key, ())
        if not _is_list(inner):
            raise InvalidInput(f"{where}: `{key}` is a list of schemas, not {inner!r}")
        for one in inner:
            _check_schema(one, f"{where}, `{key}`", depth + 1)
    for key in _NAMED_SCHEMAS:
        named = fields.get(key, {})
        if not isinstance(named, Mapping):
            raise InvalidInput(f"{where}: `{key}` are schemas by name, not {named!r}")
        for name, one in cast("Mapping[str, object]", named).items():
            _check_schema(one, f"{where}, {name!r}", depth + 1)


def _check_type(given: object, where: str) -> None:
    types = given if _is_list(given) else () if given is None else (given,)
    for one in types:
        if one not in _TYPES:
            raise InvalidInput(f"{where} are no JSON schema: there is no type {one!r}")


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
