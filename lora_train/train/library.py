"""Classes of other packages, by name: imported where they are used, with arguments as sd-scripts has them."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
from collections.abc import Iterable

from lora_train.errors import Mistake
from lora_train.values import either, shown


def told(words: Iterable[str]) -> dict[str, object]:
    """`["d_coef=2", "betas=0.9", "0.99"]` -> {name: value}; a word without a name goes on with the one before
    it, for lists of words are written with commas between.

    Raises:
        Mistake: the first word has no name.
    """
    found: dict[str, str] = {}
    name = ""
    for word in words:
        head, equals, text = word.partition("=")
        if equals and head.strip().isidentifier():
            name, found[head.strip()] = head.strip(), text.strip()
        elif name:
            found[name] += f",{word}"
        else:
            raise Mistake(f"{shown(word)}: expected name=value")
    return {name: value(text) for name, text in found.items()}


def value(text: str) -> object:
    """As Python writes it, which is how sd-scripts reads it; what is no value of Python's is text."""
    for read in (ast.literal_eval, float):  # float: inf, of which Python has no word
        with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return read(text.strip())
    return text.strip()


def missing(path: str) -> bool:
    """Whether the package of `module.Class` is not installed; nothing of it is loaded."""
    try:
        return importlib.util.find_spec(path.partition(".")[0]) is None
    except (ImportError, ValueError):
        return True


def loaded(path: str, base: type | tuple[type, ...], what: str, pip: str | None = None) -> type:
    """The class behind `module.Class`.

    Args:
        base: what it has to be made of.
        what: that in words: "an optimizer".
        pip: the name to install it by, where that is another than the module's.

    Raises:
        Mistake: there is no such class.
    """
    module, _, name = path.rpartition(".")
    package = module.partition(".")[0]
    try:
        found = getattr(importlib.import_module(module), name, None) if module else None
    except ModuleNotFoundError as e:
        asked = pip or package if (e.name or package).partition(".")[0] == package else e.name
        if missing(path) or asked != (pip or package):
            raise Mistake(f"{shown(path)}: needs the package {asked}; pip install {asked}") from e
    except Exception as e:  # noqa: BLE001 (whatever a package of others does when it is loaded)
        raise Mistake(f"{shown(path)}: {package} cannot be loaded ({_line(e)})") from e
    else:
        if isinstance(found, type) and issubclass(found, base):
            return found
    if not missing(path) and package not in ("", "torch"):
        raise Mistake(f"{shown(path)}: expected the class of {what}; this {package} has none of that name")
    raise Mistake(f"{shown(path)}: expected the class of {what}, as module.Class")


def refused(cls: type, arguments: Iterable[str]) -> list[str]:
    """Those that a class has no parameter for, each with what it has."""
    known = inspect.signature(cls.__init__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return []
    names = [name for name in known if name not in ("self", "params", "optimizer", "lr")]
    return [f"{name}: {cls.__name__} has {either(names)}" for name in arguments if name not in names]


def _line(error: BaseException) -> str:
    return "".join(str(error).splitlines()[:1]) or type(error).__name__
