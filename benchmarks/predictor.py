"""Compare the speed of a loaded export with that of `estimator.predict`, and time many texts.

    .venv/bin/python benchmarks/predictor.py EXPORT --checkpoint=OUTPUT_DIR/best/model.ckpt-N

The checkpoint is the one that was exported. `estimator.predict` builds the graph and loads the
checkpoint for each call. The two take turns, so that other load of the machine affects both. The
texts are made up.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow.compat.v1 as tf

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# In place of the folder of this file, which has the name of what is measured.
sys.path[0] = ROOT

import modeling  # noqa: E402
import run_classifier_gpu as program  # noqa: E402
from bert_classifier.data import features  # noqa: E402
from bert_classifier.data.examples import InputExample  # noqa: E402
from bert_classifier.export import bundle  # noqa: E402
from bert_classifier.problem_types import ClassOptions  # noqa: E402
from bert_classifier.serving.predictor import Predictor  # noqa: E402
from tokenization import FullTokenizer  # noqa: E402

REPEATS = 5
ANSWERS_PER_TURN = 20
WORDS_PER_TEXT = 20
NUM_TEXTS = 2000


class OneText:
    """Classifies one text at a time with the Estimator of a bundle's checkpoint."""

    def __init__(self, export, checkpoint):
        opened = bundle.open_bundle(export)
        opened.model.close()
        self._settings = opened.settings
        self._checkpoint = checkpoint
        self._tokenizer = FullTokenizer(
            os.path.join(export, bundle.ASSETS, bundle.VOCAB), self._settings.do_lower_case
        )
        self._estimator = tf.estimator.Estimator(
            program.model_fn_builder(
                modeling.BertConfig.from_dict(json.loads(opened.parts[bundle.CONFIG].decode())),
                num_labels=len(self._settings.labels),
                init_checkpoint=None,
                learning_rate=0.0,
                num_train_steps=0,
                num_warmup_steps=0,
                problem_type=self._settings.problem_type,
                class_options=ClassOptions(thresholds=self._settings.thresholds),
            ),
            config=program.make_run_config(os.path.dirname(checkpoint), None, 1, 0, False),
        )

    def words(self):
        """Return the words of the vocabulary."""
        return [token for token in self._tokenizer.vocab if token.isalpha()]

    def predict(self, text):
        """Return the probabilities of one text, or the number of a regression."""
        texts = [text] if isinstance(text, str) else text
        converter = features.Converter(
            self._settings.labels,
            self._settings.max_seq_length,
            self._tokenizer,
            truncation=self._settings.truncation,
        )
        row = converter.convert_padded(InputExample("", *texts))
        columns = {name: np.array([getattr(row, name)], np.int32) for name in bundle.INPUTS}
        answers = self._estimator.predict(
            lambda: tf.data.Dataset.from_tensors(columns), checkpoint_path=self._checkpoint
        )
        (answer,) = answers
        return answer.get("probabilities", answer["predictions"])


def make_texts(words, texts_per_example):
    """Make up texts of random words, some shorter and some longer."""
    chance = random.Random(0)

    def text():
        return " ".join(chance.choices(words, k=chance.randint(1, 2 * WORDS_PER_TEXT - 1)))

    if texts_per_example == 1:
        return [text() for _ in range(NUM_TEXTS)]
    return [(text(), text()) for _ in range(NUM_TEXTS)]


def timed(function):
    """Return the seconds that a function takes, and its result."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", help="folder of a SavedModel, not a frozen graph")
    parser.add_argument("--checkpoint", required=True, help="prefix of what was exported")
    arguments = parser.parse_args()
    tf.logging.set_verbosity(tf.logging.ERROR)

    one_text = OneText(arguments.export, arguments.checkpoint)
    load_seconds, predictor = timed(lambda: Predictor(arguments.export, temperature=1))
    texts = make_texts(one_text.words(), predictor.settings.texts_per_example)
    predictor.predict(texts[:1])  # TensorFlow prepares a graph when it is first run.

    of_estimator, of_predictor, ratios = [], [], []
    for turn in range(REPEATS):
        slow, expected = timed(lambda: one_text.predict(texts[turn]))  # noqa: B023
        answers = [
            timed(lambda: predictor.predict([text]))  # noqa: B023
            for text in texts[turn : turn + ANSWERS_PER_TURN]
        ]
        answer = answers[0][1][0]
        np.testing.assert_allclose(
            list(answer.probabilities.values()) or answer.label, expected, atol=1e-5, rtol=1e-5
        )
        of_estimator.append(slow)
        of_predictor += [seconds for seconds, _ in answers]
        ratios.append(slow / statistics.median(seconds for seconds, _ in answers))
    stream_seconds, _ = timed(lambda: sum(1 for _ in predictor.predict_stream(texts)))

    print("One text of %d words on average; medians of %d turns" % (WORDS_PER_TEXT, REPEATS))
    print("\n| | milliseconds |\n|---|---|")
    print("| estimator.predict | %.1f |" % (1000 * statistics.median(of_estimator)))
    print("| Predictor.predict | %.2f |" % (1000 * statistics.median(of_predictor)))
    print("\nPredictor is %.0f times as fast." % statistics.median(ratios))
    print("It takes %.1f s to load." % load_seconds)
    print("predict_stream: %.0f texts/s" % (NUM_TEXTS / stream_seconds))


if __name__ == "__main__":
    main()
