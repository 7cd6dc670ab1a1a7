"""What TensorBoard shows of a run beside the curves of loss, learning rate and metrics.

Nothing is computed for it: the outputs of an evaluation are those that its metrics are made of. A
failure to write is logged, and the run goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import html
import logging
import re
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import numpy as np
import tensorboard.summary.v1 as summaries
import tensorflow.compat.v1 as tf
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams

from bert_classifier import problem_types
from bert_classifier.config import Config
from bert_classifier.data.examples import Examples, pick
from bert_classifier.report import images
from bert_classifier.report.scores import Scores, score
from bert_classifier.training.history import EvalHistory
from bert_classifier.training.hooks import replace_events
from bert_classifier.training.outputs import Outputs

_LOG = logging.getLogger(__name__)

# More classes have no reader: those that most examples have are shown.
_MOST_CLASSES = 30
_MOST_MISTAKES = 20
_MOST_CHARACTERS = 300

# The values that are compared in the tab HPARAMS, beside all of `config.Training`.
_COMPARED = {
    "task_name": "str",
    "max_seq_length": "int",
    "bert_config_file": "str",
    "init_checkpoint": "str",
    "amp": "bool",
    "use_xla": "bool",
}
# Where the metrics of the best checkpoint are, as Estimator names the folder.
_BEST = "best"


class Evaluated(NamedTuple):
    """What is evaluated: a dev or test set of a task."""

    problem_type: str
    labels: Sequence[str]
    examples: Examples


@contextlib.contextmanager
def _failures_logged() -> Iterator[None]:
    """Log an error in this block: nobody wants to lose a training for a picture."""
    try:
        yield
    except Exception as error:
        _LOG.warning("WARNING: TensorBoard lacks a part of this run: %r", error)


class EvaluationSummaries(tf.estimator.Exporter):
    """Write the scores of each class and the mistakes after an evaluation of `train_and_evaluate`.

    An Exporter is Estimator's public callback after an evaluation, see `EvaluationRecorder`.
    """

    # Estimator needs one. Nothing is written to the folder of this name.
    name = "evaluation_summaries"

    def __init__(self, evaluated: Evaluated, find_outputs: Callable[[], Outputs | None]):
        """Take what is evaluated, and what returns the outputs of the latest evaluation."""
        self._evaluated = evaluated
        self._find_outputs = find_outputs

    def export(
        self,
        estimator: tf.estimator.Estimator,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> None:
        """Write them beside the metrics."""
        del export_path, checkpoint_path, is_the_final_export
        outputs = self._find_outputs()
        # That of an evaluation before the run was resumed is written already.
        if outputs is not None and outputs.step == int(eval_result["global_step"]):
            write_evaluation(estimator.eval_dir(), self._evaluated, outputs)


def write_evaluation(events_dir: str, evaluated: Evaluated, outputs: Outputs) -> None:
    """Write the scores of each class, pictures and mistakes of an evaluation.

    Args:
        events_dir: the folder that Estimator has written the metrics of this evaluation to.
        evaluated: what was evaluated.
        outputs: what the model said.
    """
    with _failures_logged():
        # The cache gives the writer of the metrics: two would write to files of the same name.
        writer = tf.summary.FileWriterCache.get(events_dir)
        try:
            for summary in _of_evaluation(evaluated, outputs):
                writer.add_summary(summary, outputs.step)
        finally:
            writer.flush()


def _of_evaluation(evaluated: Evaluated, outputs: Outputs) -> Iterator[tf.Summary]:
    """Yield all summaries, the picture last: drawing it is what may fail."""
    problem_type, labels = evaluated.problem_type, evaluated.labels
    if problem_types.get(problem_type).has_classes:
        # TensorBoard shows no intervals.
        scores = score(problem_type, labels, outputs.label_ids, outputs.predictions, seed=None)
        assert scores.classes is not None
        shown = np.sort(np.argsort(-scores.classes.support, kind="stable")[:_MOST_CLASSES])
        yield from _of_classes(evaluated, outputs, scores, shown)
        yield _mistakes(evaluated, outputs)
        yield _image("confusion", _confusion(scores, shown))
    else:
        errors = outputs.predictions - outputs.label_ids
        yield summaries.histogram_pb("error", errors, display_name="prediction - label")
        yield _mistakes(evaluated, outputs)
        yield _image("predictions", images.scatter(outputs.label_ids, outputs.predictions))


def _of_classes(
    evaluated: Evaluated, outputs: Outputs, scores: Scores, shown: np.ndarray
) -> Iterator[tf.Summary]:
    labels = evaluated.labels
    assert outputs.probabilities is not None
    for name in ("precision", "recall", "f1"):
        of_classes = getattr(scores.classes, name)
        yield _scalars({"%s/%s" % (name, labels[n]): of_classes[n] for n in shown})
    truth = np.asarray(outputs.label_ids)
    for n in shown:
        is_class = truth[:, n] == 1 if truth.ndim == 2 else truth == n
        yield summaries.pr_curve_pb(
            "pr_curve/%s" % labels[n],
            is_class,
            # A rounded sum may be above 1, for which there is no threshold.
            np.clip(outputs.probabilities[:, n], 0.0, 1.0),
            num_thresholds=101,
            display_name=labels[n],
        )
    problem = problem_types.get(evaluated.problem_type)
    confidence, is_right, _ = problem.decisions(outputs.probabilities, truth)
    for name, values in (("right", confidence[is_right]), ("wrong", confidence[~is_right])):
        yield summaries.histogram_pb("confidence/" + name, values, display_name=name)


def _confusion(scores: Scores, shown: np.ndarray) -> bytes:
    assert scores.confusion is not None
    names = images.drawable(scores.labels)
    names = [names[n] for n in shown]
    if scores.confusion.ndim == 3:
        # Beside each class: missed, wrongly given, rightly given.
        cells = scores.confusion[shown][:, [1, 0, 1], [0, 1, 1]]
        return images.matrix(cells, names, ["missed", "wrong", "right"])
    return images.matrix(scores.confusion[np.ix_(shown, shown)], names, names)


def _image(tag: str, png: bytes) -> tf.Summary:
    width, height = images.size(png)
    image = tf.Summary.Image(
        encoded_image_string=png, width=width, height=height, colorspace=images.NUM_CHANNELS
    )
    return tf.Summary(value=[tf.Summary.Value(tag=tag, image=image)])


def _mistakes(evaluated: Evaluated, outputs: Outputs) -> tf.Summary:
    """Return a table of the mistakes with the largest loss."""
    problem, labels = problem_types.get(evaluated.problem_type), evaluated.labels
    wrong = np.asarray(outputs.predictions) != np.asarray(outputs.label_ids)
    (candidates,) = np.nonzero(wrong.reshape(len(wrong), -1).any(axis=1))
    worst = candidates[np.argsort(-outputs.losses[candidates], kind="stable")[:_MOST_MISTAKES]]
    found = pick(evaluated.examples, worst.tolist())
    rows = [["loss", "label", "prediction", "text", "text_b"]]
    for n in worst:
        answers = [
            problem.name_prediction(answer[n], labels, ", ")
            for answer in (outputs.label_ids, outputs.predictions)
        ]
        rows.append(["%.3f" % outputs.losses[n], *answers, found[n].text_a, found[n].text_b or ""])
    return _table("mistakes", rows, "The mistakes with the largest loss.")


def _table(tag: str, rows: Sequence[Sequence[str]], description: str) -> tf.Summary:
    cells = [[_as_markdown(cell) for cell in row] for row in rows]
    cells[0] = ["**%s**" % cell for cell in cells[0]]
    return summaries.text_pb(tag, np.array(cells, dtype=object), description=description)


def _as_markdown(text: str) -> str:
    r"""Return a line of Markdown that shows the text as it is, up to a length."""
    line = " ".join(text.split())
    if len(line) > _MOST_CHARACTERS:
        line = line[:_MOST_CHARACTERS] + "…"
    return re.sub(r"([\\`*_{}\[\]()#+.!-])", r"\\\1", html.escape(line, quote=False))


# Settings and the tab HPARAMS


class SettingsHook(tf.train.SessionRunHook):
    """Write the flags, and those that HPARAMS compares, when a training begins or goes on.

    List it after the ProgressHook, which lets events of a killed process be replaced.
    """

    def __init__(self, events_dir: str, config: Config, metrics: Sequence[str]):
        """Take where to write, and the names of the metrics of an evaluation."""
        self._events_dir = events_dir
        self._config = config
        self._metrics = metrics

    def begin(self) -> None:
        """Look up the step."""
        self._global_step = tf.train.get_global_step()

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        """Write, under the first step that is trained so."""
        del coord
        step = int(session.run(self._global_step)) + 1
        with _failures_logged():
            writer = tf.summary.FileWriterCache.get(self._events_dir)
            for summary in _of_settings(self._config, self._metrics):
                writer.add_summary(summary, step)
            writer.flush()


def _of_settings(config: Config, metrics: Sequence[str]) -> Iterator[tf.Summary]:
    values = config.values()
    rows = [["flag", "value", "given"]]
    for name in sorted(values):
        rows.append([name, str(values[name]), "yes" if name in config.given else ""])
    yield _table("flags", rows, "All flags of the run.")
    compared = _compared_types()
    # TensorBoard takes the columns from the first run that it finds: all runs name the same ones.
    yield hparams.experiment_pb(
        [_column(name, compared[name], name in config.given) for name in compared],
        [
            api_pb2.MetricInfo(
                name=api_pb2.MetricName(group="eval_" + _BEST, tag=metric), display_name=metric
            )
            for metric in metrics
        ],
    )
    yield hparams.session_start_pb(
        {
            name: values[name] if is_number else str(values[name])
            for name, is_number in compared.items()
            if values[name] is not None
        }
    )


def _column(name: str, is_number: bool, is_given: bool) -> api_pb2.HParamInfo:
    kind = api_pb2.DATA_TYPE_FLOAT64 if is_number else api_pb2.DATA_TYPE_STRING
    column = api_pb2.HParamInfo(name=name, type=kind)
    # That of TensorFlow 2.15 shows few columns at first, those that are said to differ before all.
    if "differs" in column.DESCRIPTOR.fields_by_name:
        column.differs = is_given
    return column


def _compared_types() -> dict[str, bool]:
    """Return name -> whether it is a number, of the values that HPARAMS compares."""
    fields = dataclasses.fields(Config().training)
    types = {field.name: str(field.type) for field in fields}
    types.update(_COMPARED)
    # The table is wide: what is tuned most comes first.
    names = sorted(types, key=lambda name: name != "learning_rate")
    return {name: bool(re.search("int|float", types[name])) for name in names}


def write_end(config: Config, estimator: tf.estimator.Estimator, history: EvalHistory) -> None:
    """Write that a training has ended, and the metrics of its best checkpoint for HPARAMS.

    With `--do_eval` Estimator writes the metrics when it evaluates that checkpoint, which comes
    next. They are not written twice: TensorBoard would read them in the order in which the names
    of their files are sorted, and that need not be the order of two events of the same second.
    """
    best = None if config.actions.do_eval else history.best()
    with _failures_logged():
        with _new_file(estimator.model_dir) as writer:
            writer.add_summary(hparams.session_end_pb(api_pb2.STATUS_SUCCESS), 0)
        if best:
            with _new_file(estimator.eval_dir(_BEST)) as writer:
                replace_events(writer, best.step)
                writer.add_summary(_scalars(best.metrics), best.step)


def _scalars(numbers: Mapping[str, float]) -> tf.Summary:
    values = [tf.Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
    return tf.Summary(value=values)


@contextlib.contextmanager
def _new_file(events_dir: str) -> Iterator[tf.summary.FileWriter]:
    """Yield a writer for what comes outside a session.

    The cached one, if it is new, writes the graph that is the default one: here an empty one. The
    suffix keeps the file apart from that of the training, which may be of the same second.
    """
    with tf.Graph().as_default(), tf.summary.FileWriter(
        events_dir, filename_suffix=".end"
    ) as writer:
        yield writer
