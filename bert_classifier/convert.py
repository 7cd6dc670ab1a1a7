"""Turn a Hugging Face BERT directory into a checkpoint as google publishes them.

    python -m bert_classifier.convert HF_DIR OUTPUT_DIR

Read config.json, vocab.txt and model.safetensors or pytorch_model.bin. Torch is not needed, and no
code in those files is run. A model that this project would compute in another way than Hugging Face
is refused: it would train without an error, only worse.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pickle
import re
import shutil
import struct
import sys
import tempfile
import zipfile
from typing import Any, BinaryIO, NamedTuple, Sequence

from bert_classifier import streams

if __name__ == "__main__":
    streams.prepare()

import numpy as np
import safetensors

from bert_classifier import files
from bert_classifier.errors import BadInput
from bert_classifier.model import weights
from modeling import BertConfig

CHECKPOINT_NAME = "bert_model.ckpt"
CONFIG_NAME = "bert_config.json"
VOCAB_NAME = "vocab.txt"


class Converted(NamedTuple):
    """The result of `convert`, and what the user should know about it."""

    init_checkpoint: str
    num_variables: int
    heads_left_out: list[str]
    do_lower_case: bool | None  # None: the directory does not say.


def convert(hf_dir: str, output_dir: str) -> Converted:
    """Convert the Hugging Face BERT in `hf_dir`; make `output_dir` completely or not at all.

    Args:
        hf_dir: directory with config.json, vocab.txt and model.safetensors or pytorch_model.bin.
        output_dir: gets bert_model.ckpt.*, bert_config.json and vocab.txt; must be new or empty.

    Raises:
        BadInput: the model is not a BERT that this project computes exactly, a file is missing or
            damaged, or `output_dir` is not empty.
    """
    output_dir = os.path.realpath(output_dir)
    _check_is_free(output_dir)
    config = read_config(hf_dir)
    do_lower_case = read_do_lower_case(hf_dir)
    vocab_path = _check_vocab(hf_dir, config["vocab_size"])
    weights_path = find_weights(hf_dir)
    encoder, heads = split_encoder_and_heads(read_weights(weights_path))
    variables = encoder_variables(encoder, config, weights_path)

    parent = os.path.dirname(output_dir)
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=parent) as staging:
        complete = os.path.join(staging, "complete")
        os.mkdir(complete)
        weights.write_checkpoint(variables, os.path.join(complete, CHECKPOINT_NAME))
        files.write_json(os.path.join(complete, CONFIG_NAME), config)
        shutil.copyfile(vocab_path, os.path.join(complete, VOCAB_NAME))
        os.rename(complete, output_dir)
    checkpoint = os.path.join(output_dir, CHECKPOINT_NAME)
    return Converted(checkpoint, len(variables), heads, do_lower_case)


def _check_is_free(output_dir: str) -> None:
    if os.path.isdir(output_dir):
        if os.listdir(output_dir):
            raise BadInput("%s: is not empty; remove it or choose a new directory" % output_dir)
    elif os.path.exists(output_dir):
        raise BadInput("%s: is a file; choose a new directory" % output_dir)


# Configuration, vocabulary, tokenizer settings

_GOOGLE_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_GOOGLE_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")

# Hugging Face's "gelu" is the exact form with erf; google's "gelu" is the approximation with tanh.
_GOOGLE_ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "tanh": "tanh",
}

# Settings that google's BERT does not have, each with the value that google's code implies.
_BUILT_IN = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "layer_norm_eps": 1e-12,
    "is_decoder": False,
    "add_cross_attention": False,
}


def read_config(hf_dir: str) -> dict[str, Any]:
    """Read config.json and return the content of google's bert_config.json.

    Raises:
        BadInput: the file is missing or damaged, or is not of google's BERT.
    """
    if not os.path.isdir(hf_dir):
        raise BadInput("%s: no such directory; download the model into one first" % hf_dir)
    path = os.path.join(hf_dir, "config.json")
    settings = _read_json(path)
    for name in settings.get("architectures") or []:
        if not str(name).startswith("Bert") or str(name).startswith("BertGeneration"):
            raise BadInput("%s: architecture %r is not BERT; use a BERT model" % (path, name))
    for key, value in _BUILT_IN.items():
        if settings.get(key) not in (None, value):
            message = "%s: %s is %r, only %r can be converted; use another model"
            raise BadInput(message % (path, key, settings[key], value))

    for key in _GOOGLE_SIZES:
        if type(settings.get(key)) is not int or settings[key] < 1:
            message = "%s: %s is %r, not a whole number above 0; download the file again"
            raise BadInput(message % (path, key, settings.get(key)))
    for key in _GOOGLE_RATES:
        if type(settings.get(key)) not in (int, float) or not 0 <= settings[key] < 1:
            message = "%s: %s is %r, not a number from 0 to 1; download the file again"
            raise BadInput(message % (path, key, settings.get(key)))
    activation = str(settings.get("hidden_act"))
    if activation not in _GOOGLE_ACTIVATIONS:
        known = ", ".join(sorted(_GOOGLE_ACTIVATIONS))
        message = "%s: hidden_act is %r, only %s can be converted; use another model"
        raise BadInput(message % (path, activation, known))
    config = {key: settings[key] for key in _GOOGLE_SIZES + _GOOGLE_RATES}
    config["hidden_act"] = _GOOGLE_ACTIVATIONS[activation]
    return config


def read_do_lower_case(hf_dir: str) -> bool | None:
    """Read from tokenizer_config.json whether the model is uncased, None if it does not say.

    Raises:
        BadInput: the model's tokenizer splits text in another way than google's.
    """
    path = os.path.join(hf_dir, "tokenizer_config.json")
    if not os.path.exists(path):
        return None
    settings = _read_json(path)
    googles = {
        "tokenizer_class": ("BertTokenizer", "BertTokenizerFast"),
        "tokenize_chinese_chars": (True,),
        "strip_accents": (settings.get("do_lower_case", True),),
    }
    for key, values in googles.items():
        if settings.get(key) not in (None,) + values:
            message = "%s: %s is %r, google's tokenizer has %r; delete the line to use google's"
            raise BadInput(message % (path, key, settings[key], values[0]))
    return settings.get("do_lower_case")


def _check_vocab(hf_dir: str, vocab_size: int) -> str:
    """Return the path of vocab.txt; it must not have more words than the model has embeddings."""
    path = os.path.join(hf_dir, VOCAB_NAME)
    if not os.path.exists(path):
        cure = "BertTokenizer.from_pretrained(...).save_vocabulary(...) writes it"
        raise BadInput("%s: no such file; %s" % (path, cure))
    files.check_rereadable(path)
    with open(path, "rb") as stream:
        # Blank lines at the end do not count.
        num_words = stream.read().rstrip().count(b"\n") + 1
    if num_words > vocab_size:
        message = "%s:%d: more words than vocab_size %d; use the vocab.txt of this model"
        raise BadInput(message % (path, num_words, vocab_size))
    return path


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            settings = json.load(stream)
    except FileNotFoundError:
        raise BadInput("%s: no such file; is this a Hugging Face directory?" % path) from None
    except ValueError as error:
        raise BadInput("%s: not JSON (%s); download it again" % (path, error)) from None
    if not isinstance(settings, dict):
        raise BadInput("%s: not a JSON object; download it again" % path)
    return settings


# From Hugging Face's tensors to google's variables


def split_encoder_and_heads(
    tensors: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Separate the encoder from the heads on it, and give its tensors their current names.

    BertModel saves `encoder...`, a model with a head saves `bert.encoder...`. Before 2019 the two
    tensors of a LayerNorm were called gamma and beta.

    Returns:
        The encoder's tensors by name, and the first parts of the other names, such as `cls`.
    """
    encoder = {}
    heads = set()
    for full_name, tensor in tensors.items():
        name = re.sub(r"^bert\.", "", full_name)
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
        part = name.split(".")[0]
        if part not in ("embeddings", "encoder", "pooler"):
            heads.add(part)
        elif name not in ("embeddings.position_ids", "embeddings.token_type_ids"):
            encoder[name] = tensor
    return encoder, sorted(heads)


def encoder_variables(
    encoder: dict[str, np.ndarray], config: dict[str, Any], source: str
) -> dict[str, np.ndarray]:
    """Rename and transpose the tensors of a Hugging Face encoder to google's variables.

    Args:
        encoder: the tensors by current Hugging Face name, of any float dtype.
        config: content of bert_config.json.
        source: the file of the tensors, for messages.

    Returns:
        Exactly the variables that google's BertModel creates for `config`, float32.

    Raises:
        BadInput: a tensor is missing, left over, of another shape, not float or not finite.
    """
    shapes = BertConfig(**config).variable_shapes()
    wanted = [hugging_face_name(name) for name in shapes]
    missing = [name for name in wanted if name not in encoder]
    if missing:
        cure = "is it damaged, or of another model than its config.json?"
        if all(name.startswith("pooler.") for name in missing):
            # It was saved by a masked language model. Fine-tuning may start from a random pooler,
            # but the user should decide that, and Hugging Face's own tool does it.
            cure = "BertModel.from_pretrained(...).save_pretrained(...) adds a new, random pooler"
        message = "%s: lacks %d of the %d tensors of its config.json: %s; %s"
        raise BadInput(message % (source, len(missing), len(wanted), _first_few(missing), cure))
    left_over = sorted(set(encoder) - set(wanted))
    if left_over:
        message = "%s: has tensors that its config.json has no use for: %s; use its own config.json"
        raise BadInput(message % (source, _first_few(left_over)))

    variables = {}
    for (name, shape), hf_name in zip(shapes.items(), wanted):
        tensor = encoder[hf_name]
        if name.endswith("/kernel"):
            tensor = tensor.T
        _check_tensor(tensor, shape, "%s: %s (as %s)" % (source, hf_name, name))
        variables[name] = np.ascontiguousarray(tensor, np.float32)
    return variables


def hugging_face_name(variable: str) -> str:
    """Translate `<scope>/encoder/layer_0/...`, the name of a variable, to `encoder.layer.0...`."""
    _, name = variable.split("/", 1)
    name = re.sub(r"\blayer_(\d+)/", r"layer/\1/", name)
    name = re.sub(r"/(kernel|gamma)$", "/weight", name)
    name = re.sub(r"/beta$", "/bias", name)
    name = re.sub(r"_embeddings$", "_embeddings/weight", name)
    return name.replace("/", ".")


def _check_tensor(tensor: np.ndarray, shape: list[int], name: str) -> None:
    if list(tensor.shape) != shape:
        message = "%s has shape %s, config.json asks for %s; use the config.json of this model"
        raise BadInput(message % (name, list(tensor.shape), shape))
    if tensor.dtype.kind != "f":
        message = "%s has dtype %s; quantized models cannot be converted, use the original"
        raise BadInput(message % (name, tensor.dtype))
    if not np.isfinite(tensor).all():
        raise BadInput("%s has values that are not finite; download the file again" % name)


def _first_few(names: list[str], count: int = 8) -> str:
    rest = len(names) - count
    return ", ".join(names[:count]) + (" and %d more" % rest if rest > 0 else "")


# Reading weights without running code of the file


def find_weights(hf_dir: str) -> str:
    """Return the path of the file with the weights; prefer safetensors to pickle.

    Raises:
        BadInput: there is no such file, or the model is saved in pieces.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        path = os.path.join(hf_dir, name)
        if os.path.exists(path):
            return path
        if os.path.exists(path + ".index.json"):
            cure = "save it again with save_pretrained(..., max_shard_size='100GB')"
            raise BadInput("%s.index.json: the model is saved in pieces; %s" % (path, cure))
    others = [
        name for name in sorted(os.listdir(hf_dir)) if name.endswith((".safetensors", ".bin"))
    ]
    cure = "download one of them"
    if others:
        cure += ", or rename the file that has the weights (%s)" % ", ".join(others)
    raise BadInput("%s: has neither model.safetensors nor pytorch_model.bin; %s" % (hf_dir, cure))


def read_weights(path: str) -> dict[str, np.ndarray]:
    """Read all tensors of a safetensors file or of either file format of `torch.save`.

    Returns:
        The tensors by name, in the dtype of the file; bfloat16, which NumPy lacks, as float32.

    Raises:
        BadInput: the file is damaged, or would run code.
    """
    files.check_rereadable(path)
    with open(path, "rb") as stream:
        try:
            if path.endswith(".safetensors"):
                return _read_safetensors(stream)
            if stream.peek(4).startswith(b"PK\x03\x04"):
                return _read_torch_zip(stream)
            return _read_torch_legacy(stream)
        except BadInput as error:
            raise BadInput("%s: %s" % (path, error)) from None
        except Exception as error:  # Reading a damaged pickle can raise anything.
            reason = " ".join(str(error).split()) or type(error).__name__
            cure = "download it again (after a git clone: git lfs pull)"
            raise BadInput("%s: damaged or incomplete (%s); %s" % (path, reason, cure)) from error


_NUMPY_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def _decode(data: bytes, dtype: str) -> np.ndarray:
    """Return the numbers in `data`, one dimension; `dtype` is a name of safetensors."""
    if dtype not in _NUMPY_DTYPES:
        raise BadInput("has numbers of type %s; quantized models cannot be converted" % dtype)
    numbers = np.frombuffer(data, _NUMPY_DTYPES[dtype])
    if dtype == "BF16":  # The upper half of a float32.
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers


def _read_safetensors(stream: BinaryIO) -> dict[str, np.ndarray]:
    return {
        name: _decode(tensor["data"], tensor["dtype"]).reshape(tensor["shape"])
        for name, tensor in safetensors.deserialize(stream.read())
    }


class _Tensor(NamedTuple):
    """A tensor in a torch file: a view of a storage; offset and strides count elements."""

    storage_key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage_key: str, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    return _Tensor(storage_key, offset, shape, strides)


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


# The only functions and classes that a pickle can get. The type of a storage is a plain string:
# there is nothing in it to call.
_PICKLE_GLOBALS = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch.BFloat16Storage": "BF16",
    "torch.BoolStorage": "BOOL",
    "torch.ByteStorage": "U8",
    "torch.CharStorage": "I8",
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.IntStorage": "I32",
    "torch.LongStorage": "I64",
    "torch.ShortStorage": "I16",
}


class _TorchUnpickler(pickle.Unpickler):
    """Unpickle torch tensors as `_Tensor`, without any other function or class."""

    def __init__(self, stream: BinaryIO):
        super().__init__(stream)
        self.storage_dtypes: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the function or class of this name if it is allowed."""
        global_name = "%s.%s" % (module, name)
        if global_name not in _PICKLE_GLOBALS:
            cure = "use a file with nothing but the weights, best model.safetensors"
            raise BadInput("asks for %s, which weights do not need; %s" % (global_name, cure))
        return _PICKLE_GLOBALS[global_name]

    def persistent_load(self, pid: Any) -> str:
        """Note the dtype of the storage that the pickle refers to, and return its key."""
        kind, dtype, key, _, _, *view = pid
        if kind != "storage" or view not in ([], [None]):
            raise ValueError("a reference of an unknown kind")
        self.storage_dtypes[key] = dtype
        return key


def _read_torch_zip(stream: BinaryIO) -> dict[str, np.ndarray]:
    """Read `torch.save` since 1.6: a zip archive with data.pkl and one member per storage."""
    with zipfile.ZipFile(stream) as archive:
        (pickle_name,) = [n for n in archive.namelist() if re.match(r"^[^/]+/data\.pkl$", n)]
        unpickler = _TorchUnpickler(io.BytesIO(archive.read(pickle_name)))
        tensors = unpickler.load()
        folder = pickle_name[: -len(".pkl")] + "/"
        storages = {
            key: _decode(archive.read(folder + key), dtype)
            for key, dtype in unpickler.storage_dtypes.items()
        }
    return _view_tensors(tensors, storages)


def _read_torch_legacy(stream: BinaryIO) -> dict[str, np.ndarray]:
    """Read `torch.save` before 1.6.

    The file has five pickles: a magic number, the protocol's version, the writing system, the
    tensors, the keys of their storages. For every key follow the number of elements, then these.
    """
    if _TorchUnpickler(stream).load() != 0x1950A86A20F9469CFC6C:
        raise ValueError("not written by torch.save")
    for _ in ("protocol version", "writing system"):
        _TorchUnpickler(stream).load()
    unpickler = _TorchUnpickler(stream)
    tensors = unpickler.load()
    storages = {}
    for key in _TorchUnpickler(stream).load():
        (num_elements,) = struct.unpack("<q", stream.read(8))
        dtype = unpickler.storage_dtypes[key]
        num_bytes = num_elements * np.dtype(_NUMPY_DTYPES[dtype]).itemsize
        storages[key] = _decode(stream.read(num_bytes), dtype)
    return _view_tensors(tensors, storages)


def _view_tensors(
    tensors: dict[str, _Tensor], storages: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Make arrays of the tensors; NumPy refuses one that reaches beyond its storage."""
    arrays = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, _Tensor):
            raise BadInput("%r is not a tensor; save the model's state_dict() alone" % name)
        storage = storages[tensor.storage_key]
        size = storage.itemsize
        strides = [size * stride for stride in tensor.strides]
        offset = size * tensor.offset
        arrays[name] = np.ndarray(tensor.shape, storage.dtype, storage, offset, strides)
    return arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert as the command line says; return the exit status, 2 for bad input."""
    parser = argparse.ArgumentParser(
        description="Turns a Hugging Face BERT directory into a TensorFlow 1 checkpoint."
    )
    parser.add_argument("hf_dir", help="has config.json, vocab.txt and the weights")
    parser.add_argument("output_dir", help="a new directory for checkpoint, config and vocabulary")
    parsed = parser.parse_args(arguments)
    try:
        converted = convert(files.user_path(parsed.hf_dir), files.user_path(parsed.output_dir))
    except (BadInput, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(_report(converted))
    return 0


def _report(converted: Converted) -> str:
    lines = ["Converted %d variables. Train with:" % converted.num_variables]
    folder = os.path.dirname(converted.init_checkpoint)
    flags = "  --init_checkpoint=%s --bert_config_file=%s --vocab_file=%s" % (
        converted.init_checkpoint,
        os.path.join(folder, CONFIG_NAME),
        os.path.join(folder, VOCAB_NAME),
    )
    if converted.do_lower_case is not None:
        flags += " --do_lower_case=%s" % str(converted.do_lower_case).lower()
    lines.append(flags)
    if converted.heads_left_out:
        heads = ", ".join(converted.heads_left_out)
        lines.append("Not converted, as fine-tuning puts its own head on BERT: %s" % heads)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
