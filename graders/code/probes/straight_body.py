"""One function of a program: is there a choice in it (straight.py)? Runs INSIDE the sandbox, before the program."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING

from straight_pieces import ONCE, Doubt, bindings, is_dots, is_length, is_own, is_parent, is_shape, is_unbind, number, pairs, parts
from straight_words import AT_FIRST, BUILT_IN, KNOWN, LAID, MADE, METHODS, PARTED, PASSING

if TYPE_CHECKING:
    from straight import Look

OFTEN = (
    ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Attribute, ast.BinOp, ast.Call, ast.Constant, ast.Expr, ast.For, ast.FunctionDef,
    ast.GeneratorExp, ast.Invert, ast.List, ast.ListComp, ast.Name, ast.Pass, ast.Return, ast.Slice, ast.Subscript, ast.Tuple,
    ast.USub, ast.UnaryOp, ast.arg, ast.arguments, ast.comprehension, ast.expr_context, ast.keyword, ast.operator,
)  # fmt: skip
# While the model is made: what is chosen there is chosen for good.
CHOICES = (
    ast.If,
    ast.IfExp,
    ast.Compare,
    ast.BoolOp,
    ast.boolop,
    ast.cmpop,
    ast.Not,
    ast.Raise,
    ast.Assert,
    ast.JoinedStr,
    ast.FormattedValue,
)
SMALL = 2


class Body:
    """One function of the file."""

    def __init__(self, file: Look, function: ast.FunctionDef) -> None:
        self.file, self.function, self.once = file, function, function.name == ONCE
        self.allowed = (*OFTEN, *CHOICES) if self.once else OFTEN
        self.kinds: dict[str, set[str]] = {}  # what its names are bound to
        self.values: dict[str, list[ast.expr | None]] = {}  # those that get one by an assignment
        self.over: dict[str, set[str]] = {}  # of layers in a loop: the attributes that hold them
        for node in ast.walk(function):
            for name, kind in bindings(node):
                if kind == "layer" and isinstance(node, (ast.For, ast.comprehension)):
                    self.over.setdefault(name, set()).update(n.attr for n in ast.walk(node.iter) if isinstance(n, ast.Attribute))
                self.kinds.setdefault(name, set()).add(kind)
                if kind not in ("given", "counter"):
                    plain = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
                    self.values.setdefault(name, []).append(node.value if plain and isinstance(node, ast.Assign) else None)

    def note_numbers(self) -> None:
        """Which attributes are numbers from the start, and which layers may do nothing."""
        for node in ast.walk(self.function):
            if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for part, value in pairs(target, node.value):
                        if isinstance(part, ast.Attribute):
                            number = value is not None and not isinstance(node, ast.AugAssign) and self._is_number(value)
                            self.file.numbers[part.attr] = self.file.numbers.get(part.attr, True) and number
                            if value is None or not self._works(value):
                                self.file.passing.add(part.attr)
            elif isinstance(node, ast.Call) and self.file.is_class(node.func):
                if not all(map(self._is_number, (*node.args, *(k.value for k in node.keywords)))):
                    raise Doubt(f"line {node.lineno}: a model that is given more than numbers")
            elif isinstance(node, ast.Call) and is_parent(node.func) and (node.args or node.keywords):
                raise Doubt(f"line {node.lineno}: a parent that is given something")

    def _is_number(self, node: ast.expr) -> bool:
        """A number or a word, or made of such, where the model is made."""
        if isinstance(node, ast.Name):
            values = self.values.pop(node.id, [])  # one that is made from itself is what the rest of it is
            number = self.once and node.id != "self" and node.id not in self.file.paths
            number = number and all(value is not None and self._is_number(value) for value in values)
            self.values[node.id] = values
            return number
        if isinstance(node, ast.Call):
            own = isinstance(node.func, ast.Name) and node.func.id in AT_FIRST
            known = own or self.file.path(node.func).startswith("math.")
            return known and not node.keywords and all(map(self._is_number, node.args))
        if is_own(node) and isinstance(node, ast.Attribute):
            return bool(self.file.numbers.get(node.attr))
        made = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp)
        return isinstance(node, made) and all(self._is_number(part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr))

    def _works(self, node: ast.expr) -> bool:
        """Is it a layer that gives something else than it is given?"""
        path = self.file.path(node.func) if isinstance(node, ast.Call) else ""
        if path == "torch.nn.Sequential" and isinstance(node, ast.Call):
            return any(map(self._works, node.args))
        if path == "torch.nn.ModuleList" and isinstance(node, ast.Call) and node.args:
            listed = node.args[0]
            held = listed.elts if isinstance(listed, ast.List) else [getattr(listed, "elt", listed)]
            return all(map(self._works, held))
        return (path.startswith("torch.nn.") and not path.endswith(("Dropout", "ModuleList"))) or (
            isinstance(node, ast.Call) and self.file.is_class(node.func)
        )

    def _is_computed(self, node: ast.expr) -> bool:
        """Does an operation make it? What is only handed on could be kept until a certain token."""
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name):
                if self.only(function, "layer"):
                    return bool(self.file.passing.isdisjoint(self.over.get(function.id, ())))
                return bool(self.file.path(function)) or function.id in self.file.defined
            if is_own(function) and isinstance(function, ast.Attribute):
                return bool(function.attr not in self.file.passing)
            return isinstance(function, ast.Attribute) and function.attr not in PASSING
        if isinstance(node, ast.Subscript):
            return isinstance(node.slice, ast.Tuple) or (isinstance(node.value, ast.Call) and self._is_computed(node.value))
        if isinstance(node, ast.Constant) or is_own(node):  # the same at each token
            return True
        return isinstance(node, (ast.BinOp, ast.UnaryOp)) or is_shape(node) or (isinstance(node, ast.List) and not node.elts)

    def only(self, node: ast.expr, kind: str) -> bool:
        return isinstance(node, ast.Name) and self.kinds.get(node.id) == {kind}

    def check(self) -> None:
        taken = self.function.args
        if taken.vararg or taken.kwarg or taken.posonlyargs:
            raise Doubt("arguments without a name")
        for default in (*taken.defaults, *(d for d in taken.kw_defaults if d)):
            if not (isinstance(default, ast.Constant) or number(default) is not None):
                raise Doubt("a default that is computed")
        for note in (self.function.returns, *(a.annotation for a in (*taken.args, *taken.kwonlyargs))):
            self._annotation(note)
        self._all(self.function.body, looped=False)
        self._returned()

    def _annotation(self, node: ast.expr | None) -> None:
        for part in ast.walk(node) if node else ():
            plain = (ast.Name, ast.Attribute, ast.Subscript, ast.Tuple, ast.Constant, ast.BinOp, ast.BitOr, ast.Load)
            if not isinstance(part, plain):
                raise Doubt("an annotation that is computed")

    def _returned(self) -> None:
        """A function hands back what it computed, and no argument as it got it."""
        returns = [n for n in ast.walk(self.function) if isinstance(n, ast.Return)]
        if returns and returns != self.function.body[-1:]:
            raise Doubt("more ways out than one")
        value = returns[0].value if returns else None
        made: set[str] = set()
        for statement in self.function.body:
            if isinstance(statement, (ast.Assign, ast.AugAssign)):
                computed = isinstance(statement, ast.AugAssign) or all(map(self._is_computed, parts(statement.value)))
                made |= {name for name, _ in bindings(statement)} if computed else set()
        for part in parts(value) if value and not self.once else ():
            if not (self._is_computed(part) or (isinstance(part, ast.Name) and part.id in made)):
                raise Doubt(f"line {part.lineno}: it returns what it got")

    @staticmethod
    def _is_call_part(node: ast.expr) -> bool:
        """self.attn(h, h, h)[0]"""
        return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Call)

    def _statement(self, node: ast.stmt, *, looped: bool) -> None:
        if isinstance(node, ast.For) and not node.orelse:
            self._over(node.iter)
            self._targets(node.target)
            self._all(node.body, looped=True)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            self._assignment(node, looped)
        elif isinstance(node, (ast.Expr, ast.Return)):
            self._held(node)
        elif self.once and isinstance(node, ast.If):
            self._expression(node.test)
            self._all((*node.body, *node.orelse), looped=looped)
        elif self.once and isinstance(node, (ast.Assert, ast.Raise)):
            self._held(node)
        elif not isinstance(node, ast.Pass):
            raise Doubt(f"line {node.lineno}: {type(node).__name__}")

    def _all(self, statements: Sequence[ast.stmt], *, looped: bool) -> None:
        for statement in statements:
            self._statement(statement, looped=looped)

    def _held(self, node: ast.stmt) -> None:
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.expr):
                self._expression(part)

    def _assignment(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, looped: bool) -> None:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            self._targets(target)
        if isinstance(node, ast.AnnAssign):
            self._annotation(node.annotation)
        if node.value is not None:
            self._assigned(node.value, looped)

    def _targets(self, target: ast.expr) -> None:
        if isinstance(target, ast.Tuple):
            for part in target.elts:
                self._targets(part)
        elif isinstance(target, ast.Attribute):
            shared = isinstance(target.value, ast.Attribute) and is_own(target.value) and target.attr == "weight"
            if not (self.once and (shared or is_own(target))):
                raise Doubt(f"line {target.lineno}: an attribute that is set later")
        elif isinstance(target, ast.Subscript):
            self._expression(target.value)
            if not isinstance(target.slice, ast.Tuple):
                raise Doubt(f"line {target.lineno}: a part that is set")
            self._index(target)
        elif not isinstance(target, ast.Name):
            raise Doubt(f"line {target.lineno}: {type(target).__name__} is set")

    def _assigned(self, value: ast.expr, looped: bool) -> None:
        for part in parts(value):
            if not self.once and not (isinstance(part, ast.List) and not part.elts) and isinstance(part, (ast.Tuple, ast.List)):
                raise Doubt(f"line {value.lineno}: things put together")
            if looped and not self.once and not self._is_computed(part):
                raise Doubt(f"line {value.lineno}: handed on in a loop")
            self._expression(part)

    def _over(self, node: ast.expr) -> None:
        """A loop over tokens, or over what was made for good."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            if node.func.id == "range":
                for given in node.args:
                    self._size(given)
                return
            if node.func.id in ("enumerate", "zip") and (len(node.args) == 1 or node.func.id == "zip"):
                kinds = {is_own(given) for given in node.args}
                if len(kinds) > 1:
                    raise Doubt(f"line {node.lineno}: tokens beside layers")
                for given in node.args:
                    self._over(given)
                return
        if is_unbind(node) and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            self._expression(node.func.value)
        elif not (is_own(node) or self.only(node, "parts")):
            raise Doubt(f"line {node.lineno}: a loop over {ast.unparse(node)[:40]}")

    def _size(self, node: ast.expr) -> None:
        """A number that is a length, or that was there before."""
        if is_length(node) and isinstance(node, (ast.Subscript, ast.Call)):
            base = node.value if isinstance(node, ast.Subscript) else node.func
            self._expression(
                base.func.value if isinstance(base, ast.Call) and isinstance(base.func, ast.Attribute) else getattr(base, "value", base)
            )
        elif isinstance(node, ast.Name) and node.id not in self.file.paths and not self.once:
            if not (self.only(node, "size") or (node.id in self.file.tops and node.id not in self.kinds)):
                raise Doubt(f"line {node.lineno}: {node.id} is no size")
        elif self.once:
            self._expression(node)
        elif not (number(node) is not None or (isinstance(node, ast.Attribute) and is_own(node) and self.file.numbers.get(node.attr))):
            raise Doubt(f"line {node.lineno}: {ast.unparse(node)[:40]} is no size")

    def _expression(self, node: ast.expr) -> None:
        if not isinstance(node, self.allowed):
            raise Doubt(f"line {node.lineno}: {type(node).__name__}")
        if isinstance(node, ast.Name):
            self._name(node)
        elif isinstance(node, ast.Attribute):
            self._attribute(node)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Subscript):
            self._expression(node.value)
            if not self.once and not is_shape(node):
                self._index(node)
        elif isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            self._each(node)
        else:
            self._made_of(node)

    def _each(self, node: ast.ListComp | ast.GeneratorExp) -> None:
        for loop in node.generators:
            if loop.ifs or loop.is_async:
                raise Doubt(f"line {node.lineno}: a condition")
            self._over(loop.iter)
            self._targets(loop.target)
        self._expression(node.elt)

    def _made_of(self, node: ast.expr) -> None:
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.expr):
                self._expression(part)
            elif not isinstance(part, self.allowed):
                raise Doubt(f"line {node.lineno}: {type(part).__name__}")

    def _name(self, node: ast.Name) -> None:
        if path := self.file.path(node):
            if path not in KNOWN:
                raise Doubt(f"line {node.lineno}: {node.id} by itself")
        elif not (node.id in self.kinds or node.id in self.file.tops or node.id in self.file.defined):
            if not (self.once and node.id in AT_FIRST | BUILT_IN):
                raise Doubt(f"line {node.lineno}: {node.id}")
        elif node.id in self.file.defined:
            raise Doubt(f"line {node.lineno}: {node.id} by itself")

    def _attribute(self, node: ast.Attribute) -> None:
        if path := self.file.path(node):
            if path not in KNOWN:
                raise Doubt(f"line {node.lineno}: {path}")
            return
        if self.file.path(node.value):
            raise Doubt(f"line {node.lineno}: a part of {ast.unparse(node.value)}")
        if node.attr not in METHODS and node.attr not in self.file.attributes:
            raise Doubt(f"line {node.lineno}: .{node.attr}")
        self._expression(node.value)

    def _call(self, node: ast.Call) -> None:
        function = node.func
        if any(keyword.arg is None for keyword in node.keywords):
            raise Doubt(f"line {node.lineno}: arguments without a name")
        if isinstance(function, ast.Name):
            self._named(node, function)
        elif is_parent(function):
            pass
        elif isinstance(function, ast.Attribute):
            self._attribute(function)
        else:
            raise Doubt(f"line {node.lineno}: a call of {ast.unparse(function)[:30]}")
        name = function.attr if isinstance(function, ast.Attribute) else (self.file.path(function).rpartition(".")[2])
        if not self.once:
            self._lengths(node, name)
        for given in (*node.args, *(k.value for k in node.keywords)):
            self._expression(given)

    def _named(self, node: ast.Call, function: ast.Name) -> None:
        path = self.file.path(function)
        if path in KNOWN or self.only(function, "layer"):
            return
        if function.id in self.file.defined:
            if self.file.is_class(function) and not self.once:
                raise Doubt(f"line {node.lineno}: a model that is made later")
        elif function.id == "float" and len(node.args) == 1 and isinstance(node.args[0], (ast.Constant, ast.UnaryOp)):
            return
        elif not (self.once and function.id in AT_FIRST | BUILT_IN):
            raise Doubt(f"line {node.lineno}: a call of {function.id}")

    def _lengths(self, node: ast.Call, name: str) -> None:
        """What is made has the lengths of what there is."""
        if name in MADE | LAID:
            for given in node.args[:1] if name in ("full", "new_full") else node.args:
                for part in given.elts if isinstance(given, (ast.Tuple, ast.List)) else [given]:
                    self._laid(part) if name in LAID - {"expand"} else self._size(part)
            if name == "arange" and len(node.args) > 1:
                raise Doubt(f"line {node.lineno}: steps of its own")
            if any(k.arg in ("size", "shape", "start", "end", "step") for k in node.keywords):
                raise Doubt(f"line {node.lineno}: a size by its name")
        if name == "append" and isinstance(node.func, ast.Attribute) and not self.only(node.func.value, "list"):
            raise Doubt(f"line {node.lineno}: a list that lasts")
        if name in PARTED:
            parted = node.func.value if isinstance(node.func, ast.Attribute) else None
            own = isinstance(parted, ast.Call) and is_own(parted.func)
            dims = [number(v) for v in (*node.args[1:], *(k.value for k in node.keywords))]
            if not own or dims != [-1]:
                raise Doubt(f"line {node.lineno}: parts of a length")

    def _laid(self, node: ast.expr) -> None:
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.FloorDiv)):
            self._laid(node.left)
            self._laid(node.right)
        else:
            self._size(node)

    def _index(self, node: ast.Subscript) -> None:
        """A token, all of them, or a fixed place."""
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        several = isinstance(node.slice, ast.Tuple)
        if not several and not (self._is_call_part(node) or is_shape(node.value)) and number(node.slice) is not None:
            raise Doubt(f"line {node.lineno}: one of several things")
        for n, part in enumerate(parts):
            if isinstance(part, ast.Slice):
                self._slice(node, part, last=n == len(parts) - 1 and n > 0 and is_dots(parts[0]))
            elif isinstance(part, ast.Name):
                if not (several and self.only(part, "counter")):
                    raise Doubt(f"line {node.lineno}: [{part.id}]")
            elif not (number(part) is not None or (isinstance(part, ast.Constant) and part.value in (None, Ellipsis))):
                raise Doubt(f"line {node.lineno}: [{ast.unparse(part)[:30]}]")

    def _slice(self, node: ast.Subscript, part: ast.Slice, *, last: bool) -> None:
        if part.lower is None and part.upper is None and part.step is None:
            return
        plain = part.lower is None and part.step is None and part.upper is not None
        upper = number(part.upper)
        if plain and last and upper is not None and 0 < upper <= SMALL:
            return
        table = node.value.value if isinstance(node.value, ast.Attribute) and node.value.attr == "weight" else node.value
        if plain and is_own(table) and part.upper is not None:  # a table made for good, as long as there are tokens
            self._size(part.upper)
            return
        raise Doubt(f"line {node.lineno}: a part of a length")
