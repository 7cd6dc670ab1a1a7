"""The script that makes PyTorch's environment, on a copy of tools/ with a stand-in for uv."""

import pytest
from test_setup import STARTS, Machine, assert_one_sentence, write_program

VENV = ".venv-hugging-face"

# Has PyTorch's CPU build where `WHERE` says: behind one of its own options.
UV = """#!/usr/bin/env bash
echo "$*" >> "$UV_LOG"
case "$1" in
    venv) mkdir -p "${!#}/bin" && cp "$VENV_PYTHON" "${!#}/bin/python" ;;
    pip) [[ $* == *" $WHERE"* ]] || { echo "no torch" >&2; exit 1; } ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    machine = Machine(tmp_path)
    write_program(machine.on_path("uv"), UV)
    (machine.project / "requirements-hugging-face.txt").write_text("torch\n")
    return machine


def make(project, **variables):
    variables.setdefault("WHERE", "--torch-backend cpu")
    return project.run("tools/make_hugging_face.sh", **variables)


def installations(project):
    return [call for call in project.uv_calls() if call.startswith("pip")]


def test_environment_is_made_once(project):
    assert make(project).returncode == 0
    assert project.uv_calls()[0].startswith("venv ")
    again = make(project)
    assert (again.returncode, again.stdout, again.stderr, project.uv_calls()) == (0, "", "", [])


def test_pytorch_is_taken_from_where_pip_looks_first(project):
    result = make(project, PIP_FIND_LINKS="/wheels", WHERE="--find-links /wheels")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(installations(project)) == 1


def test_pytorch_is_then_taken_from_where_uv_knows_it_to_be(project):
    result = make(project, PIP_FIND_LINKS="/wheels")
    assert (result.returncode, result.stderr) == (0, "")
    assert [call.split(".txt ")[-1] for call in installations(project)] == [
        "--find-links /wheels",
        "--torch-backend cpu",
    ]


def test_who_cannot_have_pytorch_is_told_why_and_may_try_again(project):
    failed = make(project, WHERE="--nowhere")
    assert failed.returncode != 0
    assert failed.stderr == "no torch\n"
    assert make(project).returncode == 0


def lose_python(folder):
    (folder / VENV / "bin" / "python").unlink()


def change_requirements(folder):
    (folder / "requirements-hugging-face.txt").write_text("torch\ntransformers\n")


@pytest.mark.parametrize("spoil", [lose_python, change_requirements])
def test_spoiled_environment_is_remade_from_nothing(project, spoil):
    make(project)
    spoil(project.project)
    leftover = write_program(project.project / VENV / "lib" / "leftover.py", "")
    project.uv_calls()
    assert make(project).returncode == 0
    assert project.uv_calls()[0].startswith("venv ")
    assert not leftover.exists()


def test_environment_of_somebody_else_is_left_alone(project):
    theirs = write_program(project.project / VENV / "bin" / "python", STARTS)
    assert_one_sentence(make(project), VENV + " was not made by make")
    assert project.uv_calls() == []
    assert theirs.exists()
