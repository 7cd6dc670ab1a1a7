"""A tiny BERT and its vocabulary, small enough to train in seconds."""

from __future__ import annotations

import json
import os
import signal
import unicodedata
from typing import NamedTuple

import pytest
import tensorflow.compat.v1 as tf
from google_bert import tokenization as google_tokenization
from program import Forks, SmallRun
from served import TOKEN, Server, write_export

import modeling

# What the tests promise, weights bit for bit for example, holds on a CPU, and the program refuses a
# GPU that TensorFlow 1.15 cannot use. A value that is set stays.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# The tests build graphs, and TensorFlow 2.15 executes eagerly by default. The program does not rely
# on this: its graphs are explicit, and tests of whole runs are in processes of their own too.
tf.disable_eager_execution()

# Tests that run in the background of a script have Ctrl-C ignored, and so has what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

WORDS = "good great fine nice bad poor awful sad the film phone was is really not".split()
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ".", "##s"]
CONFIG = {
    "vocab_size": len(VOCAB),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
}


class TinyBert(NamedTuple):
    """Files of a pretrained model, as flags name them."""

    bert_config_file: str
    vocab_file: str
    init_checkpoint: str


@pytest.fixture(autouse=True)
def fresh_graph():
    """An empty graph, whose fresh weights and dropout are those of every other run."""
    tf.reset_default_graph()
    tf.set_random_seed(1)


@pytest.fixture(autouse=True, scope="session")
def quiet_tensorflow():
    """Keeps TensorFlow's deprecation warnings out of the reports of failed tests."""
    tf.get_logger().setLevel("ERROR")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> TinyBert:
    folder = tmp_path_factory.mktemp("tiny_bert")
    (folder / "bert_config.json").write_text(json.dumps(CONFIG))
    (folder / "vocab.txt").write_text("".join(token + "\n" for token in VOCAB))
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        modeling.BertModel(modeling.BertConfig.from_dict(CONFIG), False, tf.zeros([1, 4], tf.int32))
        session.run(tf.global_variables_initializer())
        prefix = tf.train.Saver().save(
            session, str(folder / "bert_model.ckpt"), write_meta_graph=False
        )
    return TinyBert(str(folder / "bert_config.json"), str(folder / "vocab.txt"), prefix)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, tiny_bert) -> SmallRun:
    return SmallRun(tmp_path_factory.mktemp("small_run"), tiny_bert)


@pytest.fixture(scope="session")
def served_export(tmp_path_factory, tiny_bert) -> str:
    return write_export(tmp_path_factory.mktemp("served"), tiny_bert)


@pytest.fixture(scope="session")
def onnx_export(tmp_path_factory, tiny_bert) -> str:
    """The same model as in `served_export`, as an ONNX model."""
    pytest.importorskip("tf2onnx")
    return write_export(tmp_path_factory.mktemp("served_onnx"), tiny_bert, onnx=True)


@pytest.fixture
def start(tmp_path_factory):
    """Starts servers, and ends those that a failed test has left."""
    logs = tmp_path_factory.mktemp("logs")
    servers = []

    def start(*arguments, **options):
        servers.append(Server(logs, *arguments, **options))
        return servers[-1].wait_until_ready()

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait()
        assert "Traceback" not in server.log()


@pytest.fixture(scope="session")
def server(tmp_path_factory, served_export):
    """A server with a token, and with limits that a test can reach."""
    folder = tmp_path_factory.mktemp("server")
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    arguments = "--largest_body 60000 --largest_head 4000 --longest_text 1000 --most_texts 40"
    arguments += " --sender_timeout 1.5 --queue_size 200 --name film"
    arguments += " --cors_origin https://a.example --api_token_file"
    server = Server(folder, served_export, *arguments.split(), str(token))
    yield server.wait_until_ready()
    assert server.end() == 0, server.log()
    assert "Traceback" not in server.log()


@pytest.fixture(scope="session")
def forks():
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def google_with_the_last_control_rule():
    """google's module with `_is_control` as in its last version: only categories Cc and Cf."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            google_tokenization,
            "_is_control",
            lambda char: char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf"),
        )
        yield google_tokenization
