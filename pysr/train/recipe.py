"""Recipes: TOML files that say what to train, read strictly.

A kind of recipe is a dataclass beside its training code: a field for every section, itself a
dataclass, and one for every other key. What it says it can also train.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, get_args, get_type_hints

from pysr.train.dan import DANRecipe
from pysr.train.degradation import ABLRecipe, DMLRecipe
from pysr.train.loop import TrainingOptions
from pysr.train.sr import SRRecipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent.parent / "recipes"


KINDS = {"dan": DANRecipe, "dml": DMLRecipe, "abl": ABLRecipe, "sr": SRRecipe}


class Recipe(Protocol):
    """What every kind of recipe has."""

    training: TrainingOptions
    out: str
    device: str

    def train(self, options: TrainingOptions, out: Path, device: str) -> object:
        """Train with these options in the place of the recipe's, leaving checkpoints in `out`."""

    def save(self, trained: object, path: Path) -> None:
        """Write what `train` returned as one safetensors file."""


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe: a path, or the name of one that comes with pysr ("dan", "dan-lite-x4", ...).

    Raises ValueError, naming file and key, for what is missing, unknown or of the wrong type.
    """
    path = Path(path)
    named = RECIPES / f"{path}.toml"
    if path == Path(path.name) and not path.is_file() and named.exists():
        path = named
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ValueError(f"recipe: no file {path}; pysr comes with {shipped}")
    try:
        content = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from None
    kind = content.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{path}: kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    recipe = KINDS[kind]
    sections = {}
    for name, annotation in _hints(path, recipe, content).items():
        section = _section_kind(annotation, content.get(name))
        if section:
            extra = {
                field: getattr(sections["model"], field)
                for field in getattr(recipe, "OF_MODEL", {}).get(name, ())
            }
            sections[name] = _section(path, content, name, section, extra)
    return _build(path, "", recipe, {**sections, **content})


def _hints(path: Path, recipe: type, content: Mapping) -> dict[str, object]:
    """The annotations of a kind of recipe, with those that depend on what the recipe says."""
    depending = getattr(recipe, "section_types", None)
    try:
        return get_type_hints(recipe) | (depending(content) if depending else {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _section_kind(annotation: object, values: object) -> type | None:
    """The dataclass that a section is read as; of several the first that knows most of its keys.
    None for what is no section."""
    kinds = [
        kind for kind in get_args(annotation) or (annotation,) if dataclasses.is_dataclass(kind)
    ]
    keys = set(values) if isinstance(values, dict) else set()

    def known(kind: type) -> int:
        return len(keys & {field.name for field in dataclasses.fields(kind)})

    return max(kinds, key=known, default=None)


def _section(path: Path, content: dict, name: str, kind: type, extra: Mapping):
    values = content.pop(name, {})
    if not isinstance(values, dict):
        raise ValueError(f"{path}: {name}: expected a section [{name}]")
    for key in extra:
        if key in values:
            raise ValueError(f"{path}: {name}.{key}: is the model's, leave it out")
    return _build(path, f"{name}.", kind, {**values, **extra})


def _build(path: Path, prefix: str, kind: type, values: Mapping):
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, value in values.items():
        if name not in fields:
            raise ValueError(
                f"{path}: {prefix}{name}: unknown; expected one of {', '.join(sorted(fields))}"
            )
        if not _fits(value, str(fields[name].type)):
            raise ValueError(f"{path}: {prefix}{name}: expected {fields[name].type}, got {value!r}")
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{path}: {prefix}{missing[0]}: missing")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _fits(value, annotation: str) -> bool:
    """Whether a TOML value is of an annotated type, as far as recipes use types."""
    if dataclasses.is_dataclass(value):
        return True
    if annotation.startswith("tuple"):
        wanted = str if "str" in annotation else (int, float)
        return isinstance(value, list) and all(isinstance(item, wanted) for item in value)
    if isinstance(value, bool):
        return annotation == "bool"
    kinds = {"int": int, "float": (int, float), "str": str, "bool": bool}
    return any(isinstance(value, kinds.get(part.strip(), ())) for part in annotation.split("|"))
