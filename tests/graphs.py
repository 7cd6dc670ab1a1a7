"""Building encoders in tests: sizes, inputs, and weights that two graphs can share."""

from __future__ import annotations

import contextlib
import zlib

import numpy as np
import tensorflow.compat.v1 as tf

import modeling

SETTINGS = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
}
# The keys by which google's ALBERTs are known, with the values of all published ones.
KEYS_OF_ALBERT = {
    "num_hidden_groups": 1,
    "inner_group_num": 1,
    "down_scale_factor": 1,
    "net_structure_type": 0,
    "gap_size": 0,
    "num_memory_blocks": 0,
}
_RANDOM = np.random.RandomState(1)
INPUTS = {
    "input_ids": _RANDOM.randint(0, 50, [3, 7]).astype(np.int32),
    "input_mask": np.array([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6], np.int32),
    "token_type_ids": _RANDOM.randint(0, 2, [3, 7]).astype(np.int32),
}


def config_of(bert, **changes):
    return bert.BertConfig(**{**SETTINGS, **changes})


def constants(**changes):
    return {name: tf.constant(value) for name, value in {**INPUTS, **changes}.items()}


def known_weights(variable):
    """Numbers that depend on the name of a variable alone, so that two graphs can share them."""
    random = np.random.RandomState(zlib.crc32(variable.op.name.encode()))
    mean = 1.0 if variable.op.name.endswith("gamma") else 0.0
    return random.normal(mean, 0.2, variable.shape.as_list()).astype(np.float32)


def evaluate(fetches, feed_dict=None, config=None):
    with tf.Session(config=config) as session:
        session.run([variable.assign(known_weights(variable)) for variable in tf.all_variables()])
        return session.run(fetches, feed_dict)


def assert_equal(ours, googles):
    assert ours.keys() == googles.keys()
    for name, expected in googles.items():
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-5, err_msg=name)


@contextlib.contextmanager
def converted_encoder(folder, inputs):
    """Gives an encoder, with the weights that a conversion has written, and a session with it."""
    config = modeling.BertConfig.from_json_file(str(folder / "bert_config.json"))
    with tf.Graph().as_default(), tf.Session() as session:
        model = modeling.BertModel(
            config,
            is_training=False,
            input_ids=tf.constant(inputs["input_ids"]),
            input_mask=tf.constant(inputs["input_mask"]),
            token_type_ids=tf.constant(inputs["segment_ids"]),
        )
        # Its last layer is there, in the same variables, as soon as somebody asks for it.
        tf.train.Saver().restore(session, str(folder / "bert_model.ckpt"))
        yield model, session
