"""Write a model as a directory that transformers loads."""

from __future__ import annotations

import os
from typing import Mapping

import numpy as np

from bert_classifier import files
from bert_classifier.errors import BadInput
from bert_classifier.hugging_face import (
    configs,
    folders,
    layouts,
    reading,
    tokenizers,
    weight_files,
)
from bert_classifier.hugging_face.layouts import Layout
from bert_classifier.hugging_face.models import Model
from bert_classifier.model import weights
from modeling import BertConfig


def write(model: Model, hf_dir: str) -> int:
    """Write a model; make `hf_dir` completely or not at all.

    Args:
        model: the files of the model.
        hf_dir: gets config.json, model.safetensors, tokenizer_config.json and the vocabulary; must
            be new or empty.

    Returns:
        The number of tensors.

    Raises:
        BadInput: transformers cannot compute such a model, its checkpoint lacks something, or
            `hf_dir` is not empty.
    """
    hf_dir = os.path.realpath(hf_dir)
    folders.check_is_free(hf_dir)
    kind = model.config.kind
    layout = layouts.of_kind(kind)
    if layout is None:
        message = "%s: is of %s, which transformers cannot compute; use an export of this program"
        raise BadInput(message % (model.config_file, kind.title))
    content = configs.content(model.config, layout, model.classifier)
    values = _tensors(model, layout)
    with folders.complete(hf_dir) as folder:
        weight_files.write_weights(os.path.join(folder, weight_files.SAFETENSORS), values)
        files.write_json(os.path.join(folder, configs.FILE_NAME), content)
        tokenizers.write(model.tokenizer, model.max_seq_length, folder)
    return len(values)


def _tensors(model: Model, layout: Layout) -> dict[str, np.ndarray]:
    variables = _read_variables(model)
    # In a model that has a head, the encoder is a part with a name of its own.
    prefix = layout.model_type + "." if model.classifier else ""
    values = {}
    for variable in model.config.variable_shapes():
        name = prefix + layouts.tensor_name(variable, layout)
        value = variables[variable]
        values[name] = value.T if variable.endswith("/kernel") else value
    if layout.always_projects and not model.config.projection:
        width = model.config.hidden_size
        name = prefix + reading.projection_name(model.config, layout)
        values.update(_dense(name, np.eye(width), np.zeros(width)))
    if model.classifier:
        values.update(_classifier_tensors(model.config, layout, variables))
    return {name: value.astype(np.float32, copy=False) for name, value in values.items()}


def _read_variables(model: Model) -> dict[str, np.ndarray]:
    names = list(model.config.variable_shapes())
    if model.classifier:
        names += ["output_weights", "output_bias"]
    with weights.open_checkpoint(model.checkpoint) as reader:
        missing = [name for name in names if not reader.has_tensor(name)]
        if missing:
            message = (
                "%s: lacks %d variables of %s, the first is %s; give the checkpoint its config"
            )
            raise BadInput(
                message % (model.checkpoint, len(missing), model.config_file, missing[0])
            )
        return {name: reader.get_tensor(name) for name in names}


def _classifier_tensors(
    config: BertConfig, layout: Layout, variables: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the tensors of the classifier.

    A square layer with gelu may come before the output layer, and no classifier here has that. It
    becomes the identity: gelu leaves a number from 6 on as it is, to 1e-8, so the layer adds what
    makes every unit at least 6, and the output layer takes that away again. A normalized vector of
    H units has none beyond sqrt(H - 1), so gamma and beta bound what comes out of the last layer.
    """
    kernel, bias = variables["output_weights"], variables["output_bias"]
    if layout.classifier_dense is None:
        return _dense(layout.classifier, kernel, bias)
    norm = "%s/%s/%s/" % (config.scope, config.layer_scopes()[-1], config.kind.names.output_norm)
    gamma, beta = (variables[norm + name].astype(np.float64) for name in ("gamma", "beta"))
    lifted = 6.0 + np.abs(gamma) * np.sqrt(config.hidden_size - 1) + np.abs(beta)
    # As float32, in which it will be added.
    lifted = lifted.astype(np.float32).astype(np.float64)
    return {
        **_dense(layout.classifier_dense, np.eye(config.hidden_size), lifted),
        **_dense(layout.classifier, kernel, bias - kernel.astype(np.float64) @ lifted),
    }


def _dense(name: str, weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """Return the tensors of a dense layer; `weight` is `[outputs, inputs]`."""
    return {name + ".weight": weight, name + ".bias": bias}
