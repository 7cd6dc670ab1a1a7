"""The command line and the config that it becomes."""

from __future__ import annotations

import dataclasses

import absl.flags
import pytest
from program import parsed

from bert_classifier import config, flags

REQUIRED = ["--output_dir=o"]


def test_each_value_of_the_config_has_one_flag_and_one_place():
    defined = [flag.name for of_group in flags.groups().values() for flag in of_group]
    parts = [part for part in vars(config.Config()).values() if dataclasses.is_dataclass(part)]
    fields = [field.name for part in parts for field in dataclasses.fields(part)]
    assert sorted(defined) == sorted(fields) == sorted(set(fields))


def test_the_defaults_of_the_flags_are_those_of_the_config():
    values = parsed("--do_eval", *REQUIRED)
    assert values.values() == {**config.DEFAULTS, "do_eval": True, "output_dir": "o"}
    assert values.given == {"do_eval", "output_dir"}


def test_a_value_goes_where_it_belongs():
    values = parsed("--do_train", "--seed=7", "--nodo_lower_case", "--data_dir=d", *REQUIRED)
    assert values.training.seed == 7
    assert values.model.do_lower_case is False
    assert values.data.data_dir == "d"
    assert values.actions == config.Actions(do_train=True)


def test_a_config_is_replaced_and_not_changed():
    before = config.Config()
    after = before.replace(seed=1, output_dir="x")
    assert (after.training.seed, after.output.output_dir) == (1, "x")
    assert before == config.Config()
    assert after.data is before.data
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.training.seed = 2
    with pytest.raises(TypeError, match="a config has no sede"):
        before.replace(sede=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output_dir=o"], "nothing to do"),
        (["--do_eval"], "--output_dir.* is missing"),
        (["--do_train", "--num_trials=2"], "give --do_train and --do_eval"),
        (["--do_train", "--do_eval", "--num_trials=2", "--eval_checkpoint=x"], "best or last"),
        (["--do_train", "--do_eval", "--num_trials=2", "--seed=2147483647"], "2147483647 at most"),
        (["--do_eval", "--calibrate"], "--calibrate needs --do_export, --do_frozen or --do_onnx"),
        (["--do_export", "--calibrate", "--horovod"], "in a call without --horovod"),
        (["--do_train", "--init_checkpoint=a", "--warm_start_from=b"], "one of the two"),
        (["--do_train", "--vocab_file=a", "--spm_model_file=b"], "--spm_model_file for a Sentence"),
        (["--do_train", "--sede=1"], "Did you mean: seed"),
        # Of google's ALBERT.
        (["--do_train", "--albert_config_file=a"], "Did you mean: bert_config_file"),
    ],
)
def test_flags_that_do_not_go_together(arguments, message):
    output_dir = [] if "is missing" in message or arguments == REQUIRED else REQUIRED
    with pytest.raises(absl.flags.Error, match=message):
        parsed(*arguments, *output_dir)


def test_help_has_each_flag_below_its_group():
    text = flags.help_text("What it is for.")
    assert text.startswith("What it is for.")
    lines = text.splitlines()
    for title, of_group in flags.groups().items():
        start = lines.index(title + ":")
        for flag in of_group:
            assert any(line.startswith("  --%s " % flag.name) for line in lines[start:])
