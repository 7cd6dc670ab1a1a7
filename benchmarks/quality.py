"""Compare the dev scores of the default flags with those of transformers' Trainer.

    .venv/bin/python benchmarks/quality.py GLUE_DIR --results=quality.jsonl [--peers=...] ...

GLUE_DIR has the folders MRPC, SST-2, STS-B and phone_reviews_zh; one that is missing is left out.
All begin from the weights of MiniLM-L6, see `examples/fetch_minilm.py`. Each training is a line of
the results file, and is not repeated if it is there: an interrupted call continues.
`tools/make_hugging_face.sh` makes the environment of the peer. It takes hours on a CPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple, Sequence

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [HERE, ROOT, os.path.join(ROOT, "examples")]

import fetch_minilm
import to_hugging_face

from bert_classifier.data import processors

# Flags of our program, for each of its peers.
OURS = {"ours": [], "ours-amp": ["--amp"]}
PEERS = (*OURS, "hf")


class Case(NamedTuple):
    """A data set and how it is scored."""

    folder: str
    metric: str
    rows: int | None = None  # the first so many of the training rows; None: all


CASES = {
    "mrpc": Case("MRPC", "eval_f1"),
    "sst-2": Case("SST-2", "eval_accuracy", 3000),
    "sts-b": Case("STS-B", "eval_pearson"),
    "phone_reviews_zh": Case("phone_reviews_zh", "eval_accuracy"),
}


def take_rows(source: str, target: str, rows: int | None) -> None:
    """Copy the training and dev files of a task, with the first `rows` training rows."""
    os.makedirs(target)
    shutil.copy(os.path.join(source, "dev.tsv"), target)
    with open(os.path.join(source, "train.tsv"), "rb") as stream:
        lines = list(itertools.islice(stream, None if rows is None else rows + 1))
    with open(os.path.join(target, "train.tsv"), "wb") as stream:
        stream.writelines(lines)


def score_ours(
    task: str, case: Case, data_dir: str, model_dir: str, seed: int, more_flags: Sequence[str]
) -> dict[str, Any]:
    """Train with the default flags and some more; return the scores of its evaluations."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            "--do_train",
            "--do_eval",
            "--task_name=" + task,
            "--data_dir=" + data_dir,
            "--bert_config_file=" + os.path.join(model_dir, "bert_config.json"),
            "--vocab_file=" + os.path.join(model_dir, "vocab.txt"),
            "--init_checkpoint=" + os.path.join(model_dir, "bert_model.ckpt"),
            "--output_dir=" + folder,
            "--seed=%d" % seed,
            *more_flags,
        ]
        command = [sys.executable, os.path.join(ROOT, "run_classifier_gpu.py"), *flags]
        subprocess.run(command, check=True)
        with open(os.path.join(folder, "eval_history.jsonl")) as stream:
            scores = [json.loads(line)["metrics"][case.metric] for line in stream]
        with open(os.path.join(folder, "eval_results.json")) as stream:
            best = json.load(stream)[case.metric]
    return {"evaluations": scores, "best": best, "last": scores[-1]}


def score_hugging_face(
    task: str, case: Case, data_dir: str, model_dir: str, seed: int, python: str
) -> dict[str, Any]:
    """Train the Trainer on the same rows; return the scores after each epoch."""
    processor = processors.get_processor(task)
    is_regression = processor.task.problem_type == "regression"
    with tempfile.TemporaryDirectory() as folder:
        rows = {
            "train": processor.get_train_examples(data_dir),
            "dev": processor.get_dev_examples(data_dir),
        }
        for split, examples in rows.items():
            with open(os.path.join(folder, split + ".tsv"), "w", encoding="utf-8") as stream:
                stream.write("label\ttext\ttext_b\n")
                for example in examples:
                    cells = (str(example.label), example.text_a, example.text_b)
                    stream.write("\t".join(cell for cell in cells if cell is not None) + "\n")
        settings = {
            "model_dir": model_dir,
            "data_dir": folder,
            "output_dir": os.path.join(folder, "out"),
            "labels": [] if is_regression else processor.get_labels(),
            "metric": case.metric,
            "seed": seed,
        }
        script = os.path.join(HERE, "quality_hugging_face.py")
        command = [python, script, "score", json.dumps(settings)]
        process = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result = json.loads(process.stdout.splitlines()[-1])
    return dict(result, best=max(result["evaluations"]))


def read_results(path: str) -> list[dict[str, Any]]:
    """Return the trainings that are done."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Print mean and standard error of each peer's last and best score, and each seed's."""
    print("| data | score | peer | last | best | seeds, last / best |\n|---|---|---|---|---|---|")
    for task, case in CASES.items():
        for peer in PEERS:
            rows = [row for row in results if (row["task"], row["peer"]) == (task, peer)]
            if rows:
                last, best = (summary([row[which] for row in rows]) for which in ("last", "best"))
                seeds = ", ".join("%(last).4f / %(best).4f" % row for row in rows)
                cells = (task, case.metric, peer, last, best, seeds)
                print("| " + " | ".join(cells) + " |")


def summary(scores: Sequence[float]) -> str:
    """Return mean and standard error, as `0.8412 +- 0.0031`."""
    mean = statistics.mean(scores)
    if len(scores) == 1:
        return "%.4f" % mean
    return "%.4f +- %.4f" % (mean, statistics.stdev(scores) / len(scores) ** 0.5)


def main() -> None:
    """Train what is still to be trained, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", help="has MRPC, SST-2, STS-B, phone_reviews_zh")
    parser.add_argument("--results", default="quality.jsonl", help="a line for each training")
    parser.add_argument("--peers", default="ours,hf", help="some of " + ", ".join(PEERS))
    parser.add_argument("--tasks", default=",".join(CASES))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument(
        "--hugging_face_python", default=os.path.join(ROOT, ".venv-hugging-face", "bin", "python")
    )
    options = parser.parse_args()
    model_dir = fetch_minilm.fetch(os.path.join(ROOT, ".cache"))
    with tempfile.TemporaryDirectory() as folder:
        hugging_face_model = os.path.join(folder, "model")
        to_hugging_face.convert(model_dir, hugging_face_model)
        for seed, task, peer in itertools.product(
            map(int, options.seeds.split(",")), options.tasks.split(","), options.peers.split(",")
        ):
            case = CASES[task]
            source = os.path.join(options.data_dir, case.folder)
            done = {
                (row["seed"], row["task"], row["peer"]) for row in read_results(options.results)
            }
            if (seed, task, peer) in done or not os.path.isdir(source):
                continue
            data_dir = os.path.join(folder, task)
            if not os.path.isdir(data_dir):
                take_rows(source, data_dir, case.rows)
            if peer in OURS:
                row = score_ours(task, case, data_dir, model_dir, seed, OURS[peer])
            else:
                row = score_hugging_face(
                    task, case, data_dir, hugging_face_model, seed, options.hugging_face_python
                )
            row = dict(row, task=task, peer=peer, seed=seed)
            with open(options.results, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
    print_table(read_results(options.results))


if __name__ == "__main__":
    main()
