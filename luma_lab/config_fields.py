"""The fields of `luma_lab.config.Settings`: made, found under their names, told of when bad."""

import os
from typing import Any, NamedTuple

from dotenv import dotenv_values
from pydantic import Field
from pydantic_settings import PydanticBaseSettingsSource


def setting(default, help, env, *, flag=None, expected=None, secret=False, **limits):
    """Return a field: a default, a sentence of help, the variables it is read from, limits."""
    extra = {"env": (env,) if isinstance(env, str) else env, "flag": flag, "expected": expected}
    return Field(default, description=help, json_schema_extra=extra, repr=not secret, **limits)


class Setting(NamedTuple):
    """One row of the documented table of settings."""

    name: str
    env: tuple[str, ...]
    flag: str | None
    default: Any
    help: str


def rows_of(settings_cls):
    """Return a tuple of the `Setting`s of a class whose fields are :func:`setting`s."""
    return tuple(
        Setting(name, extra["env"], extra["flag"], field.default, field.description)
        for name, field in settings_cls.model_fields.items()
        for extra in [field.json_schema_extra]
    )


class NamedSource(PydanticBaseSettingsSource):
    """Finds each setting under any of its names: the environment first, then `.env`."""

    def __init__(self, settings_cls, *places):
        super().__init__(settings_cls)
        self._places = places

    def get_field_value(self, field, field_name):
        for place in self._places:
            for variable in field.json_schema_extra["env"]:
                if place.get(variable) is not None:
                    return place[variable], field_name, False
        return None, field_name, False

    def __call__(self):
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, _, _ = self.get_field_value(field, name)
            if value is not None:
                found[name] = value
        return found


def explain(error, settings_cls, flags):
    """Return what was wrong with which flag or variable, and what was expected instead."""
    return "; ".join(_explain_one(problem, settings_cls, flags) for problem in error.errors())


def _explain_one(problem, settings_cls, flags):
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    field = settings_cls.model_fields.get(name)
    if field is None:
        return f"{name}: {problem['msg']}"
    extra = field.json_schema_extra
    if name in flags:
        variable = extra["flag"] or name
    else:
        places = (os.environ, dotenv_values(settings_cls.model_config["env_file"]))
        known = [v for place in places for v in extra["env"] if place.get(v) is not None]
        variable = known[0] if known else extra["env"][0]
    value = "not usable" if not field.repr else repr(problem["input"])
    return f"{variable} is {value}: expected {extra['expected'] or _expected(field)}"


def _expected(field):
    low, high = (
        next((getattr(m, side) for m in field.metadata if hasattr(m, side)), None)
        for side in ("ge", "le")
    )
    return f"an integer from {low} to {high}"
