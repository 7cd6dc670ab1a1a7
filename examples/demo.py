"""Show the whole program on bundled data: fine-tune, stop early, export, and use the export.

    python examples/demo.py

Fine-tunes MiniLM-L6, a pretrained BERT of 6 layers, to tell 7 kinds of support requests apart.
Where that model cannot be downloaded it says so and trains a small BERT from scratch on the same
data, which is far less accurate. Everything goes to `.cache/demo`, which each run begins anew.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
# Otherwise TensorFlow prints a page about the machine between the answers.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
logging.getLogger("tensorflow").setLevel(logging.ERROR)

import fetch_minilm
import make_vocab

from bert_classifier import files, gpus
from bert_classifier.serving.predictor import Predictor

PYTHON = os.path.relpath(sys.executable, ROOT)
DATA_DIR = os.path.join("examples", "data")
OUTPUT_DIR = os.path.join(".cache", "demo")
SENTENCES = (
    "Where is my parcel? It should have been here on Monday.",
    "The kettle arrived with a cracked lid.",
    "I forgot my password and the reset mail never comes.",
)
# For the model that is trained from scratch: small, because there are only 560 sentences.
SMALL_CONFIG = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
}


def pretrained_model() -> list[str]:
    """Return the flags of MiniLM-L6, which is downloaded the first time."""
    folder = os.path.relpath(fetch_minilm.fetch(os.path.join(ROOT, ".cache")), ROOT)
    return [
        "--bert_config_file=" + os.path.join(folder, "bert_config.json"),
        "--vocab_file=" + os.path.join(folder, "vocab.txt"),
        "--init_checkpoint=" + os.path.join(folder, "bert_model.ckpt"),
        "--learning_rate=1e-4",
        "--num_train_epochs=8",
    ]


def small_model() -> list[str]:
    """Write vocabulary and configuration of a small BERT, and return its flags."""
    folder = os.path.join(".cache", "small_bert")
    os.makedirs(folder, exist_ok=True)
    vocab = make_vocab.make_vocab(os.path.join(DATA_DIR, "train.tsv"))
    config = dict(SMALL_CONFIG, vocab_size=len(vocab))
    files.write_text(os.path.join(folder, "vocab.txt"), "".join(t + "\n" for t in vocab))
    files.write_text(os.path.join(folder, "bert_config.json"), json.dumps(config, indent=2) + "\n")
    return [
        "--bert_config_file=" + os.path.join(folder, "bert_config.json"),
        "--vocab_file=" + os.path.join(folder, "vocab.txt"),
        "--learning_rate=3e-4",
        "--num_train_epochs=20",
        # The accuracy does not rise in the first epochs.
        "--early_stopping_min_steps=350",
    ]


def choose_model() -> list[str]:
    """Return the flags of the pretrained model, or of the small one if it cannot be downloaded."""
    try:
        return pretrained_model()
    except fetch_minilm.ModelUnavailable as error:
        print("The pretrained model cannot be had here: %s" % error)
        print("Training a small BERT from scratch instead; expect a far lower accuracy.")
        return small_model()


def run(*flags: str) -> None:
    """Run the program as a user would, and print the command."""
    print("\n$ " + command(*flags) + "\n", flush=True)
    subprocess.run([sys.executable, "run_classifier_gpu.py", *flags], cwd=ROOT, check=True)


def command(*flags: str) -> str:
    """Return a command of the program that can be pasted into a shell."""
    words = [PYTHON, "run_classifier_gpu.py", *flags]
    return " \\\n    ".join(shlex.quote(word) for word in words).replace(" \\\n    ", " ", 1)


def report(model: list[str]) -> None:
    """Print the results of the run, and the next commands."""
    with open(os.path.join(OUTPUT_DIR, "eval_results.json"), encoding="utf-8") as stream:
        metrics = json.load(stream)

    print("\nDev metrics of the best checkpoint (step %d):" % metrics["global_step"])
    for name, value in metrics.items():
        if name.startswith("eval_"):
            print("  %-18s %.4f" % (name, value))
    print("\nThe best export in %s answers:" % OUTPUT_DIR)
    with Predictor(OUTPUT_DIR) as predictor:
        for sentence, prediction in zip(SENTENCES, predictor.predict(SENTENCES)):
            print("  %-58s -> %s (%.2f)" % (sentence, prediction.label, prediction.confidence))

    of_training = ("--learning_rate", "--num_train", "--early_stopping")
    own = [flag for flag in model if not flag.startswith(of_training)]
    own = ["--task_name=file", *own, "--train_file=my_train.tsv", "--output_dir=my_output"]
    print("\nTrain on your own file (tab separated, header `label<TAB>text`), then use it:\n")
    print(command("--do_train", "--do_eval", *own))
    program = shlex.quote(PYTHON) + " run_classifier_gpu.py"
    print(program + " --do_predict --output_dir=my_output --test_file=my_test.tsv")
    print(program + " --do_export --output_dir=my_output")
    print(shlex.quote(PYTHON) + ' -m bert_classifier.predict my_output "my text"')


def main() -> None:
    """Run the demo from the project's folder, so that all paths it prints work there."""
    os.chdir(ROOT)
    if gpus.first_too_new(gpus.find()):  # The program would refuse; `make demo` has said why.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    model = choose_model()
    shutil.rmtree(OUTPUT_DIR, ignore_errors=True)
    run(
        "--do_train",
        "--do_eval",
        "--do_predict",
        "--task_name=file",
        "--data_dir=" + DATA_DIR,
        "--max_seq_length=48",
        "--train_batch_size=16",
        # One epoch has 35 steps.
        "--best_metric=eval_accuracy",
        "--max_steps_without_improvement=35",
        "--output_dir=" + OUTPUT_DIR,
        *model,
    )
    report(model)


if __name__ == "__main__":
    main()
