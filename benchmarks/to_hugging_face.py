"""Convert google's BERT checkpoints to Hugging Face directories, so that peers begin alike.

The inverse of `bert_classifier.convert`, with its names and shapes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import safetensors.numpy
import tensorflow.compat.v1 as tf

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from bert_classifier.convert import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    VOCAB_NAME,
    hugging_face_name,
)
from modeling import BertConfig

# google's "gelu" is an approximation, Hugging Face's the exact form. Of its two names for the
# approximation this is the one that PyTorch computes in one pass.
ACTIVATIONS = {"gelu": "gelu_pytorch_tanh", "gelu_erf": "gelu"}


def convert(model_dir: str, hf_dir: str) -> None:
    """Write the uncased model of bert_model.ckpt, bert_config.json and vocab.txt to a new folder.

    Args:
        model_dir: where those three are.
        hf_dir: gets model.safetensors, config.json, vocab.txt and tokenizer_config.json.
    """
    os.makedirs(hf_dir)
    with open(os.path.join(model_dir, CONFIG_NAME)) as stream:
        config = json.load(stream)
    reader = tf.train.load_checkpoint(os.path.join(model_dir, CHECKPOINT_NAME))
    tensors = {}
    for variable in BertConfig(**config).variable_shapes():
        value = reader.get_tensor(variable)
        if variable.endswith("/kernel"):
            value = value.T
        tensors[hugging_face_name(variable)] = np.ascontiguousarray(value)
    safetensors.numpy.save_file(
        tensors, os.path.join(hf_dir, "model.safetensors"), {"format": "pt"}
    )
    activation = config["hidden_act"]
    settings = dict(
        config,
        architectures=["BertModel"],
        model_type="bert",
        layer_norm_eps=1e-12,
        hidden_act=ACTIVATIONS.get(activation, activation),
    )
    tokenizer = {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}
    for name, content in (("config.json", settings), ("tokenizer_config.json", tokenizer)):
        with open(os.path.join(hf_dir, name), "w") as stream:
            json.dump(content, stream)
    vocab = os.path.join(model_dir, VOCAB_NAME)
    shutil.copyfile(vocab, os.path.join(hf_dir, VOCAB_NAME))
