"""Stand-ins for packages that are not installed, so that the rest of a program that imports one can be seen. Runs INSIDE the sandbox.

The program does not run, whatever its stand-in does: an optimizer becomes the starter's AdamW, any other call hands back
its first argument.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch


class Absent(ModuleType):
    """Whatever is asked of it is there."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if is_optimizer(name):
            return plain_adamw
        return Absent(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else None

    def __getitem__(self, key: Any) -> Any:
        return self


def is_optimizer(name: str) -> bool:
    return any(word in name for word in ("Adam", "SGD", "Lion", "Adafactor", "RMSprop"))


def plain_adamw(params: Any, lr: float = 1e-3, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(params, lr=lr, foreach=True)


class Finder:
    """Finds every module of the absent package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.package and not name.startswith(self.package + "."):
            return None
        from importlib.machinery import ModuleSpec  # noqa: PLC0415 - only where a package is absent

        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> ModuleType:
        return Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def stand_in(package: str) -> None:
    sys.meta_path.append(Finder(package))
