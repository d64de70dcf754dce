"""Starting a workflow or a pipeline from data: fields in, handler out; and the schema of the fields."""

from __future__ import annotations

import inspect
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUserError

from .errors import InvalidInput
from .handler import Handler
from .pipeline import Pipeline
from .workflow import Workflow

Target: TypeAlias = Workflow | Pipeline[..., Any]


def start_target(
    target: Target, given: dict[str, Any], run_id: str | None, url: str | None
) -> Handler:
    """Start a run with `given` as its input. Call it outside of an event loop: code that blocks its
    loop must not block who follows it.

    Raises:
        InvalidInput: the input doesn't fit, or the workflow cannot work.
    """
    try:
        if isinstance(target, Workflow):
            event = target.graph.start_type.model_validate(given)
            return target.run(start_event=event, run_id=run_id, url=url)
        arguments = inspect.signature(target.function).bind(**given)
        for name in {"run_id", "url"} & arguments.kwargs.keys():
            said = (
                f"{target.name!r} has a keyword-only parameter {name!r}, which means the run's own"
            )
            raise InvalidInput(f"{said} {name}: let it be given by position, too")
        return target.run(*arguments.args, run_id=run_id, url=url, **arguments.kwargs)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        )
        raise InvalidInput(f"the input doesn't fit {error.title}: {faults}") from error
    except TypeError as error:
        said = str(error).removeprefix(f"pipeline {target.name!r}: ")
        raise InvalidInput(f"the input doesn't fit {target.name!r}: {said}") from error


def input_schema(target: Target) -> dict[str, Any]:
    """The JSON Schema of what `start_target` takes; of a type that has none, any object."""
    try:
        if isinstance(target, Workflow):
            return target.graph.start_type.model_json_schema()
        return _arguments(target).model_json_schema()
    except (PydanticUserError, NameError, TypeError):
        return {"type": "object"}


def _arguments(target: Pipeline[..., Any]) -> type[BaseModel]:
    """The parameters of a pipeline as a model."""
    signature = inspect.signature(target.function, eval_str=True)
    fields: dict[str, Any] = {}
    extra = "forbid"
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            extra = "allow"
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            empty = inspect.Parameter.empty
            annotation = Any if parameter.annotation is empty else parameter.annotation
            default = ... if parameter.default is empty else parameter.default
            fields[parameter.name] = (annotation, default)
    config = ConfigDict(extra="allow" if extra == "allow" else "forbid")
    return create_model(target.name, __config__=config, **fields)
