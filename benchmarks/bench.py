"""Measure this program and its peers side by side, on the CPU: `make bench`.

    .venv/bin/python benchmarks/bench.py [--size=smoke|quick|full] [--jobs=...] [--peers=...]

Every measurement is a process of its own, so that start-up and memory are those of a user. The
peers take turns, so that other load of the machine affects all of them; the table has medians, and
their ratios to ours. All begin from the same weights, train on the same rows with the same batch
size, epochs, learning rate, warm-up and decay, and evaluate once, at the end. The rows are made up
unless folders with MRPC and SST-2 are named.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Sequence

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [HERE, ROOT, os.path.join(ROOT, "examples")]

import cases
import fetch_minilm
import made_up_data
import report
import to_hugging_face
from cases import BATCH_SIZE, GROUPS, LEARNING_RATE, MAX_SEQ_LENGTH, Answer, Case, Size, Training
from made_up_data import Row
from report import Turn

from bert_classifier.data import processors
from bert_classifier.hugging_face.reading import CONFIG_NAME

CACHE = os.path.join(ROOT, ".cache")
ENVIRONMENT = {
    # A table of two programs on a GPU and one on the CPU would be useless.
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
HUGGING_FACE = {
    "": {"padding": "longest"},  # batches of similar length
    "padded": {"padding": "max_length"},  # what its examples do unless told otherwise
    "bf16": {"padding": "longest", "bf16": True},
}
# Jobs that answer single texts, with a model in memory.
OF_TEXTS = ("latency", "answer")
LEGEND = """\
Medians of turns, in brackets how many times the first column's.
- The model has google's gelu, so that all compute the same.
- Training: maximal length %d where no other is named, batches of %d, learning rate %g; one
  evaluation and one checkpoint, at the end; each turn has another seed. Prediction begins with
  loading the weights.
- `ours`: run_classifier_gpu.py with `--optimizer=adamw_corrected`; one sentence: `Predictor`.
- `google`: run_classifier of bert-tensorflow, which pads every example to the maximal length; one
  sentence: a call of `Estimator.predict`, which builds its graph anew.
- `hf`: transformers' Trainer with `group_by_length`, fp32; `hf-padded`: every example padded to the
  maximal length, as in its examples; `hf-bf16`: as `hf`, with autocast; these two in one turn.
- `ours-NAME`, `google-NAME`: in the environment of `--build`; `...-amp`: with `--amp`;
  `...-onnx`, `...-int8`: `Predictor` with an ONNX model; `bare-...`: a session of ONNX Runtime,
  which gets the same tokens, and for many sentences batches of like length.
""" % (MAX_SEQ_LENGTH, BATCH_SIZE, LEARNING_RATE)


class Peer(NamedTuple):
    """A program in an environment, and how it is used."""

    name: str
    python: str
    script: str
    model_dir: str
    variant: str = ""
    options: Mapping[str, Any] = {}


class JobFailed(RuntimeError):
    """A runner ended without an answer. The message says what it wrote last."""


# The rows


def write_data(
    folder: str, size: Size, pairs_dir: str | None, sentences_dir: str | None, model_dir: str
) -> dict[str, str]:
    """Write all rows below a folder; return kind -> folder of train.tsv, dev.tsv, test.tsv."""
    vocab = made_up_data.load_vocab(os.path.join(model_dir, "vocab.txt"))
    words = made_up_data.Words(vocab)
    texts = made_up_data.long_texts(words, seed=1, num_words=max(cases.LENGTHS + size.lengths))
    of_one_step = Training(BATCH_SIZE, BATCH_SIZE, 1)
    kinds = {
        "pairs": (read_splits("mrpc", pairs_dir) or made_up(made_up_data.pairs, words), size.pairs),
        "sentences": (
            read_splits("sst-2", sentences_dir) or made_up(made_up_data.sentences, words),
            size.sentences,
        ),
        "long texts": ((texts, texts), of_one_step._replace(train_rows=BATCH_SIZE * size.steps)),
        "one step of latency": ((texts, texts), of_one_step),
        "one step of predict": (made_up(made_up_data.pairs, words), of_one_step),
        "conversion": (
            made_up(made_up_data.sentences, words),
            of_one_step._replace(train_rows=size.converted_sentences),
        ),
    }
    folders = {}
    for kind, ((train, dev), training) in kinds.items():
        folders[kind] = os.path.join(folder, kind)
        os.mkdir(folders[kind])
        num_test_rows = max(size.predicted_pairs, size.answered_sentences)
        write_rows(folders[kind], "train", take(training.train_rows, train))
        write_rows(folders[kind], "dev", take(training.dev_rows, dev))
        # Only the speed of the answers matters.
        write_rows(folders[kind], "test", take(num_test_rows, train))
    return folders


def take(count: int, rows: Iterable[Row]) -> list[Row]:
    """Return the first `count` rows, which must exist."""
    taken = list(itertools.islice(rows, count))
    if len(taken) < count:
        sys.exit("too few rows: %d are needed, there are %d" % (count, len(taken)))
    return taken


def made_up(
    make: Callable[[made_up_data.Words, int], Iterable[Row]], words: made_up_data.Words
) -> tuple[Iterable[Row], Iterable[Row]]:
    """Make endless splits of training and dev rows."""
    return make(words, 1), make(words, 2)


def read_splits(task: str, folder: str | None) -> tuple[Iterable[Row], Iterable[Row]] | None:
    """Read the training and the dev set of a GLUE task, if its folder is given."""
    if folder is None:
        return None
    processor = processors.get_processor(task)
    train, dev = (
        [Row(row.label, row.text_a, row.text_b) for row in examples]
        for examples in (processor.get_train_examples(folder), processor.get_dev_examples(folder))
    )
    return train, dev


def write_rows(folder: str, split: str, rows: Sequence[Row]) -> None:
    """Write a split as TSV, with a header as `--task_name=file` expects it."""
    lines = ["\t".join(cell for cell in row if cell is not None) for row in rows]
    header = "\t".join(["label", "text", "text_b"][: 1 + lines[0].count("\t")])
    with open(os.path.join(folder, split + ".tsv"), "w", encoding="utf-8") as stream:
        stream.writelines(line + "\n" for line in [header, *lines])


# The peers


def write_model(model_dir: str, folder: str) -> None:
    """Write a model that all peers compute alike to a new folder, its weights as links.

    google's program knows only its own gelu, so all compute that one. A checkpoint that came with
    the exact form differs by 1e-3 in its activations.
    """
    shutil.copytree(model_dir, folder, copy_function=os.symlink)
    config_path = os.path.join(folder, CONFIG_NAME)
    with open(config_path) as stream:
        config = json.load(stream)
    os.remove(config_path)
    with open(config_path, "w") as stream:
        json.dump(dict(config, hidden_act=config["hidden_act"].replace("gelu_erf", "gelu")), stream)


def make_peers(
    arguments: argparse.Namespace, model_dir: str, hugging_face_model: str
) -> list[Peer]:
    """List all peers, ours first."""
    builds = {"": os.path.abspath(arguments.python)}
    for build in arguments.build:
        name, _, python = build.partition("=")
        builds["-" + name] = os.path.abspath(python)
    return [
        Peer(
            program + build + (variant and "-" + variant),
            python,
            script,
            model_dir,
            variant,
            options,
        )
        for program, script, variant, options in (
            ("ours", "ours.py", "", {}),
            ("ours", "ours.py", "amp", {"amp": True}),
            ("ours", "ours.py", "onnx", {"onnx": "float32"}),
            ("ours", "ours.py", "int8", {"onnx": "int8"}),
            ("bare", "bare.py", "onnx", {"onnx": "float32"}),
            ("bare", "bare.py", "int8", {"onnx": "int8"}),
            ("google", "google_bert.py", "", {}),
        )
        for build, python in builds.items()
    ] + [
        Peer(
            "hf" + (variant and "-" + variant),
            os.path.abspath(arguments.hugging_face_python),
            "hugging_face.py",
            hugging_face_model,
            variant,
            options,
        )
        for variant, options in HUGGING_FACE.items()
    ]


def start(peers: Sequence[Peer]) -> tuple[list[Peer], dict[str, dict[str, str]]]:
    """Return the peers that are installed on this machine, and name -> their versions."""
    ready, versions, failures = [], {}, {}
    for peer in peers:
        runner = peer.python, peer.script, frozenset(peer.options) & {"amp", "onnx"}
        if runner not in failures:
            failures[runner] = None
            try:
                versions[peer.name] = ask(peer, "versions", {}).numbers
            except JobFailed as failure:
                failures[runner] = failure
        if failures[runner]:
            say("%s is left out, it does not start: %s" % (peer.name, failures[runner]))
        else:
            ready.append(peer)
    return ready, versions


def takes_part(peer: Peer, case: Case) -> bool:
    """Tell whether a peer is measured in a case."""
    if peer.variant and peer.variant not in case.variants:
        return False
    if peer.script == "bare.py":
        return peer.variant in case.variants
    # The products of google's program are those of its TensorFlow, which is ours too; and it has no
    # way to keep a model in memory.
    return case.job not in ("products", "answer") or peer.script != "google_bert.py"


def ask(peer: Peer, job: str, settings: Mapping[str, Any]) -> Answer:
    """Run a job of a peer in a process of its own.

    Raises:
        JobFailed: the process did not start, or ended with an error.
    """
    command = [peer.python, os.path.join(HERE, peer.script), job]
    command.append(json.dumps(dict(settings, **peer.options)))
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as log:
        started = time.monotonic()
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=dict(os.environ, **ENVIRONMENT),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            raise JobFailed(str(error)) from error
        # Instead of `process.wait()`, because it says what this one process has used.
        try:
            _, process.returncode, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            # Also end the processes that it has started.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        seconds = time.monotonic() - started
        if process.returncode:
            log.seek(0)
            raise JobFailed("".join(["it wrote\n", *log.readlines()[-8:]]))
        output.seek(0)
        numbers = json.loads(output.readlines()[-1])
    return Answer(
        numbers,
        started,
        seconds,
        usage.ru_utime + usage.ru_stime,
        1.024e-3 * usage.ru_maxrss,  # Linux counts in kibibytes.
    )


# Taking turns


class Bench:
    """Run the peers in turns and keep their results."""

    def __init__(self, peers: Sequence[Peer], folder: str, data: Mapping[str, str]):
        """Measure in a folder; `data` is what `write_data` returns."""
        self.turns: list[Turn] = []
        self._peers = peers
        self._folder = folder
        self._data = data

    def measure(self, case: Case) -> None:
        """Measure all peers that take part in a case; a peer that fails is left out from then on.

        A variant of a peer takes part in the first turn of a training only.
        """
        peers = [peer for peer in self._peers if takes_part(peer, case)]
        for turn in range(case.turns):
            # The order alternates: the first peer of one turn is the last of the next.
            for peer in peers[:: -1 if turn % 2 else 1]:
                if peer.variant and turn and case.job == "fine_tune":
                    continue
                say("%s: %s, turn %d of %d" % (case.title, peer.name, turn + 1, case.turns))
                load = os.getloadavg()[0]
                try:
                    numbers = case.measure(self._answer(peer, case, turn))
                except JobFailed as failure:
                    say("%s FAILED: %s" % (peer.name, failure))
                    peers = [other for other in peers if other != peer]
                else:
                    self.turns.append(Turn(case.title, peer.name, load, numbers))

    def _answer(self, peer: Peer, case: Case, turn: int) -> Answer:
        settings = dict(case.settings)
        if case.job != "products":
            settings["model_dir"] = peer.model_dir
        if case.job in ("predict", *OF_TEXTS):
            settings["output_dir"] = self._trained(peer, case.job)
        if case.job != "fine_tune":
            return ask(peer, case.job, settings)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            settings.update(output_dir=os.path.join(folder, "output"), seed=turn)
            return ask(peer, case.job, settings)

    def _trained(self, peer: Peer, job: str) -> str:
        """Return a folder in which the peer has trained one step; the quality does not matter.

        The rows of the step have as many texts as those of the job.
        """
        job = "latency" if job in OF_TEXTS else job
        output_dir = os.path.join(self._folder, "trained", job, peer.name)
        if not os.path.exists(output_dir):
            os.makedirs(os.path.dirname(output_dir), exist_ok=True)
            settings = {
                "model_dir": peer.model_dir,
                "data_dir": self._data["one step of " + job],
                "output_dir": output_dir,
                "max_seq_length": MAX_SEQ_LENGTH,
                "batch_size": BATCH_SIZE,
                "num_epochs": 1,
                "learning_rate": LEARNING_RATE,
                "log_steps": 1,
                "seed": 0,
            }
            say("one training step for those: %s" % peer.name)
            ask(peer, "fine_tune", settings)
        return output_dir


def say(message: str) -> None:
    """Print the progress."""
    print(time.strftime("%H:%M:%S ") + message, file=sys.stderr, flush=True)


# The command line


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""

    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(cases.SIZES), default="quick")
    parser.add_argument("--jobs", type=names, help="some of %s" % ", ".join(GROUPS))
    parser.add_argument("--peers", type=names, help="some of the names in the table's head")
    parser.add_argument("--turns", type=int, help="instead of those of the size")
    parser.add_argument("--long_turns", type=int, help="the same for training only")
    parser.add_argument(
        "--lengths",
        type=lambda text: tuple(map(int, names(text))),
        help="of training steps, instead of those of the size",
    )
    parser.add_argument("--python", default=sys.executable, help="TensorFlow's, ours and google's")
    parser.add_argument(
        "--build",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="measure ours and google's in this environment too",
    )
    parser.add_argument(
        "--hugging_face_python", default=os.path.join(ROOT, ".venv-hugging-face", "bin", "python")
    )
    parser.add_argument("--model_dir", help="google's kind of checkpoint; by default MiniLM-L6")
    parser.add_argument("--pairs_dir", help="MRPC, instead of made-up pairs")
    parser.add_argument("--sentences_dir", help="SST-2, instead of made-up sentences")
    parser.add_argument("--json", default=os.path.join(CACHE, "bench.json"), help="to be written")
    return parser.parse_args(argv)


def chosen_size(arguments: argparse.Namespace) -> Size:
    """Return how much is measured: a named size, with the changes of the command line."""
    size = cases.SIZES[arguments.size]
    return size._replace(
        short_turns=arguments.turns or size.short_turns,
        long_turns=arguments.long_turns or arguments.turns or size.long_turns,
        lengths=arguments.lengths or size.lengths,
    )


def chosen(wanted: Sequence[str] | None, there_are: Sequence[str], flag: str) -> list[str]:
    """Return the wanted names in the order of `there_are`; all of them if none is given."""
    unknown = sorted(set(wanted or ()) - set(there_are))
    if unknown:
        sys.exit("%s: %s: there are %s" % (flag, ", ".join(unknown), ", ".join(there_are)))
    return [name for name in there_are if wanted is None or name in wanted]


def measure(
    arguments: argparse.Namespace, size: Size, model_dir: str
) -> tuple[list[Turn], list[str], dict[str, Any]]:
    """Measure what is asked for; return the turns, the peers' names, and facts about them."""
    groups = chosen(arguments.jobs, GROUPS, "--jobs")
    facts = report.machine()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=CACHE) as folder:
        model, hugging_face_model = (os.path.join(folder, name) for name in ("google", "hf"))
        write_model(model_dir, model)
        peers = make_peers(arguments, model, hugging_face_model)
        names = chosen(arguments.peers, [peer.name for peer in peers], "--peers")
        peers, versions = start([peer for peer in peers if peer.name in names])
        to_hugging_face.convert(model, hugging_face_model)
        data = write_data(folder, size, arguments.pairs_dir, arguments.sentences_dir, model)
        bench = Bench(peers, folder, data)
        try:
            for case in cases.make_cases(size, data):
                if case.group in groups:
                    bench.measure(case)
        except KeyboardInterrupt:
            say("Interrupted: the table has what was measured until now")
    return bench.turns, [peer.name for peer in peers], dict(facts, **versions)


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    # As Ctrl-C: print what was measured, and remove the temporary files.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    size = chosen_size(arguments)
    os.makedirs(CACHE, exist_ok=True)
    model_dir = os.path.abspath(arguments.model_dir or fetch_minilm.fetch(CACHE))
    turns, peers, facts = measure(arguments, size, model_dir)
    if not turns:
        sys.exit("nothing was measured")

    facts["size"] = arguments.size
    table = report.medians(turns)
    with open(os.path.join(model_dir, "bert_config.json")) as stream:
        report.add_shares(table, json.load(stream))
    print(report.bullets(facts))
    print(report.markdown(table, peers))
    print(LEGEND)
    with open(arguments.json, "w") as stream:
        json.dump(report.as_json(facts, size._asdict(), table, turns), stream, indent=1)
    say("All turns are in %s" % arguments.json)


if __name__ == "__main__":
    main()
