"""Export runs as ONNX models of int8, and print what that costs on their dev sets.

    .venv/bin/python benchmarks/int8.py OUTPUT_DIR [OUTPUT_DIR ...]

Each is the folder of a run whose data are still there, such as of MRPC or SST-2. The metric is the
one that chose the best checkpoint, or the accuracy where that is the loss. The exports go to a
temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# In place of the folder of this file, whose modules may have the names of others.
sys.path[0] = ROOT

from bert_classifier.export import bundle


def export(output_dir: str, folder: str) -> tuple[dict[str, Any], int]:
    """Export a run in int8; return `metrics.json` and the size of the model in bytes."""
    command = [sys.executable, "run_classifier_gpu.py", "--do_onnx", "--onnx_int8"]
    command += ["--output_dir=" + output_dir, "--export_dir=" + folder]
    subprocess.run(command, cwd=ROOT, check=True)
    path = bundle.find(folder)
    metrics = json.loads(bundle.read_contents(path).parts[bundle.METRICS].decode("utf-8"))
    return metrics, os.path.getsize(os.path.join(path, bundle.ONNX_MODEL))


def main() -> None:
    """Export and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dirs", nargs="+", metavar="OUTPUT_DIR")
    arguments = parser.parse_args()
    rows = []
    for output_dir in map(os.path.abspath, arguments.output_dirs):
        with tempfile.TemporaryDirectory() as folder:
            metrics, size = export(output_dir, folder)
        found = metrics["quantization"]
        rows.append(
            "| %s | %s | %.4f | %.4f | %.1e | %.1f |"
            % (
                os.path.basename(output_dir),
                found["metric"],
                found["float32"],
                found["int8"],
                found["largest_difference"],
                size / 1e6,
            )
        )
    print("| run | dev metric | float32 | int8 | largest difference | MB of int8 |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
