"""Read the file of weights in a Hugging Face directory, without running code in it; write one."""

from __future__ import annotations

import collections
import io
import os
import pickle
import re
import struct
import zipfile
from typing import Any, BinaryIO, Mapping, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from bert_classifier import files
from bert_classifier.errors import BadInput, one_line

SAFETENSORS = "model.safetensors"


def find_weights(hf_dir: str) -> str:
    """Return the path of the file with the weights; prefer safetensors to pickle.

    Raises:
        BadInput: there is no such file, or the model is saved in pieces.
    """
    for name in (SAFETENSORS, "pytorch_model.bin"):
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
            cure = "download it again (after a git clone: git lfs pull)"
            raise BadInput(
                "%s: damaged or incomplete (%s); %s" % (path, one_line(error), cure)
            ) from error


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


def write_weights(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors as a safetensors file that transformers loads into PyTorch."""
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(arrays, path, {"format": "pt"})
