"""Convert Hugging Face directories to checkpoints of TensorFlow, and fine-tuned models back.

    python -m bert_classifier.convert HF_DIR OUTPUT_DIR
    python -m bert_classifier.convert --to_hugging_face RUN HF_DIR

The first reads a BERT, ALBERT or ELECTRA: config.json, vocab.txt or spiece.model, and
model.safetensors or pytorch_model.bin. Torch is not needed, and no code in those files is run. A
model that this project would compute in another way than transformers is refused: it would train
without an error, only worse.

The second reads the output_dir of a run, or an export, and writes a directory that transformers'
AutoModelForSequenceClassification and AutoTokenizer load.
"""

from __future__ import annotations

import argparse
import sys
from typing import Sequence

from bert_classifier import streams

if __name__ == "__main__":
    streams.prepare()

from bert_classifier import files
from bert_classifier.errors import BadInput
from bert_classifier.hugging_face import models, writing
from bert_classifier.hugging_face.models import Model
from bert_classifier.hugging_face.reading import Converted, convert


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert as the command line says; return the exit status, 2 for bad input."""
    parser = argparse.ArgumentParser(
        description="Turns a Hugging Face directory of BERT, ALBERT or ELECTRA into a checkpoint "
        "of TensorFlow, or a fine-tuned model into a Hugging Face directory."
    )
    parser.add_argument(
        "--to_hugging_face",
        action="store_true",
        help="read the output_dir of a run, or an export, and write a Hugging Face directory",
    )
    parser.add_argument(
        "source",
        metavar="hf_dir",
        help="has config.json, vocab.txt or spiece.model, and the weights; with --to_hugging_face: "
        "the output_dir of a run, or an export",
    )
    parser.add_argument("output_dir", help="a new directory")
    parsed = parser.parse_args(arguments)
    try:
        source, output_dir = map(files.user_path, (parsed.source, parsed.output_dir))
        if parsed.to_hugging_face:
            model = models.find(source)
            report = report_of_written(model, writing.write(model, output_dir), output_dir)
        else:
            report = _report_of_converted(convert(source, output_dir))
    except (BadInput, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(report)
    return 0


def _report_of_converted(converted: Converted) -> str:
    tokenizer = converted.tokenizer
    values = {
        "init_checkpoint": converted.init_checkpoint,
        "bert_config_file": converted.config_file,
        tokenizer.splitting.flag: tokenizer.path,
        "labels_file": converted.labels_file,
        "do_lower_case": tokenizer.do_lower_case,
    }
    flags = [
        "--%s=%s" % (flag, str(value).lower() if isinstance(value, bool) else value)
        for flag, value in values.items()
        if value is not None
    ]
    lines = [
        "Converted %d variables. Train with:" % converted.num_variables,
        "  " + " ".join(flags),
    ]
    if converted.has_classifier:
        lines.append("The classifier is converted too, and is used if the labels are as many.")
    if converted.heads_left_out:
        heads = ", ".join(converted.heads_left_out)
        lines.append("Not converted, as fine-tuning puts its own head on the encoder: %s" % heads)
    return "\n".join(lines)


def report_of_written(model: Model, num_tensors: int, hf_dir: str) -> str:
    """Return what to tell of a directory for transformers, in several lines."""
    lines = [
        "Wrote %d tensors of %s. Load them with transformers:" % (num_tensors, model.checkpoint),
        "  AutoModelForSequenceClassification.from_pretrained(%r)" % hf_dir,
        "  AutoTokenizer.from_pretrained(%r)" % hf_dir,
    ]
    left_out = []
    if model.thresholds:
        left_out.append("thresholds " + ", ".join("%g" % value for value in model.thresholds))
    if model.temperature != 1:
        left_out.append("temperature %g" % model.temperature)
    if left_out:
        lines.append("Not written, as a config.json has no place for it: " + "; ".join(left_out))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
