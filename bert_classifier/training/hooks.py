"""Hooks: log training, save and evaluate checkpoints, stop early."""

from __future__ import annotations

import datetime
import logging
import time
from typing import Any, Callable, Mapping

import tensorflow.compat.v1 as tf
import tqdm

from bert_classifier import tf_compat
from bert_classifier.training import checkpoints
from bert_classifier.training.history import EvalHistory, Watched, eval_history_path

_LOG = logging.getLogger(__name__)

# The most seconds that a timedelta can hold.
_LONGEST = datetime.timedelta.max.days * 24 * 3600


class ProgressHook(tf.train.SessionRunHook):
    """Log one line every `every_n_iter` steps: step, loss, learning rate, speed, remaining time.

    It reads the tensors `total_loss:0` of the model and `learning_rate:0` and `gradient_norm:0` of
    the optimizer by name, because they do not exist yet when hooks are made. The loss is the mean
    since the line before. The speed is of the training steps, without the evaluations between them.
    TensorBoard gets the same numbers: the tag of the loss is that of Estimator's evaluations.

    Attributes:
        step: number of steps done, with those before a resume.
        step_of_batch: the step that the latest batch was for.
        examples_per_second: mean over the steps of this process.
    """

    def __init__(
        self,
        every_n_iter: int,
        num_train_steps: int,
        steps_per_epoch: float,
        examples_per_step: int,
        num_accumulation_steps: int = 1,
        show_bar: bool = False,
        events_dir: str | None = None,
    ):
        """Take the plan of the run.

        Args:
            every_n_iter: steps between lines.
            num_train_steps: steps of the whole run.
            steps_per_epoch: steps of an epoch.
            examples_per_step: examples of a step, of all workers together.
            num_accumulation_steps: how often the graph is run for one step.
            show_bar: whether to show a progress bar on stderr too.
            events_dir: folder of the events for TensorBoard; None for none.
        """
        self.step = self.step_of_batch = 0
        self._every = every_n_iter
        self._num_train_steps = num_train_steps
        self._steps_per_epoch = steps_per_epoch
        self._examples_per_run = examples_per_step / num_accumulation_steps
        self._show_bar = show_bar
        self._events_dir = events_dir
        self._bar = tqdm.tqdm(disable=True)
        self._runs = 0
        self._seconds = 0.0

    def begin(self) -> None:
        """Look up the tensors."""
        graph = tf.get_default_graph()
        names = ("total_loss", "learning_rate", "gradient_norm")
        self._tensors = {name: graph.get_tensor_by_name(name + ":0") for name in names}
        self._global_step = tf.train.get_global_step()

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        """Note the first step and the time, and show the bar."""
        del coord
        self.step = self._first_step = int(session.run(self._global_step))
        self._started = time.monotonic()
        self._start_line()
        if self._events_dir:
            # What a process has told of later steps, before it was killed, comes again.
            replace_events(tf.summary.FileWriterCache.get(self._events_dir), self.step + 1)
        self._bar = tqdm.tqdm(
            total=self._num_train_steps,
            initial=self.step,
            unit="step",
            disable=not self._show_bar,
            dynamic_ncols=True,
        )

    def before_run(self, run_context: Any) -> tf.train.SessionRunArgs:
        """Ask for the tensors and start the clock of the step."""
        del run_context
        self._run_started = time.monotonic()
        return tf.train.SessionRunArgs(self._tensors)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Add up the loss and the time, and log them when a line is due."""
        self._runs += 1
        self._seconds += time.monotonic() - self._run_started
        self.step_of_batch = self.step + 1
        self._losses.append(float(run_values.results["total_loss"]))
        step = int(run_context.session.run(self._global_step))
        if step == self.step:
            return
        self._bar.update(step - self.step)
        self.step = step
        if step % self._every == 0 or step == self._num_train_steps:
            self._log(run_values.results)
            self._start_line()

    def close_bar(self) -> None:
        """Close the bar. TensorFlow calls no hook when an error ends the training."""
        self._bar.close()

    @property
    def examples_per_second(self) -> float:
        """The mean throughput of this run's training steps; 0 before the first."""
        return self._per_second(self._runs, self._seconds)

    def _per_second(self, runs: float, seconds: float) -> float:
        # A clock may stand still, as under a debugger or libfaketime.
        return runs * self._examples_per_run / seconds if seconds else 0.0

    def _start_line(self) -> None:
        self._losses: list[float] = []
        self._line_began = (self._runs, self._seconds)

    def _log(self, results: Mapping[str, float]) -> None:
        loss = sum(self._losses) / len(self._losses)
        runs, seconds = (
            now - then for now, then in zip((self._runs, self._seconds), self._line_began)
        )
        elapsed = time.monotonic() - self._started
        steps_left = self._num_train_steps - self.step
        examples_per_second = self._per_second(runs, seconds)
        self._write_events({**results, "loss": loss, "examples_per_second": examples_per_second})
        self._bar.set_postfix(loss="%.4f" % loss, lr="%.2e" % results["learning_rate"])
        _LOG.info(
            "step %d/%d | epoch %.2f | loss %.4f | learning rate %.2e | gradient norm %.2f | "
            "%.1f examples/s | elapsed %s | ETA %s",
            self.step,
            self._num_train_steps,
            self.step / self._steps_per_epoch,
            loss,
            results["learning_rate"],
            results["gradient_norm"],
            examples_per_second,
            _clock(elapsed),
            _clock(elapsed / (self.step - self._first_step) * steps_left),
            # Not shown above the bar, which says the same; the log file has the line.
            extra={"in_bar": self._show_bar},
        )

    def _write_events(self, numbers: Mapping[str, float]) -> None:
        if not self._events_dir:
            return
        tags = ("loss", "learning_rate", "gradient_norm", "examples_per_second")
        values = [tf.Summary.Value(tag=tag, simple_value=numbers[tag]) for tag in tags]
        writer = tf.summary.FileWriterCache.get(self._events_dir)
        writer.add_summary(tf.Summary(value=values), self.step)
        # Before the checkpoint of this step: a run that is resumed from there has no gap.
        writer.flush()


def replace_events(writer: tf.summary.FileWriter, step: int) -> None:
    """Let what is written next replace, in TensorBoard, the events of this step and later ones."""
    writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), step)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=min(round(seconds), _LONGEST)))


class CompilationHook(tf.train.SessionRunHook):
    """Log each shape of a batch that XLA compiles the step for, which can take a minute.

    It reads the tensor `batch_shape:0` of the model.
    """

    def __init__(self) -> None:
        """Begin with no shapes."""
        self._shapes: set[tuple[int, ...]] = set()

    def before_run(self, run_context: Any) -> tf.train.SessionRunArgs:
        """Ask for the shape and start the clock."""
        shape = run_context.session.graph.get_tensor_by_name("batch_shape:0")
        self._run_started = time.monotonic()
        return tf.train.SessionRunArgs(shape)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Log a shape that is new, and how long its first step took."""
        del run_context
        shape = tuple(run_values.results.tolist())
        if shape not in self._shapes:
            self._shapes.add(shape)
            _LOG.info(
                "XLA: the first step with batches of %s tokens, shape number %d, took %.1f seconds",
                " x ".join(map(str, shape)),
                len(self._shapes),
                time.monotonic() - self._run_started,
            )


class CheckpointHook(tf_compat.SaverHook):
    """Save a checkpoint at multiples of `save_steps` and at the end of training.

    In the hooks of a TrainSpec it replaces Estimator's own, which counts from the step at which a
    run was resumed: checkpoints, evaluations and the early stop would depend on the interruption.
    """

    def __init__(self, output_dir: str, save_steps: int, skip_final_evaluation: Callable[[], bool]):
        """Take where and when to save.

        Args:
            output_dir: folder of the checkpoints.
            save_steps: steps between checkpoints.
            skip_final_evaluation: says, at the end, whether to leave the last one unevaluated.
        """
        super().__init__(output_dir, save_steps=save_steps)
        self._save_every = save_steps
        self._skip_final_evaluation = skip_final_evaluation

    def begin(self) -> None:
        """Look up the step."""
        super().begin()
        self._global_step = tf.train.get_global_step()

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        """Save the initial state of a new run; that of a resumed run is on disk already.

        The parent would also write the graph, as text, which takes seconds and has no reader, and
        a second time for TensorBoard.
        """
        del coord
        step = int(session.run(self._global_step))
        if step == 0:
            self.save(session, step)
        else:
            # The listener does not evaluate the first save that it is told of.
            self.regard_as_saved(session, step)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Save, which is followed by an evaluation, when it is time to."""
        del run_values
        # The parent takes the step from the training step's own run, where it may be read before
        # or after it is counted.
        session = run_context.session
        step = int(session.run(self._global_step))
        if step % self._save_every == 0 and step != self.last_saved_step():
            if self.save(session, step):
                run_context.request_stop()

    def end(self, session: tf.Session) -> None:
        """Save the last state."""
        if self._skip_final_evaluation():
            self.remove_listeners()
        super().end(session)


class JoinEvaluationsHook(tf.train.SessionRunHook):
    """Take part in each evaluation of the chief, on a worker that saves nothing itself.

    It calls `join` at each step at which the chief's CheckpointHook saves, and so evaluates.
    """

    def __init__(
        self, join: Callable[[], None], save_steps: int, skip_final_evaluation: Callable[[], bool]
    ):
        """Take what to call; the other arguments are those of the CheckpointHook."""
        self._join = join
        self._save_steps = save_steps
        self._skip_final_evaluation = skip_final_evaluation

    def begin(self) -> None:
        """Look up the step."""
        self._global_step = tf.train.get_global_step()

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        """Note the step of the checkpoint that exists already."""
        del coord
        self._joined_at = int(session.run(self._global_step))

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Take part when it is time to."""
        del run_values
        step = int(run_context.session.run(self._global_step))
        if step % self._save_steps == 0:
            self._join_once(step)

    def end(self, session: tf.Session) -> None:
        """Take part in the evaluation of the last state, unless it is skipped."""
        if not self._skip_final_evaluation():
            self._join_once(int(session.run(self._global_step)))

    def _join_once(self, step: int) -> None:
        if step != self._joined_at:
            self._joined_at = step
            self._join()


class AddUpMetricsHook(tf.train.SessionRunHook):
    """Merge the metrics of all workers, each of which has evaluated a part of the data.

    Streaming metrics, with Estimator's own `loss`, are functions of sums over the examples, which
    metric variables hold. A metric that needs each example holds a list, in a variable whose first
    dimension is unknown. At the end, before the metrics are read, each variable is set to its sum
    over the workers, or to the concatenated lists.
    """

    def __init__(
        self,
        add_up: Callable[[tf.Tensor, str], tf.Tensor],
        gather: Callable[[tf.Tensor, str], tf.Tensor],
    ):
        """Take the collective operations, which are those of `Workers`.

        Args:
            add_up: tensor, name -> its sum over all workers.
            gather: tensor, name -> the tensors of all workers, concatenated.
        """
        self._add_up = add_up
        self._gather = gather

    def begin(self) -> None:
        """Add the sums and the concatenations to the graph."""
        variables = tf.get_collection(tf.GraphKeys.METRIC_VARIABLES)
        # XLA cannot compile the assignment of a value of another shape.
        with tf.xla.experimental.jit_scope(compile_ops=False):
            merged = [self._over_workers(v, "metric_%d" % n) for n, v in enumerate(variables)]
            self._merge = tf.group(*[v.assign(value) for v, value in zip(variables, merged)])

    def _over_workers(self, variable: tf.Variable, name: str) -> tf.Tensor:
        combine = self._add_up if variable.shape.is_fully_defined() else self._gather
        return combine(variable.read_value(), name)

    def end(self, session: tf.Session) -> None:
        """Merge. The hook in which Estimator reads the metrics always comes later."""
        session.run(self._merge)


class ReplaceEventsHook(tf.train.SessionRunHook):
    """Let the events of an evaluation replace those of an earlier one of the same step.

    A resumed run may evaluate a checkpoint again, and so does each later call with `--do_eval`:
    TensorBoard would show points twice.
    """

    def __init__(self, events_dir: str):
        """Take the folder that Estimator writes the metrics to."""
        self._events_dir = events_dir

    def begin(self) -> None:
        """Look up the step."""
        self._global_step = tf.train.get_global_step()

    def end(self, session: tf.Session) -> None:
        """Replace them. Estimator writes the metrics after this."""
        writer = tf.summary.FileWriterCache.get(self._events_dir)
        replace_events(writer, int(session.run(self._global_step)))


class EvaluationRecorder(tf.estimator.Exporter):
    """Record each evaluation of `train_and_evaluate` in the history and keep the best checkpoint.

    An Exporter is Estimator's public callback after an evaluation. This one must be the first of
    `EvalSpec(exporters=...)`, because the others read the history.
    """

    # Estimator needs one. Nothing is written to the folder of this name.
    name = "evaluation_recorder"

    def __init__(self, history: EvalHistory, patience: int, num_train_steps: int):
        """Take the history to write to.

        Args:
            history: of the run.
            patience: steps without improvement that end the run, for the log; 0: it never ends so.
            num_train_steps: steps of the whole run, for the log.
        """
        self._history = history
        self._patience = patience
        self._num_train_steps = num_train_steps

    def export(
        self,
        estimator: tf.estimator.Estimator,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> str | None:
        """Record `eval_result`; return the path of the kept checkpoint, None if not the best."""
        del export_path, is_the_final_export
        step = int(eval_result["global_step"])
        is_best = self._history.add(step, eval_result)
        self._log(step, eval_result)
        return checkpoints.keep_best(checkpoint_path, estimator.model_dir) if is_best else None

    def _log(self, step: int, eval_result: Mapping[str, Any]) -> None:
        history, metric = self._history, self._history.watched.metric
        numbers = ", ".join(
            "%s %.4f" % (name, value)
            for name, value in sorted(eval_result.items())
            if name not in ("global_step", "loss")
        )
        best = history.best()
        verdict = "no finite %s yet" % metric
        if best is not None and best.step == step:
            verdict = "best so far"
        elif best is not None:
            verdict = "best %s %.4f at step %d, %d evaluations without improvement" % (
                metric,
                history.value(best),
                best.step,
                history.evaluations_without_improvement(),
            )
        if self._patience:
            left = self._patience - history.steps_without_improvement()
            if left <= 0:
                verdict += "; stops early now"
            elif step + left < self._num_train_steps:
                verdict += "; stops early after %d more steps without improvement" % left
        _LOG.info("evaluation at step %d: %s | %s", step, numbers, verdict)


class EarlyStoppingHook(tf.train.SessionRunHook):
    """Stop training when `should_stop` returns a reason.

    Nothing is added to the graph, so a run may be resumed with or without this hook. List it after
    the hook that saves, so that an evaluation at the same step counts.

    Attributes:
        should_stop: global step -> why training should stop there, None if it should go on. With
            several workers it returns the same on all of them.
        reason: why training was stopped; None if it was not.
    """

    def __init__(
        self,
        should_stop: Callable[[int], str | None],
        run_every_secs: float | None = None,
        run_every_steps: int | None = None,
    ):
        """Take the decision and how often to ask for it: one of the two intervals.

        Args:
            should_stop: see the attribute.
            run_every_secs: seconds between questions.
            run_every_steps: steps between questions, which are at multiples of this number.

        Raises:
            ValueError: both or none of the intervals are given.
        """
        if (run_every_secs is None) == (run_every_steps is None):
            raise ValueError("exactly one of run_every_secs and run_every_steps must be given")
        self.should_stop = should_stop
        self.reason: str | None = None
        self._run_every_secs = run_every_secs
        self._run_every_steps = run_every_steps

    def begin(self) -> None:
        """Start the clock."""
        self._global_step = tf.train.get_global_step()
        self._asked_at_step: int | None = None
        self._asked_at_time = time.monotonic()

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Ask whether to stop, when it is time to."""
        del run_values
        step = int(run_context.session.run(self._global_step))
        if step != self._asked_at_step and self._is_time(step):
            self._asked_at_step = step
            self._asked_at_time = time.monotonic()
            self.reason = self.should_stop(step)
            if self.reason:
                _LOG.info("Early stopping at step %d: %s", step, self.reason)
                run_context.request_stop()

    def _is_time(self, step: int) -> bool:
        if self._run_every_steps:
            return step % self._run_every_steps == 0
        return time.monotonic() - self._asked_at_time >= (self._run_every_secs or 0)


def _here(action: Callable[[], Any]) -> Any:
    """Call what a single worker decides for itself."""
    return action()


def stop_if_no_decrease_hook(
    estimator: tf.estimator.Estimator,
    metric_name: str,
    max_steps_without_decrease: int,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
    from_chief: Callable[[Callable[[], Any]], Any] = _here,
) -> EarlyStoppingHook:
    """Build a hook that stops training when a metric has not decreased for a number of steps.

    The signature is that of `tf.estimator.experimental.stop_if_no_decrease_hook`, and
    `from_chief`. The metric is read from the run's `eval_history.jsonl`: event files are truncated
    when the process is killed.

    Args:
        estimator: the Estimator that is trained.
        metric_name: e.g. `eval_loss`.
        max_steps_without_decrease: stop when the latest evaluation is so many steps after the best.
        eval_dir: folder of `eval_history.jsonl`; default: `estimator.model_dir`.
        min_steps: never stop before this step.
        run_every_secs: seconds between decisions; None with `run_every_steps`.
        run_every_steps: steps between decisions; None with `run_every_secs`.
        from_chief: with several workers, `Workers.from_chief`: the chief, which has the history,
            decides for all, so that all stop at the same step.
    """
    should_stop = _no_progress(
        Watched(metric_name, higher_is_better=False),
        eval_dir or estimator.model_dir,
        max_steps_without_decrease,
        min_steps,
        from_chief,
    )
    return EarlyStoppingHook(should_stop, run_every_secs, run_every_steps)


def stop_if_no_increase_hook(
    estimator: tf.estimator.Estimator,
    metric_name: str,
    max_steps_without_increase: int,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
    from_chief: Callable[[Callable[[], Any]], Any] = _here,
) -> EarlyStoppingHook:
    """Build a hook that stops training when a metric has not increased for a number of steps.

    The arguments are those of `stop_if_no_decrease_hook`.
    """
    should_stop = _no_progress(
        Watched(metric_name, higher_is_better=True),
        eval_dir or estimator.model_dir,
        max_steps_without_increase,
        min_steps,
        from_chief,
    )
    return EarlyStoppingHook(should_stop, run_every_secs, run_every_steps)


def _no_progress(
    watched: Watched,
    eval_dir: str,
    max_steps: int,
    min_steps: int,
    from_chief: Callable[[Callable[[], Any]], Any],
) -> Callable[[int], str | None]:
    """Return a function that says at a step why training should stop, None if it should go on."""
    history = EvalHistory(eval_history_path(eval_dir), watched)

    def should_stop(step: int) -> str | None:
        if step < min_steps:
            return None
        history.reload()
        waited = history.steps_without_improvement()
        if waited < max_steps:
            return None
        best = history.best()
        since = "step %d" % best.step if best else "the first evaluation"
        return "%s has not improved for %d steps, since %s" % (watched.metric, waited, since)

    return lambda step: from_chief(lambda: should_stop(step))
