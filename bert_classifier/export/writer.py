"""Export a trained model: as a SavedModel, a frozen graph or an ONNX model.

An export gets its name only after it was loaded and has answered like the checkpoint.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import time
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import files, tf_compat
from bert_classifier.data import features, serialization
from bert_classifier.data.examples import InputExample
from bert_classifier.export import bundle, graphs, onnx
from bert_classifier.export.bundle import SERVING_DEFAULT, Settings, list_exports
from bert_classifier.export.inference import padded, tokens_of
from bert_classifier.export.onnx_models import OnnxModel
from bert_classifier.export.scoring import Comparison, DevSet
from bert_classifier.training.history import EvalHistory
from tokenization import FullTokenizer

_LOG = logging.getLogger(__name__)

# The largest difference between the probabilities of an export and those of its checkpoint.
_TOLERANCE = 1e-5

# Begins the name of an export that is not complete; see `training.runs`.
_TEMPORARY = "temp-"
# Other numbers may be in names of the user.
_TEMPORARY_NAME = re.compile(_TEMPORARY + "[0-9]{10}")

# Grappler's optimizers that suit any machine; a session adds those for its own.
_OPTIMIZERS = ("pruning", "function", "constfold", "arithmetic", "dependency", "pruning")


class SelfTestFailed(Exception):
    """An export does not answer like its checkpoint."""


def serving_input_fn_builder(
    max_seq_length: int, cls_id: int
) -> Callable[[], tf.estimator.export.ServingInputReceiver]:
    """Build the `serving_input_receiver_fn` of an export.

    When TensorFlow Serving puts requests of several lengths into one batch, it pads each tensor
    with its first element, and so the mask with ones. In the ids that element is `[CLS]`, which
    comes only once in a text: where it comes again there is padding, whatever the mask says.

    Args:
        max_seq_length: number of tokens that the model reads at once.
        cls_id: id of `[CLS]`.

    Returns:
        A function that makes three signatures: `serving_default` with `input_ids`, `input_mask`,
        `segment_ids`, int32 `[batch_size, seq_length]`; `label_ids:serving_default`, the same
        with an ignored `label_ids`, int32 `[batch_size]`, for clients that always send one; and
        `examples:serving_default` with `examples`, serialized `tf.Example` strings `[batch_size]`.
    """

    def serving_input_fn() -> tf.estimator.export.ServingInputReceiver:
        serialized = tf.placeholder(tf.string, [None], name="examples")
        parsed = serialization.parse(
            serialized, serialization.feature_spec(labelled=False), max_seq_length
        )
        # The parsed columns are defaults of the placeholders, so one graph has all signatures.
        inputs = {
            name: tf.placeholder_with_default(column, [None, None], name=name)
            for name, column in parsed.items()
        }
        label_ids = tf.placeholder(tf.int32, [None], name="label_ids")
        ids = inputs["input_ids"]
        is_token = tf.not_equal(ids, cls_id) | tf.equal(tf.range(tf.shape(ids)[1]), 0)
        return tf.estimator.export.ServingInputReceiver(
            features=dict(inputs, input_mask=inputs["input_mask"] * tf.cast(is_token, tf.int32)),
            receiver_tensors=inputs,
            receiver_tensors_alternatives={
                "label_ids": dict(inputs, label_ids=label_ids),
                "examples": {"examples": serialized},
            },
        )

    return serving_input_fn


class Destinations(NamedTuple):
    """Where a checkpoint is written to, in each form; None for a form that is not wanted.

    Attributes:
        saved_model: folder of exports.
        frozen: path of a frozen graph.
        onnx: folder of exports.
    """

    saved_model: str | None = None
    frozen: str | None = None
    onnx: str | None = None

    @property
    def needs_frozen_graph(self) -> bool:
        """Tell whether one of the forms is made of the frozen graph."""
        return bool(self.frozen or self.onnx)

    def any_folder(self) -> str:
        """Return a folder for the SavedModel that every form is made of."""
        return self.saved_model or self.onnx or os.path.dirname(self.frozen or "")


class BundleWriter(NamedTuple):
    """Write checkpoints of a run as bundles.

    Attributes:
        estimator: of the run.
        settings: of the bundles.
        tokenizer: splits the texts of `sample`.
        copied: part of the bundle -> file that is copied: vocabulary or SentencePiece model, and
            config of the encoder.
        sample: some examples of the dev set, for the self-test; the first one is also that of the
            sample request.
    """

    estimator: tf.estimator.Estimator
    settings: Settings
    tokenizer: FullTokenizer
    copied: Mapping[str, str]
    sample: Sequence[InputExample]

    def export(self, checkpoint_path: str, export_path: str, metrics: Mapping[str, Any]) -> str:
        """Export a checkpoint to `<export_path>/<timestamp>/`; return that folder. See `write`."""
        return self.write(checkpoint_path, metrics, Destinations(saved_model=export_path))[0]

    def write(
        self,
        checkpoint_path: str,
        metrics: Mapping[str, Any],
        to: Destinations,
        quantized_for: DevSet | None = None,
    ) -> list[str]:
        """Write a checkpoint in each form that is wanted; return the paths.

        Args:
            checkpoint_path: prefix of the checkpoint.
            metrics: step and metrics of the checkpoint, for `metrics.json`.
            to: where to.
            quantized_for: the dev set on which the ONNX model is compared with one of int8, which
                takes its place; None if it is to be of float32.

        Raises:
            SelfTestFailed: a form does not answer like the checkpoint, and was removed.
        """
        with contextlib.ExitStack() as until_done:
            plain = until_done.enter_context(files.plain_path(checkpoint_path))
            test = _SelfTest(self, plain)
            folder = until_done.enter_context(_new_folder(to.any_folder()))
            parts = self._parts(metrics, test.request)
            graph_def = self._write_saved_model(plain, parts, folder, test, to.needs_frozen_graph)
            written = []
            if to.frozen:
                self._write_frozen(graph_def, parts, to.frozen, test)
                _LOG.info("Wrote %s as %s", checkpoint_path, to.frozen)
                written.append(to.frozen)
            if to.onnx:
                with _new_folder(to.onnx) as onnx_folder:
                    self._write_onnx(graph_def, parts, onnx_folder, test, quantized_for)
                    written.append(_move(onnx_folder, checkpoint_path, to.onnx))
            if to.saved_model:
                written.insert(0, _move(folder, checkpoint_path, to.saved_model))
        return written

    def _write_saved_model(
        self,
        checkpoint_path: str,
        parts: Mapping[str, bytes],
        folder: str,
        test: _SelfTest,
        freezes: bool,
    ) -> tf.GraphDef | None:
        """Write a SavedModel and test it; return its frozen graph if that is needed."""
        cls_id = self.tokenizer.vocab["[CLS]"]
        receiver_fn = serving_input_fn_builder(self.settings.max_seq_length, cls_id)
        with tf_compat.variables_for_both_versions():
            # It goes to a folder in there.
            exported = tf.compat.as_str(
                self.estimator.export_saved_model(
                    folder, receiver_fn, checkpoint_path=checkpoint_path
                )
            )
        for name in os.listdir(exported):
            os.rename(os.path.join(exported, name), os.path.join(folder, name))
        os.rmdir(exported)
        self._seal(folder, parts, graphs.versions())
        with self._opened(folder) as model:
            test.check(model, "the export")
            return freeze(model) if freezes else None

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[Any]:
        opened = bundle.open_bundle(path, self.estimator.config.session_config)
        with contextlib.closing(opened.model) as model:
            yield model

    def _seal(self, folder: str, parts: Mapping[str, bytes], made_with: Mapping[str, str]) -> None:
        """Add the parts of a bundle to the folder of a model."""
        digests = _digests_of_files(folder)
        assets = os.path.join(folder, bundle.ASSETS)
        os.makedirs(assets)
        for part, content in bundle.seal(self.settings, parts, digests, made_with).items():
            with open(os.path.join(assets, part), "wb") as stream:
                stream.write(content)

    def _parts(self, metrics: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, bytes]:
        labels = "".join(label + "\n" for label in self.settings.labels)
        parts = {
            bundle.LABELS: labels.encode("utf-8"),
            bundle.METRICS: _json(metrics),
            bundle.SAMPLE_REQUEST: _json(request),
        }
        for part, path in self.copied.items():
            with open(path, "rb") as stream:
                parts[part] = stream.read()
        return parts

    def _write_frozen(
        self, graph_def: tf.GraphDef, parts: Mapping[str, bytes], path: str, test: _SelfTest
    ) -> None:
        digests = {"graph": graphs.digest_of_graph(graph_def)}
        sealed = bundle.seal(self.settings, parts, digests, graphs.versions())
        with_parts = tf.GraphDef()
        with_parts.CopyFrom(graph_def)
        graphs.put_parts(with_parts, sealed)
        with files.atomic(path) as temporary:
            with open(temporary, "wb") as stream:
                stream.write(with_parts.SerializeToString(deterministic=True))
            with self._opened(temporary) as model:
                test.check(model, "the frozen graph")

    def _write_onnx(
        self,
        graph_def: tf.GraphDef,
        parts: Mapping[str, bytes],
        folder: str,
        test: _SelfTest,
        quantized_for: DevSet | None,
    ) -> None:
        path = os.path.join(folder, bundle.ONNX_MODEL)
        onnx.write(graph_def, path)
        with contextlib.closing(OnnxModel(path)) as model:
            test.check(model, "the ONNX model")
            before = quantized_for.outputs(model) if quantized_for else None
        if quantized_for:
            onnx.quantize(path)
            with contextlib.closing(OnnxModel(path)) as model:
                comparison = quantized_for.compare(before, quantized_for.outputs(model))
            _log_comparison(comparison, len(before))
            metrics = json.loads(parts[bundle.METRICS].decode("utf-8"))
            metrics["quantization"] = comparison.to_json()
            parts = {**parts, bundle.METRICS: _json(metrics)}
        self._seal(folder, parts, onnx.versions())
        with self._opened(folder):
            pass  # All of it can be read.


def _log_comparison(comparison: Comparison, num_examples: int) -> None:
    _LOG.info(
        "  int8 on all %d dev examples: outputs differ from float32 by up to %.1e, %s %.4f -> %.4f",
        num_examples,
        comparison.difference,
        comparison.metric,
        comparison.before,
        comparison.after,
    )
    if comparison.is_costly:
        _LOG.warning(
            "int8 loses %.4f of %s, more than half a point; export without --onnx_int8",
            comparison.before - comparison.after,
            comparison.metric,
        )


def _move(folder: str, checkpoint_path: str, parent: str) -> str:
    """Give a complete export its name, the timestamp of its temporary folder."""
    final = os.path.join(parent, os.path.basename(folder)[len(_TEMPORARY) :])
    os.rename(folder, final)
    _LOG.info("Exported %s to %s", checkpoint_path, final)
    return final


def _json(value: Mapping[str, Any]) -> bytes:
    return (files.to_json(value, indent=2) + "\n").encode("utf-8")


def _digests_of_files(folder: str) -> dict[str, str]:
    paths = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]
    return {os.path.relpath(path, folder): files.digest_of_file(path) for path in sorted(paths)}


@contextlib.contextmanager
def _new_folder(parent: str) -> Iterator[str]:
    """Yield a temporary folder, in the name of which is the timestamp of the export.

    It is newer than all exports in `parent`, because programs that serve load the newest. It is
    locked, so that those of processes that were killed, whose locks are gone, can be removed.
    """
    _remove_leftovers(parent)
    exports = list_exports(parent)
    newest = int(os.path.basename(exports[-1])) if exports else 0
    timestamp = max(int(time.time()), newest + 1)
    # Another process may export to the same folder.
    while os.path.exists(os.path.join(parent, "%s%d" % (_TEMPORARY, timestamp))):
        timestamp += 1
    temporary = os.path.join(parent, "%s%d" % (_TEMPORARY, timestamp))
    os.makedirs(temporary)
    with _opened_folder(temporary) as lock:
        with contextlib.suppress(OSError):  # Network file systems often have no locks.
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield temporary
        finally:
            if os.path.exists(temporary):  # It was not moved.
                shutil.rmtree(temporary)


def _remove_leftovers(parent: str) -> None:
    """Remove the temporary folders of processes that were killed."""
    names = os.listdir(parent) if os.path.isdir(parent) else []
    for name in filter(_TEMPORARY_NAME.fullmatch, names):
        path = os.path.join(parent, name)
        # It is in use, its file system has no locks, or another process removes it too.
        with contextlib.suppress(OSError), _opened_folder(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.listdir(path):  # If not, it may have been made just now, and have no lock yet.
                shutil.rmtree(path)


@contextlib.contextmanager
def _opened_folder(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _SelfTest:
    """Some examples of the dev set, and the answers of the checkpoint to them.

    Attributes:
        request: the request that a client of TensorFlow Serving sends for the first of them.
    """

    def __init__(self, writer: BundleWriter, checkpoint_path: str):
        settings = writer.settings
        converter = features.Converter(
            settings.labels,
            settings.max_seq_length,
            writer.tokenizer,
            truncation=settings.truncation,
        )
        unlabelled = [example._replace(label=None) for example in writer.sample]
        self._serialized = [record for record, _ in serialization.serialize(converter, unlabelled)]
        rows = [converter.convert(example) for example in unlabelled]
        self._columns = padded([tokens_of(row) for row in rows])
        self._expected = next(
            writer.estimator.predict(
                lambda: tf.data.Dataset.from_tensors(self._columns),
                checkpoint_path=checkpoint_path,
                yield_single_examples=False,
            )
        )
        instance = {name: getattr(rows[0], name) for name in bundle.INPUTS}
        self.request = {"signature_name": SERVING_DEFAULT, "instances": [instance]}

    def check(self, model: bundle.Model, what: str) -> None:
        """Compare the answers of all signatures with the checkpoint's, and log the difference.

        Args:
            model: the export.
            what: its name in the log.

        Raises:
            SelfTestFailed: they differ.
        """
        compared = "probabilities" if "probabilities" in self._expected else "predictions"
        expected = self._expected[compared]
        feeds = dict(
            self._columns,
            examples=self._serialized,
            label_ids=np.zeros(len(self._serialized), np.int32),
        )
        difference = max(
            float(np.max(np.abs(model.run(feeds, signature)[compared] - expected)))
            for signature in model.signatures
        )
        text = "self-test of %s with %d dev examples: %s of all signatures differ by up to %.1e" % (
            what,
            len(self._serialized),
            compared,
            difference,
        )
        # The error of the numbers of a regression grows with the numbers.
        if not difference <= _TOLERANCE * max(1.0, float(np.max(np.abs(expected)))):
            raise SelfTestFailed("%s from those of the checkpoint, more than 1e-5" % text)
        _LOG.info("  %s", text)


def freeze(model: graphs.GraphModel) -> tf.GraphDef:
    """Return the graph of a model, with weights as constants and simplified for inference.

    Its tensors are `input_ids:0`, `input_mask:0`, `segment_ids:0`, all int32 `[batch_size,
    seq_length]`, and `probabilities:0`, `predictions:0`, `top_3:0`, with the meaning that
    they have in the signature `serving_default`.
    """
    inputs, outputs = model.signatures[SERVING_DEFAULT]
    with tf.Graph().as_default() as graph:
        placeholders = {name: tf.placeholder(tf.int32, [None, None], name) for name in inputs}
        results = tf.import_graph_def(
            model.graph_def(),
            {tensor: placeholders[name] for name, tensor in inputs.items()},
            list(outputs.values()),
            name="model",
        )
        for name, result in zip(outputs, results):
            tf.add_to_collection(tf.GraphKeys.TRAIN_OP, tf.identity(result, name))
        # Grappler keeps only what the training operations need.
        meta_graph = tf.train.export_meta_graph(
            graph_def=tf.graph_util.extract_sub_graph(graph.as_graph_def(), list(outputs))
        )
    return tf_compat.optimize_graph(meta_graph, _OPTIMIZERS)


def metrics_of(history: EvalHistory, step: int) -> dict[str, Any]:
    """Return what an export tells about the evaluation of its checkpoint."""
    evaluation = history.at(step)
    metrics = evaluation.to_json() if evaluation else {"step": step, "metrics": {}}
    return dict(metrics, best_metric=history.watched.metric)


class BestExporter(tf.estimator.Exporter):
    """Export the model after each evaluation that is the best so far, with the first.

    TensorFlow's own BestExporter never exports the first evaluation, compares by `loss` by default,
    and reads event files, which are truncated when a process is killed. This one reads the history.
    """

    def __init__(
        self,
        history: EvalHistory,
        write: Callable[[str, str, Mapping[str, Any]], str],
        exports_to_keep: int = 2,
        name: str = "best_exporter",
    ):
        """Take the history that decides what is best.

        Args:
            history: of the run.
            write: checkpoint, folder of exports, metrics -> folder of the export; see
                `BundleWriter.export`.
            exports_to_keep: number of latest exports; older ones are removed.
            name: of the folder below `export/`.
        """
        self._history = history
        self._write = write
        self._exports_to_keep = exports_to_keep
        self._name = name

    @property
    def name(self) -> str:
        """Return the name of the exporter, which is that of the folder below `export/`."""
        return self._name

    def export(
        self,
        estimator: tf.estimator.Estimator,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> str | None:
        """Export if `eval_result` is the best; return the folder of the export, else None."""
        del estimator, is_the_final_export
        best = self._history.best()
        if best is None or best.step != int(eval_result["global_step"]):
            return None
        exports = list_exports(export_path)
        # A killed run may have exported already, and not yet removed older exports.
        if not exports or exported_step(exports[-1]) != best.step:
            try:
                metrics = metrics_of(self._history, best.step)
                self._write(checkpoint_path, export_path, metrics)
            except SelfTestFailed as error:
                # The best checkpoint is kept anyway: no reason to end a long training.
                _LOG.error("Not exported: %s", error)
                return None
            exports = list_exports(export_path)
        for superseded in exports[: -self._exports_to_keep]:
            shutil.rmtree(superseded)
        return exports[-1]


def exported_step(export_dir: str) -> int | None:
    """Return the global step of an export, None if its metrics are missing."""
    path = os.path.join(export_dir, bundle.ASSETS, bundle.METRICS)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)["step"]


def write_sample(path: str, examples: Iterator[InputExample]) -> None:
    """Write the texts of examples to a file, for the self-tests of later exports."""
    lines = (files.to_json({"text_a": e.text_a, "text_b": e.text_b}) + "\n" for e in examples)
    files.write_text(path, "".join(lines))


def read_sample(path: str) -> list[InputExample]:
    """Return the examples that `write_sample` has written.

    Raises:
        BadInput: it is damaged.
    """
    cure = "remove it, and give --data_dir or --dev_file"
    with files.damage_told(path, cure), open(path, encoding="utf-8") as stream:
        examples = [InputExample(guid="", **json.loads(line)) for line in stream]
        if not examples:
            raise ValueError("empty")
        return examples
