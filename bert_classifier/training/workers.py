"""Several workers, one model: who they are and what they agree on. The only room with Horovod.

A worker is a process with a GPU of its own. All of them run the same program; the chief is the one
that writes files. What only one can know, such as where to resume, or whether to stop, the chief
tells the others, so that all do the same at the same step.
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
    """Bad input that all workers know of; it is for the chief to say it."""


class Workers:
    """A job of one worker, which has nobody to agree with.

    Attributes:
        size: how many workers there are.
        index: which one this is, from 0.
        average_gradients: list of float tensors -> their means over all workers, in this order;
            None when there is one worker.
        add_up: tensor, name -> its sum over all workers; None when there is one worker. All workers
            run the result at the same time, and give each sum the same name.
        gather: tensor, name -> the tensors of all workers, one after the other along their first
            dimension, in which they may differ; None when there is one worker.
    """

    size = 1
    index = 0
    average_gradients: Callable[[Sequence[tf.Tensor]], list[tf.Tensor]] | None = None
    add_up: Callable[[tf.Tensor, str], tf.Tensor] | None = None
    gather: Callable[[tf.Tensor, str], tf.Tensor] | None = None

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes files and speaks for all."""
        return self.index == 0

    def num_cores(self) -> int:
        """Gives how many cores of the machine are this worker's."""
        return len(os.sched_getaffinity(0))

    def configure(self, session_config: tf.ConfigProto) -> None:
        """Gives this worker its share of the machine's GPUs."""

    def first_hooks(self) -> list[tf.train.SessionRunHook]:
        """Gives the hooks with which all workers begin with the weights of the chief."""
        return []

    def from_chief(self, action: Callable[[], _Result]) -> _Result:
        """Does something on the chief alone; all workers get its result, or its BadInput."""
        return action()

    def together(self, action: Callable[[], _Result]) -> _Result:
        """Does something on each worker; when any of them raises BadInput, all do."""
        return action()

    def from_all(self, value: _Result) -> list[_Result]:
        """Gives the values that all workers have come here with, in the order of the workers."""
        return [value]

    def any(self, is_so: bool) -> bool:
        """Tells, when all workers have come here, whether it is so on any of them."""
        return any(self.from_all(is_so))

    def wait_for_all(self) -> None:
        """Returns when all workers have come here."""
        self.any(False)

    def loss_of_worker(self, error: Exception) -> str | None:
        """Says so in one line if an error means that another worker is no longer there."""
        del error
        return None


def start(use_horovod: bool, fp16_allreduce: bool = False) -> Workers:
    """Joins the other workers of the job.

    Args:
        use_horovod: whether this process is one of those that `horovodrun` has started.
        fp16_allreduce: send gradients as float16: half the traffic, and rounded sums.

    Raises:
        BadInput: Horovod is not there, or was built for another TensorFlow; or TF_CONFIG tells of
            other processes, and Horovod does not know of any.
    """
    # Estimator would wait for the processes that it names, and take one of them for the chief.
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

    If there are others they run the same command: each would train the same model, and all of them
    would write it into the same folder.
    """
    cure = "unset it, or start workers with horovodrun and --horovod"
    try:
        config = json.loads(tf_config)
        tasks = {
            (kind, int(index))
            for kind, hosts in (config.get("cluster") or {}).items()
            for index in (hosts if isinstance(hosts, dict) else range(len(hosts)))
        }
        # This process: an evaluator is not part of the cluster.
        task = config.get("task") or {}
        if task.get("type"):
            tasks.add((task["type"], int(task.get("index") or 0)))
        is_alone = (
            len(tasks) <= 1
            and all(index == 0 for _, index in tasks)
            # Of a sparse cluster a process knows hardly any other.
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
    """This worker among others, of whom Horovod knows."""

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
        # One by one: the first are on their way while the last are still computed, and Horovod
        # joins those that are ready to few messages.
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
        """Takes one GPU per worker of this machine, if it has GPUs."""
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
        # A session of its own that leaves the GPU alone: there may be no other yet.
        no_gpu = tf.ConfigProto(device_count={"GPU": 0})
        with tf.Graph().as_default(), tf.Session(config=no_gpu) as session:
            return collective(value, session=session, name="agreement")

    def loss_of_worker(self, error: Exception) -> str | None:
        # Horovod says so where it has noticed the loss before it was asked for something; otherwise
        # its operation fails with what the network has said.
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
