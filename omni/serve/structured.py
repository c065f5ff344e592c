"""`response_format`: the answer as a JSON object that keeps to the schema which the client sent.

    {"type": "object", "properties": {"label": {"enum": ["calm", "angry"]}, "confidence": {"type": "number"}}}
        ─► the label space (calm, angry), and the fields of the record that are wanted

The model does not write the object: the record is made of what is known after its answer, so it is always valid, and a
schema that cannot be kept is refused before anything is run. Fields are those of `schema.Emotion`; an `enum` of `label`
is the label space, and its spelling that of the record. Schemas as pydantic writes them are understood, with `anyOf` of
which every option can be kept, and `$ref` into their own `$defs`.
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
VALUE = "a value of labels"
ANNOTATIONS = {"title", "description", "default", "examples"}
TOP = {"type", "properties", "required", "additionalProperties", "$defs", "$schema"}
KEPT: dict[str, set[str]] = {  # what can be promised of a field beside its type
    "label": {"enum", "const"},
    "labels": {"properties", "required", "additionalProperties"},
    "confidence": {"minimum", "maximum"},
    "duration_s": {"minimum", "maximum"},
    VALUE: {"minimum", "maximum"},
    "modalities": {"items"},
    "warnings": {"items"},
}
RANGES = {"confidence": (0.0, 1.0), "duration_s": (0.0, float("inf")), VALUE: (0.0, 1.0)}


class Plan(NamedTuple):
    """What a record is made of.

    Attributes:
        fields: that are wanted.
        space: the label space that the schema gives, if it does.
        label, labels: how the schema spells the labels in these two fields.
    """

    fields: tuple[str, ...]
    space: LabelSpace | None
    label: dict[str, str]
    labels: dict[str, str]

    def text(self, answer: Answer) -> str:
        """The record of an answer."""
        row = answer.to_dict()
        row["label"] = self.label.get(answer.label, answer.label)
        row["labels"] = {self.labels.get(name, name): p for name, p in row["labels"].items()}
        return json.dumps({name: row[name] for name in self.fields}, ensure_ascii=False)


def plan_of(wanted: PlainFormat | SchemaFormat | None) -> Plan | None:
    """What a `response_format` asks for; None is text.

    Raises:
        Refusal: a record cannot keep to the schema.
    """
    if wanted is None or wanted.type == "text":
        return None
    if isinstance(wanted, PlainFormat):
        return Plan(tuple(name for name in Answer.__dataclass_fields__ if name in Emotion.model_fields), None, {}, {})
    schema = wanted.json_schema.schema_
    known = schema.get("$defs", {})
    top = _resolved(schema, known)
    properties = top.get("properties")
    if top.get("type") != "object" or not isinstance(properties, dict) or not properties:
        raise _refused("The schema must be an object with properties.")
    strange = set(top) - TOP - ANNOTATIONS
    missing = set(_names(top.get("required"))) - set(properties)
    if strange or missing:
        raise _refused(f"The schema cannot be kept: {', '.join(sorted(strange | missing))}.")
    spaces: dict[str, LabelSpace] = {}
    spelled: dict[str, dict[str, str]] = {}
    for name, value in properties.items():
        if name not in FIELDS:
            raise _refused(f"There is no field {name[:40]!r}. The record has {', '.join(FIELDS)}.")
        words = _check(name, FIELDS[name], value, known)
        if words is not None:
            if any("\ud800" <= letter <= "\udfff" for word in words for letter in word):
                raise _refused("A label holds half a character.")
            spaces[name] = label_space(words)
            spelled[name] = dict(zip(spaces[name].labels, words, strict=True))
    if len({frozenset(space.labels) for space in spaces.values()}) > 1:
        raise _refused("The enum of label and the properties of labels differ.")
    either = next(iter(spelled.values()), {})
    space = next(iter(spaces.values()), None)
    return Plan(tuple(properties), space, spelled.get("label", either), spelled.get("labels", either))


def _check(name: str, kinds: set[str], schema: Any, known: Any) -> list[str] | None:
    """Whether a field always keeps to its schema, whichever option of `anyOf`; the labels that it names."""
    schema = _resolved(schema, known)
    options = [schema]
    if "anyOf" in schema:
        _check_keywords(name, set(schema) - {"anyOf"}, ANNOTATIONS)
        if not isinstance(schema["anyOf"], list) or not schema["anyOf"]:
            raise _refused(f"anyOf of {name} must be a list of schemas.")
        options = [_resolved(option, known) for option in schema["anyOf"]]
    types = [_types(option) for option in options]
    if all(types) and not kinds <= set().union(*types):
        raise _refused(f"The type of {name} is {' or '.join(sorted(kinds))}.")
    found = [words for option in options if (words := _check_option(name, option, known)) is not None]
    if len(found) > 1 and name == "labels":
        raise _refused("labels has its properties in one option alone.")
    return [word for words in found for word in words] if found else None


def _check_option(name: str, schema: dict[str, Any], known: Any) -> list[str] | None:
    """One option of a field's schema; the labels that it names."""
    _check_keywords(name, set(schema), {"type", *KEPT.get(name, ()), *ANNOTATIONS})
    low, high = RANGES.get(name, (0.0, 0.0))
    bounds = (schema.get("minimum", low), schema.get("maximum", high))
    if not all(isinstance(b, int | float) for b in bounds) or bounds[0] > low or bounds[1] < high:
        raise _refused(f"{name} lies between {low} and {high}.")
    if schema.get("items", True) is not True:
        _check(f"an item of {name}", {"string"}, schema["items"], known)
    if name == "labels":
        return _check_labels(schema, known)
    if "enum" in schema and "const" in schema:
        raise _refused(f"{name} has both enum and const. Leave one out.")
    words = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return None if words is None else _names(words)


def _check_labels(schema: dict[str, Any], known: Any) -> list[str] | None:
    """`labels` as a map, or with a property for each label, which are then the label space."""
    rest, names = schema.get("additionalProperties", True), schema.get("properties")
    if names is None and rest is False:
        raise _refused("labels needs properties, or numbers as additionalProperties.")
    if not isinstance(names, dict | None) or set(_names(schema.get("required"))) - set(names or ()):
        raise _refused("The properties of labels must be an object that has what is required.")
    for value in [*(names or {}).values(), *([] if isinstance(rest, bool) else [rest])]:
        _check(VALUE, {"number"}, value, known)
    return None if names is None else list(names)


def _check_keywords(name: str, found: set[str], kept: set[str]) -> None:
    if found - kept:
        raise _refused(f"{', '.join(sorted(found - kept))} of {name} cannot be promised.")


def _types(schema: dict[str, Any]) -> set[str]:
    """The types that a schema without anyOf allows; empty for any."""
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
        if set(schema) - {"$ref", "$defs", "$schema"} - ANNOTATIONS:
            raise _refused("Beside a $ref nothing can be promised.")
        name = str(schema["$ref"]).removeprefix("#/$defs/")
        schema = known.get(name)
    raise _refused("A part of the schema is no schema of its own $defs.")


def _refused(message: str) -> Refusal:
    return Refusal(400, message, code="unsupported_schema", param="response_format")
