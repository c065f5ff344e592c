"""`response_format`: the answer as a JSON object that keeps to the schema which the client sent.

    {"type": "object", "properties": {"label": {"enum": ["calm", "angry"]}, "confidence": {"type": "number"}}}
        ─► the label space (calm, angry), and the fields of the record that are wanted

The model does not write the object: the record is made of what is known after its answer, so it is always valid, and a
schema that cannot be kept is refused before anything is run. Fields are those of `schema.Emotion`; an `enum` of `label`
is the label space. Schemas as pydantic writes them are understood, with `$ref` into their own `$defs`.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..answer import Answer
from ..emotions import LabelSpace, label_space
from .refusal import Refusal
from .schema import Emotion, PlainFormat, SchemaFormat

FIELDS: dict[str, set[str]] = {
    "label": {"string"},
    "confidence": {"number"},
    "labels": {"object"},
    "thought": {"string"},
    "well_formed": {"boolean"},
    "modalities": {"array"},
    "warnings": {"array"},
    "duration_s": {"number"},
    "transcript": {"string", "null"},
}
ANNOTATIONS = {"title", "description", "default", "examples"}
KEYWORDS = {"type", "anyOf", "enum", "const", "items", "properties", "required", "additionalProperties"}
KEYWORDS |= {"minimum", "maximum"}
RANGES = {"confidence": (0.0, 1.0), "duration_s": (0.0, float("inf"))}


class Plan(NamedTuple):
    """The fields of a record, and the label space that its schema gives, if it does."""

    fields: tuple[str, ...]
    space: LabelSpace | None

    def text(self, answer: Answer) -> str:
        """The record of an answer."""
        row = answer.to_dict()
        return json.dumps({name: row[name] for name in self.fields}, ensure_ascii=False)


def plan_of(wanted: PlainFormat | SchemaFormat | None) -> Plan | None:
    """What a `response_format` asks for; None is text.

    Raises:
        Refusal: a record cannot keep to the schema.
    """
    if wanted is None or wanted.type == "text":
        return None
    if isinstance(wanted, PlainFormat):
        return Plan(tuple(name for name in Answer.__dataclass_fields__ if name in Emotion.model_fields), None)
    schema = wanted.json_schema.schema_
    known = schema.get("$defs", {})
    top = _resolved(schema, known)
    properties = top.get("properties")
    if top.get("type") != "object" or not isinstance(properties, dict) or not properties:
        raise _refused("The schema must be an object with properties.")
    strange = set(top) - KEYWORDS - ANNOTATIONS - {"$defs", "$schema"}
    missing = set(_names(top.get("required"))) - set(properties)
    if strange or missing:
        raise _refused(f"The schema cannot be kept: {', '.join(sorted(strange | missing))}.")
    space = None
    for name, value in properties.items():
        if name not in FIELDS:
            raise _refused(f"There is no field {name[:40]!r}. The record has {', '.join(FIELDS)}.")
        found = _check(name, _resolved(value, known))
        if found and space and set(found.labels) != set(space.labels):
            raise _refused("The enum of label and the properties of labels differ.")
        space = found or space
    return Plan(tuple(properties), space)


def _check(name: str, schema: dict[str, Any]) -> LabelSpace | None:
    """Whether a field always keeps to its schema; the label space that an enum gives."""
    strange = set(schema) - KEYWORDS - ANNOTATIONS
    if strange:
        raise _refused(f"{', '.join(sorted(strange))} of {name} cannot be promised.")
    types = _types(schema)
    if types and not FIELDS[name] <= types | ({"number"} if "number" in types else set()):
        raise _refused(f"The type of {name} is {' or '.join(sorted(FIELDS[name]))}.")
    low, high = RANGES.get(name, (0.0, 0.0))
    bounds = (schema.get("minimum", low), schema.get("maximum", high))
    if not all(isinstance(b, int | float) for b in bounds) or bounds[0] > low or bounds[1] < high:
        raise _refused(f"{name} lies between {low} and {high}.")
    if "items" in schema and _types(schema["items"] if isinstance(schema["items"], dict) else {}) - {"string"}:
        raise _refused(f"The items of {name} are strings.")
    if "additionalProperties" in schema or "properties" in schema:
        return _check_labels(name, schema)
    words = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if words is None:
        return None
    if name != "label":
        raise _refused(f"An enum of {name} cannot be promised.")
    return label_space(_names(words))


def _check_labels(name: str, schema: dict[str, Any]) -> LabelSpace | None:
    """`labels` as a map, or with a property for each label, which are then the label space."""
    rest = schema.get("additionalProperties", True)
    if name != "labels" or (isinstance(rest, dict) and _types(rest) - {"number"}):
        raise _refused(f"{name} cannot be promised in this form.")
    names = schema.get("properties")
    if not isinstance(names, dict):
        if rest is False:
            raise _refused("labels needs properties, or numbers as additionalProperties.")
        return None
    if not all(isinstance(value, dict) and not _types(value) - {"number"} for value in names.values()):
        raise _refused("The properties of labels are numbers.")
    return label_space(list(names))


def _types(schema: dict[str, Any]) -> set[str]:
    """The types that a schema allows; empty for any."""
    if isinstance(schema.get("anyOf"), list):
        return {kind for option in schema["anyOf"] if isinstance(option, dict) for kind in _types(option)}
    kind = schema.get("type")
    return {kind} if isinstance(kind, str) else set(_names(kind))


def _names(value: Any) -> list[str]:
    """A list of strings, or nothing."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _refused("Names in the schema must be lists of strings.")
    return value


def _resolved(schema: Any, known: Any) -> dict[str, Any]:
    """A schema, or what it refers to."""
    for _ in range(8):  # a chain of references; one that is longer goes in a circle
        if not isinstance(schema, dict) or not isinstance(known, dict):
            break
        if "$ref" not in schema:
            return schema
        name = str(schema["$ref"]).removeprefix("#/$defs/")
        schema = known.get(name)
    raise _refused("A part of the schema is no schema of its own $defs.")


def _refused(message: str) -> Refusal:
    return Refusal(400, message, code="unsupported_schema", param="response_format")
