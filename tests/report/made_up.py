"""Made-up runs and evaluations, for the tests of what is written about them."""

from __future__ import annotations

import numpy as np

from bert_classifier.data.examples import InputExample
from bert_classifier.report import page
from bert_classifier.report.scores import score
from bert_classifier.training.history import Evaluation, Watched
from bert_classifier.training.outputs import Outputs

COMMANDS = [("Classify a text:", "python -m bert_classifier.predict 'my run' TEXT")]


def run(metric="eval_accuracy", **fields):
    values = {
        "name": "my run",
        "watched": Watched(metric, higher_is_better=True),
        "evaluations": [
            Evaluation(step, {metric: value, "eval_loss": 1 - value})
            for step, value in ((10, 0.5), (20, 0.8), (30, 0.7))
        ],
        "trained": [(1, 1.2), (25, 0.4)],
        "result": {
            "status": "stopped early",
            "reason": "no progress",
            "best_step": 20,
            "last_step": 30,
            "warning": None,
        },
        "settings": {"learning_rate": 3e-05, "seed": 12345},
        "given": ["learning_rate"],
        "data_summary": ["Data", "  train 100 rows"],
        "files": [("eval_results.json", "the metrics")],
        "commands": COMMANDS,
    }
    return page.Run(**{**values, **fields})


def evaluated(problem_type, labels, label_ids, predictions, probabilities=None, texts=None):
    label_ids, predictions = np.asarray(label_ids), np.asarray(predictions)
    size = len(label_ids)
    texts = ["text number %d" % n for n in range(size)] if texts is None else texts
    losses = np.linspace(0.1, 1, size).astype(np.float32)
    outputs = Outputs(20, "0123456789ab", label_ids, predictions, losses, probabilities)
    scores = score(problem_type, labels, label_ids, predictions, probabilities, losses)
    metrics = {name: value for name, value in scores.values.items() if name.startswith("eval_")}
    examples = [InputExample("dev-%d" % (n + 1), text) for n, text in enumerate(texts)]
    return page.Evaluated(problem_type, examples, ",", metrics, outputs, scores)


def classified(num_examples, labels, seed=0, **options):
    random = np.random.RandomState(seed)
    logits = random.randn(num_examples, len(labels)) * 2
    label_ids = random.randint(len(labels), size=num_examples)
    logits[np.arange(num_examples), label_ids] += 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predictions = probabilities.argmax(axis=1)
    probabilities = probabilities.astype(np.float32)
    return evaluated("classification", labels, label_ids, predictions, probabilities, **options)


def numbers(num_examples):
    random = np.random.RandomState(0)
    truth = (random.rand(num_examples) * 5).astype(np.float32)
    predictions = (truth + random.randn(num_examples)).astype(np.float32)
    return evaluated("regression", ["score"], truth, predictions)


def several(num_examples, labels):
    random = np.random.RandomState(0)
    shape = (num_examples, len(labels))
    probabilities = random.rand(*shape).astype(np.float32)
    truth = (probabilities + random.randn(*shape) * 0.3 > 0.5).astype(np.int64)
    predictions = (probabilities > 0.5).astype(np.int32)
    return evaluated("multi_label", labels, truth, predictions, probabilities)
