"""The kinds of encoders, and the sizes of one: what its configuration file says.

This is the only place that knows how BERT, ALBERT and ELECTRA differ, and the names of their
variables without a graph. `modeling` builds any of them from a configuration.
"""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import os
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple

# The activations that `modeling` has.
ACTIVATION_NAMES = ("linear", "relu", "tanh", "gelu", "gelu_new", "gelu_erf")

# The sizes that the configuration of every encoder has.
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)


class LayerNames(NamedTuple):
    """The variable scopes of the parts of a layer, below the scope of the layer.

    Attributes:
        attention: Has `query`, `key` and `value`.
        attention_output: The projection of what attention returns.
        attention_norm: The normalization after it.
        intermediate: The first projection of the feed-forward part.
        output: The second projection of the feed-forward part.
        output_norm: The normalization after it.
    """

    attention: str = "attention/self"
    attention_output: str = "attention/output/dense"
    attention_norm: str = "attention/output/LayerNorm"
    intermediate: str = "intermediate/dense"
    output: str = "output/dense"
    output_norm: str = "output/LayerNorm"


class EncoderKind(NamedTuple):
    """How the encoders of a kind differ from BERT. Variable scopes are below `scope`.

    Attributes:
        title: The name for messages.
        scope: The variable scope of the encoder.
        signs: Beginnings of variable names, below `scope`, that only this kind has.
        keys: Keys of a configuration file that only this kind has.
        defaults: Values of keys that a file may leave out, where they are not those of BERT.
        required: Keys that say how the encoder is computed, each with the values that are known.
        activations: What a name of an activation means, where it is not what BERT means by it.
        projection: The variable scope of the projection from the embeddings to the layers; None
            if the embeddings are as wide as the layers.
        projects_words: Whether the projection, a table without a bias, is of the words alone,
            before positions and token types are added; else it is of the normalized sum.
        layer: The variable scope of a layer, with {layer}, {group} and {inner} for its numbers.
        names: Of the parts of a layer.
        has_pooler: Whether a layer with tanh follows on the vector of the first token.
        shares_layers: Whether layers have weights in common unless the configuration says how many
            groups there are.
        classifier_dropout_prob: Of the classifier; None for `hidden_dropout_prob`.
        config_file: The configuration file that comes with a checkpoint, by its usual name.
        config_files: Where none comes with it: those of this project, by `embedding_size`,
            `hidden_size` and `num_hidden_layers`.
    """

    title: str
    scope: str = "bert"
    signs: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = {}
    required: Mapping[str, tuple[Any, ...]] = {}
    activations: Mapping[str, str] = {}
    projection: str | None = None
    projects_words: bool = False
    layer: str = "encoder/layer_{layer}"
    names: LayerNames = LayerNames()
    has_pooler: bool = True
    shares_layers: bool = False
    classifier_dropout_prob: float | None = None
    config_file: str = "bert_config.json"
    config_files: Mapping[tuple[int, ...], str] = {}


# https://arxiv.org/abs/1810.04805, https://arxiv.org/abs/1909.11942, https://arxiv.org/abs/2003.10555
KINDS = {
    # First those whose signs are more than BERT's.
    "albert": EncoderKind(
        "ALBERT",
        signs=("encoder/transformer/group_",),
        keys=("num_hidden_groups", "inner_group_num", "net_structure_type", "gap_size"),
        defaults={
            "embedding_size": 128,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "type_vocab_size": 2,
        },
        # google's code reads none of these; with other values it would be another model.
        required={
            "down_scale_factor": (1,),
            "net_structure_type": (0,),
            "gap_size": (0,),
            "num_memory_blocks": (0,),
            "layers_to_keep": ([],),
        },
        projection="encoder/embedding_hidden_mapping_in",
        layer="encoder/transformer/group_{group}/inner_group_{inner}",
        names=LayerNames(
            "attention_1/self",
            "attention_1/output/dense",
            "LayerNorm",
            "ffn_1/intermediate/dense",
            "ffn_1/intermediate/output/dense",
            "LayerNorm_1",
        ),
        shares_layers=True,
        classifier_dropout_prob=0.1,
        config_file="albert_config.json",
    ),
    "albert_zh": EncoderKind(
        "brightmart's ALBERT",
        signs=("embeddings/word_embeddings_2", "encoder/layer_shared/"),
        keys=("ln_type",),
        defaults={"embedding_size": 128, "type_vocab_size": 2},
        required={"ln_type": ("postln",), "num_hidden_groups": (1,), "inner_group_num": (1,)},
        projection="embeddings/word_embeddings_2",
        projects_words=True,
        layer="encoder/layer_shared",
        shares_layers=True,
        classifier_dropout_prob=0.1,
        config_file="albert_config.json",
    ),
    "electra": EncoderKind(
        "ELECTRA",
        scope="electra",
        signs=("",),
        defaults={"type_vocab_size": 2},
        # google's ELECTRA computes "gelu" with erf, google's BERT with tanh.
        activations={"gelu": "gelu_erf"},
        projection="embeddings_project",
        has_pooler=False,
        classifier_dropout_prob=0.1,
        config_file="discriminator.json",
        # Of util/training_utils.py, and configure_finetuning.py, in google's repository.
        config_files={
            (128, 256, 12): "configs/electra_small.json",
            (768, 768, 12): "configs/electra_base.json",
            (1024, 1024, 24): "configs/electra_large.json",
        },
    ),
    "bert": EncoderKind(
        "BERT",
        signs=("encoder/layer_", "embeddings/"),
        # Of ERNIE 2.0 and later, which add a vector for the task.
        required={"use_task_id": (False,)},
    ),
}

# Other encoders whose configuration files look alike: value of `model_type` -> what to know.
_BYTE_PAIRS = "its tokens are pairs of bytes, which are not read here; RoBERTa-wwm and RoBERTa-zh "
_BYTE_PAIRS += "are BERT, with a configuration of their own"
_OTHER_NUMBERS = "it numbers tokens and positions in another way"
_RELATIVE = "it attends by relative positions"
OTHER_KINDS = {
    "roberta": _BYTE_PAIRS,
    "longformer": _BYTE_PAIRS,
    "modernbert": _BYTE_PAIRS,
    "xlm-roberta": _OTHER_NUMBERS,
    "xlm-roberta-xl": _OTHER_NUMBERS,
    "camembert": _OTHER_NUMBERS,
    "ernie_m": _OTHER_NUMBERS,
    "deberta": _RELATIVE,
    "deberta-v2": _RELATIVE,
    "mpnet": _RELATIVE,
    "nezha": _RELATIVE,
    "xlnet": _RELATIVE,
    "distilbert": "it has no token types and no pooler, and names its sizes in another way",
    "ernie": 'ERNIE 1.0 is computed as "bert": write this if "use_task_id" is false or missing',
    "megatron-bert": "it normalizes before each part of a layer, BERT after it",
    "mobilebert": "its layers have other parts",
    "roformer": "it turns vectors by the position of a token, and adds no positions",
}


def kind_of_keys(json_object: Mapping[str, Any]) -> str:
    """Return the kind of encoder that a configuration file is for: a key of KINDS.

    `model_type` names it. Files of google and brightmart lack that, and have keys of their own.

    Raises:
        ValueError: `model_type` is none of KINDS.
    """
    name = json_object.get("model_type")
    if name is not None:
        if not isinstance(name, str) or name not in KINDS:
            reason = OTHER_KINDS.get(name) if isinstance(name, str) else None
            raise ValueError(
                '"model_type" is %s; the kinds of encoders here are %s%s'
                % (_as_json(name), ", ".join(map(_as_json, KINDS)), "; " + reason if reason else "")
            )
        return name
    # brightmart's files may have google's keys too.
    for name in ("albert_zh", "albert"):
        if any(key in json_object for key in KINDS[name].keys):
            return name
    return "bert"


def kind_of_variables(names: Iterable[str]) -> str | None:
    """Return the kind of encoder that variables of these names belong to; None if none does."""
    variables = list(names)
    for name, kind in KINDS.items():
        beginnings = tuple("%s/%s" % (kind.scope, sign) for sign in kind.signs)
        if any(variable.startswith(beginnings) for variable in variables):
            return name
    return None


@dataclasses.dataclass
class BertConfig:
    """The sizes of an encoder, as in the `bert_config.json` that comes with each checkpoint.

    A value of None means: as is usual for this kind of encoder.

    Attributes:
        vocab_size: Number of entries in the vocabulary.
        hidden_size: Width of every layer and of the pooled output.
        num_hidden_layers: Number of transformer layers.
        num_attention_heads: Number of attention heads per layer; a divisor of `hidden_size`.
        intermediate_size: Width of the feed-forward part of a layer.
        hidden_act: Activation of the feed-forward part, see `modeling.get_activation`.
        hidden_dropout_prob: Probability of dropping a unit, below 1.
        attention_probs_dropout_prob: Probability of dropping an attention probability, below 1.
        max_position_embeddings: Number of tokens in the longest sequence the model can read.
        type_vocab_size: Number of token types; a pair of texts needs two.
        initializer_range: Standard deviation of fresh weights.
        model_type: The kind of encoder, a key of KINDS.
        embedding_size: Width of the embeddings; by default that of the layers.
        num_hidden_groups: Number of groups of layers; the layers of a group share their weights.
        inner_group_num: Number of layers, each with weights of its own, that a group stands for
            wherever a layer is applied.
        classifier_dropout_prob: Probability of dropping a unit of what a classifier reads.
        layer_norm_eps: What is added to a variance before its root is taken; by default 1e-12.
    """

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str | Callable[..., Any] | None = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 16
    initializer_range: float = 0.02
    model_type: str | None = None
    embedding_size: int | None = None
    num_hidden_groups: int | None = None
    inner_group_num: int | None = None
    classifier_dropout_prob: float | None = None
    layer_norm_eps: float | None = None

    @classmethod
    def from_dict(cls, json_object: dict[str, Any]) -> BertConfig:
        """Make a valid configuration from a dictionary.

        Missing keys take their defaults. Unknown keys (published files have `directionality` and
        `pooler_*`) become attributes that nothing reads.

        Raises:
            ValueError: The object is not a dictionary, `vocab_size` is missing, or a value is
                impossible.
        """
        if not isinstance(json_object, dict):
            raise ValueError(
                'the content is of type %s; write an object, {"vocab_size": ...} with all its keys'
                % type(json_object).__name__
            )
        if "vocab_size" not in json_object:
            raise ValueError('"vocab_size" is missing; add it: the number of lines in vocab.txt')
        config = cls(vocab_size=json_object["vocab_size"])
        kind = kind_of_keys(json_object)
        if kind != "bert":
            config.model_type = kind
        vars(config).update(KINDS[kind].defaults)
        vars(config).update(json_object)
        if "sent_type_vocab_size" in json_object:  # ERNIE's name for it.
            config.type_vocab_size = json_object["sent_type_vocab_size"]
        config.validate()
        return config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> BertConfig:
        """Read a configuration from a JSON file.

        Raises:
            ValueError: The file cannot be read, is not JSON, or has a value that is impossible.
        """
        source = "give the bert_config.json that came with the pre-trained model"
        try:
            with open(json_file, encoding="utf-8-sig") as reader:
                return cls.from_dict(json.load(reader))
        except FileNotFoundError:
            raise ValueError("%s: no such file; %s" % (json_file, source)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError("%s: cannot be read (%s); %s" % (json_file, error, source)) from None
        except json.JSONDecodeError as error:
            raise ValueError(
                "%s:%d: not JSON at column %d (%s); correct the line or %s"
                % (json_file, error.lineno, error.colno, error.msg, source)
            ) from None
        except RecursionError:
            raise ValueError("%s: nested too deeply; %s" % (json_file, source)) from None
        except ValueError as error:
            raise ValueError("%s: %s" % (json_file, error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Return all values by name, including those of unknown keys."""
        return {
            name: value
            for name, value in vars(self).items()
            if not (value is None and self._is_optional(name))
        }

    def to_json_string(self) -> str:
        """Return all values as JSON text, sorted by name."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def validate(self) -> None:
        """Check that a model can be built from these values.

        Raises:
            ValueError: A value has the wrong type, is out of its range, or `hidden_size` is not a
                multiple of `num_attention_heads`.
        """
        for name in (*SIZES, "embedding_size", "num_hidden_groups", "inner_group_num"):
            self._check(name, numbers.Integral, 1, math.inf, "a whole number of 1 or more")
        for name in (
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "classifier_dropout_prob",
        ):
            self._check(name, numbers.Real, 0, 1, "a number of 0 or more and below 1")
        for name in ("initializer_range", "layer_norm_eps"):
            self._check(name, numbers.Real, 0, math.inf, "a number of 0 or more")
        check_activation(self.hidden_act)
        attention_head_size(self.hidden_size, self.num_attention_heads)
        self._check_kind()

    def _check_kind(self) -> None:
        kind = self.kind
        for key, values in kind.required.items():
            value = getattr(self, key, None)
            if value is not None and value not in values:
                known = " or ".join(map(_as_json, values))
                raise ValueError(
                    '"%s" is %s, but %s is computed here only with %s; use another model'
                    % (key, _as_json(value), kind.title, known)
                )
        if kind.projection is None and self.embedding_width != self.hidden_size:
            raise ValueError(
                '"embedding_size" is %d and "hidden_size" %d, which are equal in %s; correct one, '
                'or name the kind of the encoder as "model_type"'
                % (self.embedding_width, self.hidden_size, kind.title)
            )
        if self.num_groups > self.num_hidden_layers:
            raise ValueError(
                '"num_hidden_groups" is %d, above "num_hidden_layers", %d; correct one of them'
                % (self.num_groups, self.num_hidden_layers)
            )

    @property
    def kind(self) -> EncoderKind:
        """How this kind of encoder is computed.

        Raises:
            ValueError: `model_type` is none of KINDS.
        """
        return KINDS[kind_of_keys({"model_type": self.model_type})]

    @property
    def scope(self) -> str:
        """The variable scope of the encoder, as in published checkpoints."""
        return self.kind.scope

    @property
    def embedding_width(self) -> int:
        """The width of the embeddings."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def projection(self) -> str | None:
        """The variable scope of the projection of the embeddings; None if there is none."""
        is_needed = self.embedding_width != self.hidden_size or self.kind.projects_words
        return self.kind.projection if is_needed else None

    @property
    def num_groups(self) -> int:
        """The number of groups of layers; the layers of a group share their weights."""
        if self.num_hidden_groups is not None:
            return self.num_hidden_groups
        return 1 if self.kind.shares_layers else self.num_hidden_layers

    @property
    def shares_layers(self) -> bool:
        """Whether some layers have weights in common."""
        return len(set(self.layer_scopes())) < len(self.layer_scopes())

    @property
    def activation(self) -> str | Callable[..., Any] | None:
        """The activation of the feed-forward part, in the words of `modeling.get_activation`."""
        if isinstance(self.hidden_act, str):
            return self.kind.activations.get(self.hidden_act.lower(), self.hidden_act)
        return self.hidden_act

    @property
    def dropout_of_classifier(self) -> float:
        """The probability of dropping a unit of the pooled output in a classifier."""
        of_kind = self.kind.classifier_dropout_prob
        if self.classifier_dropout_prob is not None:
            return self.classifier_dropout_prob
        return self.hidden_dropout_prob if of_kind is None else of_kind

    @property
    def norm_epsilon(self) -> float:
        """What is added to a variance before its root is taken."""
        return 1e-12 if self.layer_norm_eps is None else self.layer_norm_eps

    def layer_scopes(self) -> list[str]:
        """Return the variable scope, below `scope`, of each layer in the order of computing them.

        A scope that comes twice is a layer that is applied twice.
        """
        return [
            self.kind.layer.format(
                layer=layer, group=layer * self.num_groups // self.num_hidden_layers, inner=inner
            )
            for layer in range(self.num_hidden_layers)
            for inner in range(self.inner_group_num or 1)
        ]

    def owns(self, variable_name: str) -> bool:
        """Tell whether a variable belongs to the encoder."""
        return variable_name.startswith(self.scope + "/")

    def is_pooler(self, variable_name: str) -> bool:
        """Tell whether a variable belongs to the pooler, which masked language models lack."""
        return variable_name.startswith(self.scope + "/pooler/")

    def layers_above(self, variable_name: str) -> int:
        """Count the layers from a variable to the output of the model.

        It is 0 for what is not in the encoder (the classifier), 1 for the pooler, 2 for the last
        layer and one more for each layer below it, and that of the first layer plus 1 for the
        embeddings and their projection. These are the numbers of ELECTRA (`_get_layer_lrs` in
        model/optimization.py of https://github.com/google-research/electra), which has no pooler
        and gives 1 to nothing.

        Raises:
            ValueError: Layers share their weights, so a variable has no such number.
        """
        if self.shares_layers:
            raise ValueError("layers that share their weights have no number of layers above them")
        if not self.owns(variable_name):
            return 0
        if self.is_pooler(variable_name):
            return 1
        scopes = self.layer_scopes()
        for number, scope in enumerate(scopes):
            if variable_name.startswith("%s/%s/" % (self.scope, scope)):
                return len(scopes) + 1 - number
        return len(scopes) + 2

    def variable_shapes(self) -> dict[str, list[int]]:
        """Return name and shape of each variable of the encoder, in the order of its graph."""
        return {
            "%s/%s" % (self.scope, name): shape
            for name, shape in [
                *self._embedding_shapes(),
                *self._projection_shapes(),
                *self._layer_shapes(),
                *self._pooler_shapes(),
            ]
        }

    def _embedding_shapes(self) -> Iterator[tuple[str, list[int]]]:
        width = self.embedding_width
        yield "embeddings/word_embeddings", [self.vocab_size, width]
        if self.kind.projects_words:
            yield from self._projection_of_words()
            width = self.hidden_size
        yield "embeddings/token_type_embeddings", [self.type_vocab_size, width]
        yield "embeddings/position_embeddings", [self.max_position_embeddings, width]
        yield from _layer_norm_shapes("embeddings/LayerNorm", width)

    def _projection_of_words(self) -> Iterator[tuple[str, list[int]]]:
        if self.projection:
            yield self.projection, [self.embedding_width, self.hidden_size]

    def _projection_shapes(self) -> Iterator[tuple[str, list[int]]]:
        if self.projection and not self.kind.projects_words:
            yield from _dense_shapes(self.projection, self.embedding_width, self.hidden_size)

    def _layer_shapes(self) -> Iterator[tuple[str, list[int]]]:
        hidden, inner, names = self.hidden_size, self.intermediate_size, self.kind.names
        for layer in dict.fromkeys(self.layer_scopes()):
            for part in ("query", "key", "value"):
                yield from _dense_shapes(
                    "%s/%s/%s" % (layer, names.attention, part), hidden, hidden
                )
            yield from _dense_shapes("%s/%s" % (layer, names.attention_output), hidden, hidden)
            yield from _layer_norm_shapes("%s/%s" % (layer, names.attention_norm), hidden)
            yield from _dense_shapes("%s/%s" % (layer, names.intermediate), hidden, inner)
            yield from _dense_shapes("%s/%s" % (layer, names.output), inner, hidden)
            yield from _layer_norm_shapes("%s/%s" % (layer, names.output_norm), hidden)

    def _pooler_shapes(self) -> Iterator[tuple[str, list[int]]]:
        if self.kind.has_pooler:
            yield from _dense_shapes("pooler/dense", self.hidden_size, self.hidden_size)

    def _is_optional(self, name: str) -> bool:
        """Tell whether a value may be None, for what is usual for this kind of encoder."""
        return any(f.name == name and f.default is None for f in dataclasses.fields(self))

    def _check(self, name: str, kind: type, low: float, below: float, cure: str) -> None:
        value = getattr(self, name)
        if value is None and self._is_optional(name):
            return
        # In Python True is the number 1; in a configuration it is a mistake.
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        if not (is_number and low <= value < below):
            raise ValueError('"%s" is %s; write %s' % (name, _as_json(value), cure))


@dataclasses.dataclass
class AlbertConfig(BertConfig):
    """The sizes of google's ALBERT, with its defaults, which are those of ALBERT-xxlarge."""

    hidden_size: int = 4096
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    type_vocab_size: int = 2
    model_type: str | None = "albert"
    embedding_size: int | None = 128


def _dense_shapes(scope: str, num_inputs: int, num_outputs: int) -> Iterator[tuple[str, list[int]]]:
    yield scope + "/kernel", [num_inputs, num_outputs]
    yield scope + "/bias", [num_outputs]


def _layer_norm_shapes(scope: str, width: int) -> Iterator[tuple[str, list[int]]]:
    yield scope + "/beta", [width]
    yield scope + "/gamma", [width]


def check_activation(hidden_act: str | Callable[..., Any] | None) -> None:
    """Check that an activation is a function, None for the identity, or one of ACTIVATION_NAMES.

    Raises:
        ValueError: There is no such activation.
    """
    if hidden_act is None or callable(hidden_act):
        return
    if (str(hidden_act).lower() or "linear") not in ACTIVATION_NAMES:
        raise ValueError(
            '"hidden_act" is %s; write one of %s'
            % (_as_json(hidden_act), ", ".join(map(_as_json, ACTIVATION_NAMES)))
        )


def attention_head_size(hidden_size: int, num_attention_heads: int) -> int:
    """Return the width of one attention head.

    Raises:
        ValueError: `hidden_size` is not a multiple of `num_attention_heads`.
    """
    if hidden_size % num_attention_heads:
        raise ValueError(
            '"hidden_size" is %d, not a multiple of "num_attention_heads", %d; correct one of them'
            % (hidden_size, num_attention_heads)
        )
    return hidden_size // num_attention_heads


def _as_json(value: Any) -> str:
    return json.dumps(value, default=repr)
