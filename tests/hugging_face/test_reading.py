"""Directories of ALBERT, ELECTRA and ERNIE: the oracle is transformers, by golden/tiny_*."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
import sentence_pieces
import tensorflow.compat.v1 as tf
from graphs import converted_encoder

import encoder_config
import modeling
from bert_classifier import convert
from bert_classifier.errors import BadInput
from bert_classifier.hugging_face import layouts, reading
from encoder_config import OTHER_KINDS

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
NAMES = ["tiny_albert", "tiny_electra", "tiny_ernie"]


def copy_of(name: str, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(str(GOLDEN / name), str(tmp_path / "hf")))


def change_json(path: pathlib.Path, **changes) -> None:
    path.write_text(json.dumps(dict(json.loads(path.read_text()), **changes)))


def change_tensors(hf_dir: pathlib.Path, **changes) -> None:
    path = str(hf_dir / "model.safetensors")
    tensors = dict(safetensors.numpy.load_file(path), **changes)
    kept = {name: np.ascontiguousarray(t) for name, t in tensors.items() if t is not None}
    safetensors.numpy.save_file(kept, path)


def read_json(path: pathlib.Path):
    return json.loads(path.read_text())


def converted(hf_dir: pathlib.Path) -> tuple[pathlib.Path, reading.Converted]:
    output_dir = hf_dir.parent / "converted"
    return output_dir, reading.convert(str(hf_dir), str(output_dir))


def assert_refused(hf_dir: pathlib.Path, *words: str) -> None:
    with pytest.raises(BadInput) as refusal:
        converted(hf_dir)
    message = str(refusal.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not (hf_dir.parent / "converted").exists()


def compute(folder: pathlib.Path, inputs) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the layers, float32 `[batch, seq, hidden]` each, and the pooled output."""
    config = modeling.BertConfig.from_json_file(str(folder / "bert_config.json"))
    with converted_encoder(folder, inputs) as (model, session):
        layers = model.get_all_encoder_layers()
        # transformers tells no layer inside of a group, and the last one is not of the graph alone.
        layers = layers[(config.inner_group_num or 1) - 1 :: config.inner_group_num or 1]
        return session.run((layers, model.get_pooled_output()))


@pytest.mark.parametrize("name", NAMES)
def test_our_model_computes_the_numbers_of_hugging_face(name, tmp_path):
    folder, _ = converted(copy_of(name, tmp_path))
    numbers = np.load(str(GOLDEN / name / "numbers.npz"))
    layers, _ = compute(folder, numbers)
    # transformers' first is the embeddings.
    assert len(layers) == len(numbers["hidden_states"]) - 1
    np.testing.assert_allclose(layers, numbers["hidden_states"][1:], atol=1e-4)


@pytest.mark.parametrize("name", ["tiny_albert", "tiny_ernie"])
def test_the_classifier_comes_too(name, tmp_path):
    folder, result = converted(copy_of(name, tmp_path))
    numbers = np.load(str(GOLDEN / name / "numbers.npz"))
    _, pooled = compute(folder, numbers)
    reader = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
    kernel, bias = reader.get_tensor("output_weights"), reader.get_tensor("output_bias")
    np.testing.assert_allclose(pooled @ kernel.T + bias, numbers["logits"], atol=1e-4)
    assert result.has_classifier and result.heads_left_out == []
    assert (folder / "labels.txt").read_text() == "bad\nso so\ngood\n"


def test_the_classifier_of_electra_has_a_layer_more_and_is_left_out(tmp_path):
    folder, result = converted(copy_of("tiny_electra", tmp_path))
    assert not result.has_classifier and result.heads_left_out == ["classifier"]
    variables = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
    config = modeling.BertConfig.from_json_file(str(folder / "bert_config.json"))
    assert variables.get_variable_to_shape_map() == config.variable_shapes()
    assert not (folder / "labels.txt").exists()


@pytest.mark.parametrize(
    "name, kind, differing",
    [
        (
            "tiny_albert",
            "albert",
            {
                "embedding_size": 4,
                "num_hidden_groups": 2,
                "inner_group_num": 2,
                "hidden_act": "gelu",
                "hidden_dropout_prob": 0,
                "attention_probs_dropout_prob": 0,
            },
        ),
        (
            "tiny_electra",
            "electra",
            {"embedding_size": 4, "hidden_act": "gelu_erf", "model_type": "electra"},
        ),
        ("tiny_ernie", "bert", {"hidden_act": "relu", "layer_norm_eps": 1e-5}),
    ],
)
def test_config_names_the_kind(name, kind, differing, tmp_path):
    folder, _ = converted(copy_of(name, tmp_path))
    config = read_json(folder / "bert_config.json")
    shared = {
        "vocab_size": 16,
        "hidden_size": 8,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "max_position_embeddings": 10,
        "type_vocab_size": 2,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
    }
    without_dropout = {key: config.pop(key, None) for key in ["classifier_dropout_prob"]}
    assert config == dict(shared, **differing)
    # transformers' null for ELECTRA's is that of the layers, which is the usual one here.
    assert without_dropout == {"classifier_dropout_prob": None}
    assert encoder_config.kind_of_keys(config) == kind


@pytest.mark.parametrize(
    "name, changes, written",
    [
        ("tiny_albert", {"classifier_dropout_prob": 0.3}, 0.3),
        ("tiny_albert", {"classifier_dropout_prob": 0}, 0),
        ("tiny_electra", {"classifier_dropout": 0.2}, 0.2),
        ("tiny_electra", {"hidden_dropout_prob": 0.2}, 0.2),
        ("tiny_ernie", {"hidden_dropout_prob": 0.2}, None),
        ("tiny_ernie", {"hidden_dropout_prob": 0.2, "classifier_dropout": 0.1}, 0.1),
    ],
)
def test_dropout_of_the_classifier_is_that_of_hugging_face(name, changes, written, tmp_path):
    hf_dir = copy_of(name, tmp_path)
    change_json(hf_dir / "config.json", **changes)
    folder, _ = converted(hf_dir)
    assert read_json(folder / "bert_config.json").get("classifier_dropout_prob") == written


@pytest.mark.parametrize(
    "name, theirs, ours",
    [
        ("tiny_albert", "gelu", "gelu_erf"),
        ("tiny_albert", "relu", "relu"),
        ("tiny_electra", "gelu", "gelu_erf"),
        # "gelu" would be the exact form again.
        ("tiny_electra", "gelu_new", "gelu_new"),
        ("tiny_electra", "gelu_pytorch_tanh", "gelu_new"),
        ("tiny_ernie", "gelu", "gelu_erf"),
        ("tiny_ernie", "gelu_new", "gelu"),
    ],
)
def test_the_two_forms_of_gelu_stay_apart(name, theirs, ours, tmp_path):
    hf_dir = copy_of(name, tmp_path)
    change_json(hf_dir / "config.json", hidden_act=theirs)
    folder, _ = converted(hf_dir)
    config = modeling.BertConfig.from_json_file(str(folder / "bert_config.json"))
    assert config.hidden_act == ours
    is_exact = config.activation == "gelu_erf"
    assert is_exact == (theirs == "gelu")


def test_keys_that_old_files_lack_have_the_defaults_of_hugging_face(tmp_path):
    hf_dir = copy_of("tiny_electra", tmp_path)
    settings = read_json(hf_dir / "config.json")
    del settings["embedding_size"], settings["architectures"], settings["layer_norm_eps"]
    (hf_dir / "config.json").write_text(json.dumps(settings))
    assert_refused(hf_dir, "has shape [16, 4], config.json asks for [16, 128]")


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_alone_is_saved_without_the_prefix(name, tmp_path):
    first, _ = converted(copy_of(name, tmp_path))
    hf_dir = copy_of(name, tmp_path / "again")
    path = str(hf_dir / "model.safetensors")
    prefix = read_json(hf_dir / "config.json")["model_type"] + "."
    tensors = safetensors.numpy.load_file(path).items()
    safetensors.numpy.save_file({n.replace(prefix, "", 1): t for n, t in tensors}, path)
    class_name = read_json(hf_dir / "config.json")["architectures"][0].split("For")[0] + "Model"
    change_json(hf_dir / "config.json", architectures=[class_name])
    second, result = converted(hf_dir)
    assert result.heads_left_out == ["classifier"] and not result.has_classifier
    readers = [tf.train.load_checkpoint(str(f / "bert_model.ckpt")) for f in (first, second)]
    for variable in readers[1].get_variable_to_shape_map():
        np.testing.assert_array_equal(*(reader.get_tensor(variable) for reader in readers))


# A token classifier and a multiple choice have tensors of the same names and other outputs.
@pytest.mark.parametrize("task", ["TokenClassification", "MultipleChoice", "QuestionAnswering"])
def test_a_classifier_of_another_task_is_left_out(task, tmp_path):
    hf_dir = copy_of("tiny_albert", tmp_path)
    change_json(hf_dir / "config.json", architectures=["AlbertFor" + task])
    folder, result = converted(hf_dir)
    assert result.heads_left_out == ["classifier"] and not (folder / "labels.txt").exists()


@pytest.mark.parametrize(
    "id2label",
    [
        None,
        {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
        {"0": "bad", "1": "bad", "2": "good"},
        {"0": "bad", "1": "so\nso", "2": "good"},
        {"0": "bad", "1": " ", "2": "good"},
        {"0": "bad", "2": "good", "3": "best"},
        ["bad", "so so", "good"],
        3,
        {},
    ],
)
def test_outputs_without_names_make_no_labels(id2label, tmp_path):
    hf_dir = copy_of("tiny_albert", tmp_path)
    change_json(hf_dir / "config.json", id2label=id2label)
    folder, result = converted(hf_dir)
    assert result.has_classifier and result.labels_file is None
    assert not (folder / "labels.txt").exists()


def test_a_classifier_with_another_number_of_labels_is_refused(tmp_path):
    hf_dir = copy_of("tiny_albert", tmp_path)
    change_json(hf_dir / "config.json", id2label={"0": "bad", "1": "good"})
    assert_refused(hf_dir, "config.json: id2label has 2 labels, and the classifier 3 outputs")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"classifier.bias": None}, ["lacks classifier.bias"]),
        ({"classifier.weight": np.zeros([3, 9], np.float32)}, ["[3, 9]", "[3, 8]"]),
        ({"classifier.bias": np.full(3, np.nan, np.float32)}, ["classifier.bias", "not finite"]),
        ({"albert.pooler.weight": None}, ["lacks 1 of the 73", "pooler.weight", "AlbertModel."]),
        (
            {
                "albert.encoder.albert_layer_groups.1.albert_layers.0.ffn.weight": None,
            },
            ["encoder.albert_layer_groups.1.albert_layers.0.ffn.weight"],
        ),
        (
            {"albert.encoder.albert_layer_groups.2.albert_layers.0.ffn.bias": np.zeros(12)},
            ["no use for: encoder.albert_layer_groups.2"],
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(changes, words, tmp_path):
    hf_dir = copy_of("tiny_albert", tmp_path)
    change_tensors(hf_dir, **changes)
    assert_refused(hf_dir, *words)


def with_equal_widths(tmp_path, projection, bias) -> pathlib.Path:
    hf_dir = copy_of("tiny_albert", tmp_path)
    change_json(hf_dir / "config.json", embedding_size=8)
    tensors = safetensors.numpy.load_file(str(hf_dir / "model.safetensors"))
    wider = {
        name: np.concatenate([tensor, tensor], axis=-1)
        for name, tensor in tensors.items()
        if name.startswith("albert.embeddings.")
    }
    prefix = "albert.encoder.embedding_hidden_mapping_in."
    change_tensors(hf_dir, **wider, **{prefix + "weight": projection, prefix + "bias": bias})
    return hf_dir


def test_a_projection_of_equal_widths_is_left_out_if_it_is_the_identity(tmp_path):
    identity = np.eye(8, dtype=np.float32)
    folder, result = converted(with_equal_widths(tmp_path, identity, np.zeros(8, np.float32)))
    assert result.num_variables == 73
    config = modeling.BertConfig.from_json_file(str(folder / "bert_config.json"))
    assert config.projection is None


@pytest.mark.parametrize("scale, bias", [(2, 0), (1, 0.5)])
def test_another_projection_of_equal_widths_is_refused(scale, bias, tmp_path):
    weight, vector = scale * np.eye(8, dtype=np.float32), np.full(8, bias, np.float32)
    words = ["encoder.embedding_hidden_mapping_in.", "is not the identity"]
    assert_refused(with_equal_widths(tmp_path, weight, vector), *words)


def test_tensors_of_distillation_are_left_out(tmp_path):
    hf_dir = copy_of("tiny_ernie", tmp_path)
    extra = {name: np.zeros([2, 8], np.float32) for name in ("fit_dense.weight", "fit_denses.0.x")}
    change_tensors(hf_dir, **extra)
    _, result = converted(hf_dir)
    assert result.heads_left_out == ["fit_dense", "fit_denses"]


def test_the_heads_of_pre_training_are_left_out_and_named(tmp_path):
    hf_dir = copy_of("tiny_electra", tmp_path)
    heads = {
        "discriminator_predictions.dense.weight": np.zeros([8, 8], np.float32),
        "generator_lm_head.bias": np.zeros(16, np.float32),
        "classifier.dense.weight": None,
        "classifier.dense.bias": None,
        "classifier.out_proj.weight": None,
        "classifier.out_proj.bias": None,
    }
    change_tensors(hf_dir, **heads)
    change_json(hf_dir / "config.json", architectures=["ElectraForPreTraining"])
    _, result = converted(hf_dir)
    assert result.heads_left_out == ["discriminator_predictions", "generator_lm_head"]


@pytest.mark.parametrize("model_type", sorted(OTHER_KINDS.keys() - layouts.LAYOUTS.keys()))
def test_what_is_taken_for_bert_is_refused_with_the_reason(model_type, tmp_path):
    hf_dir = copy_of("tiny_ernie", tmp_path)
    change_json(hf_dir / "config.json", model_type=model_type, architectures=None)
    assert_refused(hf_dir, repr(model_type), OTHER_KINDS[model_type], "bert, ernie, albert")


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"use_task_id": True}, "use_task_id is True"),
        ({"architectures": ["ErnieMModel"]}, "ErnieMModel"),
        ({"architectures": ["BertModel"]}, "'BertModel' is not ernie"),
    ],
)
def test_ernie_with_vectors_for_tasks_is_refused(changes, word, tmp_path):
    hf_dir = copy_of("tiny_ernie", tmp_path)
    change_json(hf_dir / "config.json", **changes)
    assert_refused(hf_dir, "config.json", word)


def test_roberta_wwm_is_bert_whatever_its_folder_is_called(tmp_path):
    hf_dir = copy_of("tiny_bert", tmp_path)
    (hf_dir / "encoder.safetensors").rename(hf_dir / "model.safetensors")
    renamed = tmp_path / "chinese-roberta-wwm-ext"
    hf_dir.rename(renamed)
    _, result = converted(renamed)
    assert result.num_variables == 39


# The vocabulary


@pytest.fixture(scope="module")
def pieces() -> bytes:
    """A model of SentencePiece with 11 pieces."""
    return sentence_pieces.train(
        ["ab ba abba", "baba ab", "bb aa"] * 20, 11, user_defined_symbols=[]
    )


def english_albert(tmp_path, pieces, **settings) -> pathlib.Path:
    hf_dir = copy_of("tiny_albert", tmp_path)
    (hf_dir / "vocab.txt").unlink()
    (hf_dir / "spiece.model").write_bytes(pieces)
    (hf_dir / "tokenizer_config.json").write_text(json.dumps(settings))
    return hf_dir


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tokenizer_class": "AlbertTokenizer", "do_lower_case": True},
        {"tokenizer_class": "AlbertTokenizerFast", "keep_accents": False, "remove_space": True},
    ],
)
def test_english_albert_has_pieces(settings, tmp_path, pieces, capsys):
    hf_dir = english_albert(tmp_path, pieces, **settings)
    output_dir = tmp_path / "converted"
    assert convert.main([str(hf_dir), str(output_dir)]) == 0
    assert (output_dir / "spiece.model").read_bytes() == pieces
    assert not (output_dir / "vocab.txt").exists()
    flags = capsys.readouterr().out.splitlines()[1].split()
    assert "--spm_model_file=%s/spiece.model" % output_dir in flags
    assert ("--do_lower_case=true" in flags) == ("do_lower_case" in settings)


def test_chinese_albert_has_words_beside_pieces(tmp_path, pieces):
    hf_dir = copy_of("tiny_albert", tmp_path)
    (hf_dir / "spiece.model").write_bytes(pieces)
    folder, result = converted(hf_dir)
    assert (folder / "vocab.txt").exists() and not (folder / "spiece.model").exists()
    assert result.tokenizer.splitting.flag == "vocab_file"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"keep_accents": True}, ["tokenizer_config.json: keep_accents is True"]),
        ({"remove_space": False}, ["tokenizer_config.json: remove_space is False"]),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, ["'PreTrainedTokenizerFast'"]),
        ({"tokenizer_class": "BertTokenizer"}, ["vocab.txt: no such file", "BertTokenizer."]),
    ],
)
def test_pieces_that_are_made_otherwise_are_refused(settings, words, tmp_path, pieces):
    assert_refused(english_albert(tmp_path, pieces, **settings), *words)


def test_missing_pieces_are_named(tmp_path, pieces):
    hf_dir = english_albert(tmp_path, pieces)
    (hf_dir / "spiece.model").unlink()
    assert_refused(hf_dir, "spiece.model: no such file", "AlbertTokenizer.")


def test_more_pieces_than_embeddings_are_refused(tmp_path, pieces):
    hf_dir = english_albert(tmp_path, pieces)
    change_json(hf_dir / "config.json", vocab_size=5)
    assert_refused(hf_dir, "spiece.model", "vocab_size 5")


def test_a_file_that_has_no_pieces_is_refused(tmp_path, pieces):
    assert_refused(
        english_albert(tmp_path, b"version https://git-lfs"), "spiece.model: is no Sente"
    )


# In config.json, as of models that were published before tokenizer_config.json had it.
def test_a_tokenizer_of_another_language_is_refused(tmp_path):
    hf_dir = copy_of("tiny_ernie", tmp_path)
    (hf_dir / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    change_json(hf_dir / "config.json", tokenizer_class="BertJapaneseTokenizer")
    assert_refused(hf_dir, "config.json: tokenizer_class is 'BertJapaneseTokenizer'")
