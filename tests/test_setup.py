"""The scripts behind `make venv`, on a copy of tools/ with stand-ins for Python and uv."""

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED_PROGRAMS = "bash cat chmod cmp cp dirname find flock mkdir sort".split()

# Answers find_python37.sh as a CPython 3.7 would: with its path.
CPYTHON37 = '#!/bin/sh\necho "$0"\n'
BROKEN = "#!/bin/sh\necho 'pyenv: python3.7: command not found' >&2\nexit 127\n"

STARTS = "#!/bin/sh\n"

# Does what the scripts ask of uv, and notes what that was.
UV = """#!/usr/bin/env bash
echo "$*" >> "$UV_LOG"
case "$1 $2" in
    "python find") [[ -e $UV_PYTHON ]] && echo "$UV_PYTHON" ;;
    "python install") [[ -n ${UV_DOWNLOAD:-} ]] && cp "$UV_DOWNLOAD" "$UV_PYTHON" ;;
    "venv "*) mkdir -p .venv/bin && cp "$VENV_PYTHON" .venv/bin/python ;;
    "pip install") [[ -z ${UV_FAILS:-} ]] ;;
esac
"""


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class Machine:
    """A project folder, and a PATH that holds the needed programs and what a test puts there."""

    def __init__(self, folder):
        self.folder = folder
        self.project = folder / "project"
        self.pyenv = folder / "pyenv"
        self.uv_python = folder / "uv" / "python3.7"
        self.uv_log = folder / "uv.log"
        shutil.copytree(str(ROOT / "tools"), str(self.project / "tools"))
        for name in NEEDED_PROGRAMS:
            self.on_path(name).parent.mkdir(exist_ok=True)
            self.on_path(name).symlink_to(shutil.which(name))
        self.uv_python.parent.mkdir()
        write_program(self.on_path("uv"), UV)
        # The private uv is the same stand-in: the real one would be downloaded.
        write_program(
            self.project / "tools" / "find_uv.sh", "#!/bin/sh\necho '%s'\n" % self.on_path("uv")
        )
        self.variables = {
            "PATH": str(folder / "bin"),
            "PYENV_ROOT": str(self.pyenv),
            "UV_LOG": str(self.uv_log),
            "UV_PYTHON": str(self.uv_python),
            "VENV_PYTHON": str(write_program(folder / "venv_python", STARTS)),
        }

    def on_path(self, name):
        return self.folder / "bin" / name

    def in_pyenv(self, version):
        return self.pyenv / "versions" / version / "bin" / "python3.7"

    def run(self, *command, **variables):
        return subprocess.run(
            command,
            cwd=str(self.project),
            env=dict(self.variables, **variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def uv_calls(self):
        """What uv was asked since the last call of this method."""
        calls = self.uv_log.read_text().splitlines() if self.uv_log.exists() else []
        self.uv_log.write_text("")
        return calls


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def find_python37(machine, **variables):
    return machine.run("tools/find_python37.sh", **variables)


def assert_one_sentence(result, *words):
    assert result.returncode != 0
    assert result.stdout == ""
    assert result.stderr.endswith(".\n") and result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_python37_is_searched_in_the_documented_order(machine):
    chosen = write_program(machine.folder / "mine" / "python", CPYTHON37)
    places = [
        machine.on_path("python3.7"),
        machine.in_pyenv("3.7.16"),
        machine.in_pyenv("3.7.9"),
        machine.uv_python,
    ]
    for place in places:
        write_program(place, CPYTHON37)

    assert find_python37(machine, PYTHON37=str(chosen)).stdout == "%s\n" % chosen
    for place in places:
        assert find_python37(machine).stdout == "%s\n" % place
        place.unlink()


def test_uv_installs_python37_when_there_is_none(machine):
    download = write_program(machine.folder / "download", CPYTHON37)
    result = find_python37(machine, UV_DOWNLOAD=str(download))
    assert (result.returncode, result.stdout) == (0, "%s\n" % machine.uv_python)


def test_python37_on_path_that_does_not_start_is_passed_over(machine):
    write_program(machine.on_path("python3.7"), BROKEN)
    real = write_program(machine.folder / "second" / "python3.7", CPYTHON37)
    path = "%s:%s" % (machine.variables["PATH"], real.parent)
    result = find_python37(machine, PATH=path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "%s\n" % real, "")


@pytest.mark.skipif(sys.version_info[:2] != (3, 7), reason="asks the Python that runs the tests")
def test_python_of_an_environment_is_answered_with_its_base(machine):
    result = find_python37(machine, PYTHON37=sys.executable)
    assert result.returncode == 0
    assert Path(result.stdout.strip()).resolve() == Path(sys.executable).resolve()
    assert Path(result.stdout.strip()).parents[1] == Path(sys.base_prefix)


@pytest.mark.parametrize("kind", ["missing", "broken", "another version"])
def test_python37_variable_that_does_not_work_is_an_error(machine, kind):
    write_program(machine.on_path("python3.7"), CPYTHON37)
    chosen = machine.folder / "mine"
    if kind == "broken":
        write_program(chosen, BROKEN)
    if kind == "another version":
        # A real Python that believes to be 3.8.
        pretend = "import sys; sys.version_info = (3, 8, 1); exec(sys.argv.pop(1))"
        write_program(chosen, "#!/bin/sh\nexec '%s' -c '%s' \"$2\"\n" % (sys.executable, pretend))
    assert_one_sentence(find_python37(machine, PYTHON37=str(chosen)), "PYTHON37", str(chosen))


def test_no_python37_anywhere_is_one_sentence_with_a_cure(machine):
    write_program(machine.on_path("python3.7"), BROKEN)
    write_program(machine.in_pyenv("3.7.16"), BROKEN)
    result = find_python37(machine)
    tried = ["PATH", str(machine.pyenv), "uv python find 3.7", "uv python install 3.7"]
    assert_one_sentence(result, "PYTHON37=/path/to/python3.7", *tried)


# `python3 -m venv` leaves a python whose `-m pip install` leaves a uv of the version asked for.
PYTHON3 = """#!/usr/bin/env bash
mkdir -p .tools/bin
cat > .tools/bin/python <<'END'
#!/usr/bin/env bash
requirement=${!#}
printf '#!/bin/sh\\necho uv %s\\n' "${requirement#uv==}" > .tools/bin/uv
chmod +x .tools/bin/uv
END
chmod +x .tools/bin/python
"""


@pytest.fixture
def find_uv(machine):
    """The real find_uv.sh on this machine, which has no uv unless a test brings one."""
    shutil.copy(str(ROOT / "tools" / "find_uv.sh"), str(machine.project / "tools"))
    machine.on_path("uv").unlink()
    return functools.partial(machine.run, "tools/find_uv.sh")


def test_uv_on_path_is_used_unless_the_private_one_is_asked_for(machine, find_uv):
    write_program(machine.on_path("uv"), STARTS)
    write_program(machine.on_path("python3"), PYTHON3)
    private = machine.project / ".tools" / "bin" / "uv"
    assert find_uv().stdout == "%s\n" % machine.on_path("uv")
    assert machine.run("tools/find_uv.sh", "--private").stdout == "%s\n" % private


@pytest.mark.parametrize("on_path", [None, BROKEN], ids=["no uv", "broken uv"])
def test_private_uv_is_installed_once(machine, find_uv, on_path):
    if on_path:
        write_program(machine.on_path("uv"), on_path)
    write_program(machine.on_path("python3"), PYTHON3)
    private = machine.project / ".tools" / "bin" / "uv"
    assert find_uv().stdout == "%s\n" % private

    machine.on_path("python3").unlink()
    assert find_uv().stdout == "%s\n" % private

    write_program(private, "#!/bin/sh\necho uv 0.0.1\n")
    assert find_uv().returncode != 0, "a private uv of another version is replaced"


def test_no_uv_and_no_way_to_install_it_names_the_cure(find_uv):
    result = find_uv()
    assert (result.returncode, result.stdout) == (1, "")
    assert "install uv, or Python 3.8 or newer" in result.stderr.splitlines()[-1]


@pytest.fixture
def project(machine):
    """A project that has all that `make venv` asks for."""
    write_program(machine.on_path("python3.7"), CPYTHON37)
    (machine.project / "requirements.lock").write_text("numpy\n")
    (machine.project / "requirements-dev.lock").write_text("pytest\n")
    return machine


def make_venv(project, *arguments, **variables):
    result = project.run("tools/make_venv.sh", *arguments, **variables)
    return result, [call.split()[0] for call in project.uv_calls()]


@pytest.mark.parametrize("arguments", [[], ["dev"]], ids=["runtime", "dev"])
def test_venv_is_made_once(project, arguments):
    result, calls = make_venv(project, *arguments)
    assert (result.returncode, calls) == (0, ["venv", "pip"])

    result, calls = make_venv(project, *arguments)
    assert (result.returncode, result.stdout, result.stderr, calls) == (0, "", "", [])


def test_dev_adds_to_the_runtime_and_contains_it(project):
    make_venv(project)
    assert make_venv(project, "dev")[1] == ["pip"]
    assert make_venv(project)[1] == []


def break_python(project):
    write_program(project.project / ".venv" / "bin" / "python", BROKEN)


def lose_python(project):
    (project.project / ".venv" / "bin" / "python").unlink()


def change_lock(project):
    (project.project / "requirements.lock").write_text("numpy\nsix\n")


def interrupt_a_remake(project):
    change_lock(project)
    assert make_venv(project, UV_FAILS="yes")[0].returncode != 0


def interrupt_dev(project):
    assert make_venv(project, "dev", UV_FAILS="yes")[0].returncode != 0


@pytest.mark.parametrize(
    "spoil", [break_python, lose_python, change_lock, interrupt_a_remake, interrupt_dev]
)
def test_spoiled_venv_is_remade_from_nothing(project, spoil):
    make_venv(project)
    spoil(project)
    leftover = project.project / ".venv" / "lib" / "leftover.py"
    write_program(leftover, "")
    project.uv_calls()

    result, calls = make_venv(project)
    assert (result.returncode, calls) == (0, ["venv", "pip"])
    assert not leftover.exists()
    assert make_venv(project)[1] == []


def test_venv_of_somebody_else_is_left_alone(project):
    theirs = write_program(project.project / ".venv" / "bin" / "python", STARTS)
    result, calls = make_venv(project)
    assert_one_sentence(result, ".venv was not made by make")
    assert calls == []
    assert theirs.exists()
