"""Run google's BERT, of the package bert-tensorflow, for `bench.py`; see `runner.py`.

The functions of its `run_classifier.py` are called in the order of its `main`, which has no task
that reads these files: a TPUEstimator without a TPU, and every example padded to
`max_seq_length`.
"""

from __future__ import annotations

import glob
import os
import tempfile
import time
from typing import Any

import runner
import tensorflow as tf
from bert import modeling, run_classifier
from bert.tokenization import FullTokenizer

# Each call builds the graph and reads the weights again, so a few are enough.
LATENCY_CALLS = 5


class StepTimes(tf.train.SessionRunHook):
    """Records the time at which each step ends."""

    def __init__(self):
        self.steps = []

    def after_run(self, run_context, run_values):
        """Record the time."""
        self.steps.append((len(self.steps) + 1, time.monotonic()))


def read_examples(data_dir: str, split: str) -> list[run_classifier.InputExample]:
    """Read a split of the data."""
    return [
        run_classifier.InputExample("%s-%d" % (split, number), row.text, row.text_b, row.label)
        for number, row in enumerate(runner.read_examples(os.path.join(data_dir, split + ".tsv")))
    ]


def load_tokenizer(model_dir: str) -> FullTokenizer:
    """Load the vocabulary of an uncased model."""
    return FullTokenizer(os.path.join(model_dir, "vocab.txt"), do_lower_case=True)


def make_input_fn(
    model_dir: str, data_dir: str, split: str, output_dir: str, max_seq_length: int
) -> Any:
    """Convert a split to a file of records, and build the `input_fn` that reads it."""
    path = os.path.join(output_dir, split + ".tf_record")
    examples = read_examples(data_dir, split)
    run_classifier.file_based_convert_examples_to_features(
        examples, runner.LABELS, max_seq_length, load_tokenizer(model_dir), path
    )
    is_training = split == "train"
    return run_classifier.file_based_input_fn_builder(
        path, max_seq_length, is_training=is_training, drop_remainder=is_training
    )


def make_estimator(
    model_dir: str,
    output_dir: str,
    batch_size: int,
    learning_rate: float = 0.0,
    num_train_steps: int | None = None,
    seed: int | None = None,
) -> tf.estimator.tpu.TPUEstimator:
    """Build the estimator of google's script; without steps it is for a trained model."""
    bert_config = modeling.BertConfig.from_json_file(os.path.join(model_dir, "bert_config.json"))
    model_fn = run_classifier.model_fn_builder(
        bert_config,
        len(runner.LABELS),
        os.path.join(model_dir, "bert_model.ckpt"),
        learning_rate,
        num_train_steps,
        int(0.1 * num_train_steps) if num_train_steps else None,
        use_tpu=False,
        use_one_hot_embeddings=False,
    )
    # One checkpoint at the end, and the one with which Estimator begins.
    config = tf.estimator.tpu.RunConfig(
        model_dir=output_dir,
        save_checkpoints_steps=1000000,
        tf_random_seed=seed,
        tpu_config=tf.estimator.tpu.TPUConfig(),
    )
    return tf.estimator.tpu.TPUEstimator(
        use_tpu=False,
        model_fn=model_fn,
        config=config,
        train_batch_size=batch_size,
        eval_batch_size=batch_size,
        predict_batch_size=batch_size,
    )


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
) -> dict[str, Any]:
    """Train, and evaluate once at the end."""
    del log_steps
    os.makedirs(output_dir)
    num_examples = len(read_examples(data_dir, "train"))
    num_train_steps = int(num_examples / batch_size * num_epochs)
    estimator = make_estimator(
        model_dir, output_dir, batch_size, learning_rate, num_train_steps, seed
    )
    times = StepTimes()
    estimator.train(
        make_input_fn(model_dir, data_dir, "train", output_dir, max_seq_length),
        max_steps=num_train_steps,
        hooks=[times],
    )
    result = estimator.evaluate(
        make_input_fn(model_dir, data_dir, "dev", output_dir, max_seq_length)
    )
    return {
        "steps": times.steps,
        "accuracy": float(result["eval_accuracy"]),
        "checkpoint_megabytes": runner.megabytes(
            glob.glob(runner.newest_checkpoint(output_dir) + ".*")
        ),
    }


def predict(
    model_dir: str, data_dir: str, output_dir: str, max_seq_length: int, batch_size: int
) -> dict[str, Any]:
    """Predict the test set with a trained model; the time includes loading the weights."""
    input_fn = make_input_fn(model_dir, data_dir, "test", output_dir, max_seq_length)
    estimator = make_estimator(model_dir, output_dir, batch_size)
    started = time.monotonic()
    for _ in estimator.predict(input_fn):
        pass
    return {"seconds": time.monotonic() - started}


def latency(
    model_dir: str, data_dir: str, output_dir: str, max_seq_length: int, num_texts: int
) -> dict[str, Any]:
    """Classify one text after the other, each with a call of `Estimator.predict`."""
    tokenizer = load_tokenizer(model_dir)
    estimator = make_estimator(model_dir, output_dir, batch_size=1)

    def answer(example):
        converted = run_classifier.convert_examples_to_features(
            [example], runner.LABELS, max_seq_length, tokenizer
        )
        input_fn = run_classifier.input_fn_builder(converted, max_seq_length, False, False)
        return next(estimator.predict(input_fn))

    examples = read_examples(data_dir, "test")[: min(num_texts, LATENCY_CALLS)]
    return {"seconds": runner.time_calls(answer, examples, warm_up=0)}


def convert(model_dir: str, data_dir: str, max_seq_length: int) -> dict[str, Any]:
    """Convert the training file to records."""
    examples = read_examples(data_dir, "train")
    tokenizer = load_tokenizer(model_dir)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        run_classifier.file_based_convert_examples_to_features(
            examples, runner.LABELS, max_seq_length, tokenizer, os.path.join(folder, "records")
        )
        return {"seconds": time.monotonic() - started}


def versions() -> dict[str, Any]:
    """Return the versions of this environment."""
    return runner.packages("bert-tensorflow", "tensorflow-gpu", "tensorflow", "intel-tensorflow")


if __name__ == "__main__":
    tf.logging.set_verbosity(tf.logging.ERROR)
    runner.answer(
        fine_tune=fine_tune, predict=predict, latency=latency, convert=convert, versions=versions
    )
