"""Is the text of a program straight: can nothing but the sizes of its tokens change which operations it runs?

Runs INSIDE the sandbox, before the program. What it goes by is a list of what has no choice in it: after the model is made
no branches, no values of tensors in Python, loops over tokens and layers alone, nothing that is handed on from step to step
without being computed, no names but the file's own and a few of torch's. What is not listed is in doubt, and so is the file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from straight_body import Body
from straight_pieces import ONCE, Doubt
from straight_words import AT_FIRST, BUILT_IN, HARMLESS, KNOWN, LAID, METHODS, OWNED, PARTED, TAKEN, TOLD, TYPES


def is_straight(path: str) -> bool:
    """As bytes, which Python reads as it does the file when it runs it."""
    try:
        with open(path, "rb") as file:
            Look(ast.parse(file.read())).check()
    except (Doubt, OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


class Look:
    """One look at a file, outside of what runs as a script alone. Raises Doubt."""

    def __init__(self, tree: ast.Module) -> None:
        self.body = [s for s in tree.body if not _is_script_part(s)]
        self.paths: dict[str, str] = {}  # names of modules and what is theirs
        self.defined: set[str] = set()  # functions and classes
        self.functions: list[ast.FunctionDef] = []
        self.attributes: set[str] = set()
        self.tops: set[str] = set()  # numbers and words
        self.passing: set[str] = set()  # layers that may give back what they are given
        self.numbers: dict[str, bool] = {}  # attributes: is it a number, or a word?

    def check(self) -> None:
        for statement in self.body:
            self._top(statement)
        for function in self.functions:
            self._bind(function)
        for name, count in self._bound_names().items():
            if (name in self.paths or name in self.defined) and count > 1:
                raise Doubt(f"{name} is bound twice")
            if name in BUILT_IN | AT_FIRST | {"staticmethod"} or name.startswith("__"):
                raise Doubt(f"{name} is bound")
        for name in self.attributes:
            if name in TOLD | PARTED | LAID or (name in TAKEN and name not in METHODS | HARMLESS) or name.startswith("__"):
                raise Doubt(f"an attribute {name}")
        bodies = [Body(self, function) for function in self.functions]
        for body in bodies:
            body.note_numbers()
        for body in bodies:
            body.check()

    # --- what there is ---

    def _top(self, node: ast.stmt) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node)
        elif isinstance(node, ast.FunctionDef):
            self._function(node)
        elif isinstance(node, ast.ClassDef):
            self._class(node)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and all(isinstance(t, ast.Name) for t in node.targets):
            self.tops |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif not _is_words(node):
            raise Doubt(f"line {node.lineno}: {type(node).__name__} at the top")

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name
            if isinstance(node, ast.ImportFrom):
                path = f"{node.module}.{alias.name}" if not node.level else ""
                if node.module == "__future__" or (node.module == "typing" and alias.name in TYPES and not alias.asname):
                    path = "typing"
            else:
                path = alias.name
                name = name if alias.asname else name.partition(".")[0]
                path = path if alias.asname or path not in OWNED else name
            if path not in OWNED and path not in KNOWN and path != "typing":
                raise Doubt(f"import of {path or alias.name}")
            if self.paths.setdefault(name, path) != path:
                raise Doubt(f"{name} is two things")

    def _function(self, node: ast.FunctionDef, *, method: bool = False) -> None:
        if [d for d in node.decorator_list if not (isinstance(d, ast.Name) and d.id == "staticmethod" and method)]:
            raise Doubt(f"line {node.lineno}: a decorator")
        if not method and node.name == ONCE:
            raise Doubt("a function like a method")
        self.functions.append(node)
        if method and node.name != ONCE:
            if node.name in METHODS - {"forward"}:
                raise Doubt(f"a method {node.name}")
            self.attributes.add(node.name)
        if not method:
            self.defined.add(node.name)

    def _class(self, node: ast.ClassDef) -> None:
        bases = [self.path(base) or (isinstance(base, ast.Name) and base.id in self.defined) for base in node.bases]
        if node.keywords or node.decorator_list or not all(base is True or base == "torch.nn.Module" for base in bases):
            raise Doubt(f"line {node.lineno}: a class of another kind")
        self.defined.add(node.name)
        for part in node.body:
            if isinstance(part, ast.FunctionDef):
                self._function(part, method=True)
            elif not _is_words(part):
                raise Doubt(f"line {part.lineno}: {type(part).__name__} in a class")

    def _bound_names(self) -> dict[str, int]:
        found: dict[str, int] = {}
        imported: set[str] = set()
        for node in (n for statement in self.body for n in ast.walk(statement)):
            names: Iterable[str] = ()
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                new = {(a.asname or a.name).partition(".")[0] for a in node.names} - imported
                imported |= new
                names = new
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                names = (node.id,)
            elif isinstance(node, ast.arg):
                names = (node.arg,)
            elif isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and node.name in self.defined):
                names = (node.name,)
            for name in names:
                found[name] = found.get(name, 0) + 1
        return found

    def _bind(self, function: ast.FunctionDef) -> None:
        """Attributes that a function gives values."""
        once = function.name == ONCE
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                self.attributes.add(node.attr)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "register_buffer":
                if not (once and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)):
                    raise Doubt(f"line {node.lineno}: a buffer")
                self.attributes.add(node.args[0].value)
                self.numbers[node.args[0].value] = False
            if isinstance(node, ast.FunctionDef) and node is not function:
                raise Doubt(f"line {node.lineno}: a function in another")

    # --- questions ---

    def is_class(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and any(isinstance(s, ast.ClassDef) and s.name == node.id for s in self.body)

    def path(self, node: ast.expr) -> str:
        """What an imported name, or one of an imported module, stands for."""
        if isinstance(node, ast.Name):
            return self.paths.get(node.id, "")
        if isinstance(node, ast.Attribute) and (owner := self.path(node.value)) in OWNED:
            return f"{owner}.{node.attr}"
        return ""


def _is_words(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _is_script_part(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) == "__name__ == '__main__'"
