"""An export of random weights, and servers in processes of their own."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import tensorflow.compat.v1 as tf
from program import ROOT, changed_description

import modeling
import tokenization
from bert_classifier import files
from bert_classifier.data.examples import InputExample
from bert_classifier.export import bundle, writer
from bert_classifier.model import classifier

PROGRAM = (sys.executable, "-m", "bert_classifier.serve")
# The same, but the text "wait 3" takes three seconds.
WAITING_PROGRAM = (
    sys.executable,
    "-c",
    """
import sys, time
from bert_classifier import serve
from bert_classifier.server import models

answer = models._answer_texts

def wait_and_answer(predictor, items):
    for text, _ in items:
        if text.startswith("wait "):
            time.sleep(float(text.split()[1]))
    return answer(predictor, items)

models._answer_texts = wait_and_answer
sys.exit(serve.main())
""",
)
LENGTH = 16
LABELS = ["negative", "neutral", "positive"]
TOKEN = "s3cret"


def write_export(folder, model, texts_per_example=1, problem_type="classification", onnx=False):
    """Writes an export of random weights, so large that texts differ in their answers."""
    labels = [] if problem_type == "regression" else LABELS
    config = modeling.BertConfig.from_json_file(model.bert_config_file)
    model_fn = classifier.model_fn_builder(
        config, len(labels) or 1, None, 0.0, 0, 0, problem_type=problem_type
    )
    estimator = tf.estimator.Estimator(model_fn, str(folder))
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(3)
        ids = tf.zeros([1, 4], tf.int32)
        features = {name: ids for name in bundle.INPUTS}
        estimator.model_fn(features, None, tf.estimator.ModeKeys.PREDICT, None)
        tf.train.get_or_create_global_step()
        session.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables():
            if re.search("kernel|embeddings/|output_weights", variable.name):
                variable.load(session.run(variable) * 8.0, session)
        checkpoint = tf.train.Saver().save(session, str(folder / "model.ckpt"))
    thresholds = [0.5] * len(labels) if problem_type == "multi_label" else None
    settings = bundle.Settings(
        labels, problem_type, LENGTH, True, "head", 0, texts_per_example, thresholds
    )
    example = InputExample("", *["the film was good"] * texts_per_example)
    bundle_writer = writer.BundleWriter(
        estimator,
        settings,
        tokenization.FullTokenizer(model.vocab_file),
        {bundle.VOCAB: model.vocab_file, bundle.CONFIG: model.bert_config_file},
        [example],
    )
    to = writer.Destinations(**{"onnx" if onnx else "saved_model": str(folder / "export")})
    return bundle_writer.write(checkpoint, {"step": 0}, to)[0]


def add_version(export, folder, number):
    """Copies an export, as `mv` would bring it there; its labels end with the version."""
    temporary = os.path.join(str(folder), "temp-%d" % number)
    shutil.copytree(export, temporary)
    assets = os.path.join(temporary, bundle.ASSETS)
    labels = os.path.join(assets, bundle.LABELS)
    with open(labels, "w") as stream:
        stream.write("".join("%s-%d\n" % (label, number) for label in LABELS))
    with changed_description(temporary) as description:
        description["digests"][bundle.LABELS] = files.digest_of_file(labels)
    final = os.path.join(str(folder), str(number))
    os.rename(temporary, final)
    return final


class Server:
    """A server in a process of its own."""

    def __init__(self, folder, export, *arguments, program=PROGRAM):
        self._log = os.path.join(str(folder), "log-%d" % len(os.listdir(str(folder))))
        with open(self._log, "w") as stream:
            self.process = subprocess.Popen(
                [*program, str(export), "--poll_seconds=0.1"]
                + ([] if "--port" in arguments else ["--port", "0"])
                + list(arguments),
                cwd=ROOT,
                stderr=stream,
                stdout=stream,
            )
        self.host = self.port = None

    def log(self):
        with open(self._log) as stream:
            return stream.read()

    def wait_until_ready(self):
        def is_ready():
            assert self.process.poll() is None, self.log()
            return re.search(r"answers on http://(\S+):(\d+)/", self.log())

        found = wait_for(is_ready)
        self.host, self.port = found.group(1).strip("[]"), int(found.group(2))
        return self

    def request(self, method, path, value=None, headers=None):
        """Sends a request; returns the status and what the JSON of the answer says."""
        status, _, body = self.raw_request(method, path, value, headers)
        return status, json.loads(body.decode())

    def raw_request(self, method, path, value=None, headers=None):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            body = value if isinstance(value, (bytes, type(None))) else json.dumps(value)
            token = {"Authorization": "Bearer " + TOKEN}
            connection.request(method, path, body, {**token, **(headers or {})})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def connect(self):
        return socket.create_connection((self.host, self.port), timeout=60)

    def memory(self):
        """Gives the resident memory in bytes."""
        with open("/proc/%d/statm" % self.process.pid) as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def end(self, number=signal.SIGTERM):
        """Ends the process with a signal; returns its exit status."""
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()


def wait_for(condition, seconds=120):
    until = time.time() + seconds
    while time.time() < until:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("not after %s seconds" % seconds)
