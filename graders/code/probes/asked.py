"""getattr, setattr and their like for a submission, which tell what names they are asked for. Runs INSIDE the sandbox.

A name that a program computes can't be read from its text. These stand in its namespace in place of the built-in
functions, so that what it does reach for is known: numbering its own layers is no doubt, asking for frames is one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, MutableMapping
from types import ModuleType
from typing import Any

from names import GIVEN, unsafe_computed

OWN = "submission"
NOT_ITS_OWN = GIVEN | {"__builtins__", "__loader__", "__spec__"}


def watched(tell: Callable[[str], None], *, asks_for_its_names: bool = False) -> dict[str, Callable[..., Any]]:
    """The functions by name; `tell` gets what no honest program asks for.

    `asks_for_its_names`: it uses globals() for that alone, and is so given something else than the dictionary.
    """
    real_get, real_set, real_del, real_vars, unsafe, is_plain = getattr, setattr, delattr, vars, unsafe_computed, _plain(tell, "getattr")

    def checked(owner: object, name: Any) -> None:
        if is_plain(name) and unsafe(name):
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

    given: dict[str, Callable[..., Any]] = {"getattr": get, "setattr": put, "delattr": drop, "vars": names_of}
    return {**given, "globals": _globals(tell)} if asks_for_its_names else given


def _plain(tell: Callable[[str], None], asked: str) -> Callable[[object], bool]:
    """Is a name a text? Of another kind it is told before it is looked for: that runs what it says its hash is, or how it reads."""

    def is_plain(name: object) -> bool:
        if type(name) is not str:
            tell(f"{asked} with a name that is no plain text")
        return type(name) is str

    return is_plain


def _globals(tell: Callable[[str], None]) -> Callable[[], MutableMapping[str, Any]]:
    _getframe = sys._getframe

    def own_globals() -> MutableMapping[str, Any]:
        return own_names(_getframe(1).f_globals, tell)

    return own_globals


def own_names(real: dict[str, Any], tell: Callable[[str], None]) -> MutableMapping[str, Any]:
    """A program's own names as globals() gives them, without what stands there for the probe.

    Without modules too: what is used of them could not be seen. One that it asks for by its name it gets, and it is told of.
    """
    hidden, is_plain = NOT_ITS_OWN, _plain(tell, "globals()")  # in a closure, not names that could be looked up

    def changed(name: Any) -> None:
        if is_plain(name) and (name in hidden or name.startswith("__")):
            tell(f"globals()[{name!r}]"[:80])

    class Names(MutableMapping[str, Any]):  # holds nothing itself: whoever has one has no way to the names but these
        def __getitem__(self, name: str) -> Any:
            plain = is_plain(name)
            found = real[name]
            if plain and (name in hidden or isinstance(found, ModuleType)):
                tell(f"globals()[{name!r}]"[:80])
            return found

        def __setitem__(self, name: str, value: Any) -> None:
            changed(name)
            real[name] = value

        def __delitem__(self, name: str) -> None:
            changed(name)
            del real[name]

        def __iter__(self) -> Iterator[str]:
            return iter([name for name, value in real.items() if name not in hidden and not isinstance(value, ModuleType)])

        def __len__(self) -> int:
            return sum(1 for _ in self)

        def __contains__(self, name: object) -> bool:
            return is_plain(name) and name in real and name not in hidden

    return Names()


def is_foreign(owner: object) -> bool:
    """A module or class that is not the submission's own."""
    if isinstance(owner, ModuleType):
        return True
    return isinstance(owner, type) and type.__getattribute__(owner, "__module__") != OWN
