"""What an export takes over from the run: settings, sample, metrics, temperature."""

from __future__ import annotations

import logging
import os
from typing import Any, Iterable, Mapping

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import config as configs
from bert_classifier import devices, objectives
from bert_classifier.config import Config
from bert_classifier.data.inputs import Inputs
from bert_classifier.export import bundle, calibration
from bert_classifier.export.bundle import Settings
from bert_classifier.export.scoring import DevSet
from bert_classifier.export.writer import BundleWriter, Destinations, read_sample

_LOG = logging.getLogger(__name__)

# The metrics for which a lower value is better.
_ERRORS = ("eval_loss", "eval_mse")


def sample_path(output_dir: str) -> str:
    """Return the file with some rows of the dev set, by which later calls test their exports."""
    return os.path.join(output_dir, "dev_sample.jsonl")


def make_settings(config: Config, inputs: Inputs, is_pair: bool) -> Settings:
    """Collect how this run's texts become inputs of the model, and its outputs answers."""
    return Settings(
        labels=inputs.labels,
        problem_type=inputs.problem_type,
        max_seq_length=config.data.max_seq_length,
        do_lower_case=config.model.do_lower_case,
        truncation=config.data.truncation,
        window_stride=config.data.window_stride,
        texts_per_example=2 if is_pair else 1,
        thresholds=inputs.thresholds,
        min_confidence=config.export.min_confidence,
        label_separator=inputs.task.label_separator,
    )


def make_bundle_writer(
    config: Config, inputs: Inputs, estimator: tf.estimator.Estimator
) -> BundleWriter:
    """Prepare what is exported with every checkpoint of this run.

    An export computes in float32. So does the checkpoint that it is compared with: mixed precision
    rounds more than the comparison allows.
    """
    session_config = devices.in_float32(estimator.config.session_config)
    if session_config != estimator.config.session_config:
        run_config = estimator.config.replace(session_config=session_config)
        estimator = tf.estimator.Estimator(estimator.model_fn, config=run_config)
    sample = read_sample(sample_path(config.output.output_dir))
    return BundleWriter(
        estimator,
        make_settings(config, inputs, is_pair=sample[0].text_b is not None),
        inputs.tokenizer,
        _files_of_encoder(config.model),
        sample,
    )


def make_dev_set(inputs: Inputs, watched: str) -> DevSet:
    """Return the dev set as the run evaluates it.

    Its metric is the one that decides what is best. An error has no points to lose: the accuracy,
    or the correlation of a regression, takes its place.
    """
    objective = objectives.get(inputs.problem_type)
    main = objective.metric_names(len(inputs.labels), inputs.task.metrics)[0]
    return DevSet(
        inputs.examples["dev"],
        inputs.converters["dev"],
        inputs.thresholds,
        inputs.task.metrics,
        main if watched in _ERRORS else watched,
    )


def destinations(config: Config) -> Destinations:
    """Return where this call writes the forms of its model."""
    actions, output_dir = config.actions, config.output.output_dir
    saved_model = config.export.export_dir or os.path.join(output_dir, "export", "saved_model")
    onnx = os.path.join(config.export.export_dir or os.path.join(output_dir, "export"), "onnx")
    return Destinations(
        saved_model if actions.do_export else None,
        os.path.join(output_dir, bundle.FROZEN_GRAPH) if actions.do_frozen else None,
        onnx if actions.do_onnx else None,
    )


def _files_of_encoder(model: configs.Model) -> dict[str, str]:
    """Return the files that a bundle has from the pre-trained model, by the names that it has."""
    tokenizer = bundle.VOCAB if model.vocab_file else bundle.SPM_MODEL
    return {tokenizer: model.tokenizer_file, bundle.CONFIG: model.bert_config_file}


def find_temperature(
    config: Config, inputs: Inputs, predictions: Iterable[Mapping[str, Any]]
) -> float:
    """Fit a temperature on the dev set, and log what it is worth.

    Args:
        config: of the call.
        inputs: with the dev set.
        predictions: what the model says about each example of it, in the order of the file.
    """
    examples = inputs.examples["dev"]
    converter = inputs.converters["dev"]
    found = calibration.calibrate(
        np.array([prediction["probabilities"] for prediction in predictions]),
        np.array([converter.label_id(example.label) for example in examples]),
        inputs.problem_type,
    )
    _LOG.info(
        "Calibrated on %d dev examples: temperature %.3f, expected calibration error %.4f -> %.4f",
        len(examples),
        *found,
    )
    return found.temperature
