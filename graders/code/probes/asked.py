"""getattr, setattr and their like for a submission, which tell what names they are asked for. Runs INSIDE the sandbox.

A name that a program computes can't be read from its text. These stand in its namespace in place of the built-in
functions, so that what it does reach for is known: numbering its own layers is no doubt, asking for frames is one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from names import unsafe_computed

OWN = "submission"


def watched(tell: Callable[[str], None]) -> dict[str, Callable[..., Any]]:
    """The functions by name; `tell` gets what no honest program asks for."""
    real_get, real_set, real_del, real_vars, unsafe = getattr, setattr, delattr, vars, unsafe_computed

    def checked(owner: object, name: object) -> None:
        if type(name) is not str or unsafe(name):
            tell(f"getattr {name!r}"[:80])

    def get(owner: object, name: str, *default: Any) -> Any:
        checked(owner, name)
        return real_get(owner, name, *default)

    def put(owner: object, name: str, value: Any) -> None:
        checked(owner, name)
        if is_foreign(owner):
            tell(f"setattr on {owner!r}"[:80])
        real_set(owner, name, value)

    def drop(owner: object, name: str) -> None:
        checked(owner, name)
        if is_foreign(owner):
            tell(f"delattr on {owner!r}"[:80])
        real_del(owner, name)

    def names_of(*owner: Any) -> Any:
        if not owner or isinstance(owner[0], ModuleType):
            tell("vars of a module")
        return real_vars(*owner)

    return {"getattr": get, "setattr": put, "delattr": drop, "vars": names_of}


def is_foreign(owner: object) -> bool:
    """A module or class that is not the submission's own."""
    if isinstance(owner, ModuleType):
        return True
    return isinstance(owner, type) and type.__getattribute__(owner, "__module__") != OWN
