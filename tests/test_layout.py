"""The layout of the code: what each module may import, and how long a function may be."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import shape


@pytest.fixture(scope="module")
def modules():
    return shape.modules()


@pytest.fixture(scope="module")
def functions(modules):
    return [function for module in modules for function in module.functions()]


def test_each_module_has_a_layer(modules):
    assert [m.name for m in modules if shape.layer(m.name) is None] == []


def test_imports_only_go_down(modules):
    assert shape.imports_that_point_up(modules) == []


def test_only_tests_import_the_front_door(modules):
    imports = shape.imports_of_ours(modules)
    assert [name for name in imports if shape.FRONT_DOOR in imports[name]] == []


@pytest.mark.parametrize("what", shape.ONLY_USERS)
def test_one_module_uses(what, modules):
    assert shape.users(modules, what) == [shape.ONLY_USERS[what]]


def test_no_function_is_long(functions):
    assert shape.too_long(functions) == []


def test_no_function_has_many_arguments(functions):
    assert shape.too_many_arguments(functions) == []


def test_the_shape_is_printed():
    script = os.path.join(shape.ROOT, "tools", "shape.py")
    lines = subprocess.check_output([sys.executable, script], universal_newlines=True).splitlines()
    assert lines[0].startswith("run_classifier_gpu.py: ")
    assert len(lines) > 25


# The counting itself, on code with known numbers.


def parse(tmp_path, code):
    path = tmp_path / "code.py"
    path.write_text(textwrap.dedent(code))
    return shape._parse(str(path))._replace(name="m")


def test_lines_of_code_are_without_docstring_comments_and_blank_lines(tmp_path):
    module = parse(
        tmp_path,
        '''
        @decorated
        def f(  # Comment.
            a, b=1,
            *rest, c, **others
        ):
            """Summary.

            More.
            """
            # Comment.
            text = """one
            two"""

            def inside(): return 1

            return text


        class C:
            """Docstring."""

            def method(self, a):
                """Docstring."""
                return a
        ''',
    )
    assert module.functions() == [("m.f", 8, 3), ("m.f.inside", 1, 0), ("m.C.method", 2, 1)]


def test_imports_are_found_wherever_they_stand(tmp_path):
    module = parse(
        tmp_path,
        """
        import a.b as c
        from d import e

        def f():
            from g.h import i, j
            return importlib.import_module("k.l")
        """,
    )
    assert module.imports() == {"a.b", "d.e", "g.h.i", "g.h.j", "k.l"}


@pytest.mark.parametrize(
    "code, found",
    [
        ("from tensorflow.python.util import deprecation", "tensorflow.python.util.deprecation"),
        ("tf.train._x()", "tf.train._x"),
        ("session._graph", "session._graph"),
        ("class C(tf.A):\n  def f(self): self._timer", "C: self._timer"),
        ("class C(tf.A):\n  def f(self): super()._save()", "super._save"),
    ],
)
def test_private_names_are_found(code, found, tmp_path):
    assert parse(tmp_path, code).private_tensorflow_names() == {found}


@pytest.mark.parametrize(
    "code",
    [
        "import tensorflow.compat.v1 as tf\ntf.__version__",
        "settings._replace(a=1)._asdict()",
        "class C(tf.A):\n  def f(self): self._x = 1; self._x; self._g()\n  def _g(self): pass",
        "class C(D):\n  def f(self): self._timer",
    ],
)
def test_other_names_are_not_private_ones_of_tensorflow(code, tmp_path):
    assert parse(tmp_path, code).private_tensorflow_names() == set()


def test_an_import_that_points_up_is_found():
    def module(name, code):
        return shape.Module(name, "", shape.ast.parse(code))

    modules = [
        module("modeling", "from bert_classifier import errors"),
        module("bert_classifier.errors", ""),
        module("bert_classifier.training.loop", "import modeling"),
        module("bert_classifier.export.writer", "from bert_classifier.training.loop import x"),
        module("bert_classifier.serving.predictor", "from bert_classifier.export import writer"),
    ]
    assert shape.imports_that_point_up(modules) == [
        "modeling -> bert_classifier.errors",
        "bert_classifier.serving.predictor -> ... -> bert_classifier.training.loop",
    ]
