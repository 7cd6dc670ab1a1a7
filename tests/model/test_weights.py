"""The content of one checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from conftest import CONFIG

from bert_classifier.model import weights
from bert_classifier.training import runs
from encoder_config import KINDS, BertConfig


@pytest.mark.parametrize(
    "value",
    [
        np.float32([[1.5, -2.5]]),
        np.float64(0.1),
        np.float16([3.0]),
        np.int64(2**40),
        np.int32([1, -2]),
        np.uint8([255]),
        np.array([True, False]),
        np.zeros([0, 3], np.float32),
        np.array([b"text", b"\xff"], dtype=object),
    ],
    ids=lambda value: "%s%s" % (value.dtype, list(value.shape)),
)
def test_arrays_are_written_as_they_are(tmp_path, value):
    prefix = str(tmp_path / "model.ckpt")
    weights.write_checkpoint({"a/b": value, "other": np.float32(1)}, prefix)
    reader = tf.train.load_checkpoint(prefix)
    written = reader.get_tensor("a/b")
    assert sorted(reader.get_variable_to_shape_map()) == ["a/b", "other"]
    assert np.shape(written) == value.shape
    assert reader.get_variable_to_dtype_map()["a/b"] == tf.as_dtype(value.dtype)
    np.testing.assert_array_equal(written, value)


def test_the_index_tells_one_checkpoint_from_another(tmp_path):
    """It is what a run remembers of its --init_checkpoint."""
    value = np.zeros([100, 100], np.float32)
    other = value.copy()
    other[50, 50] = 1e-30
    hashes = []
    for number, array in enumerate((value, value, other)):
        prefix = str(tmp_path / str(number) / "model.ckpt")
        weights.write_checkpoint({"weight": array}, prefix)
        hashes.append(runs.content_hash(weights.index_file(prefix)))
    assert hashes[0] == hashes[1] != hashes[2]
    first_format = tmp_path / "model.ckpt"
    first_format.touch()
    assert weights.index_file(str(first_format)) == str(first_format)


@pytest.fixture
def prefix(tmp_path):
    """A checkpoint with one variable that is finite, and one that is not."""
    path = str(tmp_path / "model.ckpt")
    weights.write_checkpoint({"fine": np.ones(3, np.float32), "bad": np.float32([1, np.inf])}, path)
    return path


def test_a_checkpoint_is_read_once_while_its_files_stay_as_they_are(prefix, monkeypatch):
    opened = []
    reader = tf.train.NewCheckpointReader
    monkeypatch.setattr(
        weights.tf.train, "NewCheckpointReader", lambda path: opened.append(path) or reader(path)
    )
    assert weights.unreadable(prefix) is None
    assert weights.find_not_finite(prefix, ["fine", "bad"]) == "bad"
    assert weights.find_not_finite(prefix, ["fine"]) is None
    assert len(opened) == 1
    with open(weights.index_file(prefix), "wb") as stream:
        stream.write(b"no index")
    assert weights.unreadable(prefix)
    assert len(opened) == 2


def test_what_is_not_there_is_unreadable_until_it_is_there(tmp_path):
    prefix = str(tmp_path / "model.ckpt")
    assert "model.ckpt" in weights.unreadable(prefix)
    weights.write_checkpoint({"weight": np.float32(1)}, prefix)
    assert weights.unreadable(prefix) is None


def test_float64_that_float32_cannot_hold_is_not_finite(tmp_path):
    prefix = str(tmp_path / "model.ckpt")
    weights.write_checkpoint(
        {"large": np.float64(1e300), "text": np.array(b"text", object)}, prefix
    )
    assert weights.unreadable(prefix) is None
    assert weights.find_not_finite(prefix, ["text", "large"]) == "large"


# What the files of each kind say, without the sizes.
OF_KIND = {
    "bert": {},
    "albert": {"embedding_size": 16, "num_hidden_groups": 1, "net_structure_type": 0},
    "albert_zh": {"embedding_size": 16, "ln_type": "postln"},
    "electra": {"embedding_size": 16, "model_type": "electra"},
}


def config_of(kind, **changes):
    return BertConfig.from_dict({**CONFIG, **OF_KIND[kind], **changes})


def write_encoder(folder, config, prefix="", without=()):
    """Write zeros under the names of an encoder, and what published checkpoints have besides."""
    names = [name for name in config.variable_shapes() if name not in without]
    values = {name: np.zeros(config.variable_shapes()[name], np.float32) for name in names}
    values.update({name + "/adam_m": values[name] for name in names})
    values["%s/layer_9/lamb_v" % config.scope] = np.zeros(2, np.float32)
    values["cls/predictions/output_bias"] = np.zeros(3, np.float32)
    path = str(folder / "model.ckpt-best")
    weights.write_checkpoint({prefix + name: values[name] for name in values}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module/"])
@pytest.mark.parametrize("kind", OF_KIND)
def test_an_encoder_fits_its_own_configuration(tmp_path, kind, prefix):
    config = config_of(kind)
    path = write_encoder(tmp_path, config, prefix)
    coverage = weights.coverage(path, config, {"output_bias": [2]})
    assert (coverage.warnings, coverage.faults) == ([], [])
    assert coverage.dtypes.keys() == config.variable_shapes().keys()
    assert weights.find_not_finite(path, coverage.dtypes) is None


def test_values_that_are_not_finite_are_found_below_a_prefix(tmp_path):
    path = str(tmp_path / "variables")
    weights.write_checkpoint({"module/bert/a": np.float32([np.nan])}, path)
    assert weights.find_not_finite(path, ["bert/a"]) == "bert/a"


@pytest.mark.parametrize("of_config", OF_KIND)
@pytest.mark.parametrize("kind", OF_KIND)
def test_another_kind_is_named_with_the_file_to_give(tmp_path, kind, of_config):
    path = write_encoder(tmp_path, config_of(kind))
    faults = weights.coverage(path, config_of(of_config), {}).faults
    if kind == of_config:
        assert faults == []
        return
    found, wanted = KINDS[kind], KINDS[of_config]
    assert faults == [
        "%s: is of %s, but --bert_config_file is of %s; give the --bert_config_file that belongs "
        "to this checkpoint, %s by its usual name"
        % (path, found.title, wanted.title, found.config_file)
    ]


@pytest.mark.parametrize("kind", OF_KIND)
def test_a_missing_pooler_is_a_warning_where_there_should_be_one(tmp_path, kind):
    config = config_of(kind)
    poolers = [name for name in config.variable_shapes() if config.is_pooler(name)]
    coverage = weights.coverage(write_encoder(tmp_path, config, without=poolers), config, {})
    assert coverage.faults == []
    assert len(coverage.warnings) == bool(poolers) == (kind != "electra")


@pytest.mark.parametrize(
    "kind, of_checkpoint, of_config, is_deeper",
    [
        ("bert", {"num_hidden_layers": 3}, {"num_hidden_layers": 2}, True),
        ("electra", {"num_hidden_layers": 3}, {"num_hidden_layers": 2}, True),
        # How often a layer is applied is in no checkpoint.
        ("albert", {"num_hidden_layers": 2}, {"num_hidden_layers": 4}, False),
        ("albert_zh", {"num_hidden_layers": 4}, {"num_hidden_layers": 2}, False),
        ("albert", {"num_hidden_groups": 2}, {"num_hidden_groups": 1}, True),
        ("albert", {"inner_group_num": 2}, {"inner_group_num": 1}, True),
    ],
)
def test_layers_that_the_model_lacks(tmp_path, kind, of_checkpoint, of_config, is_deeper):
    path = write_encoder(tmp_path, config_of(kind, **of_checkpoint))
    coverage = weights.coverage(path, config_of(kind, **of_config), {})
    assert coverage.faults == []
    assert len(coverage.warnings) == is_deeper
    assert not is_deeper or "has layers that the model lacks" in coverage.warnings[0]


GROUP = "bert/encoder/transformer/group_0/inner_group_0/"


@pytest.mark.parametrize(
    "name, shape, reason",
    [
        ("model/layer-0/kernel/.ATTRIBUTES/VARIABLE_VALUE", [2], "was written by Keras or"),
        (
            "bert/encoder/transformer/group_0_9/layer_9/inner_group_0/layer_normalization_19/beta",
            [2],
            "was written by ALBERT's code with the behavior of TensorFlow 2",
        ),
        ("bert/embeddings/layer_normalization/gamma", [2], "was written by ALBERT's code"),
        (
            GROUP + "attention_1/output/dense/kernel",
            [4, 8, 32],
            "has shape [4, 8, 32], as in brightmart's albert_*_google_fast",
        ),
    ],
)
def test_what_others_write_is_refused_with_the_reason(tmp_path, name, shape, reason):
    path = str(tmp_path / "model.ckpt")
    content = {name: np.zeros(shape, np.float32), GROUP + "LayerNorm/beta": np.float32([0])}
    weights.write_checkpoint(content, path)
    for kind in OF_KIND:
        (fault,) = weights.coverage(path, config_of(kind), {}).faults
        assert fault.startswith(path + ": ") and reason in fault and name in fault


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "roberta"}, '"roberta".* pairs of bytes, .*RoBERTa-wwm and RoBERTa-zh are'),
        ({"model_type": "xlm-roberta"}, "numbers tokens and positions"),
        ({"model_type": "distilbert"}, "no token types and no pooler"),
        ({"model_type": "deberta-v2"}, "relative positions"),
        ({"model_type": "ernie"}, 'ERNIE 1.0 is computed as "bert"'),
        ({"model_type": "gpt2"}, '"gpt2"; the kinds of encoders here are "albert", .*"bert"$'),
        ({"model_type": ["bert"]}, r'"model_type" is \["bert"\]; the kinds'),
        ({"use_task_id": True}, '"use_task_id" is true, but BERT is computed here only with false'),
        ({"ln_type": "preln"}, '"preln", but brightmart\'s ALBERT is .* "postln"; use another'),
        ({"net_structure_type": 1}, '"net_structure_type" is 1, but ALBERT is .* with 0; use'),
    ],
)
def test_a_configuration_of_another_encoder_is_refused_with_the_reason(changes, message):
    with pytest.raises(ValueError, match=message):
        BertConfig.from_dict({**CONFIG, "embedding_size": 32, **changes})
