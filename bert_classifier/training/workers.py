"""The workers of a job and their collective operations. The only module that uses Horovod.

A worker is a process, with a GPU of its own if there are any. All workers run the same program;
worker 0, the chief, writes the files. It decides, for example, where to resume and when to stop,
and the others get its decision, so that all do the same at the same step.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import platform
from typing import Any, Callable, Sequence, TypeVar

import tensorflow.compat.v1 as tf

from bert_classifier.errors import BadInput

_LOG = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class SharedFailure(BadInput):
    """Bad input that is known to all workers; worker 0 reports it."""


class Workers:
    """A single process: collective operations return its own values.

    With several workers, all of them must call the same methods in the same order.

    Attributes:
        size: number of workers.
        index: number of this worker, from 0.
        average_gradients: list of float tensors -> their means over all workers, in this order;
            None for a single worker.
        add_up: tensor, name -> its sum over all workers; None for a single worker. The name is the
            same on all workers, and all run the sum at the same step.
        gather: tensor, name -> the tensors of all workers, concatenated along the first dimension,
            in which they may differ; None for a single worker.
    """

    size = 1
    index = 0
    average_gradients: Callable[[Sequence[tf.Tensor]], list[tf.Tensor]] | None = None
    add_up: Callable[[tf.Tensor, str], tf.Tensor] | None = None
    gather: Callable[[tf.Tensor, str], tf.Tensor] | None = None

    @property
    def is_chief(self) -> bool:
        """Tell whether this is worker 0, which writes the files."""
        return self.index == 0

    def num_cores(self) -> int:
        """Return the number of cores that this worker may use."""
        return len(os.sched_getaffinity(0))

    def configure(self, session_config: tf.ConfigProto) -> None:
        """Let a session use only the GPU of this worker."""

    def first_hooks(self) -> list[tf.train.SessionRunHook]:
        """Return hooks that give all workers the weights of the chief before the first step."""
        return []

    def from_chief(self, action: Callable[[], _Result]) -> _Result:
        """Call `action` on the chief alone; return its result, or raise its BadInput, on all."""
        return action()

    def together(self, action: Callable[[], _Result]) -> _Result:
        """Call `action` on each worker; when it raises BadInput on any of them, raise it on all."""
        return action()

    def from_all(self, value: _Result) -> list[_Result]:
        """Return the values of all workers, in the order of the workers."""
        return [value]

    def any(self, is_so: bool) -> bool:
        """Tell whether `is_so` is true on any worker."""
        return any(self.from_all(is_so))

    def wait_for_all(self) -> None:
        """Return when all workers have called this."""
        self.any(False)

    def loss_of_worker(self, error: Exception) -> str | None:
        """Return a message if an error means that another worker has ended, else None."""
        del error
        return None


def start(use_horovod: bool, fp16_allreduce: bool = False) -> Workers:
    """Connect to the other workers of the job.

    Args:
        use_horovod: whether `horovodrun` has started this process.
        fp16_allreduce: send gradients as float16, which halves the traffic and rounds the sums.

    Raises:
        BadInput: Horovod cannot be imported; or TF_CONFIG names other processes, and Horovod has
            started only this one.
    """
    # Estimator would wait for the processes in TF_CONFIG, and make one of them its chief.
    tf_config = os.environ.pop("TF_CONFIG", "").strip()
    workers = _join(fp16_allreduce) if use_horovod else Workers()
    if tf_config and workers.size == 1:
        _check_is_alone(tf_config)
        _LOG.info("TF_CONFIG is ignored: it names no other process")
    return workers


def _join(fp16_allreduce: bool) -> Workers:
    try:
        horovod = importlib.import_module("horovod.tensorflow")
    except ImportError as error:
        raise BadInput(
            "--horovod: Horovod cannot be imported (%s); install it with `make horovod`" % error
        ) from error
    horovod.init()
    return Workers() if horovod.size() == 1 else _HorovodWorkers(horovod, fp16_allreduce)


def _check_is_alone(tf_config: str) -> None:
    """Raise BadInput unless TF_CONFIG says that this process is the only one of its job.

    Other processes would run the same command: each would train the same model and write it to
    the same folder.
    """
    cure = "unset it, or start workers with horovodrun and --horovod"
    try:
        config = json.loads(tf_config)
        tasks = {
            (kind, int(index))
            for kind, hosts in (config.get("cluster") or {}).items()
            for index in (hosts if isinstance(hosts, dict) else range(len(hosts)))
        }
        # This process too: an evaluator is not in the cluster.
        task = config.get("task") or {}
        if task.get("type"):
            tasks.add((task["type"], int(task.get("index") or 0)))
        is_alone = (
            len(tasks) <= 1
            and all(index == 0 for _, index in tasks)
            # The configuration of a sparse cluster leaves out most other processes.
            and "sparseCluster" not in config
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(
            "TF_CONFIG: this environment variable cannot be understood (%s); %s" % (error, cure)
        ) from error
    if not is_alone:
        raise BadInput(
            "TF_CONFIG: this environment variable names other processes (%s), and each of them "
            "would train the same model; %s" % (" ".join(tf_config.split())[:200], cure)
        )


class _HorovodWorkers(Workers):
    """One of several workers that are connected through Horovod."""

    def __init__(self, horovod: Any, fp16_allreduce: bool):
        self._horovod = horovod
        self.size = horovod.size()
        self.index = horovod.rank()
        compression = horovod.Compression
        self._compression = compression.fp16 if fp16_allreduce else compression.none
        self.average_gradients = self._average_gradients
        self.add_up = lambda tensor, name: horovod.allreduce(tensor, op=horovod.Sum, name=name)
        self.gather = lambda tensor, name: horovod.allgather(tensor, name=name)

    def _average_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        # One operation per gradient: the first are sent while the last are still computed, and
        # Horovod joins gradients that are ready into few messages.
        return [
            self._horovod.allreduce(
                gradient,
                op=self._horovod.Average,
                compression=self._compression,
                name="gradient_%d" % number,
            )
            for number, gradient in enumerate(gradients)
        ]

    def num_cores(self) -> int:
        return max(1, super().num_cores() // self._horovod.local_size())

    def configure(self, session_config: tf.ConfigProto) -> None:
        """Use one GPU per worker of this machine, if it has GPUs."""
        local_rank, local_size = self._horovod.local_rank(), self._horovod.local_size()
        gpus = tf.config.experimental.list_physical_devices("GPU")
        if gpus and local_rank >= len(gpus):
            raise BadInput(
                "--horovod: %d workers were started on a machine with %d GPUs; start one per GPU"
                % (local_size, len(gpus))
            )
        if gpus:
            session_config.gpu_options.visible_device_list = str(local_rank)

    def first_hooks(self) -> list[tf.train.SessionRunHook]:
        return [self._horovod.BroadcastGlobalVariablesHook(0)]

    def from_chief(self, action: Callable[[], _Result]) -> _Result:
        answer = _attempt(action) if self.is_chief else None
        result, failure = self._exchange(self._horovod.broadcast_object, answer)
        if failure:
            raise SharedFailure(failure)
        return result

    def together(self, action: Callable[[], _Result]) -> _Result:
        result, failure = _attempt(action)
        if failure and not self.is_chief:
            failure = "worker %d on %s: %s" % (self.index, platform.node(), failure)
        failures = self.from_all(failure)
        if any(failures):
            raise SharedFailure(next(filter(None, failures)))
        return result

    def from_all(self, value: _Result) -> list[_Result]:
        return self._exchange(self._horovod.allgather_object, value)

    def _exchange(self, collective: Callable[..., Any], value: Any) -> Any:
        # In a session of its own, because there may be no other yet. It does not use the GPU.
        no_gpu = tf.ConfigProto(device_count={"GPU": 0})
        with tf.Graph().as_default(), tf.Session(config=no_gpu) as session:
            return collective(value, session=session, name="agreement")

    def loss_of_worker(self, error: Exception) -> str | None:
        # If Horovod has noticed the loss before an operation, the error says that it has shut down;
        # else one of its operations fails, with the error of the network.
        if not isinstance(error, tf.errors.UnknownError):
            return None
        is_of_horovod = error.op is not None and error.op.type.startswith("Horovod")
        if not is_of_horovod and "Horovod has been shut down" not in error.message:
            return None
        return (
            "another worker has died or was killed; the same command goes on from the last "
            "checkpoint"
        )


def _attempt(action: Callable[[], _Result]) -> tuple[Any, str | None]:
    try:
        return action(), None
    except BadInput as error:
        return None, str(error)
