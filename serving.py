"""What leaves the house: the serving signatures, the export bundle and the best exporter."""

from __future__ import annotations

import json
import logging
import os
import shutil
from typing import Any, Callable, Mapping, Sequence

import tensorflow.compat.v1 as tf

import features
import files
from history import EvalHistory

_LOG = logging.getLogger(__name__)

# In the assets of a best export: the step and the metrics by which it is the best.
_EVALUATION = "evaluation.json"


def serving_input_fn_builder(
    max_seq_length: int,
) -> Callable[[], tf.estimator.export.ServingInputReceiver]:
    """Builds the `serving_input_receiver_fn` of an export.

    Returns:
        A function that makes three signatures: `serving_default` with `input_ids`, `input_mask`,
        `segment_ids`, int32 `[batch_size, seq_length]`; `label_ids:serving_default`, the same
        with an ignored `label_ids`, int32 `[batch_size]`, for clients that always send one; and
        `examples:serving_default` with `examples`, serialized `tf.Example` strings `[batch_size]`.
    """

    def serving_input_fn() -> tf.estimator.export.ServingInputReceiver:
        serialized = tf.placeholder(tf.string, [None], name="examples")
        parsed = features.parse(serialized, features.feature_spec(labelled=False), max_seq_length)
        # The parsed columns are defaults of the placeholders: whichever signature feeds, one graph
        # serves.
        inputs = {
            name: tf.placeholder_with_default(column, [None, None], name=name)
            for name, column in parsed.items()
        }
        label_ids = tf.placeholder(tf.int32, [None], name="label_ids")
        return tf.estimator.export.ServingInputReceiver(
            features=inputs,
            receiver_tensors=inputs,
            receiver_tensors_alternatives={
                "label_ids": dict(inputs, label_ids=label_ids),
                "examples": {"examples": serialized},
            },
        )

    return serving_input_fn


def write_assets(output_dir: str, labels: Sequence[str], preprocessing: Mapping[str, Any]) -> None:
    """Writes `labels.txt` and `preprocessing.json`, for exports, to `output_dir`."""
    text = "".join(label + "\n" for label in labels)
    files.write_text(os.path.join(output_dir, "labels.txt"), text)
    text = json.dumps(preprocessing) + "\n"
    files.write_text(os.path.join(output_dir, "preprocessing.json"), text)


def list_assets(output_dir: str, vocab_file: str, bert_config_file: str) -> dict[str, str]:
    """Lists what an export needs beside its graph to be usable alone.

    Returns:
        file name inside the export's `assets.extra` -> path of the file to copy.
    """
    return {
        "vocab.txt": vocab_file,
        "bert_config.json": bert_config_file,
        "labels.txt": os.path.join(output_dir, "labels.txt"),
        "preprocessing.json": os.path.join(output_dir, "preprocessing.json"),
    }


class BestExporter(tf.estimator.Exporter):
    """Exports the model after each evaluation that is the best so far, the first one included.

    TensorFlow's own BestExporter never exports the first evaluation, ranks by `loss` whatever is
    watched, and reads event files that a killed process leaves truncated. This one asks the
    history.
    """

    def __init__(
        self,
        history: EvalHistory,
        serving_input_receiver_fn: Callable[[], tf.estimator.export.ServingInputReceiver],
        assets_extra: Mapping[str, str] | None = None,
        exports_to_keep: int = 2,
        name: str = "best_exporter",
    ):
        """Takes the history that says what is best, and how many exports to keep."""
        self._history = history
        self._serving_input_receiver_fn = serving_input_receiver_fn
        self._assets_extra = assets_extra
        self._exports_to_keep = exports_to_keep
        self._name = name

    @property
    def name(self) -> str:
        """Names the exporter: the folder below `export/`."""
        return self._name

    def export(
        self,
        estimator: tf.estimator.Estimator,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> str | None:
        """Exports when `eval_result` is the best; returns the export's folder then."""
        del is_the_final_export
        best = self._history.best()
        if best is None or best.step != int(eval_result["global_step"]):
            return None
        exports = list_exports(export_path)
        # A killed run may have exported, and not yet removed what the export supersedes.
        if not exports or exported_step(exports[-1]) != best.step:
            evaluation_file = os.path.join(estimator.model_dir, _EVALUATION)
            files.write_text(evaluation_file, json.dumps(best.to_json(), indent=2) + "\n")
            export_saved_model(
                estimator,
                export_path,
                self._serving_input_receiver_fn,
                dict(self._assets_extra or {}, **{_EVALUATION: evaluation_file}),
                checkpoint_path,
            )
            exports = list_exports(export_path)
        for superseded in exports[: -self._exports_to_keep]:
            shutil.rmtree(superseded)
        return exports[-1]


def list_exports(export_path: str) -> Sequence[str]:
    """Lists the exports below a folder, oldest first: their names are timestamps."""
    if not os.path.isdir(export_path):
        return []
    names = sorted((name for name in os.listdir(export_path) if name.isdigit()), key=int)
    return [os.path.join(export_path, name) for name in names]


def exported_step(export_dir: str) -> int | None:
    """Gives the global step of an export of BestExporter."""
    path = os.path.join(export_dir, "assets.extra", _EVALUATION)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)["step"]


def export_saved_model(
    estimator: tf.estimator.Estimator,
    export_path: str,
    serving_input_receiver_fn: Callable[[], tf.estimator.export.ServingInputReceiver],
    assets_extra: Mapping[str, str] | None,
    checkpoint_path: str,
) -> str:
    """Exports a checkpoint to `<export_path>/<timestamp>/`; returns that folder."""
    folder = estimator.export_saved_model(
        export_path,
        serving_input_receiver_fn,
        assets_extra=assets_extra,
        checkpoint_path=checkpoint_path,
    )
    path = tf.compat.as_str(folder)
    _LOG.info("Exported %s to %s", checkpoint_path, path)
    return path
