"""Run transformers and PyTorch, on Python 3.11, for `bench.py`; see `runner.py`.

`padding` is "longest", for the Trainer with batches of similar length, or "max_length", which is
the default of its example run_glue.py. `bf16` turns on autocast.
"""

from __future__ import annotations

import contextlib
import glob
import os
import time
from typing import Any

import numpy as np
import runner
import torch
import transformers


def load_tokenizer(folder: str) -> Any:
    """Load the fast tokenizer of a model's folder."""
    return transformers.AutoTokenizer.from_pretrained(folder)


def load_dataset(
    tokenizer: Any, data_dir: str, split: str, max_seq_length: int, padding: str
) -> list[dict[str, Any]]:
    """Read and convert a split of the data."""
    examples = runner.read_examples(os.path.join(data_dir, split + ".tsv"))
    encoded = tokenize(tokenizer, examples, max_seq_length, padding)
    return [
        dict(zip(encoded, values), label=runner.LABELS.index(example.label))
        for example, *values in zip(examples, *encoded.values())
    ]


def tokenize(
    tokenizer: Any, examples: list[runner.Example], max_seq_length: int, padding: str
) -> dict[str, list[list[int]]]:
    """Convert texts; padding to the longest of a batch is done later."""
    second = [example.text_b for example in examples] if examples[0].text_b else None
    return tokenizer(
        [example.text for example in examples],
        second,
        truncation=True,
        max_length=max_seq_length,
        padding="max_length" if padding == "max_length" else False,
    )


def trained_model(output_dir: str) -> Any:
    """Load the model that `fine_tune` has saved."""
    folder = newest_checkpoint(output_dir)
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()


def newest_checkpoint(output_dir: str) -> str:
    """Return the folder of the checkpoint with the highest step."""
    folders = glob.glob(os.path.join(output_dir, "checkpoint-*"))
    return max(folders, key=lambda folder: int(folder.rpartition("-")[2]))


def autocast(bf16: bool) -> contextlib.AbstractContextManager:
    """Return the context in which a model computes."""
    return torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()


class StepTimes(transformers.TrainerCallback):
    """Records the time at which each step ends."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, **kwargs):
        """Record the time."""
        self.steps.append((state.global_step, time.monotonic()))


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
    padding: str,
    bf16: bool = False,
) -> dict[str, Any]:
    """Train, and evaluate once at the end."""
    tokenizer = load_tokenizer(model_dir)
    # The Trainer sets it too, but the weights of the classifier are drawn before.
    transformers.set_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        model_dir, num_labels=len(runner.LABELS)
    )
    arguments = transformers.TrainingArguments(
        output_dir,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        num_train_epochs=num_epochs,
        learning_rate=learning_rate,
        # As google's optimizer, which the Trainer's is by default but for these two.
        warmup_ratio=0.1,
        weight_decay=0.01,
        group_by_length=padding == "longest",
        bf16=bf16,
        use_cpu=True,
        logging_steps=log_steps,
        seed=seed,
        # One checkpoint, at the end.
        save_steps=1000000,
        report_to="none",
        disable_tqdm=True,
    )
    times = StepTimes()
    trainer = transformers.Trainer(
        model,
        arguments,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        train_dataset=load_dataset(tokenizer, data_dir, "train", max_seq_length, padding),
        eval_dataset=load_dataset(tokenizer, data_dir, "dev", max_seq_length, padding),
        processing_class=tokenizer,
        compute_metrics=lambda answers: {
            "accuracy": np.mean(answers.predictions.argmax(-1) == answers.label_ids)
        },
        callbacks=[times],
    )
    trainer.train()
    result = trainer.evaluate()
    return {
        "steps": times.steps,
        "accuracy": float(result["eval_accuracy"]),
        "checkpoint_megabytes": runner.megabytes(
            glob.glob(os.path.join(newest_checkpoint(output_dir), "*"))
        ),
    }


def predict(
    model_dir: str,
    data_dir: str,
    output_dir: str,
    max_seq_length: int,
    batch_size: int,
    padding: str,
    bf16: bool = False,
) -> dict[str, Any]:
    """Predict the test set with a trained model; the time includes loading the weights.

    It does not use the Trainer, whose predictions are not in order when it groups by length.
    """
    tokenizer = load_tokenizer(model_dir)
    rows = load_dataset(tokenizer, data_dir, "test", max_seq_length, padding)
    collate = transformers.DataCollatorWithPadding(tokenizer)
    started = time.monotonic()
    model = trained_model(output_dir)
    with torch.inference_mode(), autocast(bf16):
        classify(model, collate, rows, batch_size)
    return {"seconds": time.monotonic() - started}


def classify(model: Any, collate: Any, rows: list[Any], batch_size: int) -> list[list[float]]:
    """Return the probabilities of rows, in batches of similar length."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    found: list[list[float]] = [[]] * len(rows)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        answers = model(**collate([rows[index] for index in indices])).logits.softmax(-1)
        for index, probabilities in zip(indices, answers.tolist()):
            found[index] = probabilities
    return found


def latency(
    model_dir: str,
    data_dir: str,
    output_dir: str,
    max_seq_length: int,
    num_texts: int,
    padding: str,
    bf16: bool = False,
) -> dict[str, Any]:
    """Classify one text after the other, from the text to the probabilities."""
    tokenizer = load_tokenizer(model_dir)
    model = trained_model(output_dir)

    def classify_one(example):
        inputs = tokenizer(
            example.text,
            example.text_b,
            truncation=True,
            max_length=max_seq_length,
            padding=padding,
            return_tensors="pt",
        )
        with torch.inference_mode(), autocast(bf16):
            return model(**inputs).logits.softmax(-1).tolist()

    examples = runner.read_examples(os.path.join(data_dir, "test.tsv"))[:num_texts]
    return {"seconds": runner.time_calls(classify_one, examples)}


def answer(
    model_dir: str,
    data_dir: str,
    output_dir: str,
    max_seq_length: int,
    num_texts: int,
    batch_size: int,
    padding: str,
    bf16: bool = False,
) -> dict[str, Any]:
    """Classify many texts, from the texts to the probabilities, without loading the model."""
    tokenizer = load_tokenizer(model_dir)
    model = trained_model(output_dir)
    collate = transformers.DataCollatorWithPadding(tokenizer)

    def classify_all(examples):
        encoded = tokenize(tokenizer, examples, max_seq_length, padding)
        rows = [dict(zip(encoded, values)) for values in zip(*encoded.values())]
        with torch.inference_mode(), autocast(bf16):
            return classify(model, collate, rows, batch_size)

    examples = runner.read_examples(os.path.join(data_dir, "test.tsv"))[:num_texts]
    (seconds,) = runner.time_calls(classify_all, [examples])
    return {"seconds": seconds}


def convert(
    model_dir: str, data_dir: str, max_seq_length: int, padding: str, **_: bool
) -> dict[str, Any]:
    """Convert the training file to lists of indices, which stay in memory."""
    tokenizer = load_tokenizer(model_dir)
    examples = runner.read_examples(os.path.join(data_dir, "train.tsv"))
    started = time.monotonic()
    tokenize(tokenizer, examples, max_seq_length, padding)
    return {"seconds": time.monotonic() - started}


def products(**_: Any) -> dict[str, Any]:
    """Multiply matrices with PyTorch, in fp32."""

    def make_product(m, k, n):
        first, second, result = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
        return lambda: torch.mm(first, second, out=result)

    return runner.time_products(make_product)


def versions(**_: Any) -> dict[str, Any]:
    """Return the versions of this environment."""
    found = runner.packages("torch", "transformers", "accelerate", "tokenizers", "numpy")
    return dict(found, threads=torch.get_num_threads())


if __name__ == "__main__":
    # Its progress and its advice would only fill the log of a run that failed.
    transformers.logging.set_verbosity_error()
    runner.answer(
        fine_tune=fine_tune,
        predict=predict,
        latency=latency,
        answer=answer,
        convert=convert,
        products=products,
        versions=versions,
    )
