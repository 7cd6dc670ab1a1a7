"""The sizes of published encoders: each has as many parameters as the model of its authors."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from graphs import KEYS_OF_ALBERT
from program import ROOT

from bert_classifier.model import weights
from encoder_config import KINDS, AlbertConfig, BertConfig

ENGLISH, CHINESE, ALBERT_ENGLISH = 30522, 21128, 30000


def count(config):
    return sum(int(np.prod(shape)) for shape in config.variable_shapes().values())


def sizes(hidden_size, num_hidden_layers, num_attention_heads, intermediate_size=None, **others):
    return dict(
        others,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        intermediate_size=intermediate_size or 4 * hidden_size,
    )


# The keys by which google's and brightmart's files are known.
GOOGLE = {
    "type_vocab_size": 2,
    "embedding_size": 128,
    "layers_to_keep": [],
    **KEYS_OF_ALBERT,
}
BRIGHTMART = {"type_vocab_size": 2, "embedding_size": 128, "ln_type": "postln"}

ALBERT_SIZES = {
    "base": sizes(768, 12, 12),
    "large": sizes(1024, 24, 16),
    "xlarge": sizes(2048, 24, 16),
    "xxlarge": sizes(4096, 12, 64),
    "tiny": sizes(312, 4, 12),
    "small": sizes(384, 6, 12),
}


# https://github.com/google-research/albert and https://github.com/brightmart/albert_zh; v1 and v2
# differ in dropout only.
@pytest.mark.parametrize(
    "keys, vocab_size, size, number",
    [
        (GOOGLE, ALBERT_ENGLISH, "base", 11_683_584),
        (GOOGLE, ALBERT_ENGLISH, "large", 17_683_968),
        (GOOGLE, ALBERT_ENGLISH, "xlarge", 58_724_864),
        (GOOGLE, ALBERT_ENGLISH, "xxlarge", 222_595_584),
        (GOOGLE, CHINESE, "base", 10_547_968),
        (GOOGLE, CHINESE, "large", 16_548_352),
        (GOOGLE, CHINESE, "xlarge", 57_589_248),
        (GOOGLE, CHINESE, "xxlarge", 221_459_968),
        (GOOGLE, CHINESE, "tiny", 4_080_520),
        (GOOGLE, CHINESE, "small", 4_742_272),
        (BRIGHTMART, CHINESE, "tiny", 4_175_152),
        (BRIGHTMART, CHINESE, "base", 10_877_440),
        (BRIGHTMART, CHINESE, "large", 17_009_664),
        (BRIGHTMART, CHINESE, "xlarge", 58_577_920),
    ],
)
def test_albert(keys, vocab_size, size, number):
    config = BertConfig.from_dict({**keys, **ALBERT_SIZES[size], "vocab_size": vocab_size})
    assert config.kind is (KINDS["albert"] if keys is GOOGLE else KINDS["albert_zh"])
    assert count(config) == number
    assert config.shares_layers


def test_the_defaults_of_albert_config_are_xxlarge():
    assert count(AlbertConfig(vocab_size=ALBERT_ENGLISH)) == 222_595_584


# BERT in everything but its sizes: https://github.com/ymcui/Chinese-BERT-wwm (wwm, RBT3 and so on),
# https://github.com/google-research/bert (the small ones), CLUEPretrainedModels, MiniLM, TinyBERT,
# and ERNIE 1.0, whose positions are 513.
@pytest.mark.parametrize(
    "vocab_size, keys, number",
    [
        (CHINESE, sizes(768, 12, 12), 102_267_648),
        (CHINESE, sizes(1024, 24, 16), 325_522_432),
        (CHINESE, sizes(768, 3, 12), 38_476_800),
        (CHINESE, sizes(768, 4, 12), 45_564_672),
        (CHINESE, sizes(768, 6, 12), 59_740_416),
        (CHINESE, sizes(1024, 3, 16), 61_001_728),
        (ENGLISH, sizes(128, 2, 2), 4_385_920),
        (ENGLISH, sizes(256, 4, 4), 11_170_560),
        (ENGLISH, sizes(512, 4, 8), 28_763_648),
        (ENGLISH, sizes(512, 8, 8), 41_373_184),
        (ENGLISH, sizes(768, 12, 12), 109_482_240),
        (8021, sizes(312, 4, 12), 7_449_936),
        (ENGLISH, sizes(384, 12, 12, 1536), 33_360_000),
        (ENGLISH, sizes(384, 6, 12, 1536), 22_713_216),
        (ENGLISH, sizes(768, 6, 12), 66_955_008),
        (ENGLISH, sizes(312, 4, 12, 1200), 14_350_248),
        (18000, sizes(768, 12, 12, max_position_embeddings=513, hidden_act="relu"), 99_866_112),
    ],
)
def test_bert(vocab_size, keys, number):
    config = BertConfig.from_dict({**keys, "vocab_size": vocab_size, "type_vocab_size": 2})
    assert config.kind is KINDS["bert"]
    assert count(config) == number
    assert not config.shares_layers


def electra_config(name, vocab_size):
    with open(os.path.join(ROOT, name)) as stream:
        return BertConfig.from_dict(dict(json.load(stream), vocab_size=vocab_size))


# https://github.com/google-research/electra has no configuration files, and the numbers "14M",
# "110M" and "335M"; https://github.com/ymcui/Chinese-ELECTRA has the Chinese ones.
ELECTRA = {
    ("small", ENGLISH): 13_483_008,
    ("base", ENGLISH): 108_891_648,
    ("large", ENGLISH): 334_092_288,
    ("small", CHINESE): 12_280_576,
    ("base", CHINESE): 101_677_056,
    ("large", CHINESE): 324_472_832,
}


@pytest.mark.parametrize("size, vocab_size", ELECTRA)
def test_electra(size, vocab_size):
    config = electra_config("configs/electra_%s.json" % size, vocab_size)
    assert count(config) == ELECTRA[size, vocab_size]
    assert config.hidden_size == 64 * config.num_attention_heads
    assert config.intermediate_size == 4 * config.hidden_size
    assert (config.projection is not None) == (size == "small")


def test_electra_small_of_24_layers():
    """It is published with a configuration of its own."""
    keys = sizes(256, 24, 4, embedding_size=256, model_type="electra")
    config = BertConfig.from_dict({**keys, "vocab_size": CHINESE})
    assert count(config) == 24_495_104
    assert "configs/" not in weights.cure_of_config(config.variable_shapes())


@pytest.mark.parametrize("size, vocab_size", ELECTRA)
def test_the_configuration_is_found_by_the_shapes_of_a_checkpoint(size, vocab_size):
    name = "configs/electra_%s.json" % size
    found = electra_config(name, vocab_size).variable_shapes()
    found["discriminator_predictions/dense/kernel"] = [8, 8]
    found["electra/encoder/layer_0/output/dense/bias/adam_m"] = [8]
    cure = 'give --bert_config_file=%s, with "vocab_size": %d' % (name, vocab_size)
    assert weights.cure_of_config(found) == cure


def test_each_configuration_is_offered():
    offered = {name for kind in KINDS.values() for name in kind.config_files.values()}
    assert offered == {"configs/" + name for name in os.listdir(os.path.join(ROOT, "configs"))}
