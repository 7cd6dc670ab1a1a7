"""What the program computes on, with a stand-in for NVIDIA's driver."""

from __future__ import annotations

import os

import pytest
from program import run

from bert_classifier import devices, gpus, tf_compat
from bert_classifier.errors import BadInput

OLD, NEW, NEWEST = "7.5, Tesla T4", "8.0, NVIDIA A100-SXM4-80GB", "12.0, NVIDIA RTX PRO 6000"

# Does what nvidia-smi does with the two options that are used.
NVIDIA_SMI = """#!/bin/sh
for option; do
    case $option in
        --query-gpu=compute_cap,name) known=1 ;;
        --id=*) ids=$(echo "${option#--id=}" | tr , ' ') ;;
    esac
done
[ "$known" ] || exit 2
if [ "$ids" ]; then
    for id in $ids; do sed -n $((id + 1))p "$GPUS"; done
else
    cat "$GPUS"
fi
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Makes an nvidia-smi that knows some GPUs the first on PATH."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(*rows, script=NVIDIA_SMI):
        program = tmp_path / "nvidia-smi"
        program.write_text(script)
        program.chmod(0o755)
        (tmp_path / "gpus").write_text("".join(row + "\n" for row in rows))
        monkeypatch.setenv("GPUS", str(tmp_path / "gpus"))
        monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])

    return install


@pytest.fixture
def tensorflow(monkeypatch):
    """Makes TensorFlow one that is built for a version of CUDA, and sees GPUs or none."""

    def make(cuda_version, sees_gpu):
        monkeypatch.setattr(tf_compat, "cuda_version", lambda: cuda_version)
        monkeypatch.setattr(devices, "has_gpu", lambda: sees_gpu)

    return make


def test_gpus_are_named(driver, tensorflow):
    driver(OLD, OLD)
    tensorflow("10", True)
    assert gpus.describe() == "Tesla T4, Tesla T4"


def test_a_new_gpu_is_named_with_a_new_cuda(driver, tensorflow):
    driver(NEW)
    tensorflow("12.2", True)
    assert gpus.describe() == "NVIDIA A100-SXM4-80GB"


@pytest.mark.parametrize("rows, name", [([NEW], "A100"), ([OLD, NEWEST], "RTX PRO 6000")])
@pytest.mark.parametrize("sees_gpu", [False, True])
def test_a_gpu_that_is_too_new_for_tensorflow_is_refused(driver, tensorflow, rows, name, sees_gpu):
    driver(*rows)
    tensorflow("10", sees_gpu)
    with pytest.raises(BadInput, match=name + ".*make venv TF=2.15.*CUDA_VISIBLE_DEVICES="):
        gpus.describe()


@pytest.mark.parametrize(
    "visible, answer",
    [
        ("0", "Tesla T4"),
        ("", "the CPU: CUDA_VISIBLE_DEVICES names no GPU"),
        ("-1", "the CPU: CUDA_VISIBLE_DEVICES names no GPU"),
    ],
)
def test_gpus_that_the_user_hides_do_not_count(driver, tensorflow, monkeypatch, visible, answer):
    driver(OLD, NEW)
    tensorflow("10", visible == "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.describe() == answer


@pytest.mark.parametrize(
    "cuda_version, reason", [("", "built without CUDA"), ("12.2", "TF_CPP_MIN_LOG_LEVEL=0")]
)
def test_a_driver_whose_gpus_are_not_used_is_explained(driver, tensorflow, cuda_version, reason):
    driver(NEW)
    tensorflow(cuda_version, False)
    assert gpus.describe().startswith("the CPU: there is an NVIDIA driver")
    assert reason in gpus.describe()


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 2\n", "#!/bin/sh\necho '[N/A], Tesla K80'\n"])
def test_an_old_driver_is_no_error(driver, tensorflow, script):
    driver(script=script)
    tensorflow("10", True)
    assert gpus.describe() == "a GPU of unknown name"


@pytest.mark.skipif(not tf_compat.cuda_version().startswith("10"), reason="is for TensorFlow 1.15")
def test_the_program_ends_in_one_line_instead_of_training_on_the_cpu(driver, tmp_path):
    driver(NEW)
    arguments = ["--do_eval", "--output_dir=%s" % (tmp_path / "run")]
    process = run(*arguments)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert "NVIDIA A100" in line and "make venv TF=2.15" in line
    assert "no trained checkpoint" in run(*arguments, CUDA_VISIBLE_DEVICES="").stderr
