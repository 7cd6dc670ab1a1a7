"""Makes tiny models of random weights as Hugging Face has saved them, and their numbers.

    python make_tiny_hf.py

tiny_bert/ is in all forms of files; tiny_albert/, tiny_electra/ and tiny_ernie/ are classifiers in
the form of today.

Needs Python 3.11, torch==2.13.0 and transformers==4.57.6. The tests need none of them.
"""

import pathlib
import tempfile

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
FOLDER = HERE / "tiny_bert"
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e f g h ##i ##j ##k".split()
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "tanh")

# [batch_size 3, seq_length 7]: one text, a pair of texts, a text with padding.
INPUTS = {
    "input_ids": [[2, 5, 13, 6, 7, 8, 3], [2, 9, 3, 10, 14, 11, 3], [2, 12, 15, 3, 0, 0, 0]],
    "input_mask": [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]],
    "segment_ids": [[0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]],
}


def make_model() -> transformers.BertForPreTraining:
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=10,
    )
    torch.manual_seed(1)
    return with_random_weights(transformers.BertForPreTraining(config))


def with_random_weights(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    with torch.no_grad():
        for parameter in model.eval().parameters():
            # Unlike in a new model every bias and LayerNorm counts. Multiples of 1/64 are exact in
            # float16 and bfloat16 too, so every file holds the same numbers.
            parameter.copy_((0.1 + 0.6 * torch.randn_like(parameter)).mul(64).round().div(64))
    return model


def save_weights(model: transformers.BertForPreTraining) -> None:
    def save_safetensors(name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            model.bert.save_pretrained(folder)
            (pathlib.Path(folder) / "model.safetensors").replace(FOLDER / name)

    def with_old_names(tensors: dict) -> dict:
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new_name, old_name in old.items():
            tensors = {name.replace(new_name, old_name): t for name, t in tensors.items()}
        return tensors

    save_safetensors("encoder.safetensors")
    torch.save(model.state_dict(), FOLDER / "pretraining_zip.bin")
    torch.save(
        with_old_names(model.state_dict()),
        FOLDER / "pretraining_2018.bin",
        _use_new_zipfile_serialization=False,
    )
    model.half()
    torch.save(model.bert.state_dict(), FOLDER / "encoder_float16_zip.bin")
    model.bfloat16()
    save_safetensors("encoder_bfloat16.safetensors")
    torch.save(
        model.bert.state_dict(),
        FOLDER / "encoder_bfloat16_legacy.bin",
        _use_new_zipfile_serialization=False,
    )
    model.float()


def save_tokenizer_and_config(model: transformers.BertForPreTraining) -> None:
    (FOLDER / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        transformers.BertTokenizer(FOLDER / "vocab.txt").save_pretrained(folder)
        model.bert.save_pretrained(folder)
        for name in ("tokenizer_config.json", "config.json"):
            (pathlib.Path(folder) / name).replace(FOLDER / name)


def save_numbers(model: transformers.BertForPreTraining) -> None:
    """Hidden states `[1 + num_layers, batch, seq, hidden]` and pooled output per activation."""
    numbers = {name: np.array(value, np.int32) for name, value in INPUTS.items()}
    input_ids, mask, segments = (torch.tensor(value) for value in INPUTS.values())
    for activation in ACTIVATIONS:
        config = transformers.BertConfig.from_pretrained(
            FOLDER, hidden_act=activation, attn_implementation="eager"
        )
        encoder = transformers.BertModel(config).eval()
        encoder.load_state_dict(model.bert.state_dict())
        with torch.no_grad():
            outputs = encoder(input_ids, mask, segments, output_hidden_states=True)
        numbers[activation + "_hidden_states"] = torch.stack(outputs.hidden_states).numpy()
        numbers[activation + "_pooled"] = outputs.pooler_output.numpy()
    np.savez_compressed(FOLDER / "numbers.npz", **numbers)


SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
    "id2label": {0: "bad", 1: "so so", 2: "good"},
}
CLASSIFIERS = {
    "tiny_albert": transformers.AlbertConfig(
        **SIZES, embedding_size=4, num_hidden_groups=2, inner_group_num=2, hidden_act="gelu_new"
    ),
    "tiny_electra": transformers.ElectraConfig(**SIZES, embedding_size=4),
    "tiny_ernie": transformers.ErnieConfig(**SIZES, hidden_act="relu", layer_norm_eps=1e-5),
}


def save_classifier(name: str, config: transformers.PretrainedConfig) -> None:
    """Hidden states `[1 + num_layers, batch, seq, hidden]` and logits are its numbers."""
    folder = HERE / name
    config._attn_implementation = "eager"
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with_random_weights(model).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    with tempfile.TemporaryDirectory() as temporary:
        transformers.BertTokenizer(folder / "vocab.txt").save_pretrained(temporary)
        (pathlib.Path(temporary) / "tokenizer_config.json").replace(
            folder / "tokenizer_config.json"
        )
    numbers = {key: np.array(value, np.int32) for key, value in INPUTS.items()}
    input_ids, mask, segments = (torch.tensor(value) for value in INPUTS.values())
    with torch.no_grad():
        outputs = model(input_ids, mask, segments, output_hidden_states=True)
    numbers["hidden_states"] = torch.stack(outputs.hidden_states).numpy()
    numbers["logits"] = outputs.logits.numpy()
    np.savez_compressed(folder / "numbers.npz", **numbers)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    tiny_model = make_model()
    save_tokenizer_and_config(tiny_model)
    save_weights(tiny_model)
    save_numbers(tiny_model)
    for folder_name, its_config in CLASSIFIERS.items():
        save_classifier(folder_name, its_config)
