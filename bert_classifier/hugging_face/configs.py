"""config.json of transformers, and the configuration of an encoder here: each from the other."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, Sequence

import encoder_config
from bert_classifier import files
from bert_classifier.errors import BadInput
from bert_classifier.hugging_face import layouts
from bert_classifier.hugging_face.layouts import Layout
from encoder_config import SIZES
from modeling import BertConfig

FILE_NAME = "config.json"

_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")

# transformers' "gelu" is the exact form with erf; google's "gelu" is the approximation with tanh,
# for which a layout has its word.
_TANH_GELU = "gelu_tanh"
_ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_new": _TANH_GELU,
    "gelu_pytorch_tanh": _TANH_GELU,
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
}
# Of its two names for the approximation this is the one that PyTorch computes in one pass.
_WRITTEN_ACTIVATIONS = {
    "gelu": "gelu_pytorch_tanh",
    "gelu_new": "gelu_pytorch_tanh",
    "gelu_erf": "gelu",
}

# Settings that no encoder here has, each with the value that its code implies.
_BUILT_IN = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "use_task_id": False,
}

_OF_CLASSIFIER = "ForSequenceClassification"
_PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


class Classifier(NamedTuple):
    """The classifier on an encoder.

    Attributes:
        labels: In the order of the outputs.
        problem_type: One of `PROBLEM_TYPES`.
    """

    labels: Sequence[str]
    problem_type: str


class Description(NamedTuple):
    """What a config.json says.

    Attributes:
        layout: How the model is kept.
        config: The content of bert_config.json.
        is_classifier: Whether the model has a classifier for whole texts.
        labels: Of the classifier, in the order of its outputs; None where they have no names.
        tokenizer_class: The class that splits texts; None if the file does not say.
    """

    layout: Layout
    config: dict[str, Any]
    is_classifier: bool
    labels: list[str] | None
    tokenizer_class: str | None


def read(hf_dir: str) -> Description:
    """Read the config.json of a directory.

    Raises:
        BadInput: the file is missing or damaged, or of a model that no encoder here computes.
    """
    if not os.path.isdir(hf_dir):
        raise BadInput("%s: no such directory; download the model into one first" % hf_dir)
    path = os.path.join(hf_dir, FILE_NAME)
    settings = read_json(path)
    without_type = {key: value for key, value in settings.items() if key != "model_type"}
    layout = layouts.of_config(settings, encoder_config.kind_of_keys(without_type), path)
    settings = {**layout.defaults, **settings}
    architectures = list(map(str, settings.get("architectures") or []))
    return Description(
        layout,
        _encoder_config(settings, layout, path),
        any(name.endswith(_OF_CLASSIFIER) for name in architectures),
        _labels(settings),
        settings.get("tokenizer_class"),
    )


def read_json(path: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadInput: there is no such file, or no object in it.
    """
    if not os.path.exists(path):
        raise BadInput("%s: no such file; is this a Hugging Face directory?" % path)
    return files.read_json(path, "download it again")


def _encoder_config(settings: dict[str, Any], layout: Layout, path: str) -> dict[str, Any]:
    _check(settings, layout, path)
    config = {key: settings[key] for key in SIZES + layout.sizes + _RATES}
    activation = _ACTIVATIONS[settings["hidden_act"]]
    config["hidden_act"] = layout.tanh_gelu if activation == _TANH_GELU else activation
    if encoder_config.kind_of_keys(config) != layout.kind:
        config["model_type"] = layout.kind
    dropout = settings.get(layout.dropout_key)
    given = {
        "layer_norm_eps": settings.get("layer_norm_eps"),
        "classifier_dropout_prob": config["hidden_dropout_prob"] if dropout is None else dropout,
    }
    try:
        usual = BertConfig.from_dict(config)
        implied = {
            "layer_norm_eps": usual.norm_epsilon,
            "classifier_dropout_prob": usual.dropout_of_classifier,
        }
        for key, value in given.items():
            if value not in (None, implied[key]):
                config[key] = value
        BertConfig.from_dict(config)
    except ValueError as error:
        raise BadInput("%s: %s" % (path, error)) from None
    return config


def _check(settings: dict[str, Any], layout: Layout, path: str) -> None:
    for key, value in _BUILT_IN.items():
        if settings.get(key) not in (None, value):
            message = "%s: %s is %r, only %r can be converted; use another model"
            raise BadInput(message % (path, key, settings[key], value))
    for key in SIZES + layout.sizes:
        if type(settings.get(key)) is not int or settings[key] < 1:
            message = "%s: %s is %r, not a whole number above 0; download the file again"
            raise BadInput(message % (path, key, settings.get(key)))
    for key in _RATES:
        if type(settings.get(key)) not in (int, float) or not 0 <= settings[key] < 1:
            message = "%s: %s is %r, not a number from 0 to 1; download the file again"
            raise BadInput(message % (path, key, settings.get(key)))
    activation = str(settings.get("hidden_act"))
    if activation not in _ACTIVATIONS:
        known = ", ".join(sorted(_ACTIVATIONS))
        message = "%s: hidden_act is %r, only %s can be converted; use another model"
        raise BadInput(message % (path, activation, known))


def _labels(settings: dict[str, Any]) -> list[str] | None:
    """Return the names of the outputs; transformers calls them LABEL_0 ... where nobody did."""
    by_number = settings.get("id2label")
    if not isinstance(by_number, dict):
        return None
    numbers = [str(number) for number in range(len(by_number))]
    if set(by_number) != set(numbers):
        return None
    labels = [str(by_number[number]) for number in numbers]
    if labels == ["LABEL_" + number for number in numbers]:
        return None
    are_lines = all(label.strip() and label.splitlines() == [label] for label in labels)
    return labels if are_lines and len(set(labels)) == len(labels) else None


def content(config: BertConfig, layout: Layout, classifier: Classifier | None) -> dict[str, Any]:
    """Return the content of the config.json of a model.

    Args:
        config: Of its encoder.
        layout: How it is kept.
        classifier: Its classifier; None for an encoder alone.
    """
    activation = str(config.activation or "linear").lower()
    class_suffix = _OF_CLASSIFIER if classifier else "Model"
    # None stands for what is usual for a kind.
    known = {
        "embedding_size": config.embedding_width,
        "num_hidden_groups": config.num_groups,
        "inner_group_num": config.inner_group_num or 1,
    }
    settings = {
        "architectures": [layout.class_prefix + class_suffix],
        "model_type": layout.model_type,
        **{key: getattr(config, key) for key in SIZES + _RATES},
        **{key: known[key] for key in layout.sizes},
        "hidden_act": _WRITTEN_ACTIVATIONS.get(activation, activation),
        "layer_norm_eps": config.norm_epsilon,
        layout.dropout_key: config.dropout_of_classifier,
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
    }
    if classifier:
        settings["id2label"] = {str(i): label for i, label in enumerate(classifier.labels)}
        settings["label2id"] = {label: i for i, label in enumerate(classifier.labels)}
        settings["problem_type"] = _PROBLEM_TYPES[classifier.problem_type]
    return settings
