"""The encoder: token ids in, a vector for each token and one for the whole text out.

It is BERT, ALBERT or ELECTRA; `encoder_config` says how they differ. The variables have the names,
shapes and order of the published ones, so their checkpoints fit. In this order: the activations,
the model, its two stages (embeddings and transformer), their building blocks, and last the
variables that a checkpoint can initialize.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import os
import threading
import zlib
from typing import Any, Callable, Iterator, List, NamedTuple, Sequence, Union

import numpy as np
import tensorflow.compat.v1 as tf

from encoder_config import AlbertConfig as AlbertConfig  # For those who import google's name.
from encoder_config import BertConfig, LayerNames, attention_head_size, check_activation

Activation = Callable[[tf.Tensor], tf.Tensor]
# Takes the gradient of a result, returns that of each argument, None for one without a gradient.
Gradient = Callable[..., Any]
# The sizes of a tensor: an int where the graph knows the size, a scalar tensor where it does not.
Shape = List[Union[int, tf.Tensor]]

# Added to the attention score of a masked position: the softmax makes it a probability of zero.
MASKED_SCORE = -10000.0


def _gradient_of_its_own(operation: tf.Operation, *upstream: tf.Tensor) -> Any:
    return operation.gradient_of_its_own(*upstream)


with contextlib.suppress(KeyError):  # It exists already when this module is imported again.
    tf.RegisterGradient("OfItsOwn")(_gradient_of_its_own)


class _Building(threading.local):
    """What kind of graph this thread is building.

    Attributes:
        for_training: Whether gradients are replaced; see `_with_gradient`.
    """

    for_training = False


_BUILDING = _Building()


@contextlib.contextmanager
def _building(for_training: bool) -> Iterator[None]:
    before, _BUILDING.for_training = _BUILDING.for_training, for_training
    try:
        yield
    finally:
        _BUILDING.for_training = before


def _with_gradient(op_type: str, compute: Callable[[], tf.Tensor], gradient: Gradient) -> tf.Tensor:
    """Compute a tensor, and replace the gradient of the operation that makes it.

    Unlike `tf.custom_gradient` it adds nothing to the graph, and does not keep the graph alive. A
    graph that is saved loses these gradients, so only graphs for training have them.

    Args:
        op_type: Type of that operation. `compute` must make no other operation of this type.
        compute: Computes the tensor.
        gradient: Returns the gradient of each input of the operation.
    """
    if not _BUILDING.for_training:
        return compute()
    with tf.get_default_graph().gradient_override_map({op_type: "OfItsOwn"}):
        result = compute()
    assert result.op.type == op_type
    result.op.gradient_of_its_own = gradient
    return result


def gelu(x: tf.Tensor) -> tf.Tensor:
    """Compute the Gaussian error linear unit by its tanh approximation, as google's BERT does.

    The formula is in section 2 of https://arxiv.org/abs/1606.08415. It is written with
    (1 + tanh(u)) / 2 = sigmoid(2u), and its gradient is in closed form: both read these large
    tensors fewer times.
    """
    scale = 2.0 * math.sqrt(2.0 / math.pi)
    score = x * (scale + scale * 0.044715 * tf.square(x))
    open_part = tf.sigmoid(score)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        # x * score'(x), the cube being all of the score but its linear part.
        slope = 3.0 * score - 2.0 * scale * x
        return upstream * (open_part + tf.raw_ops.SigmoidGrad(y=open_part, dy=slope)), None

    return _with_gradient("Mul", lambda: x * open_part, gradient)


def gelu_erf(x: tf.Tensor) -> tf.Tensor:
    """Compute the exact Gaussian error linear unit, which Hugging Face models call "gelu".

    It is x * Phi(x), where Phi is the distribution function of the normal distribution. Its
    gradient, Phi(x) + x * Phi'(x), is in closed form for the reason given in `gelu`.
    """
    distribution = 0.5 + 0.5 * tf.math.erf(x * math.sqrt(0.5))

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        density = math.sqrt(0.5 / math.pi) * tf.exp(-0.5 * tf.square(x))
        return upstream * (distribution + x * density), None

    return _with_gradient("Mul", lambda: x * distribution, gradient)


ACTIVATIONS = {
    "linear": None,
    "relu": tf.nn.relu,
    "tanh": tf.tanh,
    "gelu": gelu,
    "gelu_new": gelu,  # What Hugging Face calls google's.
    "gelu_erf": gelu_erf,
}


def get_activation(activation_string: str | Activation | None) -> Activation | None:
    """Return the activation function of a name, None for the identity.

    Case does not matter. No name means the identity. A function is returned as it is.

    Raises:
        ValueError: There is no such activation.
    """
    check_activation(activation_string)
    if activation_string is None or callable(activation_string):
        return activation_string
    return ACTIVATIONS[str(activation_string).lower() or "linear"]


class BertModel:
    """An encoder in the current graph: BERT, ALBERT or ELECTRA, as its configuration says.

    Example:
        model = BertModel(config, is_training=False, input_ids=input_ids, input_mask=input_mask)
        logits = tf.matmul(model.get_pooled_output(), output_weights, transpose_b=True)
    """

    def __init__(
        self,
        config: BertConfig,
        is_training: bool,
        input_ids: tf.Tensor,
        input_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        use_one_hot_embeddings: bool = False,
        scope: str | None = None,
        dropout_seed: tf.Tensor | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Add the encoder to the graph.

        Args:
            config: The sizes of the model; it is not changed.
            is_training: Whether to apply dropout, and to use gradients that are faster but cannot
                be saved with the graph.
            input_ids: int32 `[batch_size, seq_length]`, ids in the vocabulary.
            input_mask: int32 `[batch_size, seq_length]`, 1 for a token and 0 for padding; if not
                given, there is no padding.
            token_type_ids: int32 `[batch_size, seq_length]`, 0 for the first text and 1 for the
                second; if not given, all 0.
            use_one_hot_embeddings: See `embedding_lookup`.
            scope: Variable scope of the model; if not given, `config.scope`.
            dropout_seed: int32 `[2]`, see `dropout`.
            gradient_checkpointing: See `transformer_model`.

        Raises:
            ValueError: The configuration is impossible, the sequence is longer than its
                `max_position_embeddings`, `input_ids` or `input_mask` is not a matrix, or see
                `transformer_model`.
        """
        config.validate()
        assert_rank(input_ids, 2)
        if token_type_ids is None:
            token_type_ids = tf.zeros_like(input_ids)
        self._is_training = is_training
        layer = _Layer.of(config, is_training, dropout_seed, gradient_checkpointing)
        with _building(is_training), tf.variable_scope(scope, default_name=config.scope):
            with tf.variable_scope("embeddings"):
                word_embeddings, self.embedding_table = embedding_lookup(
                    input_ids,
                    vocab_size=config.vocab_size,
                    embedding_size=config.embedding_width,
                    initializer_range=config.initializer_range,
                    use_one_hot_embeddings=use_one_hot_embeddings,
                )
                if config.kind.projects_words:
                    word_embeddings = _project_words(word_embeddings, config)
                self.embedding_output = embedding_postprocessor(
                    word_embeddings,
                    use_token_type=True,
                    token_type_ids=token_type_ids,
                    token_type_vocab_size=config.type_vocab_size,
                    initializer_range=config.initializer_range,
                    max_position_embeddings=config.max_position_embeddings,
                    dropout_prob=layer.hidden_dropout_prob,
                    dropout_seed=dropout_seed,
                    layer_norm_eps=config.norm_epsilon,
                )
            attention_mask = None
            if input_mask is not None:
                attention_mask = create_attention_mask_from_input_mask(input_ids, input_mask)
            first_position = self._encode(config, attention_mask, layer)
            # The first token, [CLS], was pre-trained to stand for the whole text.
            self.pooled_output = first_position[:, 0]
            if config.kind.has_pooler:
                with tf.variable_scope("pooler"):
                    self.pooled_output = dense(
                        self.pooled_output,
                        config.hidden_size,
                        activation=tf.tanh,
                        initializer_range=config.initializer_range,
                    )

    def _encode(
        self, config: BertConfig, attention_mask: tf.Tensor | None, layer: _Layer
    ) -> tf.Tensor:
        """Add the layers; return the first position of the last: `[batch_size, 1, hidden_size]`.

        A classifier reads only the pooler, and the pooler only this position. The others are added
        to the graph by `get_sequence_output`.
        """
        hidden = self.embedding_output
        if config.projection and not config.kind.projects_words:
            hidden = dense(
                hidden,
                config.hidden_size,
                initializer_range=config.initializer_range,
                name=config.projection,
            )
        *scopes, last_scope = config.layer_scopes()
        self._layers_but_last = _layers(hidden, attention_mask, scopes, layer)
        self._last_layer = functools.partial(
            _compute_layer,
            [hidden, *self._layers_but_last][-1],
            attention_mask=attention_mask,
            layer=layer.applied(len(scopes)),
        )
        self._sequence_output: tf.Tensor | None = None
        with tf.variable_scope(last_scope, reuse=tf.AUTO_REUSE) as self._last_scope:
            return self._last_layer(num_positions=1)

    def get_pooled_output(self) -> tf.Tensor:
        """Return what a classifier reads: float32 `[batch_size, hidden_size]`.

        It comes from a separate last layer with the same weights, for the first position only. In
        training its dropout masks differ from those of `get_sequence_output`.
        """
        return self.pooled_output

    def get_sequence_output(self) -> tf.Tensor:
        """Return the last layer: float32 `[batch_size, seq_length, hidden_size]`."""
        if self._sequence_output is None:
            with _building(self._is_training), tf.variable_scope(self._last_scope, reuse=True):
                self._sequence_output = self._last_layer()
        return self._sequence_output

    @property
    def sequence_output(self) -> tf.Tensor:
        """The last layer, see `get_sequence_output`."""
        return self.get_sequence_output()

    @property
    def all_encoder_layers(self) -> list[tf.Tensor]:
        """The layers in order, see `get_all_encoder_layers`."""
        return self.get_all_encoder_layers()

    def get_all_encoder_layers(self) -> list[tf.Tensor]:
        """Return the layers in order: float32 `[batch_size, seq_length, hidden_size]` each."""
        return [*self._layers_but_last, self.get_sequence_output()]

    def get_embedding_output(self) -> tf.Tensor:
        """Return the normalized embeddings: float32 `[batch_size, seq_length, embedding_size]`."""
        return self.embedding_output

    def get_embedding_table(self) -> tf.Variable:
        """Return the word embeddings: float32 `[vocab_size, embedding_size]`."""
        return self.embedding_table


AlbertModel = BertModel  # For those who import google's name.


def _project_words(words: tf.Tensor, config: BertConfig) -> tf.Tensor:
    """Multiply embedded words by a table: float32 `[batch_size, seq_length, hidden_size]`."""
    table = tf.get_variable(
        os.path.basename(str(config.projection)),
        [config.embedding_width, config.hidden_size],
        initializer=create_initializer(config.initializer_range),
    )
    return _reshape_like(words, tf.matmul(reshape_to_matrix(words), table))


def embedding_lookup(
    input_ids: tf.Tensor,
    vocab_size: int,
    embedding_size: int = 128,
    initializer_range: float = 0.02,
    word_embedding_name: str = "word_embeddings",
    use_one_hot_embeddings: bool = False,
) -> tuple[tf.Tensor, tf.Variable]:
    """Look up the row of each id in a table.

    Args:
        input_ids: int32 `[batch_size, seq_length]`.
        vocab_size: Number of rows in the table.
        embedding_size: Number of columns in the table.
        initializer_range: Standard deviation of a fresh table.
        word_embedding_name: Name of the variable that is the table.
        use_one_hot_embeddings: Whether to multiply one-hot rows by the table instead. The result is
            the same, but its gradient is dense, and the product is slow for a large table.

    Returns:
        The embeddings, float32 `[batch_size, seq_length, embedding_size]`, and the table.
    """
    table = tf.get_variable(
        word_embedding_name,
        [vocab_size, embedding_size],
        initializer=create_initializer(initializer_range),
    )
    embed = _embed_by_product if use_one_hot_embeddings else tf.gather
    return embed(table, input_ids), table


def _embed_by_product(table: tf.Variable, ids: tf.Tensor) -> tf.Tensor:
    num_rows, width = table.shape.as_list()
    one_hot_ids = tf.one_hot(tf.reshape(ids, [-1]), depth=num_rows)
    return tf.reshape(tf.matmul(one_hot_ids, table), get_shape_list(ids) + [width])


def embedding_postprocessor(
    input_tensor: tf.Tensor,
    use_token_type: bool = False,
    token_type_ids: tf.Tensor | None = None,
    token_type_vocab_size: int = 16,
    token_type_embedding_name: str = "token_type_embeddings",
    use_position_embeddings: bool = True,
    position_embedding_name: str = "position_embeddings",
    initializer_range: float = 0.02,
    max_position_embeddings: int = 512,
    dropout_prob: float = 0.1,
    dropout_seed: tf.Tensor | None = None,
    layer_norm_eps: float = 1e-12,
) -> tf.Tensor:
    """Add token types and positions to the embedded words, then normalize and drop out.

    Args:
        input_tensor: float32 `[batch_size, seq_length, hidden_size]`, the embedded words.
        use_token_type: Whether to add the token types.
        token_type_ids: int32 `[batch_size, seq_length]`.
        token_type_vocab_size: Number of token types.
        token_type_embedding_name: Name of the variable that is the table of the token types.
        use_position_embeddings: Whether to add the positions.
        position_embedding_name: Name of the variable that is the table of the positions.
        initializer_range: Standard deviation of fresh tables.
        max_position_embeddings: Number of positions.
        dropout_prob: Probability of dropping a unit.
        dropout_seed: int32 `[2]`, see `dropout`.
        layer_norm_eps: See `layer_norm`.

    Returns:
        float32 `[batch_size, seq_length, hidden_size]`.

    Raises:
        ValueError: The sequence is longer than `max_position_embeddings`, or `use_token_type` is
            true and `token_type_ids` is not given.
    """
    output = input_tensor
    if use_token_type:
        if token_type_ids is None:
            raise ValueError("use_token_type needs token_type_ids")
        # For a table of few rows the product is faster than the look-up, above all its gradient.
        output += _embed_by_product(
            tf.get_variable(
                token_type_embedding_name,
                [token_type_vocab_size, _width(input_tensor)],
                initializer=create_initializer(initializer_range),
            ),
            token_type_ids,
        )
    if use_position_embeddings:
        output += _embed_positions(
            input_tensor, position_embedding_name, initializer_range, max_position_embeddings
        )
    return layer_norm_and_dropout(output, dropout_prob, None, dropout_seed, layer_norm_eps)


def _embed_positions(
    input_tensor: tf.Tensor, name: str, initializer_range: float, max_position_embeddings: int
) -> tf.Tensor:
    """Return the rows of the positions, float32 `[seq_length, hidden_size]`."""
    _, seq_length, width = get_shape_list(input_tensor, expected_rank=3)
    if isinstance(seq_length, int) and seq_length > max_position_embeddings:
        raise ValueError(
            "the sequence length %d is above %d, the max_position_embeddings of this model; "
            "choose a smaller max_seq_length" % (seq_length, max_position_embeddings)
        )
    position_table = tf.get_variable(
        name,
        [max_position_embeddings, width],
        initializer=create_initializer(initializer_range),
    )
    # A length that is known only when the graph runs is refused here: tf.slice, unlike
    # position_table[:seq_length], fails when the table has fewer rows.
    return tf.slice(position_table, [0, 0], [seq_length, width])


def create_attention_mask_from_input_mask(from_tensor: tf.Tensor, to_mask: tf.Tensor) -> tf.Tensor:
    """Make the mask that hides padding from every position.

    One row serves all positions that attend: padding may attend too, because its result is never
    read.

    Args:
        from_tensor: `[batch_size, from_seq_length, ...]`, what attends.
        to_mask: int32 `[batch_size, to_seq_length]`, 1 for a token and 0 for padding.

    Returns:
        float32 `[batch_size, 1, to_seq_length]`, 1 for what may be attended to, else 0.
    """
    batch_size = get_shape_list(from_tensor, expected_rank=[2, 3])[0]
    to_seq_length = get_shape_list(to_mask, expected_rank=2)[1]
    return tf.cast(tf.reshape(to_mask, [batch_size, 1, to_seq_length]), tf.float32)


def transformer_model(
    input_tensor: tf.Tensor,
    attention_mask: tf.Tensor | None = None,
    hidden_size: int = 768,
    num_hidden_layers: int = 12,
    num_attention_heads: int = 12,
    intermediate_size: int = 3072,
    intermediate_act_fn: Activation | None = gelu,
    hidden_dropout_prob: float = 0.1,
    attention_probs_dropout_prob: float = 0.1,
    initializer_range: float = 0.02,
    do_return_all_layers: bool = False,
    dropout_seed: tf.Tensor | None = None,
    gradient_checkpointing: bool = False,
) -> tf.Tensor | list[tf.Tensor]:
    """Pass a sequence through the layers of a transformer encoder.

    A layer is self-attention, then a feed-forward part for each position. The result of each is
    added to its input and normalized. From https://arxiv.org/abs/1706.03762, section 3.1.

    Args:
        input_tensor: float32 `[batch_size, seq_length, hidden_size]`.
        attention_mask: See `attention_layer`.
        hidden_size: Width of every layer.
        num_hidden_layers: Number of layers.
        num_attention_heads: Number of attention heads per layer; a divisor of `hidden_size`.
        intermediate_size: Width of the feed-forward part.
        intermediate_act_fn: Activation of the feed-forward part.
        hidden_dropout_prob: Probability of dropping a unit.
        attention_probs_dropout_prob: Probability of dropping an attention probability.
        initializer_range: Standard deviation of fresh weights.
        do_return_all_layers: Whether to return the list of all layers instead of the last one.
        dropout_seed: int32 `[2]`, see `dropout`.
        gradient_checkpointing: Whether to keep only the input of each layer and to compute the
            layer again for its gradient: less memory, one more forward pass, the same numbers.

    Returns:
        float32 `[batch_size, seq_length, hidden_size]`, or a list of these.

    Raises:
        ValueError: `hidden_size` is not a multiple of `num_attention_heads`, or there is dropout
            without a seed in layers that are computed twice.
    """
    layer = _Layer(
        hidden_size=hidden_size,
        num_attention_heads=num_attention_heads,
        intermediate_size=intermediate_size,
        intermediate_act_fn=intermediate_act_fn,
        hidden_dropout_prob=hidden_dropout_prob,
        attention_probs_dropout_prob=attention_probs_dropout_prob,
        initializer_range=initializer_range,
        dropout_seed=dropout_seed,
        gradient_checkpointing=gradient_checkpointing,
    )
    scopes = ["layer_%d" % number for number in range(num_hidden_layers)]
    layers = _layers(input_tensor, attention_mask, scopes, layer)
    return layers if do_return_all_layers else layers[-1]


class _Layer(NamedTuple):
    """How to compute a layer: arguments of `transformer_model`, and the three below.

    Attributes:
        layer_norm_eps: See `layer_norm`.
        names: The variable scopes of its parts.
        is_shared: Whether other layers have the same weights.
    """

    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    intermediate_act_fn: Activation | None
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float
    initializer_range: float
    dropout_seed: tf.Tensor | None
    gradient_checkpointing: bool
    layer_norm_eps: float = 1e-12
    names: LayerNames = LayerNames()
    is_shared: bool = False

    @classmethod
    def of(
        cls,
        config: BertConfig,
        is_training: bool,
        dropout_seed: tf.Tensor | None,
        gradient_checkpointing: bool,
    ) -> _Layer:
        """Take the values of a configuration; there is dropout only in training."""
        return cls(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            intermediate_act_fn=get_activation(config.activation),
            hidden_dropout_prob=config.hidden_dropout_prob if is_training else 0.0,
            attention_probs_dropout_prob=(
                config.attention_probs_dropout_prob if is_training else 0.0
            ),
            initializer_range=config.initializer_range,
            dropout_seed=dropout_seed,
            gradient_checkpointing=gradient_checkpointing,
            layer_norm_eps=config.norm_epsilon,
            names=config.kind.names,
            is_shared=config.shares_layers,
        )

    def applied(self, number: int) -> _Layer:
        """Return how to compute the layer with this number, which begins at 0.

        `dropout` draws by variable scope: in the same weights it would draw the same mask again.
        """
        if not self.is_shared or self.dropout_seed is None:
            return self
        return self._replace(dropout_seed=_seed_of_site(self.dropout_seed, "layer_%d" % number))


def _layers(
    hidden: tf.Tensor, attention_mask: tf.Tensor | None, scopes: Sequence[str], layer: _Layer
) -> list[tf.Tensor]:
    """Pass a sequence through the layers of these variable scopes; return the output of each."""
    if layer.gradient_checkpointing and layer.dropout_seed is None:
        if layer.hidden_dropout_prob or layer.attention_probs_dropout_prob:
            raise ValueError("gradient_checkpointing needs a dropout_seed, to draw masks twice")
    layers = []
    for number, scope in enumerate(scopes):
        # A scope that comes again is a layer that is applied again.
        with tf.variable_scope(scope, reuse=tf.AUTO_REUSE):
            hidden = _compute_layer(hidden, attention_mask, layer.applied(number))
        layers.append(hidden)
    return layers


def _compute_layer(
    hidden: tf.Tensor,
    attention_mask: tf.Tensor | None,
    layer: _Layer,
    num_positions: int | None = None,
) -> tf.Tensor:
    """Compute a layer, and with gradient checkpointing compute it again for its gradient."""
    compute = functools.partial(
        _transformer_layer, attention_mask=attention_mask, layer=layer, num_positions=num_positions
    )
    return (
        recompute_for_gradient(compute, hidden) if layer.gradient_checkpointing else compute(hidden)
    )


def recompute_for_gradient(
    function: Callable[[tf.Tensor], tf.Tensor], input_tensor: tf.Tensor
) -> tf.Tensor:
    """Compute a function, keep only its input, and compute it again for its gradient.

    From https://arxiv.org/abs/1604.06174, section 3.2. Its variables are resource variables, as
    `tf.custom_gradient` demands; in a checkpoint they are like any other.

    Args:
        function: Returns the same for the same input, and makes its variables by `tf.get_variable`.
        input_tensor: The input of the function.
    """
    scope, for_training = tf.get_variable_scope(), _BUILDING.for_training

    def call(tensor: tf.Tensor, **options: bool) -> tf.Tensor:
        with _building(for_training), tf.variable_scope(scope, use_resource=True, **options):
            return function(tensor)

    @tf.custom_gradient
    def compute(tensor: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        def gradient(
            upstream: tf.Tensor, variables: Sequence[tf.Variable]
        ) -> tuple[tf.Tensor, list[tf.Tensor]]:
            # Compute it only when it is needed. Without the dependency TensorFlow would also merge
            # the operations with the first ones, which are the same.
            with tf.control_dependencies([upstream]):
                tensor_again = tf.identity(tensor)
                result_again = call(tensor_again, reuse=True)
            of_tensor, *of_variables = tf.gradients(
                result_again,
                [tensor_again, *variables],
                upstream,
                # Where layers share weights, the input depends on the variables too. That part of
                # their gradient comes with the gradient of the input.
                stop_gradients=[tensor_again],
            )
            return of_tensor, of_variables

        return call(tensor), gradient

    return compute(input_tensor)


def _transformer_layer(
    hidden: tf.Tensor,
    attention_mask: tf.Tensor | None,
    layer: _Layer,
    num_positions: int | None = None,
) -> tf.Tensor:
    """Pass a sequence through a layer.

    Args:
        hidden: float32 `[batch_size, seq_length, hidden_size]`.
        attention_mask: See `attention_layer`.
        layer: How to compute it.
        num_positions: How many of the first positions to return; if not given, all. The others are
            not computed.

    Returns:
        float32 `[batch_size, num_positions, hidden_size]`.
    """
    names = layer.names
    attending = hidden if num_positions is None else hidden[:, :num_positions]
    with tf.variable_scope(names.attention):
        context = attention_layer(
            attending,
            hidden,
            attention_mask,
            num_attention_heads=layer.num_attention_heads,
            size_per_head=attention_head_size(layer.hidden_size, layer.num_attention_heads),
            attention_probs_dropout_prob=layer.attention_probs_dropout_prob,
            initializer_range=layer.initializer_range,
            dropout_seed=layer.dropout_seed,
        )
    # From here on each position is computed by itself: rows of one matrix need no shapes.
    attended = _add_projection(
        reshape_to_matrix(attending),
        reshape_to_matrix(context),
        layer,
        (names.attention_output, names.attention_norm),
    )
    intermediate = dense(
        attended,
        layer.intermediate_size,
        layer.intermediate_act_fn,
        layer.initializer_range,
        names.intermediate,
    )
    output = _add_projection(attended, intermediate, layer, (names.output, names.output_norm))
    return _reshape_like(attending, output)


def _add_projection(
    hidden: tf.Tensor, update: tf.Tensor, layer: _Layer, names: tuple[str, str]
) -> tf.Tensor:
    """Project `update` to the width of `hidden`, add it there and normalize the sum.

    The names are the variable scopes of projection and normalization.
    """
    name, name_of_norm = names
    projected = dense(update, _width(hidden), None, layer.initializer_range, name)
    # Two masks of a layer are of different scopes, see `dropout`.
    with tf.variable_scope(os.path.dirname(name)):
        projected = dropout(projected, layer.hidden_dropout_prob, layer.dropout_seed)
    return layer_norm(hidden + projected, name_of_norm, layer.layer_norm_eps)


def attention_layer(
    from_tensor: tf.Tensor,
    to_tensor: tf.Tensor,
    attention_mask: tf.Tensor | None = None,
    num_attention_heads: int = 1,
    size_per_head: int = 512,
    query_act: Activation | None = None,
    key_act: Activation | None = None,
    value_act: Activation | None = None,
    attention_probs_dropout_prob: float = 0.0,
    initializer_range: float = 0.02,
    do_return_2d_tensor: bool = False,
    batch_size: int | tf.Tensor | None = None,
    from_seq_length: int | tf.Tensor | None = None,
    to_seq_length: int | tf.Tensor | None = None,
    dropout_seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """Compute multi-head attention from one sequence to another.

    Each head computes softmax(query * key / sqrt(size_per_head)) * value, as in section 3.2 of
    https://arxiv.org/abs/1706.03762.

    Args:
        from_tensor: float32 `[batch_size, from_seq_length, from_width]`, the sequence that attends;
            or the same as a matrix, `[batch_size * from_seq_length, from_width]`.
        to_tensor: float32 `[batch_size, to_seq_length, to_width]`, the sequence that is attended
            to; the same tensor for self-attention. A matrix if the other one is.
        attention_mask: `[batch_size, from_seq_length or 1, to_seq_length]`, 1 for what may be
            attended to, else 0; if not given, all 1.
        num_attention_heads: Number of heads.
        size_per_head: Width of the query, the key and the value of a head.
        query_act: Activation of the query; if not given, the identity.
        key_act: Activation of the key.
        value_act: Activation of the value.
        attention_probs_dropout_prob: Probability of dropping an attention probability.
        initializer_range: Standard deviation of fresh weights.
        do_return_2d_tensor: Whether to return a matrix.
        batch_size: Required for matrices, as are the two lengths.
        from_seq_length: See `batch_size`.
        to_seq_length: See `batch_size`.
        dropout_seed: int32 `[2]`, see `dropout`.

    Returns:
        float32 `[batch_size, from_seq_length, num_attention_heads * size_per_head]`, or the same
        as a matrix, `[batch_size * from_seq_length, num_attention_heads * size_per_head]`.

    Raises:
        ValueError: The tensors are neither both of rank 3 nor both of rank 2, or are matrices of
            unknown sizes.
    """
    assert_rank(from_tensor, [2, 3])
    assert_rank(to_tensor, from_tensor.shape.ndims)
    is_same = to_tensor is from_tensor
    if from_tensor.shape.ndims == 2:
        if batch_size is None or from_seq_length is None or to_seq_length is None:
            raise ValueError("matrices need batch_size, from_seq_length and to_seq_length")
        shape = [batch_size, from_seq_length, _width(from_tensor)]
        from_tensor = tf.reshape(from_tensor, shape)
        shape = [batch_size, to_seq_length, _width(to_tensor)]
        to_tensor = from_tensor if is_same else tf.reshape(to_tensor, shape)
    query = dense(
        from_tensor,
        num_attention_heads * size_per_head,
        query_act,
        initializer_range=initializer_range,
        name="query",
    )
    # The query is scaled instead of the scores, which have more elements.
    query *= 1.0 / math.sqrt(size_per_head)
    weigh = functools.partial(
        _weigh,
        attention_mask=attention_mask,
        dropout_prob=attention_probs_dropout_prob,
        dropout_seed=dropout_seed,
    )
    is_linear = key_act is None and value_act is None
    if from_tensor.shape.as_list()[1] == 1 and is_linear:
        context = _attend_from_one_position(
            query, to_tensor, num_attention_heads, initializer_range, weigh
        )
    else:
        context = _attend(
            query,
            from_tensor,
            to_tensor,
            num_attention_heads,
            initializer_range,
            weigh,
            key_act,
            value_act,
        )
    return reshape_to_matrix(context) if do_return_2d_tensor else context


def _weigh(
    scores: tf.Tensor,
    attention_mask: tf.Tensor | None,
    dropout_prob: float,
    dropout_seed: tf.Tensor | None,
) -> tf.Tensor:
    """Turn scores into probabilities, float32 `[..., to_seq_length]`: softmax, then dropout.

    The other arguments are those of `attention_layer`.
    """
    if attention_mask is not None:
        scores += (1.0 - tf.cast(attention_mask, tf.float32)) * MASKED_SCORE
    # Dropout hides whole tokens from a head here, as in the paper.
    return dropout(tf.nn.softmax(scores), dropout_prob, dropout_seed)


def _attend(
    query: tf.Tensor,
    from_tensor: tf.Tensor,
    to_tensor: tf.Tensor,
    num_heads: int,
    initializer_range: float,
    weigh: Callable[[tf.Tensor], tf.Tensor],
    key_act: Activation | None = None,
    value_act: Activation | None = None,
) -> tf.Tensor:
    """Sum the values of all positions, weighted by how well their keys match the query.

    Args:
        query: float32 `[batch_size, from_seq_length, num_heads * size_per_head]`, scaled.
        from_tensor: As in `attention_layer`.
        to_tensor: As in `attention_layer`.
        num_heads: Number of heads.
        initializer_range: Standard deviation of fresh weights.
        weigh: `_weigh` of this layer.
        key_act: Activation of the key.
        value_act: Activation of the value.

    Returns:
        Like `query`.
    """
    width = _width(query)
    key = dense(to_tensor, width, key_act, initializer_range, name="key")
    value = dense(to_tensor, width, value_act, initializer_range, name="value")
    from_rows = _rows_of_heads(from_tensor, num_heads)
    to_rows = from_rows if to_tensor is from_tensor else _rows_of_heads(to_tensor, num_heads)
    query = _split_heads(query, from_rows)
    key, value = _split_heads(key, to_rows), _split_heads(value, to_rows)
    probabilities = weigh(tf.matmul(query, key, transpose_b=True))  # [heads, batch, from, to]
    return _join_heads(tf.matmul(probabilities, value), from_rows)


def _attend_from_one_position(
    query: tf.Tensor,
    to_tensor: tf.Tensor,
    num_heads: int,
    initializer_range: float,
    weigh: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Compute `_attend` for a `from_seq_length` of 1, with less work.

    query * (kernel * position) is (query * kernel) * position, so a kernel is multiplied by one row
    for each head instead of by every position.
    """
    width, to_width = _width(query), _width(to_tensor)
    size_per_head = width // num_heads
    # 1 where a unit of a row belongs to a head.
    own = np.repeat(np.eye(num_heads, dtype=np.float32), size_per_head, axis=1)
    with tf.variable_scope("key"):
        kernel, bias = _kernel_and_bias(to_width, width, initializer_range)
        rows = reshape_to_matrix(query * own)  # [batch * heads, width]
        asked = tf.reshape(tf.matmul(rows, kernel, transpose_b=True), [-1, num_heads, to_width])
        scores = tf.matmul(asked, to_tensor, transpose_b=True)  # [batch, heads, to]
        scores += tf.reshape(tf.matmul(rows, bias[:, tf.newaxis]), [-1, num_heads, 1])
    probabilities = weigh(scores)
    with tf.variable_scope("value"):
        kernel, bias = _kernel_and_bias(to_width, width, initializer_range)
        rows = reshape_to_matrix(tf.matmul(probabilities, to_tensor))  # [batch * heads, to_width]
        context = tf.reshape(tf.matmul(rows, kernel), [-1, num_heads, width])
        # After dropout the probabilities do not add up to 1.
        context += tf.reduce_sum(probabilities, axis=-1, keepdims=True) * bias
    return tf.reduce_sum(context * own, axis=1, keepdims=True)


def _rows_of_heads(tensor: tf.Tensor, num_heads: int) -> tf.Tensor:
    """Return the row numbers of each head when a tensor is cut into rows of one head each.

    Args:
        tensor: `[batch_size, seq_length, ...]`, any tensor of this batch size and length.
        num_heads: Number of heads.

    Returns:
        int32 `[heads, batch_size, seq_length]`.
    """
    shape = tf.shape(tensor)[:2]
    first_rows = num_heads * tf.reshape(tf.range(tf.reduce_prod(shape)), shape)
    return first_rows + np.arange(num_heads, dtype=np.int32)[:, np.newaxis, np.newaxis]


def _split_heads(tensor: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Return the part of each head: float32 `[heads, batch_size, seq_length, size]`.

    It is a transposition. On a CPU `tf.transpose` moves one number at a time, this one a row.

    Args:
        tensor: float32 `[batch_size, seq_length, heads * size]`.
        rows: `_rows_of_heads` of this shape.
    """
    size = _width(tensor) // rows.shape.as_list()[0]

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None, None]:
        return tf.reshape(_join_heads(upstream, rows), [-1, size]), None, None

    parts = tf.reshape(tensor, [-1, size])
    return _with_gradient("GatherV2", lambda: tf.gather(parts, rows), gradient)


def _join_heads(heads: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Undo `_split_heads`, which is its gradient."""
    joined = tf.concat(tf.unstack(heads), axis=-1)

    def gradient(upstream: tf.Tensor, _: tf.Tensor) -> tuple[None, tf.Tensor]:
        return None, _split_heads(upstream, rows)

    # The gradient is that of `unstack` and `concat` together: it goes straight to `heads`.
    return _with_gradient("IdentityN", lambda: tf.identity_n([joined, heads])[0], gradient)


def dense(
    input_tensor: tf.Tensor,
    units: int,
    activation: Activation | None = None,
    initializer_range: float = 0.02,
    name: str = "dense",
) -> tf.Tensor:
    """Compute activation(input * kernel + bias) along the last dimension.

    Args:
        input_tensor: float32 `[..., width]`.
        units: Width of the result.
        activation: The activation; if not given, the identity.
        initializer_range: Standard deviation of a fresh kernel.
        name: Variable scope of `kernel` and `bias`.

    Returns:
        float32 `[..., units]`.
    """
    with tf.variable_scope(name):
        kernel, bias = _kernel_and_bias(_width(input_tensor), units, initializer_range)
        output = _add_bias(tf.matmul(reshape_to_matrix(input_tensor), kernel), bias)
        if activation is not None:
            output = activation(output)
        return _reshape_like(input_tensor, output)


def _kernel_and_bias(
    width: int, units: int, initializer_range: float
) -> tuple[tf.Variable, tf.Variable]:
    initializer = create_initializer(initializer_range)
    kernel = tf.get_variable("kernel", [width, units], initializer=initializer)
    return kernel, tf.get_variable("bias", [units], initializer=tf.zeros_initializer())


def layer_norm(
    input_tensor: tf.Tensor, name: str | None = None, epsilon: float = 1e-12
) -> tf.Tensor:
    """Normalize along the last dimension, then scale by `gamma` and shift by `beta`.

    From https://arxiv.org/abs/1607.06450, section 3.

    Args:
        input_tensor: float32 `[..., width]`.
        name: Variable scope of `beta` and `gamma`; if not given, "LayerNorm".
        epsilon: What is added to the variance.

    Returns:
        float32 `[..., width]`.
    """
    width = _width(input_tensor)
    with tf.variable_scope(name, default_name="LayerNorm"):
        beta = tf.get_variable("beta", [width], initializer=tf.zeros_initializer())
        gamma = tf.get_variable("gamma", [width], initializer=tf.ones_initializer())
        scaled = _standardize(reshape_to_matrix(input_tensor), epsilon) * gamma
        shifted = _add_bias(scaled, beta)
        return _reshape_like(input_tensor, shifted)


def _add_bias(rows: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Add a bias to each row of a matrix.

    The gradient of the bias is the sum of the rows, which is faster as a product.
    """

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ones = tf.ones([1, tf.shape(upstream)[0]])
        return upstream, tf.matmul(ones, upstream)[0]

    return _with_gradient("BiasAdd", lambda: tf.nn.bias_add(rows, bias), gradient)


def _standardize(x: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Shift and scale each row of a matrix to a mean of 0 and a variance of 1.

    A change of x along a row of ones, or along the result, does not change the result. So the
    gradient of x is the gradient of the result without its components in these two directions,
    divided by the standard deviation of x.
    """
    mean = tf.reduce_mean(x, axis=1, keepdims=True)
    # The gradient of `centered`, below, is the whole gradient of x: none goes through the mean.
    centered = _with_gradient("Sub", lambda: x - mean, lambda upstream: (upstream, None))
    variance = tf.reduce_mean(tf.square(centered), axis=1, keepdims=True)
    scale = tf.math.rsqrt(variance + epsilon)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        mean = tf.reduce_mean(upstream, axis=1, keepdims=True)
        slope = tf.reduce_mean(upstream * standardized, axis=1, keepdims=True)
        return (upstream - mean - standardized * slope) * scale, None

    standardized = _with_gradient("Mul", lambda: centered * scale, gradient)
    return standardized


def layer_norm_and_dropout(
    input_tensor: tf.Tensor,
    dropout_prob: float,
    name: str | None = None,
    dropout_seed: tf.Tensor | None = None,
    epsilon: float = 1e-12,
) -> tf.Tensor:
    """Apply `layer_norm`, then `dropout`."""
    return dropout(layer_norm(input_tensor, name, epsilon), dropout_prob, dropout_seed)


def dropout(
    input_tensor: tf.Tensor, dropout_prob: float, dropout_seed: tf.Tensor | None = None
) -> tf.Tensor:
    """Set elements to zero at random and scale up the others, so that the mean stays the same.

    With a seed, the mask depends only on the run's seed, the step and the current variable scope:
    a resumed run draws the same masks as one without a break. Two calls in one scope share their
    mask.

    Args:
        input_tensor: float tensor of any shape.
        dropout_prob: Probability of dropping (not of keeping) an element, below 1.
        dropout_seed: int32 `[2]`, the run's seed and the global step; if not given, the mask is
            drawn from the random numbers of the session.

    Returns:
        A tensor of the same shape; `input_tensor` itself if the probability is 0.
    """
    if not dropout_prob:
        return input_tensor
    mask = dropout_mask(tf.shape(input_tensor), dropout_prob, dropout_seed)
    # Scaling the mask first leaves one multiplication to the gradient.
    return input_tensor * (mask * (1.0 / (1.0 - dropout_prob)))


def dropout_mask(
    shape: Shape | tf.Tensor, dropout_prob: float, dropout_seed: tf.Tensor | None = None
) -> tf.Tensor:
    """Draw which elements `dropout` keeps: 0 for a dropped one, else 1.

    One random number gives 16 bits to each of four elements, so the probability is rounded to a
    multiple of 1/65536.

    Args:
        shape: Sizes of the mask.
        dropout_prob: See `dropout`.
        dropout_seed: See `dropout`.

    Returns:
        float32 of that shape.
    """
    size = tf.reduce_prod(shape, axis=0)
    fours = [(size + 3) // 4]
    whole_range = {"minval": tf.int64.min, "maxval": tf.int64.max, "dtype": tf.int64}
    if dropout_seed is None:
        draws = tf.random.uniform(fours, **whole_range)
    else:
        seed = _seed_of_site(dropout_seed, tf.get_variable_scope().name)
        draws = tf.random.stateless_uniform(fours, seed=seed, **whole_range)
    draws = tf.reshape(tf.reshape(tf.bitcast(draws, tf.int16), [-1])[:size], shape)
    return tf.cast(draws >= round(dropout_prob * 2**16) - 2**15, tf.float32)


def _seed_of_site(dropout_seed: tf.Tensor, site: str) -> tf.Tensor:
    """Return another seed for each place in the model: int32 `[2]`."""
    return dropout_seed + [zlib.crc32(site.encode()) & 0x7FFFFFFF, 0]


def create_initializer(initializer_range: float = 0.02) -> Callable[..., tf.Tensor]:
    """Return an initializer: normal with this standard deviation, cut off at two of them."""
    return tf.truncated_normal_initializer(stddev=initializer_range)


def get_shape_list(
    tensor: tf.Tensor,
    expected_rank: int | Sequence[int] | None = None,
    name: str | None = None,
) -> Shape:
    """Return the sizes of a tensor: ints where the graph knows them, else scalar tensors.

    Raises:
        ValueError: The rank is not `expected_rank`, or not one of them.
    """
    if expected_rank is not None:
        assert_rank(tensor, expected_rank, name)
    sizes = tensor.shape.as_list()
    if None not in sizes:
        return sizes
    sizes_at_run_time = tf.shape(tensor)
    return [sizes_at_run_time[i] if size is None else size for i, size in enumerate(sizes)]


def assert_rank(
    tensor: tf.Tensor, expected_rank: int | Sequence[int], name: str | None = None
) -> None:
    """Check the rank of a tensor.

    Raises:
        ValueError: The rank is not `expected_rank`, or not one of them.
    """
    allowed = [expected_rank] if isinstance(expected_rank, int) else expected_rank
    if tensor.shape.ndims not in allowed:
        raise ValueError(
            "tensor %s in scope %r has shape %s, but its rank must be %s"
            % (name or tensor.name, tf.get_variable_scope().name, tensor.shape, expected_rank)
        )


def reshape_to_matrix(input_tensor: tf.Tensor) -> tf.Tensor:
    """Join all dimensions but the last: `[..., width]` becomes `[rows, width]`.

    Raises:
        ValueError: The rank is below 2.
    """
    if input_tensor.shape.ndims < 2:
        raise ValueError("a tensor of shape %s cannot become a matrix" % input_tensor.shape)
    if input_tensor.shape.ndims == 2:
        return input_tensor
    return tf.reshape(input_tensor, [-1, _width(input_tensor)])


def reshape_from_matrix(output_tensor: tf.Tensor, orig_shape_list: Shape) -> tf.Tensor:
    """Undo `reshape_to_matrix`: `[rows, width]` becomes `orig_shape_list[:-1] + [width]`."""
    if len(orig_shape_list) == 2:
        return output_tensor
    return tf.reshape(output_tensor, orig_shape_list[:-1] + [_width(output_tensor)])


def _reshape_like(input_tensor: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Restore the dimensions that `reshape_to_matrix` has joined: `[..., width of rows]`."""
    if input_tensor.shape.ndims == 2:
        return rows
    if _width(rows) == _width(input_tensor):
        return tf.reshape(rows, tf.shape(input_tensor))
    return reshape_from_matrix(rows, get_shape_list(input_tensor))


def _width(tensor: tf.Tensor) -> int:
    return tensor.shape.as_list()[-1]


def get_assignment_map_from_checkpoint(
    tvars: Sequence[tf.Variable], init_checkpoint: str
) -> tuple[collections.OrderedDict[str, str], dict[str, int]]:
    """Find which variables a checkpoint can initialize, by their names.

    Args:
        tvars: Variables of the graph.
        init_checkpoint: Path of a checkpoint, without the ".index" at its end.

    Returns:
        A map from name to the same name for `tf.train.init_from_checkpoint`, in the order of the
        checkpoint, and a dictionary whose keys are these names, both plain and with ":0".
    """
    names = {variable.op.name for variable in tvars}
    assignment_map = collections.OrderedDict(
        (name, name) for name, _ in tf.train.list_variables(init_checkpoint) if name in names
    )
    initialized_variable_names = {}
    for name in assignment_map:
        initialized_variable_names[name] = 1
        initialized_variable_names[name + ":0"] = 1
    return assignment_map, initialized_variable_names
