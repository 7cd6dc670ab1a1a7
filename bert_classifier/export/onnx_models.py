"""Models of ONNX in bundles, which ONNX Runtime computes. Needs no TensorFlow."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, Mapping

import numpy as np

from bert_classifier.errors import BadInput, one_line
from bert_classifier.export import bundle
from bert_classifier.export.bundle import INPUTS, SERVING_DEFAULT, Bundle

# Not onnxruntime alone: pip would give TensorFlow a NumPy that it does not work with.
_INSTALL = "install it with `pip install '.[onnx]'`, or beside TensorFlow with `make venv`"
_INSTALL_AGAIN = "install it again with `pip install --force-reinstall --no-deps onnxruntime`"

# Those of the packages `onnxruntime-gpu` and `onnxruntime`, the faster one first.
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_ONLY_FATAL = 4  # Other errors come as exceptions too.


def import_onnxruntime() -> Any:
    """Import ONNX Runtime without the line that it writes where NumPy is older than it expects.

    The last version for Python 3.7 was built with a newer NumPy than TensorFlow 1.15 allows. It
    says so on stderr, as the traceback of an exception that nobody gets, and works all the same.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    written = io.StringIO()
    with contextlib.redirect_stderr(written):
        import onnxruntime  # noqa: PLC0415
    if "module compiled against API version" not in written.getvalue():
        sys.stderr.write(written.getvalue())
    return onnxruntime


class OnnxModel(bundle.Model):
    """A model of ONNX in a session of ONNX Runtime."""

    def __init__(self, path: str):
        """Load the model of a file."""
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ONLY_FATAL
        available = onnxruntime.get_available_providers()
        providers = [name for name in _PROVIDERS if name in available]
        self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        self._outputs = [output.name for output in self._session.get_outputs()]
        if {model_input.name for model_input in self._session.get_inputs()} != set(INPUTS):
            raise ValueError("the inputs are not %s" % ", ".join(INPUTS))
        outputs = {name: name for name in self._outputs}
        self.signatures = {SERVING_DEFAULT: ({name: name for name in INPUTS}, outputs)}

    def run(
        self, inputs: Mapping[str, Any], signature: str = SERVING_DEFAULT
    ) -> dict[str, np.ndarray]:
        """Return the outputs; see `bundle.Model`. There is no other signature."""
        found = self._session.run(self._outputs, {name: inputs[name] for name in INPUTS})
        return dict(zip(self._outputs, found))

    def num_outputs(self) -> int | None:
        """Return the number of probabilities per example, None for a regression."""
        shapes = {output.name: output.shape for output in self._session.get_outputs()}
        return shapes["probabilities"][1] if "probabilities" in shapes else None

    def calls_at_a_time(self) -> int:
        """Return 1: the threads of a session, one per core, share the operations of a call."""
        return 1

    def close(self) -> None:
        """Free the session."""
        self._session = None


def open_folder(folder: str) -> Bundle:
    """Load the bundle in a folder; see `bundle.open_bundle`."""
    contents = bundle.contents_of_folder(folder)
    _check_onnxruntime(folder)
    # ONNX Runtime has a class for each kind of error, and no base class for all.
    with bundle.failures_are_bad_input(folder, Exception):
        model = OnnxModel(os.path.join(folder, bundle.ONNX_MODEL))
    return bundle.join(folder, model, contents)


def _check_onnxruntime(folder: str) -> None:
    """Check that ONNX Runtime can be imported, which the model in a folder needs."""
    try:
        import_onnxruntime()
    except Exception as error:  # One that is broken may raise anything.
        fault, cure = "cannot be imported (%.200s)" % one_line(error), _INSTALL_AGAIN
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            fault, cure = "is not installed", _INSTALL
        raise BadInput("%s: needs ONNX Runtime, which %s; %s" % (folder, fault, cure)) from error
