"""Run this project's program for `bench.py`, as a command where possible; see `runner.py`."""

from __future__ import annotations

import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from typing import Any, Iterator

import runner

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)


def program(model_dir: str, output_dir: str, *flags: str) -> Iterator[str]:
    """Run the command and yield the lines of its log as they come."""
    command = [
        sys.executable,
        os.path.join(ROOT, "run_classifier_gpu.py"),
        "--task_name=file",
        "--bert_config_file=" + os.path.join(model_dir, "bert_config.json"),
        "--vocab_file=" + os.path.join(model_dir, "vocab.txt"),
        "--output_dir=" + output_dir,
        *flags,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        sys.stderr.write(line)
        yield line
    if process.wait():
        sys.exit("run_classifier_gpu.py ended with status %d" % process.returncode)


def fine_tune(
    model_dir: str,
    data_dir: str,
    output_dir: str,
    max_seq_length: int,
    batch_size: int,
    num_epochs: float,
    learning_rate: float,
    log_steps: int,
    seed: int,
    amp: bool = False,
    onnx: str | None = None,
) -> dict[str, Any]:
    """Train, and evaluate once at the end; export to ONNX, as "float32" or "int8", if asked."""
    log = program(
        model_dir,
        output_dir,
        "--do_train",
        "--data_dir=" + data_dir,
        "--init_checkpoint=" + os.path.join(model_dir, "bert_model.ckpt"),
        "--max_seq_length=%d" % max_seq_length,
        "--train_batch_size=%d" % batch_size,
        "--eval_batch_size=%d" % batch_size,
        "--num_train_epochs=%g" % num_epochs,
        "--learning_rate=%g" % learning_rate,
        "--log_every_n_iter=%d" % log_steps,
        "--seed=%d" % seed,
        # As the Trainer of transformers; google's program has no choice.
        "--optimizer=adamw_corrected",
        # One checkpoint and one evaluation, at the end.
        "--save_checkpoints_steps=1000000",
        *(["--amp"] if amp else []),
        *(["--do_onnx"] if onnx else []),
        *(["--onnx_int8"] if onnx == "int8" else []),
    )
    steps = []
    for line in log:
        logged = re.search(r" step (\d+)/", line)
        if logged:
            steps.append((int(logged.group(1)), time.monotonic()))
    with open(os.path.join(output_dir, "eval_history.jsonl")) as stream:
        last = json.loads(stream.readlines()[-1])
    return {
        "steps": steps,
        "accuracy": last["metrics"]["eval_accuracy"],
        "checkpoint_megabytes": runner.megabytes(
            glob.glob(runner.newest_checkpoint(output_dir) + ".*")
        ),
    }


def predict(
    model_dir: str, data_dir: str, output_dir: str, max_seq_length: int, batch_size: int
) -> dict[str, Any]:
    """Predict the test set with a trained model; the time includes loading the weights."""
    log = program(
        model_dir,
        output_dir,
        "--do_predict",
        "--data_dir=" + data_dir,
        "--max_seq_length=%d" % max_seq_length,
        "--predict_batch_size=%d" % batch_size,
    )
    times = {}
    for line in log:
        for event in ("Predictions of", "predictions in"):
            if event in line:
                times[event] = time.monotonic()
    return {"seconds": times["predictions in"] - times["Predictions of"]}


def latency(
    model_dir: str,
    data_dir: str,
    output_dir: str,
    max_seq_length: int,
    num_texts: int,
    onnx: str | None = None,
) -> dict[str, Any]:
    """Classify one text after the other with an export."""
    del model_dir, max_seq_length
    from bert_classifier.serving.predictor import Predictor  # noqa: PLC0415

    texts = read_texts(data_dir, num_texts)
    with Predictor(find_export(output_dir, onnx)) as predictor:
        return {"seconds": runner.time_calls(lambda text: predictor.predict([text]), texts)}


def answer(
    model_dir: str,
    data_dir: str,
    output_dir: str,
    max_seq_length: int,
    num_texts: int,
    batch_size: int,
    onnx: str | None = None,
) -> dict[str, Any]:
    """Classify many texts with an export; to load it does not count."""
    del model_dir, max_seq_length
    from bert_classifier.serving.predictor import Predictor  # noqa: PLC0415

    texts = read_texts(data_dir, num_texts)
    with Predictor(find_export(output_dir, onnx), batch_size=batch_size) as predictor:
        (seconds,) = runner.time_calls(predictor.predict, [texts])
    return {"seconds": seconds}


def find_export(output_dir: str, onnx: str | None) -> str:
    """Return the export that `fine_tune` has written."""
    kind = "onnx" if onnx else "best_exporter"
    return max(glob.glob(os.path.join(output_dir, "export", kind, "*")))


def read_texts(data_dir: str, num_texts: int) -> list[Any]:
    """Return texts, or pairs of texts, of the test set."""
    return [
        (example.text, example.text_b) if example.text_b else example.text
        for example in runner.read_examples(os.path.join(data_dir, "test.tsv"))[:num_texts]
    ]


def convert(model_dir: str, data_dir: str, max_seq_length: int) -> dict[str, Any]:
    """Convert the training file to records."""
    from bert_classifier.data import serialization  # noqa: PLC0415
    from bert_classifier.data.examples import InputExample  # noqa: PLC0415
    from tokenization import FullTokenizer  # noqa: PLC0415

    examples = [
        InputExample("%d" % number, example.text, example.text_b, example.label)
        for number, example in enumerate(runner.read_examples(os.path.join(data_dir, "train.tsv")))
    ]
    tokenizer = FullTokenizer(os.path.join(model_dir, "vocab.txt"))
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        serialization.file_based_convert_examples_to_features(
            examples, runner.LABELS, max_seq_length, tokenizer, os.path.join(folder, "records")
        )
        return {"seconds": time.monotonic() - started}


def products() -> dict[str, Any]:
    """Multiply matrices with this build of TensorFlow."""
    import tensorflow.compat.v1 as tf  # noqa: PLC0415

    tf.disable_eager_execution()
    session = tf.Session()

    def make_product(m, k, n):
        # Variables, because a product of constants would be computed only once.
        factors = [tf.Variable(tf.random.normal(shape)) for shape in ([m, k], [k, n])]
        session.run([factor.initializer for factor in factors])
        product = tf.matmul(*factors).op
        return lambda: session.run(product)

    return runner.time_products(make_product)


def versions(amp: bool = False, onnx: str | None = None) -> dict[str, Any]:
    """Return the versions of this environment."""
    if onnx:
        return runner.packages("onnxruntime", "tf2onnx", "numpy")
    if amp:
        from bert_classifier import devices  # noqa: PLC0415
        from bert_classifier.config import Devices  # noqa: PLC0415

        precision = devices.choose_precision(Devices(amp=True))
        if precision.reason:
            sys.exit("--amp has no effect: " + precision.reason)
    return runner.packages("tensorflow-gpu", "tensorflow", "intel-tensorflow", "numpy")


if __name__ == "__main__":
    runner.answer(
        fine_tune=fine_tune,
        predict=predict,
        latency=latency,
        answer=answer,
        convert=convert,
        products=products,
        versions=versions,
    )
