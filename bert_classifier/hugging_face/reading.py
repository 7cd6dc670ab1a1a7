"""Make a checkpoint as google publishes them of a Hugging Face directory."""

from __future__ import annotations

import os
import re
import shutil
from typing import Mapping, NamedTuple

import numpy as np

from bert_classifier import files
from bert_classifier.errors import BadInput
from bert_classifier.hugging_face import configs, folders, layouts, tokenizers, weight_files
from bert_classifier.hugging_face.layouts import Layout
from bert_classifier.hugging_face.tokenizers import Tokenizer
from bert_classifier.model import weights
from modeling import BertConfig

CHECKPOINT_NAME = "bert_model.ckpt"
CONFIG_NAME = "bert_config.json"
LABELS_NAME = "labels.txt"

# What is on top of an encoder has other names, such as `cls`.
_ENCODER_PARTS = ("embeddings", "embeddings_project", "encoder", "pooler")
# Numbers that follow from the place of a token, which old files have.
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")


class Converted(NamedTuple):
    """The result of `convert`, and what the user should know about it.

    Attributes:
        init_checkpoint: The prefix of the checkpoint.
        config_file: The configuration of the encoder.
        num_variables: In it.
        heads_left_out: The first parts of the names of tensors that are not in it.
        tokenizer: The copy of the vocabulary, and how texts are split by it.
        has_classifier: Whether it has `output_weights` and `output_bias`.
        labels_file: The names of the outputs; None where the directory has none.
    """

    init_checkpoint: str
    config_file: str
    num_variables: int
    heads_left_out: list[str]
    tokenizer: Tokenizer
    has_classifier: bool
    labels_file: str | None


def convert(hf_dir: str, output_dir: str) -> Converted:
    """Convert the model in `hf_dir`; make `output_dir` completely or not at all.

    Args:
        hf_dir: directory with config.json, vocab.txt or spiece.model, and model.safetensors or
            pytorch_model.bin.
        output_dir: gets bert_model.ckpt.*, bert_config.json, the vocabulary and, of a fine-tuned
            classifier with names for its classes, labels.txt; must be new or empty.

    Raises:
        BadInput: the model is not one that this project computes exactly, a file is missing or
            damaged, or `output_dir` is not empty.
    """
    output_dir = os.path.realpath(output_dir)
    folders.check_is_free(output_dir)
    description = configs.read(hf_dir)
    layout, config = description.layout, BertConfig.from_dict(description.config)
    tokenizer = tokenizers.read(hf_dir, description)
    path = weight_files.find_weights(hf_dir)
    encoder, heads = split_encoder_and_heads(weight_files.read_weights(path), layout)
    variables = encoder_variables(encoder, config, layout, path)
    classifier: dict[str, np.ndarray] = {}
    if description.is_classifier and layout.classifier_dense is None:
        classifier = _classifier_variables(heads, config, layout, path)
        _check_labels(description.labels, classifier, hf_dir)

    copy = tokenizer._replace(path=os.path.join(output_dir, tokenizer.splitting.file_name))
    has_labels = bool(classifier) and description.labels is not None
    with folders.complete(output_dir) as folder:
        weights.write_checkpoint({**variables, **classifier}, os.path.join(folder, CHECKPOINT_NAME))
        files.write_json(os.path.join(folder, CONFIG_NAME), description.config)
        shutil.copyfile(tokenizer.path, os.path.join(folder, tokenizer.splitting.file_name))
        if has_labels:
            lines = "".join(label + "\n" for label in description.labels or ())
            files.write_text(os.path.join(folder, LABELS_NAME), lines)
    return Converted(
        os.path.join(output_dir, CHECKPOINT_NAME),
        os.path.join(output_dir, CONFIG_NAME),
        len(variables) + len(classifier),
        sorted({name.split(".")[0] for name in heads}),
        copy,
        bool(classifier),
        os.path.join(output_dir, LABELS_NAME) if has_labels else None,
    )


def split_encoder_and_heads(
    all_tensors: Mapping[str, np.ndarray], layout: Layout
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Separate the encoder from the heads on it, and give its tensors their current names.

    BertModel saves `encoder...`, a model with a head saves `bert.encoder...`. Before 2019 the two
    tensors of a LayerNorm were called gamma and beta.

    Returns:
        The tensors of the encoder and those of the heads, by name.
    """
    encoder, heads = {}, {}
    for full_name, tensor in all_tensors.items():
        name = re.sub(r"^%s\." % layout.model_type, "", full_name)
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
        if name.split(".")[0] not in _ENCODER_PARTS:
            heads[name] = tensor
        elif name not in _BUFFERS:
            encoder[name] = tensor
    return encoder, heads


def encoder_variables(
    encoder: Mapping[str, np.ndarray], config: BertConfig, layout: Layout, source: str
) -> dict[str, np.ndarray]:
    """Rename and transpose the tensors of a Hugging Face encoder to google's variables.

    Args:
        encoder: the tensors by current Hugging Face name, of any float dtype.
        config: of the encoder.
        layout: how the tensors are named.
        source: the file of the tensors, for messages.

    Returns:
        Exactly the variables that a BertModel creates for `config`, float32.

    Raises:
        BadInput: a tensor is missing, left over, of another shape, not float or not finite.
    """
    shapes = config.variable_shapes()
    names = {variable: layouts.tensor_name(variable, layout) for variable in shapes}
    missing = [variable for variable in shapes if names[variable] not in encoder]
    if missing:
        cure = "is it damaged, or of another model than its config.json?"
        if all(map(config.is_pooler, missing)):
            # It was saved by a masked language model. Fine-tuning may start from a random pooler,
            # but the user should decide that, and Hugging Face's own tool does it.
            cure = "%sModel.from_pretrained(...).save_pretrained(...) adds a new, random pooler"
            cure %= layout.class_prefix
        message = "%s: lacks %d of the %d tensors of its config.json: %s; %s"
        few = _first_few([names[variable] for variable in missing])
        raise BadInput(message % (source, len(missing), len(shapes), few, cure))
    left_over = set(encoder) - set(names.values())
    left_over -= _projection_of_equal_widths(encoder, config, layout, source)
    if left_over:
        message = "%s: has tensors that its config.json has no use for: %s; use its own config.json"
        raise BadInput(message % (source, _first_few(sorted(left_over))))
    return {
        variable: _value_of(variable, encoder[names[variable]], shape, names[variable], source)
        for variable, shape in shapes.items()
    }


def _projection_of_equal_widths(
    encoder: Mapping[str, np.ndarray], config: BertConfig, layout: Layout, source: str
) -> set[str]:
    """Name the tensors of a projection from the embeddings to layers that are no wider.

    transformers has one in every ALBERT, google's ALBERT has none then. Only the identity can be
    left out.

    Raises:
        BadInput: it is another one.
    """
    if config.projection or not layout.always_projects:
        return set()
    prefix = projection_name(config, layout)
    width = config.hidden_size
    identity = {prefix + ".weight": np.eye(width), prefix + ".bias": np.zeros(width)}
    for name in identity.keys() & encoder.keys():
        if not np.array_equal(encoder[name], identity[name]):
            message = (
                "%s: %s is not the identity, and an ALBERT whose embeddings are as wide as its "
                "layers has no projection here; use another model"
            )
            raise BadInput(message % (source, name))
    return set(identity)


def projection_name(config: BertConfig, layout: Layout) -> str:
    """Return what the tensors of the projection from the embeddings to the layers begin with."""
    kernel = "%s/%s/kernel" % (config.scope, config.kind.projection)
    return layouts.tensor_name(kernel, layout)[: -len(".weight")]


def _classifier_variables(
    heads: dict[str, np.ndarray], config: BertConfig, layout: Layout, source: str
) -> dict[str, np.ndarray]:
    """Take the tensors of the classifier out of the heads; return its variables."""
    names = {
        "output_weights": layout.classifier + ".weight",
        "output_bias": layout.classifier + ".bias",
    }
    missing = [name for name in names.values() if name not in heads]
    if missing:
        message = "%s: lacks %s of its classifier; is it damaged, or of another model than its "
        message += "config.json?"
        raise BadInput(message % (source, ", ".join(missing)))
    num_labels = heads[names["output_bias"]].size
    shapes = {"output_weights": [num_labels, config.hidden_size], "output_bias": [num_labels]}
    return {
        variable: _value_of(variable, heads.pop(name), shapes[variable], name, source)
        for variable, name in names.items()
    }


def _check_labels(
    labels: list[str] | None, classifier: Mapping[str, np.ndarray], hf_dir: str
) -> None:
    num_outputs = classifier["output_bias"].size
    if labels is not None and len(labels) != num_outputs:
        path = os.path.join(hf_dir, configs.FILE_NAME)
        message = "%s: id2label has %d labels, and the classifier %d outputs; correct one of them"
        raise BadInput(message % (path, len(labels), num_outputs))


def _value_of(
    variable: str, tensor: np.ndarray, shape: list[int], name: str, source: str
) -> np.ndarray:
    """Return the value of a variable, float32, from the tensor of this name."""
    if variable.endswith("/kernel"):
        tensor = tensor.T
    where = "%s: %s (as %s)" % (source, name, variable)
    if list(tensor.shape) != shape:
        message = "%s has shape %s, config.json asks for %s; use the config.json of this model"
        raise BadInput(message % (where, list(tensor.shape), shape))
    if tensor.dtype.kind != "f":
        message = "%s has dtype %s; quantized models cannot be converted, use the original"
        raise BadInput(message % (where, tensor.dtype))
    if not np.isfinite(tensor).all():
        raise BadInput("%s has values that are not finite; download the file again" % where)
    return np.ascontiguousarray(tensor, np.float32)


def _first_few(names: list[str], count: int = 8) -> str:
    rest = len(names) - count
    return ", ".join(names[:count]) + (" and %d more" % rest if rest > 0 else "")
