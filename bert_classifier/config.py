"""What a run is: which data, which model, how to train it, what to write.

Each value is in one place, under the name of its flag, with its default. `flags` says what the
values may be and what they are for. The parts travel to the functions that need them; a config is
never changed, only replaced by another.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping


@dataclasses.dataclass(frozen=True)
class Actions:
    """What one call does, in this order."""

    do_train: bool = False
    do_eval: bool = False
    do_predict: bool = False
    do_export: bool = False
    do_frozen: bool = False
    do_onnx: bool = False
    dry_run: bool = False

    @property
    def exports(self) -> bool:
        """Tell whether a model is written, in any form."""
        return self.do_export or self.do_frozen or self.do_onnx


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the texts are, and how they become inputs of the model."""

    task_name: str = ""
    data_dir: str | None = None
    train_file: str | None = None
    dev_file: str | None = None
    test_file: str | None = None
    max_seq_length: int = 128
    truncation: str = "head"
    window_stride: int = 0
    dev_fraction: float = 0.1
    thresholds: str = "0.5"
    group_by_length: bool = True


@dataclasses.dataclass(frozen=True)
class OwnFiles:
    """How the files of `--task_name=file` are read."""

    problem_type: str = "classification"
    text_column: str = "text"
    text_b_column: str | None = None
    label_column: str = "label"
    label_separator: str = ","
    id_column: str | None = None
    file_format: str | None = None
    separator: str | None = None
    has_header: bool | None = None
    labels_file: str | None = None


@dataclasses.dataclass(frozen=True)
class Model:
    """The encoder, and what its weights begin from."""

    bert_config_file: str = ""
    vocab_file: str = ""
    spm_model_file: str = ""
    init_checkpoint: str | None = None
    warm_start_from: str | None = None
    do_lower_case: bool = True

    @property
    def tokenizer_file(self) -> str:
        """The file that says how texts are split: the vocabulary, or the SentencePiece model."""
        return self.vocab_file or self.spm_model_file


@dataclasses.dataclass(frozen=True)
class Training:
    """How the weights are learned."""

    train_batch_size: int = 32
    num_train_epochs: float = 3.0
    seed: int = 12345
    num_trials: int = 1
    save_checkpoints_steps: int | None = None
    gradient_checkpointing: bool = False
    optimizer: str = "adamw_corrected"
    learning_rate: float = 5e-5
    learning_rate_scaling: str = "none"
    warmup_proportion: float = 0.1
    num_accumulation_steps: int = 1
    weight_decay_rate: float = 0.01
    clip_norm: float = 1.0
    layerwise_lr_decay: float = 1.0
    class_weights: str | None = None
    label_smoothing: float = 0.0
    max_steps_without_improvement: int | None = None
    early_stopping_min_steps: int = 0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Which checkpoint is the best, and how one is evaluated."""

    eval_batch_size: int = 8
    predict_batch_size: int = 8
    best_metric: str | None = None
    best_metric_higher_is_better: bool | None = None
    eval_checkpoint: str = "best"


@dataclasses.dataclass(frozen=True)
class Devices:
    """What computes, and how."""

    horovod: bool = False
    fp16_allreduce: bool = False
    use_xla: bool = False
    amp: bool = False
    tf32: bool = True


@dataclasses.dataclass(frozen=True)
class Output:
    """What a run writes, and where."""

    output_dir: str = ""
    overwrite_output_dir: bool = False
    keep_checkpoint_max: int = 2
    log_every_n_iter: int = 10
    debug: bool = False


@dataclasses.dataclass(frozen=True)
class Export:
    """Which checkpoint is exported, where to, and how the export answers."""

    exports_to_keep: int = 2
    export_checkpoint: str | None = None
    export_dir: str | None = None
    onnx_int8: bool = False
    calibrate: bool = False
    min_confidence: float = 0.0

    @property
    def needs_dev_set(self) -> bool:
        """Tell whether an export takes the whole dev set."""
        return self.calibrate or self.onnx_int8


@dataclasses.dataclass(frozen=True)
class Config:
    """A call of the program.

    Attributes:
        given: the names of the values that the user gave; the others are defaults.
    """

    actions: Actions = Actions()
    data: Data = Data()
    own_files: OwnFiles = OwnFiles()
    model: Model = Model()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    devices: Devices = Devices()
    output: Output = Output()
    export: Export = Export()
    given: frozenset[str] = frozenset()

    def values(self) -> dict[str, Any]:
        """Return all values by name."""
        return {
            name: value for part in self._parts().values() for name, value in vars(part).items()
        }

    def replace(self, **values: Any) -> Config:
        """Return a config in which some values are others.

        Raises:
            TypeError: there is no value of one of these names.
        """
        unknown = values.keys() - self.values().keys()
        if unknown:
            raise TypeError("a config has no %s" % ", ".join(sorted(unknown)))
        changed = {}
        for part_name, part in self._parts().items():
            of_part = {name: values[name] for name in vars(part).keys() & values.keys()}
            if of_part:
                changed[part_name] = dataclasses.replace(part, **of_part)
        return dataclasses.replace(self, **changed)

    def checkpoint_to_export(self) -> str:
        """Return `best`, `last` or a path."""
        return self.export.export_checkpoint or self.evaluation.eval_checkpoint

    def _parts(self) -> dict[str, Any]:
        return {name: part for name, part in vars(self).items() if dataclasses.is_dataclass(part)}


DEFAULTS: Mapping[str, Any] = Config().values()
