"""Whole runs of each kind of encoder, from made-up weights under the names of published ones."""

from __future__ import annotations

import json
import logging
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from conftest import CONFIG, VOCAB, TinyBert
from graphs import KEYS_OF_ALBERT
from program import (
    Launch,
    SmallRun,
    assert_equal,
    end_state,
    model_flags,
    parsed,
    write_data,
)

import run_classifier_gpu
from bert_classifier.errors import BadInput
from bert_classifier.model import weights
from bert_classifier.serving.predictor import Predictor
from encoder_config import BertConfig

# What the files of google and brightmart say of an encoder, where it is not a BERT.
ALBERT = {"embedding_size": 16, **KEYS_OF_ALBERT}
ENCODERS = {
    "bert": {"num_hidden_layers": 2},
    "albert": {**ALBERT, "num_hidden_layers": 2},
    "albert_of_groups": {
        **ALBERT,
        "num_hidden_layers": 3,
        "num_hidden_groups": 2,
        "inner_group_num": 2,
    },
    "albert_zh": {"num_hidden_layers": 2, "embedding_size": 16, "ln_type": "postln"},
    "electra_small": {"num_hidden_layers": 2, "embedding_size": 16, "model_type": "electra"},
    "electra_base": {"num_hidden_layers": 2, "model_type": "electra"},
}


def each_encoder(*fast):
    """All of them, of which some are for the fast tests: a run takes seconds."""
    return [pytest.param(n, marks=() if n in fast else pytest.mark.slow) for n in ENCODERS]


STEP = "hooks.ProgressHook.before_run"
TERMINATE = "os.kill(os.getpid(), signal.SIGTERM)"


def write_model(
    folder,
    keys,
    config_file="bert_config.json",
    vocab_file="vocab.txt",
    checkpoint="bert_model.ckpt",
):
    """Writes the files of a pretrained encoder with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {**CONFIG, **keys}
    (folder / config_file).write_text(json.dumps(keys))
    (folder / vocab_file).write_text("".join(token + "\n" for token in VOCAB))
    random = np.random.RandomState(1)
    values = {
        name: np.float32(random.normal(name.endswith("/gamma"), 0.02, shape))
        for name, shape in BertConfig.from_dict(keys).variable_shapes().items()
    }
    prefix = str(folder / checkpoint)
    weights.write_checkpoint(values, prefix)
    return TinyBert(str(folder / config_file), str(folder / vocab_file), prefix)


class Runs:
    """A run of each kind that stops early at step 15 of 30, made when it is first asked for."""

    def __init__(self, make_folder):
        self._make_folder = make_folder
        self._runs = {}

    def of(self, name):
        if name not in self._runs:
            folder = self._make_folder(name)
            model = write_model(folder, ENCODERS[name])
            self._runs[name] = SmallRun(folder, model, ENCODERS[name]["num_hidden_layers"])
        return self._runs[name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp)


def values_of(checkpoint):
    reader = tf.train.load_checkpoint(checkpoint)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize("name", each_encoder("albert", "electra_small"))
def test_a_run_stops_early_and_its_export_answers_as_it_predicts(runs, name):
    run = runs.of(name)
    state = end_state(run.output_dir)
    assert (state["result"]["status"], state["result"]["last_step"]) == ("stopped early", 15)
    encoder = BertConfig.from_dict({**CONFIG, **ENCODERS[name]}).variable_shapes()
    (slim,) = {frozenset(state["weights"]["best/slim"])}
    assert slim == {*encoder, "output_weights", "output_bias", "global_step"}
    with open(os.path.join(run.output_dir, "test_results.tsv")) as stream:
        header, *rows = [line.rstrip("\n").split("\t") for line in stream]
    with open(os.path.join(run.data_dir, "test.tsv")) as stream:
        texts = stream.read().splitlines()[1:]
    with Predictor(run.output_dir) as predictor:
        answers = predictor.predict(texts)
    for row, answer in zip(rows, answers):
        values = dict(zip(header, row))
        assert answer.label == values["label"]
        for label, probability in answer.probabilities.items():
            # The file has six digits.
            assert probability == pytest.approx(float(values["p(%s)" % label]), abs=1e-6)
    assert len(rows) == len(answers) == 10


@pytest.mark.parametrize("name", each_encoder("albert"))
def test_a_run_is_evaluated_again_by_its_output_dir_alone(runs, name, tmp_path):
    output_dir = runs.of(name).copy(tmp_path / "copy")
    expected = results_in(output_dir)
    found = run_classifier_gpu.run_classifier(parsed("--do_eval", "--output_dir=" + output_dir))
    assert results_in(output_dir) == expected
    assert found and found == {name: expected[name] for name in found}


def results_in(output_dir):
    with open(os.path.join(output_dir, "eval_results.json")) as stream:
        return json.load(stream)


@pytest.mark.parametrize("name", each_encoder("albert"))
def test_an_interrupted_run_ends_with_the_same_bytes(runs, forks, name, tmp_path):
    run = runs.of(name)
    output_dir = str(tmp_path / "interrupted")
    command = run.command(output_dir, "--do_predict", "--do_export")
    assert forks.run(command, tmp_path / "log", STEP, 8, TERMINATE) == 143
    assert forks.run(command, tmp_path / "log") == 0
    assert "Resuming from" in (tmp_path / "log").read_text()
    assert_equal(end_state(output_dir), end_state(run.output_dir))


@pytest.mark.parametrize("name", each_encoder())
def test_gradient_checkpointing_ends_with_equal_weights(runs, name, tmp_path):
    run = runs.of(name)
    run.run(tmp_path / "again", "--gradient_checkpointing")
    again = values_of(str(tmp_path / "again" / "model.ckpt-15"))
    expected = values_of(os.path.join(run.output_dir, "model.ckpt-15"))
    assert again.keys() == expected.keys()
    for variable, value in expected.items():
        # The gradients are added in another order.
        np.testing.assert_allclose(again[variable], value, rtol=0, atol=1e-5, err_msg=variable)


def train_one_step(folder, model, *arguments):
    """Trains with all examples at once; returns the values in the checkpoint, if it trains."""
    arguments = [
        "--do_train",
        "--task_name=file",
        "--data_dir=" + write_data(folder / "data"),
        "--output_dir=%s" % (folder / "run"),
        "--max_seq_length=16",
        "--train_batch_size=40",
        "--num_train_epochs=1",
        "--warmup_proportion=0",
        "--weight_decay_rate=0",
        *arguments,
    ]
    flags = [flag for flag in model_flags(model) if not flag.endswith("=None")]
    run_classifier_gpu.run_classifier(parsed(*arguments, *flags))
    saved = str(folder / "run" / "model.ckpt-1")
    return values_of(saved) if os.path.exists(saved + ".index") else {}


# Folder, and name of each file, as in the archives that readers of the article download. The
# configuration is the one of that model but for its sizes.
FOLDERS = {
    "chinese_L-12_H-768_A-12": {},
    "chinese_roberta_wwm_ext_L-12_H-768_A-12": {},
    "ERNIE_1.0": {
        "keys": {"max_position_embeddings": 513, "hidden_act": "relu", "layer_norm_eps": 1e-5}
    },
    "electra_tiny": {
        "keys": ENCODERS["electra_small"],
        "config_file": "electra_config.json",
        "checkpoint": "electra_tiny",
    },
    "albert_base_zh": {
        "keys": {**ALBERT, "hidden_act": "relu"},
        "config_file": "albert_config.json",
        "checkpoint": "albert_model.ckpt",
        "vocab_file": "vocab_chinese.txt",
    },
    "albert_base": {
        "keys": {**ALBERT, "hidden_act": "relu", "layers_to_keep": []},
        "config_file": "albert_config.json",
        "checkpoint": "model.ckpt-best",
        "vocab_file": "vocab_chinese.txt",
    },
}


def train_from_folder(folder, name, *arguments):
    """Gives the files of the model, too."""
    model = write_model(folder / name, **{"keys": {}, **FOLDERS[name]})
    return model, train_one_step(folder, model, *arguments)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_folders_of_the_articles_readers_fit(tmp_path, capsys, name):
    model, _ = train_from_folder(tmp_path, name, "--dry_run")
    number = len(tf.train.list_variables(model.init_checkpoint))
    screen = capsys.readouterr().out
    assert "covers %d of the encoder's %d variables" % (number, number) in screen
    warnings = screen.partition("Warnings")[2]
    assert "init_checkpoint" not in warnings and model.init_checkpoint not in warnings


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_the_folders_of_the_articles_readers_load_with_one_command(tmp_path, caplog, name):
    caplog.set_level(logging.INFO)
    # At such a rate no weight changes, so they are still those of the file.
    model, values = train_from_folder(tmp_path, name, "--learning_rate=1e-30")
    pretrained = values_of(model.init_checkpoint)
    for variable, value in pretrained.items():
        np.testing.assert_array_equal(values[variable], value, variable)
    number = len(pretrained)
    line = "Trainable variables = %d, of which %d begin as in" % (number + 2, number)
    assert line in caplog.text


@pytest.mark.slow
def test_a_module_of_tensorflow_hub_loads(tmp_path):
    model = write_model(tmp_path / "module", ENCODERS["albert"])
    values = values_of(model.init_checkpoint)
    prefix = str(tmp_path / "module" / "variables" / "variables")
    os.makedirs(os.path.dirname(prefix))
    weights.write_checkpoint({"module/" + name: values[name] for name in values}, prefix)
    model = model._replace(init_checkpoint=prefix)
    begun = train_one_step(tmp_path, model, "--learning_rate=1e-30")
    for variable, value in values.items():
        np.testing.assert_array_equal(begun[variable], value, variable)


@pytest.mark.parametrize("name", each_encoder())
def test_a_warm_start_takes_encoder_and_classifier(runs, name, tmp_path):
    run = runs.of(name)
    config = os.path.join(os.path.dirname(run.output_dir), "bert_config.json")
    model = TinyBert(config, write_model(tmp_path / "other", {}).vocab_file, None)
    source = "--warm_start_from=" + run.output_dir
    values = train_one_step(tmp_path, model, source, "--learning_rate=1e-30")
    best = values_of(tf.train.latest_checkpoint(os.path.join(run.output_dir, "best", "slim")))
    del best["global_step"]
    for variable, value in best.items():
        np.testing.assert_array_equal(values[variable], value, variable)


# Layers, or other parts, from a part up to the classifier.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, depths",
    [
        ("bert", {"bert/pooler": 1, "layer_1": 2, "layer_0": 3, "bert/embeddings": 4}),
        (
            "electra_small",
            {"layer_1": 2, "layer_0": 3, "embeddings_project": 4, "electra/embeddings/": 4},
        ),
    ],
)
def test_layerwise_decay_scales_the_first_step_of_each_layer(tmp_path, name, depths):
    model = write_model(tmp_path / "model", ENCODERS[name])
    before = values_of(model.init_checkpoint)

    def first_step(folder, *arguments):
        folder.mkdir()
        after = train_one_step(folder, model, "--learning_rate=0.1", *arguments)
        return {name: np.abs(after[name] - before[name]).max() for name in before}

    plain = first_step(tmp_path / "plain")
    decayed = first_step(tmp_path / "decayed", "--layerwise_lr_decay=0.5")
    seen = set()
    for variable, step in plain.items():
        if step < 1e-4:  # Of a small gradient; the rest would be lost in rounding.
            continue
        (depth,) = (depths[part] for part in depths if part in variable)
        assert decayed[variable] / step == pytest.approx(0.5**depth, rel=0.01), variable
        seen.add(depth)
    assert seen == set(depths.values())


@pytest.mark.parametrize("name", ["albert", "albert_of_groups", "albert_zh"])
def test_layerwise_decay_is_refused_where_layers_are_shared(tmp_path, name):
    model = write_model(tmp_path / "model", ENCODERS[name])
    with pytest.raises(BadInput, match="--layerwise_lr_decay=0.5: the layers of .*ALBERT in --b"):
        train_one_step(tmp_path, model, "--layerwise_lr_decay=0.5")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name, of_config, message",
    [
        ("albert", "bert", "is of ALBERT, but --bert_config_file is of BERT; .*albert_config.json"),
        ("electra_base", "albert", "is of ELECTRA, but --bert_config_file is of ALBERT; give"),
        ("bert", "albert_zh", "is of BERT, but --bert_config_file is of brightmart's ALBERT"),
    ],
)
def test_another_kind_is_refused_before_the_training(tmp_path, name, of_config, message):
    model = write_model(tmp_path / name, ENCODERS[name])
    other = write_model(tmp_path / of_config, ENCODERS[of_config])
    with pytest.raises(BadInput, match=message):
        train_one_step(tmp_path, model._replace(bert_config_file=other.bert_config_file))
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_without_a_configuration_is_told_the_file_to_give(tmp_path):
    model = write_model(tmp_path / "model", {})
    # What tells ELECTRA-small from others: it has 12 layers of this width.
    names = ["electra/encoder/layer_%d/output/dense/bias" % number for number in range(12)]
    content = {name: np.zeros(256, np.float32) for name in names}
    content["electra/embeddings/word_embeddings"] = np.zeros([21128, 128], np.float32)
    prefix = str(tmp_path / "electra_180g_small")
    weights.write_checkpoint(content, prefix)
    model = model._replace(init_checkpoint=prefix, bert_config_file="")
    cure = '--bert_config_file=configs/electra_small.json, with "vocab_size": 21128'
    with pytest.raises(BadInput, match="--bert_config_file is missing; for .*" + cure):
        train_one_step(tmp_path, model)


@pytest.mark.slow
def test_two_workers_train_what_one_does(tmp_path):
    """Sums in another order, so the weights are equal but for rounding."""
    no_dropout = dict.fromkeys(
        ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"], 0.0
    )
    model = write_model(tmp_path / "model", {**ENCODERS["albert"], **no_dropout})
    arguments = [
        "--do_train",
        "--task_name=file",
        "--data_dir=" + write_data(tmp_path / "data"),
        "--max_seq_length=16",
        "--num_train_epochs=3",
        "--learning_rate=1e-3",
        "--save_checkpoints_steps=5",
        "--max_steps_without_improvement=0",
        *model_flags(model),
    ]
    one = ["--output_dir=%s" % (tmp_path / "one"), "--train_batch_size=8"]
    run_classifier_gpu.run_classifier(parsed(*arguments, *one))
    two = ["--horovod", "--output_dir=%s" % (tmp_path / "two"), "--train_batch_size=4"]
    launch = Launch(tmp_path / "launch", 2, {"job": [*arguments, *two]})
    assert launch.wait() == 0, launch.log()
    expected = values_of(str(tmp_path / "one" / "model.ckpt-15"))
    found = values_of(str(tmp_path / "two" / "model.ckpt-15"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5, err_msg=name)
