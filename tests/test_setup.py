"""The scripts behind `make venv` and its like, on a copy of tools/ with stand-ins.

The stand-ins are Python, uv, the compilers, CUDA and its driver; nothing is installed or built.
"""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED_PROGRAMS = (
    "bash cat chmod cmp cp dirname env find flock grep head mkdir mv nproc rm sha256sum sort tail"
).split()

# Answers find_python.sh as a CPython of the version asked for would: with its path.
CPYTHON = '#!/bin/sh\necho "$0"\n'
BROKEN = "#!/bin/sh\necho 'pyenv: python3.7: command not found' >&2\nexit 127\n"

STARTS = "#!/bin/sh\n"

# Does what the scripts ask of uv, and notes what that was.
UV = """#!/usr/bin/env bash
add_wheel() {
    mkdir -p "$INSTALLED_HOROVOD" && cp "$1" "$INSTALLED_HOROVOD/wheel"
    [[ ${KILLED_AT:-} != installation ]] || kill -KILL $PPID
}
echo "$*" >> "$UV_LOG"
case "$1 $2" in
    "python find") [[ -e $UV_PYTHON ]] && echo "$UV_PYTHON" ;;
    "python install") [[ -n ${UV_DOWNLOAD:-} ]] && cp "$UV_DOWNLOAD" "$UV_PYTHON" ;;
    "venv "*)
        mkdir -p "${!#}/bin" "${!#}/lib/python3.7/site-packages"
        cp "$VENV_PYTHON" "${!#}/bin/python" ;;
    "pip install") [[ -z ${UV_FAILS:-} ]] && if [[ $* == *.whl ]]; then add_wheel "${!#}"; fi ;;
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
        self.driver = folder / "proc" / "driver"
        environment = self.project / "tools" / "environment.sh"
        text = environment.read_text().replace("/proc/driver/nvidia/version", str(self.driver))
        environment.write_text(text)
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
        name = "python" + version.rsplit(".", 1)[0]
        return self.pyenv / "versions" / version / "bin" / name

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
    return machine.run("tools/find_python.sh", "3.7", **variables)


def assert_one_sentence(result, *words):
    assert result.returncode != 0
    assert result.stdout == ""
    assert result.stderr.endswith(".\n") and result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_python37_is_searched_in_the_documented_order(machine):
    chosen = write_program(machine.folder / "mine" / "python", CPYTHON)
    places = [
        machine.on_path("python3.7"),
        machine.in_pyenv("3.7.16"),
        machine.in_pyenv("3.7.9"),
        machine.uv_python,
    ]
    for place in places:
        write_program(place, CPYTHON)

    assert find_python37(machine, PYTHON37=str(chosen)).stdout == "%s\n" % chosen
    for place in places:
        assert find_python37(machine).stdout == "%s\n" % place
        place.unlink()


def test_uv_installs_python37_when_there_is_none(machine):
    download = write_program(machine.folder / "download", CPYTHON)
    result = find_python37(machine, UV_DOWNLOAD=str(download))
    assert (result.returncode, result.stdout) == (0, "%s\n" % machine.uv_python)


def test_python37_on_path_that_does_not_start_is_passed_over(machine):
    write_program(machine.on_path("python3.7"), BROKEN)
    real = write_program(machine.folder / "second" / "python3.7", CPYTHON)
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
    write_program(machine.on_path("python3.7"), CPYTHON)
    chosen = machine.folder / "mine"
    if kind == "broken":
        write_program(chosen, BROKEN)
    if kind == "another version":
        # A real Python that believes to be 3.8.
        pretend = "import sys; sys.version_info = (3, 8, 1); exec(sys.argv.pop(1))"
        text = "#!/bin/sh\nexec '%s' -c '%s' \"$2\" \"$3\"\n" % (sys.executable, pretend)
        write_program(chosen, text)
    assert_one_sentence(find_python37(machine, PYTHON37=str(chosen)), "PYTHON37", str(chosen))


def test_no_python37_anywhere_is_one_sentence_with_a_cure(machine):
    write_program(machine.on_path("python3.7"), BROKEN)
    write_program(machine.in_pyenv("3.7.16"), BROKEN)
    result = find_python37(machine)
    tried = ["PATH", str(machine.pyenv), "uv python find 3.7", "uv python install 3.7"]
    assert_one_sentence(result, "PYTHON37=/path/to/python3.7", *tried)


def test_the_first_version_that_is_anywhere_is_taken(machine):
    find = functools.partial(machine.run, "tools/find_python.sh", "3.11", "3.10", "3.9")
    chosen = write_program(machine.folder / "mine" / "python", CPYTHON)
    on_path = write_program(machine.on_path("python3.9"), CPYTHON)
    in_pyenv = write_program(machine.in_pyenv("3.10.13"), CPYTHON)
    write_program(machine.in_pyenv("3.7.16"), CPYTHON)
    assert find().stdout == "%s\n" % in_pyenv
    assert find(PYTHON39=str(chosen)).stdout == "%s\n" % chosen
    assert_one_sentence(find(PYTHON310="/nowhere"), "PYTHON310=/nowhere", "CPython 3.10")
    in_pyenv.unlink()
    assert find().stdout == "%s\n" % on_path
    on_path.unlink()
    machine.uv_calls()
    assert_one_sentence(find(), "3.11 or 3.10 or 3.9", "PYTHON311=/path/to/python3.11")
    assert machine.uv_calls()[-1] == "python install --quiet 3.11"


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
    write_program(machine.on_path("python3.7"), CPYTHON)
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


@pytest.fixture
def newer(project):
    """A project that has all that `make venv TF=2.15` asks for too, on a machine without a GPU."""
    write_program(project.on_path("python3.11"), CPYTHON)
    for name, text in [
        ("cpu", "tensorflow-cpu==2.15.1\n"),
        ("gpu", "tensorflow==2.15.1\n"),
        ("dev", "pytest\n"),
    ]:
        (project.project / ("requirements-tf2.15-%s.lock" % name)).write_text(text)
    project.variables["TF"] = "2.15"
    return project


def installed_locks(project, *arguments, **variables):
    """The locks that make_venv.sh installs, and what it prints."""
    result = project.run("tools/make_venv.sh", *arguments, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    words = " ".join(call for call in project.uv_calls() if call.startswith("pip")).split()
    prefix = "--requirements=requirements-tf2.15-"
    return [word[len(prefix) :] for word in words if word.startswith(prefix)], result.stdout


def test_both_environments_are_there_at_once(newer):
    assert make_venv(newer, TF="1.15")[1] == ["venv", "pip"]
    assert installed_locks(newer, "dev")[0] == ["cpu.lock", "dev.lock"]
    assert (newer.project / ".venv-tf2.15" / "bin" / "python").exists()
    assert make_venv(newer, TF="1.15")[1] == make_venv(newer, "dev")[1] == []


def add_driver(machine, kind):
    if kind == "driver":
        write_program(machine.driver, "")
    if kind == "nvidia-smi":
        write_program(machine.on_path("nvidia-smi"), STARTS)
    if kind == "broken nvidia-smi":
        write_program(machine.on_path("nvidia-smi"), BROKEN)


@pytest.mark.parametrize(
    "kind, variables, expected",
    [
        ("none", {}, "cpu.lock"),
        ("broken nvidia-smi", {}, "cpu.lock"),
        ("driver", {}, "gpu.lock"),
        ("nvidia-smi", {}, "gpu.lock"),
        ("driver", {"GPU": "0"}, "cpu.lock"),
        ("driver", {"GPU": "1"}, "gpu.lock"),
    ],
    ids=str,
)
def test_the_driver_or_the_user_decides_on_cuda(newer, kind, variables, expected):
    add_driver(newer, kind)
    locks, output = installed_locks(newer, **variables)
    assert locks == [expected]
    assert output.count("\n") == 1, "no more than what it makes with which Python"


def test_cuda_without_a_driver_is_installed_and_stays(newer):
    locks, output = installed_locks(newer, GPU="1")
    assert locks == ["gpu.lock"]
    assert "no NVIDIA driver" in output.splitlines()[-1]
    assert installed_locks(newer) == ([], "")
    assert installed_locks(newer, "dev")[0] == ["gpu.lock", "dev.lock"]
    assert installed_locks(newer, GPU="0")[0] == ["cpu.lock"]


@pytest.mark.parametrize(
    "variables, words",
    [
        ({"TF": "2.16"}, ["TF=2.16", "TF=1.15", "TF=2.15"]),
        ({"GPU": "yes"}, ["GPU=yes", "GPU=1", "GPU=0"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("script", ["make_venv", "make_horovod", "make_locks", "advise_gpu"])
def test_unknown_choice_is_one_sentence_that_names_the_known(newer, script, variables, words):
    assert_one_sentence(newer.run("tools/%s.sh" % script, "demo", **variables), *words)
    assert newer.uv_calls() == []


@pytest.mark.parametrize(
    "capabilities, tensorflow, advised",
    [
        ("8.0", "1.15", "8.0"),
        ("7.5\n12.0\n9.0", "1.15", "12.0"),
        ("8.9", "2.15", None),
        ("7.5", "1.15", None),
        ("[N/A]", "1.15", None),
        ("", "1.15", None),
        (None, "1.15", None),
    ],
)
def test_owner_of_a_new_gpu_is_told_what_to_type(newer, capabilities, tensorflow, advised):
    if capabilities is None:
        write_program(newer.on_path("nvidia-smi"), BROKEN)
    else:
        answer = '#!/bin/sh\n[ "$*" = "%s" ] && echo "%s"\n'
        query = "--query-gpu=compute_cap --format=csv,noheader"
        write_program(newer.on_path("nvidia-smi"), answer % (query, capabilities))
    result = newer.run("tools/advise_gpu.sh", "demo", TF=tensorflow)
    assert (result.returncode, result.stderr) == (0, "")
    if advised:
        assert result.stdout.count("\n") == 1
        assert advised in result.stdout and "`make demo TF=2.15`" in result.stdout
    else:
        assert result.stdout == ""


SITE_PACKAGES = ".venv/lib/python3.7/site-packages"

# Builds a "wheel" that holds the variables it was built with, and imports every whole one.
BUILDER = """#!/usr/bin/env bash
echo "$*" >> "$PYTHON_LOG"
case "$*" in
    "-c import horovod.tensorflow") grep --quiet HOROVOD_ "$INSTALLED_HOROVOD/wheel" ;;
    "-m pip wheel "*)
        mkdir "${!#}"
        wheel=${!#}/horovod-0.28.1-cp37-cp37m-linux_x86_64.whl
        echo half > "$wheel"
        if [[ -n ${BUILD_FAILS:-} ]]; then echo "ops.cc:7: error: no such thing"; exit 1; fi
        if [[ -n ${HELD_BY:-} ]]; then read -r -t 60 <> "$HELD_BY"; fi
        if [[ ${KILLED_AT:-} == build ]]; then kill -KILL $PPID; exit; fi
        env | grep -E '^(HOROVOD_|CXX=)' > "$wheel" ;;
esac
"""


def compiler(version):
    return "#!/bin/sh\necho %s\n" % version


class HorovodProject:
    """A project after `make venv`, on a machine with g++ 12 and its own /usr."""

    def __init__(self, project):
        self.machine = project
        self.folder = project.project
        self.usr = project.folder / "usr"
        self.gxx = write_program(project.on_path("g++"), compiler("12"))
        self.python_log = project.folder / "python.log"
        project.variables["PYTHON_LOG"] = str(self.python_log)
        project.variables["INSTALLED_HOROVOD"] = SITE_PACKAGES + "/horovod-0.28.1.dist-info"
        write_program(Path(project.variables["VENV_PYTHON"]), BUILDER)
        script = self.folder / "tools" / "make_horovod.sh"
        write_program(
            script,
            script.read_text()
            .replace(" /usr/include", " %s/include" % self.usr)
            .replace("/usr/local/cuda", "%s/local/cuda" % self.usr),
        )
        self.write("requirements.lock", "numpy\ntensorflow-gpu==1.15.5 --hash=sha256:1\n")
        self.write("requirements-horovod.txt", "horovod==0.28.1 --hash=sha256:2\n")
        self.write("requirements-horovod.lock", "psutil==7.2.2 --hash=sha256:3\n")
        self.make_venv()

    def write(self, name, text):
        (self.folder / name).write_text(text)

    def make_venv(self):
        assert make_venv(self.machine)[0].returncode == 0

    def remake_venv(self):
        (self.folder / ".venv" / "made-from").write_text("")
        self.make_venv()

    def make(self, **variables):
        self.python_log.write_text("")
        return self.machine.run("tools/make_horovod.sh", **variables)

    def builds(self):
        """How many wheels the last make has built."""
        return self.python_log.read_text().count("pip wheel")

    def built_with(self):
        """The variables that the wheel in .venv was built with."""
        wheel = self.folder / self.machine.variables["INSTALLED_HOROVOD"] / "wheel"
        return dict(line.split("=", 1) for line in wheel.read_text().splitlines())

    def kept_wheels(self):
        return (self.folder / ".cache" / "horovod").glob("*/*.whl")

    def files(self):
        return set(self.folder.rglob("*"))


@pytest.fixture
def horovod(project):
    return HorovodProject(project)


def test_horovod_is_built_for_tensorflow_and_gloo_where_there_is_no_cuda(horovod):
    write_program(horovod.usr / "include" / "nccl.h", "")
    result = horovod.make()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "Building Horovod 0.28.1 with Gloo (about two minutes)\n"
    variables = horovod.built_with()
    assert variables.pop("HOROVOD_CMAKE").startswith(str(horovod.folder))
    assert variables == {
        "CXX": "g++",
        "HOROVOD_WITH_TENSORFLOW": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_WITHOUT_MPI": "1",
        "HOROVOD_WITHOUT_PYTORCH": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
    }


@pytest.mark.parametrize(
    "cuda, nccl, variables",
    [
        ("usr/local/cuda", "usr/local/cuda/include", {}),
        ("usr/local/cuda", "usr/include", {}),
        ("my cuda", "my cuda/include", {"PATH": "my cuda/bin"}),
        ("my cuda", "my cuda/include", {"CUDA_HOME": "my cuda"}),
        ("my cuda", "my cuda/include", {"HOROVOD_CUDA_HOME": "my cuda"}),
        ("usr/local/cuda", "nccl/include", {"HOROVOD_NCCL_HOME": "nccl"}),
        ("usr/local/cuda", "headers", {"HOROVOD_NCCL_INCLUDE": "headers"}),
    ],
)
def test_nccl_is_used_where_cuda_and_nccl_are(horovod, cuda, nccl, variables):
    root = horovod.machine.folder
    variables = {name: str(root / folder) for name, folder in variables.items()}
    if "PATH" in variables:
        variables["PATH"] += ":" + horovod.machine.variables["PATH"]
    nvcc = write_program(root / cuda / "bin" / "nvcc", STARTS)

    result = horovod.make(**variables)
    assert result.returncode == 0
    building, advice = result.stdout.splitlines()
    assert "with Gloo" in building and str(nvcc) in advice and "install libnccl-dev" in advice
    assert "HOROVOD_GPU_OPERATIONS" not in horovod.built_with()

    write_program(root / nccl / "nccl.h", "")
    result = horovod.make(**variables)
    assert result.returncode == 0
    building, advice = result.stdout.splitlines()
    assert "with NCCL" in building and "export HOROVOD_GPU_OPERATIONS=" in advice
    assert horovod.built_with()["HOROVOD_GPU_OPERATIONS"] == "NCCL"


@pytest.mark.parametrize(
    "variables, left_unset",
    [
        ({"HOROVOD_GPU_OPERATIONS": ""}, []),
        ({"HOROVOD_GPU_OPERATIONS": "MPI", "HOROVOD_WITH_MPI": "1"}, ["HOROVOD_WITHOUT_MPI"]),
        ({"HOROVOD_GPU_ALLREDUCE": "NCCL"}, ["HOROVOD_GPU_OPERATIONS"]),
        ({"HOROVOD_WITHOUT_MPI": "0", "HOROVOD_WITH_GLOO": "0"}, []),
        ({"HOROVOD_CMAKE": "/opt/cmake", "CXX": "g++ -m64"}, []),
    ],
    ids=str,
)
def test_variables_of_the_user_win(horovod, variables, left_unset):
    write_program(horovod.usr / "local" / "cuda" / "bin" / "nvcc", STARTS)
    write_program(horovod.usr / "include" / "nccl.h", "")
    assert horovod.make(**variables).returncode == 0
    built_with = horovod.built_with()
    assert {name: built_with[name] for name in variables} == variables
    assert not set(left_unset) & set(built_with)


@pytest.mark.parametrize(
    "compilers, variables, expected",
    [
        ({"g++": "12"}, {}, "g++"),
        ({"g++": "13.3.0"}, {}, "g++"),
        ({"g++": "14", "g++-12": "12", "g++-13": "13"}, {}, "g++-13"),
        ({"g++-11": "11"}, {}, "g++-11"),
        ({"g++": "12", "clang++": "19.1.7"}, {"CXX": "clang++"}, "clang++"),
        ({}, {}, None),
        ({"g++": "14"}, {}, None),
        ({"g++": "12"}, {"CXX": "clang++"}, None),
    ],
    ids=str,
)
def test_compiler_that_takes_horovod_is_found_or_asked_for(horovod, compilers, variables, expected):
    horovod.gxx.unlink()
    for name, version in compilers.items():
        write_program(horovod.machine.on_path(name), compiler(version))
    before = horovod.files()
    result = horovod.make(**variables)
    if expected:
        assert (result.returncode, horovod.built_with()["CXX"]) == (0, expected)
    else:
        assert_one_sentence(result, "g++", "13", "CXX")
        assert horovod.files() == before and horovod.machine.uv_calls() == []


@pytest.mark.parametrize("variables", [{}, {"HOROVOD_TIMELINE": "t.json"}], ids=str)
def test_horovod_is_built_once(horovod, variables):
    assert horovod.make().returncode == 0
    horovod.machine.uv_calls()
    result = horovod.make(**variables)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert horovod.machine.uv_calls() == []
    assert horovod.python_log.read_text() == "", "a make with nothing to do starts no Python"


def uninstall_horovod(horovod):
    shutil.rmtree(str(horovod.folder / horovod.machine.variables["INSTALLED_HOROVOD"]))


def change_dependencies(horovod):
    horovod.write("requirements-horovod.lock", "psutil==7.2.1\n")


@pytest.mark.parametrize(
    "spoil", [HorovodProject.remake_venv, uninstall_horovod, change_dependencies]
)
def test_kept_wheel_is_added_again_without_a_compiler(horovod, spoil):
    horovod.make()
    horovod.gxx.unlink()
    spoil(horovod)
    result = horovod.make()
    assert (result.returncode, horovod.builds()) == (0, 0)
    assert result.stdout == "Adding the Horovod 0.28.1 with Gloo that was built before\n"
    assert horovod.built_with()["HOROVOD_WITH_GLOO"] == "1"
    assert horovod.make().stdout == ""


def test_each_operations_have_their_own_wheel(horovod):
    horovod.make()
    horovod.make(HOROVOD_GPU_OPERATIONS="NCCL")
    assert horovod.builds() == 1
    assert horovod.built_with()["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    horovod.make()
    assert horovod.builds() == 0
    assert "HOROVOD_GPU_OPERATIONS" not in horovod.built_with()


@pytest.mark.parametrize(
    "file, text",
    [
        ("requirements.lock", "tensorflow-gpu==1.15.4\n"),
        ("requirements-horovod.txt", "horovod==1\n"),
    ],
    ids=["tensorflow", "horovod"],
)
def test_another_version_is_built_anew(horovod, file, text):
    horovod.make()
    horovod.write(file, text)
    horovod.make_venv()
    horovod.make()
    assert horovod.builds() == 1


def test_each_environment_has_its_own_horovod(horovod, newer):
    horovod.write("requirements-tf2.15-horovod.lock", "psutil==7.2.2 --hash=sha256:3\n")
    installed = horovod.machine.variables["INSTALLED_HOROVOD"].replace(".venv", ".venv-tf2.15")
    variables = {"INSTALLED_HOROVOD": installed}
    horovod.make_venv()
    for name in (".venv", ".venv-tf2.15"):
        text = BUILDER.replace("echo", "echo %s/bin/python" % name, 1)
        write_program(horovod.folder / name / "bin" / "python", text)

    assert horovod.make(TF="1.15").returncode == 0
    assert horovod.make(**variables).returncode == 0
    assert horovod.builds() == 1
    assert horovod.python_log.read_text().startswith(".venv-tf2.15/bin/python -m pip wheel")
    assert (horovod.folder / installed / "wheel").exists()
    assert len(list(horovod.kept_wheels())) == 2
    assert horovod.make(TF="1.15").stdout == horovod.make(**variables).stdout == ""


@pytest.mark.parametrize("moment, builds", [("build", 1), ("installation", 0)])
def test_killed_make_is_done_again(horovod, moment, builds):
    nccl = {"HOROVOD_GPU_OPERATIONS": "NCCL"}
    horovod.make()
    assert horovod.make(KILLED_AT=moment, **nccl).returncode == -9
    for wheel in horovod.kept_wheels():
        assert wheel.read_text() != "half\n"
    horovod.make()
    assert "HOROVOD_GPU_OPERATIONS" not in horovod.built_with()
    assert horovod.make(**nccl).returncode == 0
    assert horovod.builds() == builds
    assert horovod.built_with()["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert not (horovod.folder / ".cache" / "horovod" / "building").exists()


def test_kept_wheel_that_does_not_import_is_built_anew(horovod):
    horovod.make()
    for wheel in horovod.kept_wheels():
        wheel.write_text("made on another machine")
    horovod.remake_venv()
    assert horovod.make().returncode == 0
    assert horovod.builds() == 1
    assert horovod.built_with()["HOROVOD_WITH_GLOO"] == "1"


def test_failed_build_shows_the_error_and_names_the_log(horovod):
    result = horovod.make(BUILD_FAILS="yes")
    assert result.returncode != 0
    assert "ops.cc:7: error: no such thing\n" in result.stderr
    assert result.stderr.splitlines()[-1].endswith(".cache/horovod/build.log.")
    log = horovod.folder / ".cache" / "horovod" / "build.log"
    assert "no such thing" in log.read_text()
    assert horovod.make().returncode == 0
    assert horovod.builds() == 1


def test_two_makes_at_once_build_once(horovod):
    gate = horovod.machine.folder / "gate"
    os.mkfifo(str(gate))
    opener = os.open(str(gate), os.O_RDWR)
    start = functools.partial(
        subprocess.Popen,
        "tools/make_horovod.sh",
        cwd=str(horovod.folder),
        env=dict(horovod.machine.variables, HELD_BY=str(gate)),
        stdout=subprocess.PIPE,
        text=True,
    )
    with start() as first:
        assert first.stdout.readline().startswith("Building")
        with start() as second:
            assert second.stdout.readline().startswith("Waiting")
            os.write(opener, b"go\n")
            assert second.stdout.read() == ""
    os.close(opener)
    assert (first.returncode, second.returncode, horovod.builds()) == (0, 0, 1)


def commands_of(*arguments):
    return subprocess.run(
        ["make", "--dry-run", *arguments],
        cwd=str(ROOT),
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    "target, needed",
    [("horovod", True), ("test", True), ("test-all", True), ("demo", False), ("lint", False)],
)
def test_targets_that_need_horovod(target, needed):
    assert ("tools/make_horovod.sh" in commands_of(target)) == needed


def test_the_targets_use_the_environment_of_tf():
    assert "\n.venv/bin/python -m pytest" in commands_of("test")
    assert "--ignore" not in commands_of("test")
    for target in ("demo", "lint", "test", "test-all"):
        commands = commands_of(target, "TF=2.15")
        assert "\n.venv-tf2.15/bin/python" in commands and ".venv/" not in commands


def test_what_one_environment_leaves_to_the_other_is_there():
    ignored = [
        word.split("=")[1]
        for word in commands_of("test", "TF=2.15").split()
        if word.startswith("--ignore=")
    ]
    assert len(ignored) > 3
    for path in ignored:
        assert (ROOT / path).is_file()
