"""Measure the gain of each change of the graph: a training step without it, over one with all.

    .venv/bin/python benchmarks/levers.py [--seq_length=128] [--repeats=9]

Each variant is our graph with one part as in google's graph. All take turns in one process; the
medians of the ratios of each turn are printed. The model is that of `step.py`.
"""

from __future__ import annotations

import argparse
import math
import statistics
from unittest import mock

import step  # first: it puts the project's root on sys.path
import tensorflow.compat.v1 as tf

import modeling
import optimization
from bert_classifier import threads
from bert_classifier.training import memory


def gelu(x):
    """Compute gelu, with TensorFlow's own gradient."""
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * tf.pow(x, 3))
    return x * 0.5 * (1.0 + tf.tanh(inner))


def standardize(x, epsilon):
    """Normalize rows, with TensorFlow's own gradient."""
    mean, variance = tf.nn.moments(x, [1], keep_dims=True)
    return (x - mean) * tf.math.rsqrt(variance + epsilon)


def dropout_mask(shape, dropout_prob, dropout_seed=None):
    """Draw a float32 for each element."""
    del dropout_seed
    return tf.cast(tf.random.uniform(shape) >= dropout_prob, tf.float32)


def attention_layer(from_tensor, to_tensor, attention_mask, **options):
    """Make a row of the mask for each position that attends."""
    batch_size, seq_length = modeling.get_shape_list(from_tensor)[:2]
    attention_mask = tf.ones([batch_size, seq_length, 1]) * attention_mask
    return ATTENTION_LAYER(from_tensor, to_tensor, attention_mask, **options)


def split_heads(tensor, rows):
    """Split heads by a transposition."""
    num_heads = rows.shape.as_list()[0]
    batch_size, seq_length, width = modeling.get_shape_list(tensor)
    heads = tf.reshape(tensor, [batch_size, seq_length, num_heads, width // num_heads])
    return tf.transpose(heads, [2, 0, 1, 3])


def join_heads(heads, rows):
    """Join heads by a transposition."""
    del rows
    num_heads, batch_size, seq_length, size = modeling.get_shape_list(heads)
    return tf.reshape(tf.transpose(heads, [1, 2, 0, 3]), [batch_size, seq_length, num_heads * size])


def transformer_layer(hidden, num_positions=None, compute=modeling._transformer_layer, **options):
    """Computes all positions, whatever is asked for."""
    output = compute(hidden, **options)
    return output if num_positions is None else output[:, :num_positions]


def update(self, gradient, variable):
    """Compute the update as sums and products."""
    m, v = (optimization._moment(variable, name) for name in ("adam_m", "adam_v"))
    next_m = self.beta_1 * m + (1.0 - self.beta_1) * gradient
    next_v = self.beta_2 * v + (1.0 - self.beta_2) * tf.square(gradient)
    change = next_m / (tf.sqrt(next_v) + self.epsilon)
    if not self._is_excluded(variable):
        change += self.weight_decay_rate * variable
    changed = variable.assign(variable - self.learning_rate * change)
    return tf.group(changed, m.assign(next_m), v.assign(next_v))


def attend_from_one_position(query, to_tensor, *rest):
    """Compute keys and values of all positions."""
    return modeling._attend(query, query, to_tensor, *rest)


ATTENTION_LAYER = modeling.attention_layer
VARIANTS = {
    "nothing: how much is noise": (modeling, {"MASKED_SCORE": modeling.MASKED_SCORE}),
    "the last layer for one position": (modeling, {"_transformer_layer": transformer_layer}),
    "its keys and values": (modeling, {"_attend_from_one_position": attend_from_one_position}),
    "gradient of gelu": (modeling.ACTIVATIONS, {"gelu": gelu}),
    "gradient of layer norm": (modeling, {"_standardize": standardize}),
    "gradient of biases": (modeling, {"_add_bias": tf.nn.bias_add}),
    "cheap masks of dropout": (modeling, {"dropout_mask": dropout_mask}),
    "one row of the attention mask": (modeling, {"attention_layer": attention_layer}),
    "heads": (modeling, {"_split_heads": split_heads, "_join_heads": join_heads}),
    "rows of the embedding": (optimization, {"_summed": tf.convert_to_tensor}),
    "fused update": (optimization.AdamWeightDecayOptimizer, {"_update": update}),
}


def without(where, old):
    """Return our training step with parts exchanged."""
    ours = step.ours(step.NUM_PARTS)

    def build(features):
        exchange = mock.patch.dict if isinstance(where, dict) else mock.patch.multiple
        with exchange(where, **old):
            return ours.build(features)

    return ours._replace(build=build)


def main(argv=None):
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seq_length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args(argv)
    memory.keep_freed_memory()
    tf.disable_v2_behavior()
    tf.get_logger().setLevel("ERROR")
    threads.give_each_session_its_own()
    graphs = {name: without(*part) for name, part in VARIANTS.items()}
    # In one part, each of its operations has all cores.
    graphs["the parts of a batch"] = step.ours(num_parts=1)
    size = arguments.batch_size, arguments.seq_length
    everything = {"all": step.ours(step.NUM_PARTS)}
    times = step.measure({**everything, **graphs}, *size, arguments.repeats)
    print("| %d x %d: without | times as slow |" % size)
    print("|---|---|")
    for name in graphs:
        ratios = [slow / fast for slow, fast in zip(times[name], times["all"])]
        print("| %s | %.3f |" % (name, statistics.median(ratios)))


if __name__ == "__main__":
    main()
