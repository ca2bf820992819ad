"""Mistakes that keep a submission from running, mended so that the rest can be looked at. Runs INSIDE the sandbox.

What a line that raises is evidently meant to do: a name that was not imported is there, one that is nearly another means
that one, an argument that a function does not know is left out, numbers that do not divide become such that do, shapes
that do not go together are put so that they do (lenient.py). Where nothing of this helps, the program is let fail.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import sys
from collections.abc import Collection, Iterator
from typing import Any

import einops_stand_in
from absent import stand_in
from error_lines import line_in
from lenient import Lenient
from missing_names import ANY, ANY_MODULES, imported, is_known

FROM = {
    **ANY, "rearrange": "einops_stand_in:rearrange", "repeat": "einops_stand_in:repeat", "cached_property": "functools:cached_property",
    "abstractmethod": "abc:abstractmethod", "sqrt": "math:sqrt", "pi": "math:pi", "accumulate": "itertools:accumulate",
}  # fmt: skip
HOMES = ("torch", "torch.nn", "torch.nn.functional", "typing", "collections.abc", "functools", "itertools", "dataclasses", "math")
KEYWORD = re.compile(r"unexpected keyword argument '(\w+)'")
TAKEN = re.compile(r"attribute '(\w+)' already exists")  # a name that every module has: half, type, float
ASSIGNED = re.compile(r"cannot assign '.*' as parameter '(\w+)'")
BACKWARD = ("modified by an inplace operation", "backward through the graph", "does not require grad", "gives no parameter")
Place = tuple[int, int, int]  # of a number: line, column, and the number
AT_MOST = 8  # mends of one program
TRIED_NUMBERS = 6


class Repair:
    """The mends of one submission so far; `source` is its text or tree with them, or None while it stands as it is."""

    def __init__(self, path: str, given: dict[str, Any]) -> None:
        self.path, self.given = path, given
        with open(path, encoding="utf-8", errors="replace") as file:
            self.text = file.read()
        self.names: dict[str, str] = {}
        self.attributes: dict[str, str] = {}
        self.taken: set[str] = set()
        self.kept: set[str] = set()
        self.dropped: set[tuple[str, int]] = set()
        self.numbers: dict[Place, int] = {}
        self.lenient: Lenient | None = None
        self.returns = self.starts = False  # are forward passes to end with a return, and classes to begin as modules?
        self.said: list[str] = []
        self._left: list[dict[Place, int]] | None = None

    @property
    def notes(self) -> list[str]:
        return [*self.said, *(self.lenient.notes if self.lenient else ())]

    def source(self) -> Any:
        """The program to be compiled."""
        tree = ast.parse(self.text)
        return ast.fix_missing_locations(_Mender(self).visit(tree))

    def mend(self, error: BaseException) -> bool:
        """One more mend for this error; False where none is known."""
        if len(self.said) >= AT_MOST or any(part in str(error) for part in BACKWARD):
            return False
        if isinstance(error, SyntaxError):
            return self._syntax(error)
        if isinstance(error, ImportError):
            return self._import(error)
        if isinstance(error, NameError) and isinstance(error.name, str):
            return self._name(error.name)
        if isinstance(error, AttributeError) and isinstance(error.name, str) and error.name and self._attribute(error.name, error.obj):
            return True
        return self._by_its_words(error) or self._keyword(error) or self._shapes(error)

    def _by_its_words(self, error: BaseException) -> bool:
        """What only the message tells."""
        if kept := ASSIGNED.search(str(error)):
            self.kept.add(kept[1])
            return self._did(f".{kept[1]} not kept as a parameter")
        if taken := TAKEN.search(str(error)):
            self.taken.add(taken[1])
            return self._did(f".{taken[1]} under a name of its own")
        if "before Module.__init__() call" in str(error) and not self.starts:
            self.starts = True
            return self._did("super().__init__() called")
        if "NoneType" in str(error) and not self.returns and self._lacks_return():
            self.returns = True
            return self._did("what was made last returned")
        return False

    def _keyword(self, error: BaseException) -> bool:
        found = KEYWORD.search(str(error)) if isinstance(error, TypeError) else None
        if found and (line := line_in(self.path, error.__traceback__)) and (found[1], line) not in self.dropped:
            self.dropped.add((found[1], line))
            return self._did(f"{found[1]}= left out")
        return False

    def _did(self, note: str) -> bool:
        self.said.append(note)
        return True

    def _lacks_return(self) -> bool:
        return any(isinstance(n, ast.FunctionDef) and _forgets_return(n) for n in ast.walk(ast.parse(self.text)))

    def _syntax(self, error: SyntaxError) -> bool:
        rows, at = self.text.splitlines(), (error.lineno or 0) - 1
        if fences := [n for n, row in enumerate(rows) if row.startswith("```")]:
            inside = rows[fences[0] + 1 : fences[1]] if len(fences) > 1 else rows[fences[0] + 1 :] if fences[0] == 0 else rows[: fences[0]]
            self.text = "\n".join(["#"] * (fences[0] + 1) + inside if fences[0] == 0 or len(fences) > 1 else inside)
            return self._did("the fence around the code taken away")
        if not 0 <= at < len(rows):
            return False
        ends = {"expected ':'": ":", "'(' was never closed": ")", "'[' was never closed": "]", "'{' was never closed": "}"}
        end = next((end for words, end in ends.items() if words in str(error.msg)), "")
        if end:
            rows[at] += end
        elif str(error.msg).startswith("unmatched") and error.offset:
            rows[at] = rows[at][: error.offset - 1] + rows[at][error.offset :]
        else:
            return False
        self.text = "\n".join(rows)
        return self._did(f"line {at + 1} made to parse")

    def _import(self, error: ImportError) -> bool:
        package = (error.name or "").partition(".")[0]
        if not package or package in self.given:
            return False
        if package == "einops":
            for name in ("einops", "einops.layers", "einops.layers.torch"):
                sys.modules[name] = einops_stand_in
            return self._did("einops stood in for")
        found = re.search(r"cannot import name '(\w+)'", str(error))
        if isinstance(error, ModuleNotFoundError) and package not in ("torch", "submission"):
            stand_in(package)
            return self._did(f"{package} stood in for")
        if found and (home := next((h for h in HOMES if hasattr(importlib.import_module(h), found[1])), "")):
            self.names[f"import {found[1]}"] = home
            return self._did(f"{found[1]} imported from {home}")
        return False

    def _name(self, name: str) -> bool:
        if name in self.given or name in self.names:
            return False
        if is_known(name, ANY_MODULES, FROM):
            self.given[name] = imported(name, ANY_MODULES, FROM)
            return self._did(f"{name} imported")
        bound = {n.id for n in ast.walk(ast.parse(self.text)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        bound |= {a.arg for a in ast.walk(ast.parse(self.text)) if isinstance(a, ast.arg)}
        bound |= {n.name for n in ast.walk(ast.parse(self.text)) if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
        if meant := nearest(name, bound - {name, "self"}):
            self.names[name] = meant
            return self._did(f"{name} taken as {meant}")
        return False

    def _attribute(self, name: str, owner: Any) -> bool:
        own = [*getattr(owner, "_parameters", {}), *getattr(owner, "_modules", {}), *getattr(owner, "_buffers", {})]
        if name not in self.attributes and (meant := nearest(name, [n for n in {*own, *dir(owner)} if not n.startswith("__")])):
            self.attributes[name] = meant
            return self._did(f".{name} taken as .{meant}")
        return False

    def _shapes(self, error: BaseException) -> bool:
        if self.lenient is None and (not isinstance(error, AssertionError) or "CUDA" in str(error)):
            self.lenient = Lenient()
            self.lenient.__enter__()
            return True
        if self._left is None:
            self._left = list(_other_numbers(ast.parse(self.text)))
        if not self._left or isinstance(error, (AttributeError, KeyError)):
            return False
        self.numbers = self._left.pop(0)
        self.said = [*(note for note in self.said if not note.startswith("other numbers")), "other numbers by default"]
        return True

    def has_run(self) -> None:
        """From now on layers keep their sizes: what is longer than them is longer than the program takes."""
        if self.lenient is not None:
            self.lenient.resizes = False

    def close(self) -> None:
        if self.lenient is not None:
            self.lenient.__exit__(None, None, None)


def _other_numbers(tree: ast.Module) -> Iterator[dict[Place, int]]:
    """Numbers that are given by default, or to a name or an argument, and do not divide well: one of them made to, or all."""
    values: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            values += [*node.defaults, *node.kw_defaults]
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.keyword)):
            values.append(node.value)
        elif isinstance(node, ast.Dict):
            values += node.values
    places = [_place(v) for v in values if isinstance(v, ast.Constant) and type(v.value) is int and _rounder(v.value) != v.value]
    found = {place: _rounder(place[2]) for place in places}
    yield from reversed([{place: new} for place, new in found.items()][-TRIED_NUMBERS:])
    if len(found) > 1:
        yield found


def _place(node: ast.Constant) -> Place:
    return node.lineno, node.col_offset, int(node.value)  # type: ignore[arg-type]


def _rounder(value: int) -> int:
    """The power of two below a number of heads or channels; any other number as it is."""
    return 1 << (value.bit_length() - 1) if 2 < value <= 1024 else value


class _Mender(ast.NodeTransformer):
    def __init__(self, repair: Repair) -> None:
        self.repair = repair

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        last = node.body[-1]
        if self.repair.returns and _forgets_return(node) and isinstance(last, ast.Assign):
            name = ast.unparse(last.targets[0])
            node.body.append(ast.copy_location(ast.parse(f"return {name}").body[0], last))
        if node.name == "__init__" and self.repair.kept:  # where it is first given a value, and then again under a plain name
            node.body = [more for statement in node.body for more in (statement, *self._again(statement))]
        if self.repair.starts and node.name == "__init__" and "super()" not in ast.unparse(node):
            node.body.insert(0, ast.copy_location(ast.parse("super().__init__()").body[0], node.body[0]))
        return node

    def _again(self, statement: ast.stmt) -> list[ast.stmt]:
        names = [n.attr for n in ast.walk(statement) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
        found = [n for n in names if n.removeprefix("own_") in self.repair.kept]
        text = "self._parameters['first_{0}'] = self._parameters.pop('{0}')\nobject.__setattr__(self, '{0}', self._parameters['first_{0}'])"
        return [ast.copy_location(more, statement) for n in found for more in ast.parse(text.format(n)).body]

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if isinstance(node.ctx, ast.Load):
            node.id = self.repair.names.get(node.id, node.id)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load):
            node.attr = self.repair.attributes.get(node.attr, node.attr)
        if node.attr in self.repair.taken | self.repair.kept and isinstance(node.value, ast.Name) and node.value.id == "self":
            node.attr = f"own_{node.attr}"
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        node.keywords = [k for k in node.keywords if not any(k.arg == name and line in lines for name, line in self.repair.dropped)]
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if self.repair.numbers and type(node.value) is int:
            node.value = self.repair.numbers.get(_place(node), node.value)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        moved = [a for a in node.names if f"import {a.name}" in self.repair.names]
        if not moved:
            return node
        kept = [a for a in node.names if a not in moved]
        found = [ast.ImportFrom(module=self.repair.names[f"import {a.name}"], names=[a], level=0) for a in moved]
        rest = [ast.ImportFrom(module=node.module, names=kept, level=node.level)] if kept else []
        return [ast.copy_location(s, node) for s in (*rest, *found)]


def _forgets_return(node: ast.FunctionDef) -> bool:
    """Does a step or a forward pass end with a value that it holds in a name, and give nothing?"""
    known = node.name in ("forward", "step", "__call__") and isinstance(node.body[-1], ast.Assign)
    return known and not any(isinstance(n, ast.Return) and n.value is not None for n in ast.walk(node))


def nearest(name: str, others: Collection[str]) -> str:
    """The name that has all of its words, or all but some, or nearly its letters; "" where none is near."""
    words = set(name.lower().strip("_").split("_"))
    kin = [o for o in others if (theirs := set(o.lower().strip("_").split("_"))) and (theirs >= words or theirs <= words)]
    return min(sorted(kin), key=lambda other: abs(len(other) - len(name)), default="") or next(
        iter(difflib.get_close_matches(name, sorted(others), 1, 0.6)), ""
    )


def with_arguments(error: TypeError) -> dict[str, Any]:
    """Sensible values for arguments that a constructor has no defaults for, by what its message asks for."""
    asked = re.findall(r"'(\w+)'", str(error).partition("argument")[2])
    return {name: _sensible(name) for name in asked}


def _sensible(name: str) -> Any:
    sizes = {"vocab": 64, "head": 4, "layer": 2, "depth": 2, "len": 64, "seq": 64, "context": 64, "block": 64, "drop": 0.0}
    return next((value for part, value in sizes.items() if part in name), 64)
