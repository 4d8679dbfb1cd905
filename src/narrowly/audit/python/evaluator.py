"""Follow a script without executing it: what it would construct, with which arguments, and where each stands."""

from __future__ import annotations

import ast
import posixpath
import re
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.calls import bind, call_value
from narrowly.audit.python.classes import new_instance
from narrowly.audit.python.config_files import compose, value_of
from narrowly.audit.python.expressions import EVALUATE
from narrowly.audit.python.machine import CommandLine, Trace
from narrowly.audit.python.notebook import python_of
from narrowly.audit.python.statements import RETURNED, RUN
from narrowly.audit.python.values import (
    Class,
    Const,
    External,
    Function,
    Imported,
    Items,
    Module,
    Object,
    Scope,
    Unknown,
    Value,
)
from narrowly.audit.trees import UnreadableError

MOST_STEPS = 12_000
DEEPEST = 24
MOST_CALLS = 6
MOST_MODULES = 12
LONGEST_MODULE = 120_000
"""Bytes of a sibling module that is followed."""
MOST_LOADING = 4
"""Modules that wait for one another."""
LIBRARIES = frozenset(
    "transformers trl peft torch numpy datasets accelerate lightning pytorch_lightning lightning_fabric unsloth "
    "deepspeed "
    "bitsandbytes tinker tinker_cookbook huggingface_hub tqdm packaging wandb safetensors openai timm "
    "pytorch_optimizer "
    "pandas scipy sklearn yaml omegaconf hydra pydantic evaluate tokenizers optimum diffusers torchvision torchaudio "
    "xformers vllm together mistralai fireworks apex lion_pytorch schedulefree keras tensorflow jax flax optax".split()
)
"""Packages whose own code is not followed: what they do is known to the tables, and a fork keeps their names."""
_NO_CODE = re.compile(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*')
_ALREADY = "a part of the script that is not followed: too long or too deep"


_WORD = re.compile(r"[A-Za-z_]\w*")


@cache
def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, words)))


class Evaluator:
    """Follow one script and what it imports from beside it.

    Args:
        file: the script or notebook.
        repository: what stands beside it.
        command_line: flags of a shell script that runs it; None for a bare run.
        environment: variables that the shell script sets, each with its place.
    """

    def __init__(
        self,
        file: SourceFile,
        repository: Repository,
        command_line: CommandLine | None = None,
        environment: dict[str, tuple[str, str]] | None = None,
    ) -> None:
        self.file = file
        self.repository = repository
        self.command_line = command_line
        self.environment = dict(environment or {})
        self.trace = Trace()
        self.source: list[str] | None = None
        self.uncertain = 0
        self.cli = 0
        self.steps = 0
        self.stack: list[ast.AST] = []
        self.sites: list[int] = []
        self.calls: dict[ast.AST, int] = {}
        self.modules: dict[str, Module] = {}
        self.loading = 0
        self.main: Scope = Scope(file=file.shown)

    def run(self, worth: Iterable[str] = ()) -> Trace:
        """Follow the module as if run, then every function not called that mentions one of the words `worth`.

        Raises:
            UnreadableError: the file is not Python.
        """
        tree, lines = python_of(self.file)
        self.main = self._scope(self.file, lines, "__main__")
        self.block(tree.body, self.main)
        self._uncalled(tree, tuple(worth))
        if self.steps > MOST_STEPS:
            self.trace.incomplete = f"more than {MOST_STEPS:,} steps to follow"
        return self.trace

    def _scope(self, file: SourceFile, lines: tuple[str, ...], name: str) -> Scope:
        scope = Scope(file=file.shown, lines=lines)
        scope.names["__name__"] = Const(None, False, name)
        scope.names["__file__"] = Const(None, False, self.repository.relative(file))
        scope.names["get_ipython"] = External(None, False, "get_ipython")
        return scope

    def _uncalled(self, tree: ast.Module, worth: tuple[str, ...]) -> None:
        """Follow functions and methods that nothing in the file calls, then those that only such ones call."""
        functions = [
            kept
            if isinstance(kept := self.main.names.get(node.name), Function) and kept.node is node
            else Function(self.main.at(node), node=node, scope=self.main)
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        named = self._referenced(tree)
        ordered = sorted(functions, key=lambda value: getattr(value.node, "name", "") in named)
        for function in ordered:
            if function.node not in self.calls and self._mentions(function.node, worth):
                self.call(function, [], {}, function.node, self.main)
        for kind in [
            value for value in self.main.names.values() if isinstance(value, Class) and value.scope is self.main
        ]:
            methods = [method for method in kind.methods.values() if self._mentions(method.node, worth)]
            if not any(method.node not in self.calls for method in methods):
                continue
            this = next((made for made in self.trace.objects if made.kind is kind), None)
            if this is None:
                this = self.instantiate(kind, [], {}, kind.node, self.main)
                this.certain = False
            for method in methods:
                if method.node not in self.calls:
                    bound = Function(method.at, False, method.node, method.scope, this, None, kind)
                    self.inline(bound, [], {}, method.node, self.main)

    def _referenced(self, tree: ast.Module) -> set[str]:
        """Return the names that stand more often in the source than where they are defined; a walk is far slower."""
        if self.file.kind == "notebook":
            return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        return {name for name, times in Counter(_WORD.findall(_NO_CODE.sub(" ", self.file.text))).items() if times > 1}

    def _mentions(self, node: ast.AST, worth: tuple[str, ...]) -> bool:
        """Tell whether the source of a function has one of the words; of a notebook, whether its names have."""
        if not worth:
            return True
        if self.file.kind != "notebook" and self.source is None:
            self.source = self.file.text.split("\n")
        first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0)
        if self.source is not None and first and last:
            return _any_of(worth).search("\n".join(self.source[first - 1 : last])) is not None
        for inner in ast.walk(node):
            word = getattr(inner, "id", None) or getattr(inner, "attr", None) or getattr(inner, "arg", None)
            if isinstance(word, str) and any(part in word for part in worth):
                return True
        return False

    def evaluate(self, node: ast.expr, scope: Scope) -> Value:
        """Return the value of an expression."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            return Unknown(scope.at(node), False, _ALREADY)
        how = EVALUATE.get(type(node))
        return (
            how(self, node, scope)
            if how is not None
            else Unknown(scope.at(node), False, "an expression that is not followed")
        )

    def block(self, body: list[ast.stmt], scope: Scope) -> bool:
        """Run statements; return True where control leaves the block."""
        for statement in body:
            self.steps += 1
            if self.steps > MOST_STEPS:
                return True
            how = RUN.get(type(statement))
            if how is not None and how(self, statement, scope):
                return True
        return False

    def call(self, called: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST, scope: Scope) -> Value:
        """Return the value of a call."""
        return call_value(self, called, args, kwargs, node, scope)

    def make(self, path: str, args: list[Value], kwargs: dict[str, Value], node: ast.AST, scope: Scope) -> Object:
        """Return a new object in the trace."""
        rest = kwargs.pop("**", None)
        made = Object(scope.at(node), self.cli > 0, path, args, kwargs)
        made.rest = rest.reason if isinstance(rest, Unknown) else None
        made.node, made.depth, made.order = node, self.uncertain, len(self.trace.objects)
        made.certain = self.uncertain == 0
        made.inside = tuple(self.stack)
        here = getattr(node, "lineno", 1)
        made.line = here if scope.module() is self.main else self.sites[-1] if self.sites else 1
        self.trace.objects.append(made)
        return made

    def instantiate(
        self, kind: Class, args: list[Value], kwargs: dict[str, Value], node: ast.AST, scope: Scope
    ) -> Object:
        """Return an instance of a class of the script."""
        return new_instance(self, kind, args, kwargs, node, scope)

    def inline(
        self,
        function: Function,
        args: list[Value],
        kwargs: dict[str, Value],
        node: ast.AST,
        scope: Scope,
        rest: str | None = None,
    ) -> Value:
        """Return what a function of the script returns for these arguments."""
        body = function.node
        name = getattr(body, "name", "lambda")
        count = self.calls.get(body, 0)
        if body in self.stack or len(self.stack) >= DEEPEST or count >= MOST_CALLS:
            return Unknown(scope.at(node), False, f"result of {name}(), which is not followed again")
        self.calls[body] = count + 1
        inner = bind(self, function, args, kwargs, scope, rest)
        inner.names["(function)"] = Const(None, False, name)
        if function.owner_class is not None:
            inner.names["(class)"] = function.owner_class
        self.stack.append(body)
        site = scope.module() is self.main
        if site:
            self.sites.append(getattr(node, "lineno", 1))
        try:
            if isinstance(body, ast.Lambda):
                return self.evaluate(body.body, inner)
            self.block(body.body, inner)
        finally:
            self.stack.pop()
            if site:
                self.sites.pop()
        return inner.names.get(RETURNED, Const(scope.at(node)))

    def load(self, name: str, scope: Scope, level: int = 0) -> Module | None:
        """Return the sibling module of that dotted name, or None where it is not among the files read."""
        first = name.split(".")[0]
        if (not name and not level) or (not level and (first in LIBRARIES or first in sys.stdlib_module_names)):
            return None
        if not LIBRARIES.isdisjoint(self._relative(scope).split("/")[:-1]):
            return None
        here = self.repository.open(self._relative(scope)) if scope.module().file != self.file.shown else self.file
        if here is None:
            return None
        path = name.replace(".", "/")
        if level > 1:
            path = "../" * (level - 1) + path
        for candidate in (f"{path}.py", f"{path}/__init__.py") if name else ("../" * (level - 1) + "__init__.py",):
            found = self.repository.find(posixpath.normpath(candidate), here)
            if found is not None and found.kind == "python" and found.shown != here.shown:
                return self._module(found)
        return None

    def resolve(self, name: str, imported: Imported, scope: Scope) -> Value:
        """Return what an imported name is, and bind it: a value of a sibling module, else a name from outside."""
        home = imported.home or scope
        module = self.load(imported.module, home, imported.level)
        found: Value | None = module
        if imported.name:
            found = module.scope.names.get(imported.name) if module is not None and module.scope is not None else None
            if isinstance(found, Imported) and module is not None and module.scope is not None:
                found = self.resolve(imported.name, found, module.scope)
            if found is None:
                path = f"{imported.module}.{imported.name}" if imported.module else imported.name
                found = self.load(path, home, imported.level)
        value = found or External(imported.at, False, imported.path)
        where: Scope | None = scope
        while where is not None and where.names.get(name) is not imported:
            where = where.parent
        if where is not None:
            where.names[name] = value
        return value

    def _relative(self, scope: Scope) -> str:
        return scope.module().file.removeprefix(self.repository.label)

    def _module(self, found: SourceFile) -> Module | None:
        if found.shown in self.modules:
            return self.modules[found.shown]
        if len(found.data) > LONGEST_MODULE:
            return None
        if found.shown == self.file.shown or self.loading >= MOST_LOADING or len(self.modules) >= MOST_MODULES:
            return None
        try:
            tree, lines = python_of(found)
        except UnreadableError:
            return None
        scope = self._scope(found, lines, found.name.rpartition(".")[0])
        self.modules[found.shown] = module = Module(found.shown, False, scope)
        self.loading += 1
        objects = len(self.trace.objects)
        self.block(tree.body, scope)
        del self.trace.objects[objects:]
        self.loading -= 1
        return module

    def read_tree(self, path: str, scope: Scope) -> Value | None:
        """Return the content of a YAML, JSON or TOML file beside the script, or None where it is not there."""
        here = self.repository.open(self._relative(scope)) or self.file
        found = self.repository.find(path, here)
        if found is None or found.kind not in ("yaml", "json", "toml"):
            return None
        try:
            documents = found.documents
        except UnreadableError:
            return None
        return value_of(documents[0]) if documents else None

    def composed(
        self, folder: str, name: str, scope: Scope, overrides: dict[str, tuple[str, str]] | None = None
    ) -> Items | None:
        """Return the config that Hydra composes for a script, or None where it is not among the files read."""
        here = self.repository.open(self._relative(scope)) or self.file
        if overrides is None:
            overrides = self.command_line.overrides if self.command_line is not None else {}
        return compose(self.repository, here, folder, name, overrides)
