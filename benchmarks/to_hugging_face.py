"""Convert google's BERT checkpoints to Hugging Face directories, so that peers begin alike."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from bert_classifier.hugging_face import writing
from bert_classifier.hugging_face.models import Model
from bert_classifier.hugging_face.reading import CHECKPOINT_NAME, CONFIG_NAME
from bert_classifier.hugging_face.tokenizers import WORD_PIECES, Tokenizer
from modeling import BertConfig


def convert(model_dir: str, hf_dir: str) -> None:
    """Write the uncased model of bert_model.ckpt, bert_config.json and vocab.txt to a new folder.

    Args:
        model_dir: where those three are.
        hf_dir: gets model.safetensors, config.json, vocab.txt and tokenizer_config.json.
    """
    config_file = os.path.join(model_dir, CONFIG_NAME)
    config = BertConfig.from_json_file(config_file)
    vocab_file = os.path.join(model_dir, WORD_PIECES.file_name)
    model = Model(
        config,
        config_file,
        os.path.join(model_dir, CHECKPOINT_NAME),
        Tokenizer(WORD_PIECES, vocab_file, do_lower_case=True),
        config.max_position_embeddings,
        classifier=None,
    )
    writing.write(model, hf_dir)
