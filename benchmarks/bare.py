"""Run sessions of plain ONNX Runtime on our exports for `bench.py`; see `runner.py`.

The tokens are made before: they do not count.
"""

from __future__ import annotations

from typing import Any

import bare_onnx
import ours
import runner


def latency(
    model_dir: str, data_dir: str, output_dir: str, max_seq_length: int, num_texts: int, onnx: str
) -> dict[str, Any]:
    """Classify one text after the other."""
    del model_dir, max_seq_length
    bare = bare_onnx.Bare(ours.find_export(output_dir, onnx))
    batches = [bare_onnx.padded([row]) for row in bare.tokens(ours.read_texts(data_dir, num_texts))]
    return {"seconds": runner.time_calls(bare.run, batches)}


def answer(
    model_dir: str,
    data_dir: str,
    output_dir: str,
    max_seq_length: int,
    num_texts: int,
    batch_size: int,
    onnx: str,
) -> dict[str, Any]:
    """Classify many texts."""
    del model_dir, max_seq_length
    bare = bare_onnx.Bare(ours.find_export(output_dir, onnx))
    tokens = bare.tokens(ours.read_texts(data_dir, num_texts))
    batches = bare_onnx.batches_of(tokens, batch_size)
    (seconds,) = runner.time_calls(lambda all_: [bare.run(batch) for batch in all_], [batches])
    return {"seconds": seconds}


if __name__ == "__main__":
    runner.answer(fine_tune=ours.fine_tune, latency=latency, answer=answer, versions=ours.versions)
