"""pydantic's validation errors in the words of the command line."""

from __future__ import annotations

from pydantic import ValidationError

from pruning.config.options import flag
from pruning.config.run_config import RunConfig

# Type of pydantic's error -> requirement; {...} are fields of the error's `ctx`.
REQUIREMENTS = {
    **dict.fromkeys(
        ("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "must be a whole number"
    ),
    **dict.fromkeys(("float_parsing", "float_type"), "must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("string_type", "string_unicode"), "must be a string"),
    **dict.fromkeys(("tuple_type",), "must be a list"),
    **dict.fromkeys(("path_type",), "must be a path"),
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "bool_for_value": "must be a value, not true or false",
}


def describe_invalid_value(error: ValidationError) -> tuple[str, str]:
    """Return the first invalid option and one sentence with the option, its value, the requirement and its meaning."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    template = REQUIREMENTS.get(first["type"])
    requirement = first["msg"] if template is None else template.format(**first.get("ctx", {}))
    value = str(first["input"])
    if not value or not value.isprintable():
        value = repr(value)
    description = (RunConfig.model_fields[name].description or "").split(" (default")[0].rstrip(".")
    return name, f"{flag(name)} {value}: {requirement} ({description[:1].lower()}{description[1:]})."
