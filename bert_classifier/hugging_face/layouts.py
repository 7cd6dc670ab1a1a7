"""How transformers names what the encoders here have too: one row per `model_type`."""

from __future__ import annotations

import re
from typing import Any, Mapping, NamedTuple

from bert_classifier.errors import BadInput
from encoder_config import KINDS, OTHER_KINDS, EncoderKind

# google's names, and where the tensors of transformers differ from them.
_LAYERS_OF_BERT = ((r"/layer_(\d+)/", r"/layer/\1/"),)
_LAYERS_OF_ALBERT = (
    (
        r"/transformer/group_(\d+)/inner_group_(\d+)/",
        r"/albert_layer_groups/\1/albert_layers/\2/",
    ),
    (r"/(\d+)/LayerNorm/", r"/\1/attention/LayerNorm/"),
    (r"/LayerNorm_1/", "/full_layer_layer_norm/"),
    (r"/attention_1/(self|output)/", "/attention/"),
    (r"/ffn_1/intermediate/output/dense/", "/ffn_output/"),
    (r"/ffn_1/intermediate/dense/", "/ffn/"),
    (r"^pooler/dense/", "pooler/"),
)
_LEAVES = (
    (r"/(kernel|gamma)$", "/weight"),
    (r"/beta$", "/bias"),
    (r"_embeddings$", "_embeddings/weight"),
    (r"/", "."),
)


class Layout(NamedTuple):
    """How a model of some `model_type` is kept.

    Attributes:
        kind: The key of `encoder_config.KINDS` with the same computation.
        model_type: The prefix of its tensors in a model that has a head, too.
        class_prefix: What the names of its classes begin with.
        renamings: Patterns in the names of variables, in the order of replacing them.
        sizes: Sizes in its config.json beside those of BERT.
        defaults: Those of transformers for keys that a config.json may lack.
        tanh_gelu: The word of this kind, here, for the approximation of gelu by tanh.
        dropout_key: The key of the dropout of a classifier; null stands for that of the layers.
        always_projects: Whether the embeddings are projected even if they are as wide as the
            layers.
        classifier: The tensors of the output layer, on the pooled output.
        classifier_dense: The tensors of a layer before it, which classifiers here lack: a square
            matrix and the exact gelu. None if there is none.
        may_have_pieces: Whether the model may have SentencePiece's kind of vocabulary.
    """

    kind: str
    model_type: str
    class_prefix: str
    renamings: tuple[tuple[str, str], ...] = _LAYERS_OF_BERT
    sizes: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = {}
    tanh_gelu: str = "gelu"
    dropout_key: str = "classifier_dropout"
    always_projects: bool = False
    classifier: str = "classifier"
    classifier_dense: str | None = None
    may_have_pieces: bool = False


# Of several rows of a kind, the first is the one that is written.
LAYOUTS = {
    layout.model_type: layout
    for layout in (
        Layout("bert", "bert", "Bert"),
        # The same as BERT where it has no vectors for tasks.
        Layout("bert", "ernie", "Ernie"),
        Layout(
            "albert",
            "albert",
            "Albert",
            _LAYERS_OF_ALBERT,
            sizes=("embedding_size", "num_hidden_groups", "inner_group_num"),
            defaults={
                "embedding_size": 128,
                "num_hidden_groups": 1,
                "inner_group_num": 1,
                "classifier_dropout_prob": 0.1,
            },
            dropout_key="classifier_dropout_prob",
            always_projects=True,
            may_have_pieces=True,
        ),
        Layout(
            "electra",
            "electra",
            "Electra",
            sizes=("embedding_size",),
            defaults={"embedding_size": 128},
            # In google's ELECTRA, and so in this kind, "gelu" is the exact form.
            tanh_gelu="gelu_new",
            classifier="classifier.out_proj",
            classifier_dense="classifier.dense",
        ),
    )
}

# Other models whose classes begin like those above.
_OTHER_CLASSES = ("BertGeneration", "ErnieMModel", "ErnieMFor")


def of_config(settings: Mapping[str, Any], kind: str, source: str) -> Layout:
    """Return the layout of the model that a config.json is of.

    Args:
        settings: The content of the file.
        kind: The kind of the keys, for a file that has no `model_type`.
        source: The file, for messages.

    Raises:
        BadInput: It is of a model that no encoder here computes exactly.
    """
    model_type = settings.get("model_type") or kind
    known = ", ".join(LAYOUTS)
    if str(model_type) not in LAYOUTS:
        reason = OTHER_KINDS.get(str(model_type))
        because = ": " + reason if reason else ""
        message = "%s: model_type is %r, which cannot be converted%s; use a model of %s"
        raise BadInput(message % (source, model_type, because, known))
    layout = LAYOUTS[model_type]
    for name in map(str, settings.get("architectures") or []):
        if not name.startswith(layout.class_prefix) or name.startswith(_OTHER_CLASSES):
            message = "%s: architecture %r is not %s; use a model of %s"
            raise BadInput(message % (source, name, layout.model_type, known))
    return layout


def of_kind(kind: EncoderKind) -> Layout | None:
    """Return the layout that a kind of encoder is written in, None if transformers lacks it."""
    return next((layout for layout in LAYOUTS.values() if KINDS[layout.kind] is kind), None)


def tensor_name(variable: str, layout: Layout) -> str:
    """Translate `<scope>/encoder/layer_0/...`, the name of a variable, to `encoder.layer.0...`."""
    _, name = variable.split("/", 1)
    for pattern, replacement in layout.renamings + _LEAVES:
        name = re.sub(pattern, replacement, name)
    return name
