"""Train transformers' Trainer, on Python 3.11, for `quality.py`; see `runner.py`.

The settings are those of this program's default flags, as far as the Trainer has them.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

import numpy as np
import runner
import transformers


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows whose largest output, float `[rows, classes]`, is the label."""
    return float(np.mean(outputs.argmax(-1) == labels))


def f1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return F1 of class 1, from outputs float `[rows, 2]`; 0 where nothing is found."""
    predictions = outputs.argmax(-1)
    found = np.sum((predictions == 1) & (labels == 1))
    return float(2 * found / max(np.sum(predictions == 1) + np.sum(labels == 1), 1))


def pearson(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return Pearson's correlation of outputs, float `[rows, 1]`, with the labels."""
    return float(np.corrcoef(outputs.reshape(-1), labels)[0, 1])


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "eval_accuracy": accuracy,
    "eval_f1": f1,
    "eval_pearson": pearson,
}


def score(
    model_dir: str, data_dir: str, output_dir: str, labels: list[str], metric: str, seed: int
) -> dict[str, Any]:
    """Train, and evaluate after each epoch.

    Args:
        model_dir: a Hugging Face directory.
        data_dir: has train.tsv and dev.tsv, as `runner.read_examples` reads them.
        output_dir: a new folder.
        labels: the classes; none for a regression.
        metric: one of `METRICS`.
        seed: of weights, order and dropout.

    Returns:
        `evaluations`, the metric after each epoch, and `last` of them; `classes`, the number of
        different predictions.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
    transformers.set_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        model_dir, num_labels=len(labels) or 1
    )
    arguments = transformers.TrainingArguments(
        output_dir,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=32,
        num_train_epochs=3,
        learning_rate=5e-5,
        warmup_ratio=0.1,
        weight_decay=0.01,
        group_by_length=True,
        use_cpu=True,
        seed=seed,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model,
        arguments,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        train_dataset=load(tokenizer, data_dir + "/train.tsv", labels),
        eval_dataset=load(tokenizer, data_dir + "/dev.tsv", labels),
        processing_class=tokenizer,
        compute_metrics=lambda answers: {
            "score": METRICS[metric](answers.predictions, answers.label_ids),
            "classes": len(np.unique(answers.predictions.argmax(-1))),
        },
    )
    trainer.train()
    evaluations = [line for line in trainer.state.log_history if "eval_score" in line]
    return {
        "evaluations": [line["eval_score"] for line in evaluations],
        "last": evaluations[-1]["eval_score"],
        "classes": evaluations[-1]["eval_classes"],
    }


def load(tokenizer: Any, path: str, labels: list[str]) -> list[dict[str, Any]]:
    """Read and convert a split; a text has up to 128 tokens."""
    rows = []
    for example in runner.read_examples(path):
        row = dict(tokenizer(example.text, example.text_b, truncation=True, max_length=128))
        row["label"] = labels.index(example.label) if labels else float(example.label)
        rows.append(row)
    return rows


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    runner.answer(score=score)
