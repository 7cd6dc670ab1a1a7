"""Print the shape of the code: what is long, who imports what, and which imports point up.

    .venv/bin/python tools/shape.py

`tests/test_layout.py` asserts the rules.
"""

from __future__ import annotations

import ast
import os
import tokenize
from typing import Any, Iterator, NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGE = "bert_classifier"
FRONT_DOOR = "run_classifier_gpu"

# Modules and packages, from low to high: each imports what stands in its own row or above it here.
LAYERS = (
    ("encoder_config",),
    ("modeling", "optimization", "tokenization", "tf_metrics"),
    (
        "bert_classifier.config",
        "bert_classifier.devices",
        "bert_classifier.errors",
        "bert_classifier.failures",
        "bert_classifier.files",
        "bert_classifier.gpus",
        "bert_classifier.logs",
        "bert_classifier.objectives",
        "bert_classifier.problem_types",
        "bert_classifier.streams",
        "bert_classifier.tf_compat",
        "bert_classifier.threads",
    ),
    ("bert_classifier.data",),
    ("bert_classifier.model",),
    ("bert_classifier.training",),
    ("bert_classifier.inspection",),
    ("bert_classifier.export",),
    ("bert_classifier.hugging_face",),
    ("bert_classifier.report",),
    ("bert_classifier.serving",),
    ("bert_classifier.server",),
    (
        "bert_classifier",  # Its __init__ alone.
        "bert_classifier.commands",
        "bert_classifier.compare",
        "bert_classifier.convert",
        "bert_classifier.flags",
        "bert_classifier.hook_builders",
        "bert_classifier.job",
        "bert_classifier.label_noise",
        "bert_classifier.predict",
        "bert_classifier.predictions",
        "bert_classifier.program",
        "bert_classifier.reporting",
        "bert_classifier.serve",
        "bert_classifier.summary",
        "bert_classifier.trials",
    ),
    (FRONT_DOOR,),
)
# What a package must not need, not even through others, though it stands above it.
_NO_TRAINING = ("bert_classifier.training", "bert_classifier.inspection")
NEVER = {"bert_classifier.serving": _NO_TRAINING, "bert_classifier.server": _NO_TRAINING}

# What only one module may use.
ONLY_USERS = {
    "absl.flags": "bert_classifier.flags",
    "horovod": "bert_classifier.training.workers",
    "a private name of TensorFlow": "bert_classifier.tf_compat",
}
# Where TensorFlow leaves no other way.
MAY_USE_PRIVATE_NAMES = {
    "optimization": "a subclass of tf.train.Optimizer is made by defining methods such as _prepare",
}

MOST_CODE_LINES = 60
MOST_ARGUMENTS = 8
# A flag takes lines, not thought.
MAY_BE_LONG = ("bert_classifier.flags",)
# Their signatures, or the beginning of them, are those of others.
MAY_HAVE_MANY_ARGUMENTS = {
    "modeling.BertModel.__init__": "google's BERT",
    "modeling.attention_layer": "google's BERT",
    "modeling.embedding_postprocessor": "google's BERT",
    "modeling.transformer_model": "google's BERT",
    "optimization.create_optimizer": "google's BERT",
    "bert_classifier.data.batches.file_based_input_fn_builder": "google's BERT",
    "bert_classifier.data.batches.input_fn_builder": "google's BERT",
    "bert_classifier.model.classifier.create_model": "google's BERT",
    "bert_classifier.model.classifier.model_fn_builder": "google's BERT",
}

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

# Names that begin with an underscore, and are public: those of named tuples.
_PUBLIC = ("_replace", "_asdict", "_fields", "_make")


class Function(NamedTuple):
    """A function or method; `code_lines` is without docstring, comments and blank lines."""

    name: str
    code_lines: int
    arguments: int


class Module(NamedTuple):
    """A module of the project: its name, its file, its code."""

    name: str
    path: str
    tree: ast.Module

    def functions(self) -> list[Function]:
        """Return all functions, those inside others too, in the order of the file."""
        definitions = list(_definitions(self.tree, self.name))
        with tokenize.open(self.path) as stream:
            lengths = list(_lengths(list(tokenize.generate_tokens(stream.readline))))
        if len(definitions) != len(lengths):
            raise AssertionError("%s: functions cannot be counted" % self.path)
        return [
            Function(name, length, _count_arguments(node))
            for (name, node), length in zip(definitions, lengths)
        ]

    def imports(self) -> set[str]:
        """Return what is imported, as dotted names: modules, or names in them."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                # Relative imports are not used here; a test would miss what they name.
                parent = "." * node.level + (node.module or "")
                found.update("%s.%s" % (parent, alias.name) for alias in node.names)
            elif isinstance(node, ast.Call) and _dotted(node.func) == "importlib.import_module":
                found.add(ast.literal_eval(node.args[0]))
        return found

    def imports_tensorflow(self) -> bool:
        """Tell whether TensorFlow is imported, so that a private name may be one of its."""
        return any(name.startswith("tensorflow") for name in self.imports())

    def private_tensorflow_names(self) -> set[str]:
        """Return the private names of TensorFlow, as far as they can be told from other names.

        These are `tensorflow.python...` and the like, an attribute with an underscore of anything
        but `self` and `cls`, and of `self` in a subclass of a class of TensorFlow that does not
        define it itself.
        """
        private = ("tensorflow.python", "tensorflow.core", "tensorflow_estimator")
        found = {name for name in self.imports() if name.startswith(private)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and _is_private(node.attr):
                owner = _dotted(node.value)
                if owner not in ("self", "cls") and not owner.startswith("self._"):
                    found.add("%s.%s" % (owner, node.attr))
            elif isinstance(node, ast.ClassDef) and any(
                _dotted(base).startswith("tf.") for base in node.bases
            ):
                found |= _inherited_private_names(node)
        return found


def modules() -> list[Module]:
    """Return the modules of the project: those at the root and those of the package."""
    paths = [name for name in sorted(os.listdir(ROOT)) if name.endswith(".py")]
    for folder, folders, names in os.walk(os.path.join(ROOT, PACKAGE)):
        folders.sort()
        relative = os.path.relpath(folder, ROOT)
        paths += [os.path.join(relative, name) for name in sorted(names) if name.endswith(".py")]
    return [_parse(path) for path in paths]


def layer(name: str) -> int | None:
    """Return the number of the layer of a module, from 0, the lowest; None if it has none."""
    for number, row in enumerate(LAYERS):
        # A folder in the table stands for the modules in it, the package itself for no other.
        if any(name == entry or (entry != PACKAGE and _is_in(name, entry)) for entry in row):
            return number
    return None


def imports_of_ours(all_modules: list[Module]) -> dict[str, set[str]]:
    """Return module -> the modules of the project that it imports."""
    names = {module.name for module in all_modules}
    return {
        module.name: {
            known
            for imported in module.imports()
            for known in [_known(imported, names)]
            if known and known != module.name
        }
        for module in all_modules
    }


def imports_that_point_up(all_modules: list[Module]) -> list[str]:
    """Return `module -> module` for each import that the layers forbid."""
    ours = imports_of_ours(all_modules)
    up = [
        "%s -> %s" % (name, other)
        for name, others in ours.items()
        for other in sorted(others)
        if (layer(other) or 0) > (layer(name) or 0)
    ]
    for package, forbidden in NEVER.items():
        for name in filter(lambda name: _is_in(name, package), ours):
            reached = _reachable(name, ours)
            up += [
                "%s -> ... -> %s" % (name, other)
                for other in sorted(reached)
                if any(_is_in(other, entry) for entry in forbidden)
            ]
    return up


def users(all_modules: list[Module], what: str) -> list[str]:
    """Return the modules that use one of `ONLY_USERS`."""
    if what in ("absl.flags", "horovod"):
        return [m.name for m in all_modules if any(_is_in(name, what) for name in m.imports())]
    return [
        module.name
        for module in all_modules
        if module.name not in MAY_USE_PRIVATE_NAMES
        and module.imports_tensorflow()
        and module.private_tensorflow_names()
    ]


def too_long(functions: list[Function]) -> list[Function]:
    """Return the functions that have more lines of code than they may."""
    return [
        function
        for function in functions
        if function.code_lines > MOST_CODE_LINES
        and not any(_is_in(function.name, name) for name in MAY_BE_LONG)
    ]


def too_many_arguments(functions: list[Function]) -> list[Function]:
    """Return the functions that have more arguments than they may."""
    return [
        function
        for function in functions
        if function.arguments > MOST_ARGUMENTS and function.name not in MAY_HAVE_MANY_ARGUMENTS
    ]


def _parse(path: str) -> Module:
    name = os.path.splitext(path)[0].replace(os.sep, ".")
    if name.endswith(".__init__"):
        name = name[: -len(".__init__")]
    full_path = os.path.join(ROOT, path)
    with tokenize.open(full_path) as stream:
        return Module(name, full_path, ast.parse(stream.read(), full_path))


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _known(imported: str, names: set[str]) -> str | None:
    """Return the module that an import names: `a.b` is the module, or the name b in a."""
    if imported in names:
        return imported
    parent = imported.rpartition(".")[0]
    return parent if parent in names else None


def _reachable(name: str, ours: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        new = ours[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _definitions(node: ast.AST, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the node of each function, in the order of the file."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*_FUNCTIONS, ast.ClassDef)):
            child_name = "%s.%s" % (name, child.name)
            if isinstance(child, _FUNCTIONS):
                yield child_name, child
            yield from _definitions(child, child_name)
        else:
            yield from _definitions(child, name)


def _lengths(tokens: list[tokenize.TokenInfo]) -> Iterator[int]:
    """Yield the number of lines of code of each function, in the order of the file."""
    for number, token in enumerate(tokens):
        # `ast` tells no last line before Python 3.8.
        if token.type == tokenize.NAME and token.string == "def":
            yield len(_lines_of_function(tokens[number:]))


def _lines_of_function(tokens: list[tokenize.TokenInfo]) -> set[int]:
    """Return the numbers of the lines of code of the function that begins with the first token."""
    lines: set[int] = set()
    depth, last = 0, tokens[0]
    for token in tokens:
        if token.type in (tokenize.COMMENT, tokenize.NL):
            continue
        if token.type == tokenize.INDENT:
            depth += 1
        elif token.type == tokenize.DEDENT:
            depth -= 1
        is_end = token.type == tokenize.DEDENT and depth == 0
        # The body may be in the line of the `def`.
        if is_end or (token.type == tokenize.NEWLINE and depth == 0 and last.string != ":"):
            break
        is_docstring = token.type == tokenize.STRING and last.type == tokenize.INDENT
        has_code = token.type not in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        if has_code and not is_docstring:
            lines.update(range(token.start[0], token.end[0] + 1))
        last = token
    return lines


def _count_arguments(node: Any) -> int:
    """Count the arguments that have names, without `self` and `cls`."""
    arguments = [argument.arg for argument in node.args.args + node.args.kwonlyargs]
    return len(arguments) - (arguments[:1] in (["self"], ["cls"]))


def _dotted(node: ast.AST) -> str:
    """Return `a.b` for that expression, with ? for what is no name."""
    if isinstance(node, ast.Attribute):
        return "%s.%s" % (_dotted(node.value), node.attr)
    if isinstance(node, ast.Call):
        return _dotted(node.func)
    return node.id if isinstance(node, ast.Name) else "?"


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in _PUBLIC


def _inherited_private_names(node: ast.ClassDef) -> set[str]:
    """Return the private attributes of `self` that a class uses and does not define."""
    used, defined = set(), set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and _is_private(part.attr):
            if _dotted(part.value) == "self":
                (defined if isinstance(part.ctx, ast.Store) else used).add(part.attr)
        elif isinstance(part, ast.FunctionDef):
            defined.add(part.name)
    return {"%s: self.%s" % (node.name, name) for name in used - defined}


def main() -> None:
    """Print the shape."""
    all_modules = modules()
    functions = [function for module in all_modules for function in module.functions()]
    front_door = next(module for module in all_modules if module.name == FRONT_DOOR)
    with open(front_door.path, encoding="utf-8") as stream:
        print("%s.py: %d lines" % (FRONT_DOOR, len(stream.readlines())))
    at_root = [os.path.basename(m.path) for m in all_modules if os.path.dirname(m.path) == ROOT]
    print("Python files at the root:", ", ".join(at_root))
    print("\nLongest functions, in lines of code:")
    for function in sorted(functions, key=lambda f: -f.code_lines)[:10]:
        print("  %4d %s" % (function.code_lines, function.name))
    print("\nMost arguments:")
    for function in sorted(functions, key=lambda f: -f.arguments)[:10]:
        print("  %4d %s" % (function.arguments, function.name))
    print()
    for what in ONLY_USERS:
        print("Users of %s:" % what, ", ".join(users(all_modules, what)) or "none")
    print("Imports that point up:", ", ".join(imports_that_point_up(all_modules)) or "none")


if __name__ == "__main__":
    main()
