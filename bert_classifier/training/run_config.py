"""The RunConfig of an Estimator."""

from __future__ import annotations

import os

import tensorflow.compat.v1 as tf

from bert_classifier import devices
from bert_classifier.training.workers import Workers


def make_run_config(
    model_dir: str,
    save_checkpoints_steps: int | None,
    keep_checkpoint_max: int,
    seed: int,
    use_xla: bool,
    precision: devices.Precision = devices.FLOAT32,
    workers: Workers | None = None,
    num_parts: int = 1,
) -> tf.estimator.RunConfig:
    """Build the RunConfig of the Estimator; all workers but the chief write nothing."""
    workers = workers or Workers()
    session_config = devices.make_session_config(use_xla, precision, num_parts, workers.num_cores())
    workers.configure(session_config)
    if not workers.is_chief:
        # A path that cannot be written: only worker 0 writes checkpoints, or begins with one.
        model_dir = os.path.join(os.devnull, "worker_%d" % workers.index)
        save_checkpoints_steps = None
    return tf.estimator.RunConfig(
        model_dir=os.path.abspath(model_dir),
        # ProgressHook writes the loss for TensorBoard too, under the tag that evaluations have.
        save_summary_steps=None,
        save_checkpoints_secs=None,
        tf_random_seed=seed,
        session_config=session_config,
        save_checkpoints_steps=save_checkpoints_steps,
        keep_checkpoint_max=keep_checkpoint_max,
        # ProgressHook logs the loss; Estimator's own lines would say it twice.
        log_step_count_steps=None,
    )
