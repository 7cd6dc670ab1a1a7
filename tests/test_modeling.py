"""The encoder against google's own: bert-tensorflow 1.0.1 is the oracle."""

import collections
import gc
import importlib.util
import inspect
import json
import math
import subprocess
import sys
import unittest
import weakref

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from google_bert import modeling as google
from google_bert import modeling_test as google_test
from graphs import INPUTS, SETTINGS, assert_equal, config_of, constants, evaluate, known_weights

import modeling
from bert_classifier import tf_compat

BERT_BASE = {"vocab_size": 30522, "type_vocab_size": 2}


PUBLIC = [
    name
    for name, value in vars(google).items()
    if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == google.__name__
]


@pytest.mark.parametrize("name", PUBLIC)
def test_calls_of_googles_functions_are_calls_of_ours(name):
    """The arguments have google's names, order and defaults; those of ours come behind them."""

    def assert_callable_alike(ours, googles):
        expected = list(inspect.signature(googles).parameters.values())
        found = list(inspect.signature(ours).parameters.values())
        for mine, parameter in zip(found, expected):
            assert mine.name == parameter.name
            if parameter.name == "expected_rank":  # May be left out, which google's may not.
                continue
            default = parameter.default
            if callable(default) and default is not inspect.Parameter.empty:
                default = getattr(modeling, default.__name__)
            assert mine.default == default
        assert len(found) >= len(expected)
        assert inspect.Parameter.empty not in [mine.default for mine in found[len(expected) :]]

    googles, ours = getattr(google, name), getattr(modeling, name)
    assert_callable_alike(ours, googles)
    if inspect.isclass(googles):
        for method in vars(googles):
            if not method.startswith("_"):
                assert_callable_alike(getattr(ours, method), getattr(googles, method))


def test_the_attributes_of_googles_model():
    model = modeling.BertModel(config_of(modeling), False, **constants())
    assert model.sequence_output is model.get_sequence_output()
    assert model.all_encoder_layers[-1] is model.sequence_output
    assert model.embedding_output is model.get_embedding_output()
    assert model.embedding_table is model.get_embedding_table()
    assert model.pooled_output is model.get_pooled_output()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"use_position_embeddings": False},
        {"use_token_type": True, "token_type_ids": INPUTS["token_type_ids"]},
        {
            "use_token_type": True,
            "token_type_ids": INPUTS["token_type_ids"],
            "token_type_vocab_size": 3,
            "token_type_embedding_name": "types",
            "position_embedding_name": "places",
        },
    ],
)
def test_the_postprocessor_equals_googles(arguments):
    inputs = np.random.RandomState(1).normal(size=[3, 7, 8]).astype(np.float32)

    def run(bert):
        with tf.Graph().as_default():
            given = {
                name: tf.constant(value) if isinstance(value, np.ndarray) else value
                for name, value in arguments.items()
            }
            output = bert.embedding_postprocessor(tf.constant(inputs), dropout_prob=0.0, **given)
            names = {variable.op.name: variable for variable in tf.trainable_variables()}
            return evaluate({"output": output, **names})

    assert_equal(run(modeling), run(google))


def test_token_types_that_are_not_given_are_refused():
    with pytest.raises(ValueError, match="token_type_ids"):
        modeling.embedding_postprocessor(tf.zeros([1, 2, 4]), True)


@pytest.mark.parametrize("from_length", [5, 1])
@pytest.mark.parametrize("activations", [(None, None, None), (tf.tanh, tf.nn.relu, tf.sigmoid)])
@pytest.mark.parametrize("as_matrices", [False, True])
def test_attention_takes_googles_arguments_in_their_order(from_length, activations, as_matrices):
    random = np.random.RandomState(1)
    tensors = [
        random.normal(size=[2, length, width]).astype(np.float32)
        for length, width in ((from_length, 8), (3, 6))
    ]
    mask = random.randint(0, 2, [2, from_length, 3]).astype(np.int32)
    mask[:, :, 0] = 1

    def run(bert):
        with tf.Graph().as_default():
            given = [tf.constant(tensor) for tensor in tensors]
            if as_matrices:
                given = [tf.reshape(tensor, [-1, tensor.shape[2]]) for tensor in given]
            sizes = (2, from_length, 3) if as_matrices else ()
            output = bert.attention_layer(
                *given, tf.constant(mask), 2, 4, *activations, 0.0, 0.02, True, *sizes
            )
            return evaluate({"output": output})

    assert_equal(run(modeling), run(google))


def test_matrices_of_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match="batch_size"):
        modeling.attention_layer(tf.zeros([6, 4]), tf.zeros([6, 4]))
    with pytest.raises(ValueError, match="rank"):
        modeling.attention_layer(tf.zeros([2, 3, 4]), tf.zeros([6, 4]))


def test_a_graph_that_is_loaded_has_its_gradients():
    """For saliency maps, or to train it further: only the graph of a training has its own."""
    expected = classify(google, {})
    with tf.Graph().as_default():
        model = modeling.BertModel(config_of(modeling), False, **constants())
        output_weights = tf.get_variable("output_weights", [3, SETTINGS["hidden_size"]])
        logits = tf.matmul(model.get_pooled_output(), output_weights, transpose_b=True)
        loss = -tf.reduce_mean(tf.nn.log_softmax(logits)[:, 0])
        loss_name, saved = loss.name, tf.train.export_meta_graph()
    with tf.Graph().as_default() as graph:
        tf.train.import_meta_graph(saved)
        variables = tf.trainable_variables()
        gradients = tf.gradients(graph.get_tensor_by_name(loss_name), variables)
        found = evaluate(
            {
                "gradient of " + variable.op.name: tf.convert_to_tensor(gradient)
                for variable, gradient in zip(variables, gradients)
            }
        )
    assert_equal(found, {name: expected[name] for name in found})
    assert len(found) == len(variables)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_training_and_prediction_have_one_model_and_one_gradient(gradient_checkpointing):
    """The gradients of a training are in closed form, and those of other graphs TensorFlow's."""
    changes = {"hidden_act": "gelu_erf"}
    if gradient_checkpointing:
        changes["num_hidden_layers"] = 3
    arguments = {"gradient_checkpointing": gradient_checkpointing}
    trained = classify(modeling, changes, is_training=True, **arguments)
    evaluated = classify(modeling, changes, **arguments)
    assert_equal(trained, evaluated)
    for name in evaluated:
        if not name.startswith("gradient"):
            np.testing.assert_array_equal(trained[name], evaluated[name])


def own_gradients(graph):
    """The operations that have a gradient of their own."""
    return [o for o in graph.get_operations() if "_gradient_op_type" in o.node_def.attr]


@pytest.mark.parametrize("is_training", [True, False])
def test_only_a_graph_for_training_has_gradients_of_its_own(is_training):
    with tf.Graph().as_default() as graph:
        model = modeling.BertModel(config_of(modeling), is_training, **constants())
        before = len(own_gradients(graph))
        model.get_sequence_output()
        assert bool(before) == is_training
        assert (len(own_gradients(graph)) > before) == is_training


def test_the_module_can_be_imported_again():
    again = importlib.util.module_from_spec(modeling.__spec__)
    # Dataclasses look their module up.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "modeling", again)
        modeling.__spec__.loader.exec_module(again)
        ours, others = (
            classify(modeling, {}, is_training=True),
            classify(again, {}, is_training=True),
        )
    assert_equal(ours, others)


def test_googles_own_tests_pass_with_our_model(monkeypatch):
    monkeypatch.setattr(google_test, "modeling", modeling)
    result = unittest.TestResult()
    # With resource variables, the default of 2.15, this test fails with google's own model too.
    with tf_compat.variables_for_both_versions():
        unittest.defaultTestLoader.loadTestsFromModule(google_test).run(result)
    assert result.testsRun >= 2
    assert not result.failures + result.errors


def classify(bert, changes, absent=(), known_sizes=True, is_training=False, **arguments):
    """Run a classifier on the BertModel of module `bert`; return outputs and gradients."""
    inputs = {name: value for name, value in INPUTS.items() if name not in absent}
    with tf.Graph().as_default():
        placeholders = {
            name: tf.placeholder(tf.int32, value.shape if known_sizes else [None, None])
            for name, value in inputs.items()
        }
        model = bert.BertModel(config_of(bert, **changes), is_training, **placeholders, **arguments)
        output_weights = tf.get_variable("output_weights", [3, SETTINGS["hidden_size"]])
        logits = tf.matmul(model.get_pooled_output(), output_weights, transpose_b=True)
        loss = -tf.reduce_mean(tf.nn.log_softmax(logits)[:, 0])

        outputs = {
            "embedding table": model.get_embedding_table(),
            "embedding output": model.get_embedding_output(),
            "sequence output": model.get_sequence_output(),
            "pooled output": model.get_pooled_output(),
            "logits": logits,
        }
        for index, layer in enumerate(model.get_all_encoder_layers()):
            outputs["layer %d" % index] = layer
        variables = tf.trainable_variables()
        for variable, gradient in zip(variables, tf.gradients(loss, variables)):
            outputs["gradient of " + variable.op.name] = tf.convert_to_tensor(gradient)
        return evaluate(outputs, {placeholders[name]: inputs[name] for name in inputs})


@pytest.mark.parametrize(
    "changes, arguments",
    [
        ({}, {}),
        ({}, {"is_training": True}),
        ({}, {"absent": ["input_mask"]}),
        ({}, {"absent": ["token_type_ids"]}),
        ({}, {"absent": ["input_mask", "token_type_ids"]}),
        ({}, {"use_one_hot_embeddings": True}),
        ({}, {"known_sizes": False}),
        ({}, {"known_sizes": False, "use_one_hot_embeddings": True}),
        ({"num_attention_heads": 1, "num_hidden_layers": 1}, {}),
        ({"num_attention_heads": 16, "type_vocab_size": 16}, {}),
        ({"hidden_act": "relu"}, {}),
        ({"hidden_act": "tanh"}, {}),
        ({"hidden_act": "linear"}, {}),
    ],
    ids=str,
)
def test_outputs_and_gradients_equal_googles(changes, arguments):
    ours = classify(modeling, changes, **arguments)
    assert_equal(ours, classify(google, changes, **arguments))


@pytest.mark.parametrize("scope", [None, "encoder"])
def test_variables_equal_googles_in_name_shape_and_order(scope):
    def variables(bert):
        with tf.Graph().as_default():
            # From ten layers on, the order of creation is not the alphabetical one.
            config = config_of(bert, num_hidden_layers=11)
            bert.BertModel(config, True, **constants(), scope=scope)
            return [(variable.name, variable.shape) for variable in tf.trainable_variables()]

    assert variables(modeling) == variables(google)


def test_the_configuration_tells_the_variables():
    config = config_of(modeling, intermediate_size=24, num_hidden_layers=3, type_vocab_size=3)
    with tf.Graph().as_default():
        modeling.BertModel(config, False, **constants())
        made = [(v.op.name, v.shape.as_list()) for v in tf.trainable_variables()]
    assert list(config.variable_shapes().items()) == made
    assert all(map(config.owns, config.variable_shapes()))
    assert not config.owns("output_weights")
    poolers = [name for name in config.variable_shapes() if config.is_pooler(name)]
    assert poolers == ["bert/pooler/dense/kernel", "bert/pooler/dense/bias"]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("bert/embeddings/word_embeddings", 14),
        ("bert/embeddings/LayerNorm/gamma", 14),
        ("bert/encoder/layer_0/output/dense/kernel", 13),
        ("bert/encoder/layer_1/attention/self/query/bias", 12),
        ("bert/encoder/layer_10/output/LayerNorm/beta", 3),
        ("bert/encoder/layer_11/output/dense/kernel", 2),
        ("bert/pooler/dense/kernel", 1),
        ("output_weights", 0),
        ("output_bias", 0),
    ],
)
def test_layers_above_a_variable(name, number):
    assert modeling.BertConfig(100, num_hidden_layers=12).layers_above(name) == number


def test_the_last_layer_has_its_other_positions_when_they_are_asked_for():
    model = modeling.BertModel(config_of(modeling), False, **constants())
    graph, variables = tf.get_default_graph(), tf.global_variables()
    products = [op for op in graph.get_operations() if op.type == "BatchMatMulV2"]
    # Two for each layer; a key and a value are not asked for where one position attends.
    assert len(products) == 2 * SETTINGS["num_hidden_layers"]
    sequence_output = model.get_sequence_output()
    assert sequence_output.shape.as_list()[1] > 1
    assert model.get_sequence_output() is sequence_output
    assert model.get_all_encoder_layers()[-1] is sequence_output
    products = [op for op in graph.get_operations() if op.type == "BatchMatMulV2"]
    assert len(products) == 2 * SETTINGS["num_hidden_layers"] + 2
    assert tf.global_variables() == variables


def test_bert_base_has_its_published_number_of_parameters():
    input_ids = tf.zeros([1, 128], tf.int32)
    modeling.BertModel(modeling.BertConfig(**BERT_BASE), False, input_ids)
    counts = [variable.shape.num_elements() for variable in tf.trainable_variables()]
    assert sum(counts) == 109482240


@pytest.mark.parametrize("from_seq_length", [5, 1])
def test_cross_attention_equals_googles(from_seq_length):
    random = np.random.RandomState(2)
    from_tensor = random.normal(size=[2, from_seq_length, 8]).astype(np.float32)
    to_tensor = random.normal(size=[2, 9, 12]).astype(np.float32)
    attention_mask = random.randint(0, 2, [2, from_seq_length, 9]).astype(np.int32)

    def attend(bert):
        with tf.Graph().as_default():
            context = bert.attention_layer(
                tf.constant(from_tensor),
                tf.constant(to_tensor),
                tf.constant(attention_mask),
                num_attention_heads=3,
                size_per_head=4,
            )
            return evaluate({"context": context})

    assert_equal(attend(modeling), attend(google))


def test_one_position_attends_as_it_does_among_others(monkeypatch):
    random = np.random.RandomState(2)
    kept = random.randint(0, 2, [3, 2, 1, 9]).astype(np.float32)  # [heads, batch, from, to]

    def dropout_mask(shape, *_):
        return kept if shape.shape.as_list() == [4] else kept[:, :, 0].transpose([1, 0, 2])

    monkeypatch.setattr(modeling, "dropout_mask", dropout_mask)
    from_tensor = tf.constant(random.normal(size=[2, 5, 8]).astype(np.float32))
    to_tensor = tf.constant(random.normal(size=[2, 9, 12]).astype(np.float32))
    attention_mask = tf.constant(random.randint(0, 2, [2, 1, 9]).astype(np.int32))
    upstream = tf.constant(random.normal(size=[2, 1, 12]).astype(np.float32))

    def attend(from_tensor):
        with tf.variable_scope("self", reuse=tf.AUTO_REUSE):
            context = modeling.attention_layer(
                from_tensor,
                to_tensor,
                attention_mask,
                num_attention_heads=3,
                size_per_head=4,
                attention_probs_dropout_prob=0.4,
            )[:, :1]
        sources = [from_tensor, to_tensor, *tf.trainable_variables()]
        gradients = tf.gradients(context, sources, upstream)
        gradients[0] = gradients[0][:, :1]
        names = [source.op.name for source in sources[2:]]
        return dict(zip(["context", "from", "to", *names], [context, *gradients]))

    among_others, alone = evaluate([attend(from_tensor), attend(from_tensor[:, :1])])
    assert len(alone) == 3 + 6  # kernel and bias of query, key and value
    assert_equal(alone, among_others)


@pytest.mark.parametrize("do_return_all_layers", [False, True])
def test_transformer_with_its_defaults_equals_googles(do_return_all_layers):
    input_tensor = np.random.RandomState(3).normal(size=[2, 5, 24]).astype(np.float32)

    def transform(bert):
        with tf.Graph().as_default():
            output = bert.transformer_model(
                tf.constant(input_tensor),
                hidden_size=24,
                num_hidden_layers=2,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                do_return_all_layers=do_return_all_layers,
            )
            return evaluate({"output": output})

    assert_equal(transform(modeling), transform(google))


def test_a_checkpoint_of_googles_model_fits(tmp_path):
    def pooled_output(bert):
        return bert.BertModel(config_of(bert), False, **constants()).get_pooled_output()

    with tf.Graph().as_default(), tf.Session() as session:
        googles_output = pooled_output(google)
        tf.get_variable("cls/predictions/output_bias", [50])
        tf.train.create_global_step()
        session.run(tf.global_variables_initializer())
        checkpoint = tf.train.Saver().save(session, str(tmp_path / "bert_model.ckpt"))
        expected = session.run(googles_output)

    output = pooled_output(modeling)
    encoder_variables = tf.trainable_variables()
    tf.get_variable("output_weights", [3, 32])
    assignment_map, initialized = modeling.get_assignment_map_from_checkpoint(
        tf.trainable_variables(), checkpoint
    )
    assert isinstance(assignment_map, collections.OrderedDict)
    assert set(assignment_map) == {variable.op.name for variable in encoder_variables}
    assert (assignment_map, initialized) == google.get_assignment_map_from_checkpoint(
        tf.trainable_variables(), checkpoint
    )

    tf.train.init_from_checkpoint(checkpoint, assignment_map)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        np.testing.assert_allclose(session.run(output), expected, rtol=0, atol=1e-5)


def test_shape_helpers_equal_googles():
    tensor = tf.placeholder_with_default(np.zeros([2, 3, 4], np.float32), [None, 3, 4])

    def shapes(bert):
        matrix = bert.reshape_to_matrix(tensor)
        restored = bert.reshape_from_matrix(matrix, bert.get_shape_list(tensor, [2, 3]))
        return [bert.get_shape_list(tensor)[1:], matrix.shape.as_list(), restored.shape.as_list()]

    assert shapes(modeling) == shapes(google)
    assert evaluate(modeling.get_shape_list(tensor)[0]) == 2
    assert modeling.reshape_to_matrix(tensor[0]).shape == [3, 4]


@pytest.mark.parametrize("function", ["get_shape_list", "assert_rank"])
def test_a_wrong_rank_is_refused_by_name(function):
    with pytest.raises(ValueError, match=r"tensor ids:0 .* rank must be \[2, 3\]"):
        getattr(modeling, function)(tf.zeros([1], name="ids"), [2, 3])
    with pytest.raises(ValueError, match=r"tensor words .* rank must be 2"):
        getattr(modeling, function)(tf.zeros([1]), 2, "words")


def test_model_refuses_ids_that_are_no_matrix():
    with pytest.raises(ValueError, match=r"tensor .* rank must be 2"):
        modeling.BertModel(config_of(modeling), False, tf.zeros([7], tf.int32))


def test_a_sequence_longer_than_the_positions_is_refused():
    with pytest.raises(
        ValueError, match="sequence length 13 is above 12, .*max_position_embeddings"
    ):
        modeling.BertModel(config_of(modeling), False, tf.zeros([1, 13], tf.int32))


def test_a_sequence_of_unknown_length_is_refused_when_it_turns_out_too_long():
    input_ids = tf.placeholder(tf.int32, [None, None])
    model = modeling.BertModel(config_of(modeling), False, input_ids)
    assert evaluate(model.get_pooled_output(), {input_ids: np.zeros([2, 12])}).shape == (2, 32)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 12\], but got 13"):
        evaluate(model.get_pooled_output(), {input_ids: np.zeros([2, 13])})


# Activations


def test_gelu_forms_equal_their_formulas():
    x = np.linspace(-6, 6, 241)
    tanh_form = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    exact = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x])
    # They differ by little, but by more than the tolerance with which they are told apart here.
    assert np.abs(tanh_form - exact).max() > 4e-4
    inputs = tf.constant(x, tf.float32)
    gelu, gelu_erf = evaluate([modeling.gelu(inputs), modeling.gelu_erf(inputs)])
    np.testing.assert_allclose(gelu, tanh_form, rtol=0, atol=1e-6)
    np.testing.assert_allclose(gelu_erf, exact, rtol=0, atol=1e-6)


# Gradients in closed form


def in_steps(function, *arguments):
    """The gradients of sum(function * cosines), by central differences in double precision."""
    arguments = [np.array(argument, np.float64) for argument in arguments]
    gradients = []
    for argument in arguments:
        gradient = np.zeros_like(argument)
        for place in np.ndindex(*argument.shape):
            value, sums = argument[place], []
            for step in (1e-5, -1e-5):
                argument[place] = value + step
                result = function(*arguments)
                sums.append(np.sum(result * np.cos(np.arange(result.size)).reshape(result.shape)))
            argument[place] = value
            gradient[place] = (sums[0] - sums[1]) / 2e-5
        gradients.append(gradient)
    return gradients


def assert_gradients(ours, reference, *arguments):
    tensors = [tf.constant(argument, tf.float32) for argument in arguments]
    result = ours(*tensors)
    factors = tf.reshape(tf.cos(tf.range(tf.cast(tf.size(result), tf.float32))), tf.shape(result))
    gradients = tf.gradients(tf.reduce_sum(result * factors), tensors)
    result, *gradients = evaluate([result, *gradients])
    np.testing.assert_allclose(result, reference(*arguments), rtol=0, atol=1e-5)
    for gradient, expected in zip(gradients, in_steps(reference, *arguments)):
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5)


def gelu_in_numpy(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_erf_in_numpy(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize(
    "function, reference",
    [(modeling.gelu, gelu_in_numpy), (modeling.gelu_erf, gelu_erf_in_numpy)],
)
def test_gradient_of_gelu(function, reference):
    assert_gradients(function, reference, np.linspace(-7, 7, 141))
    far = tf.constant([-1e4, -50.0, 0.0, 50.0, 1e4])
    values = evaluate([function(far), tf.gradients(function(far), far)[0]])
    np.testing.assert_allclose(values[0], [0, 0, 0, 50, 1e4], rtol=0, atol=1e-6)
    np.testing.assert_allclose(values[1], [0, 0, 0.5, 1, 1], rtol=0, atol=1e-6)


def test_gradient_of_layer_norm():
    def reference(x):
        centered = x - x.mean(-1, keepdims=True)
        n = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-12)
        with tf.Graph().as_default(), tf.variable_scope("LayerNorm"):
            gamma, beta = (known_weights(tf.get_variable(name, [5])) for name in ("gamma", "beta"))
        return n * gamma + beta

    assert_gradients(
        modeling.layer_norm, reference, np.random.RandomState(1).normal(2.0, 3.0, [2, 3, 5])
    )


def test_the_pooled_output_needs_one_position_of_the_last_layer():
    model = modeling.BertModel(config_of(modeling), False, **constants())
    graph = tf.get_default_graph()
    reached = tf.graph_util.extract_sub_graph(
        graph.as_graph_def(), [model.get_pooled_output().op.name]
    )
    gates = [
        graph.get_operation_by_name(node.name).outputs[0].shape.as_list()
        for node in reached.node
        if node.op == "Sigmoid"
    ]
    assert gates == [[3 * 7, 37], [3, 37]]


@pytest.mark.parametrize(
    "name, function",
    [
        ("linear", None),
        (None, None),
        ("", None),
        ("relu", tf.nn.relu),
        ("tanh", tf.tanh),
        ("gelu", modeling.gelu),
        ("GELU", modeling.gelu),
        ("gelu_erf", modeling.gelu_erf),
        (tf.nn.elu, tf.nn.elu),
    ],
)
def test_get_activation(name, function):
    assert modeling.get_activation(name) is function


@pytest.mark.parametrize("name", ["swish", "gelu ", 5, False])
def test_get_activation_refuses_what_it_does_not_know(name):
    with pytest.raises(ValueError, match='"hidden_act" is .*; write one of .*"gelu_erf"'):
        modeling.get_activation(name)


# Dropout


@pytest.mark.parametrize("seed", [None, [3, 4]])
@pytest.mark.parametrize("dropout_prob", [0.1, 0.5])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(dropout_prob, seed):
    inputs = tf.ones([400, 250])
    outputs = modeling.dropout(inputs, dropout_prob, seed and tf.constant(seed))
    outputs, gradient = evaluate([outputs, tf.gradients(outputs, inputs)[0]])
    deviation = math.sqrt(dropout_prob * (1 - dropout_prob) / outputs.size)
    assert abs((outputs == 0).mean() - dropout_prob) < 4 * deviation
    np.testing.assert_allclose(outputs[outputs != 0], 1 / (1 - dropout_prob), rtol=1e-6)
    np.testing.assert_array_equal(gradient, outputs)


@pytest.mark.parametrize("seed", [None, [3, 4]])
@pytest.mark.parametrize("shape", [[1], [3], [2, 3, 7], [4, 4]])
def test_a_mask_has_any_shape(shape, seed):
    mask = modeling.dropout_mask(tf.constant(shape), 0.5, seed and tf.constant(seed))
    assert evaluate(mask).shape == tuple(shape)


@pytest.mark.parametrize("dropout_prob", [0, 0.0, None])
def test_no_dropout_returns_the_tensor_itself(dropout_prob):
    inputs = tf.ones([2])
    assert modeling.dropout(inputs, dropout_prob) is inputs


def draw_mask(seed, step, site):
    with tf.Graph().as_default(), tf.variable_scope(site):
        return evaluate(modeling.dropout(tf.ones([400, 250]), 0.1, tf.constant([seed, step]))) != 0


def test_a_mask_depends_on_seed_step_and_site_alone():
    place = (2147483647, 6, "bert/encoder")  # the largest seed: adding to it must not fail
    mask = draw_mask(*place)
    np.testing.assert_array_equal(draw_mask(*place), mask)
    for other in [
        (2147483646, 6, "bert/encoder"),
        (2147483647, 7, "bert/encoder"),
        (2147483647, 6, "bert/pooler"),
    ]:
        correlation = np.corrcoef(mask.ravel(), draw_mask(*other).ravel())[0, 1]
        assert abs(correlation) < 0.015, other  # 5 standard deviations of chance


def seeds_of_masks(num_hidden_layers, is_training):
    """The seed of each random operation that the outputs of a model depend on."""
    with tf.Graph().as_default() as graph:
        config = config_of(
            modeling,
            num_hidden_layers=num_hidden_layers,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
        )
        model = modeling.BertModel(
            config, is_training, **constants(), dropout_seed=tf.constant([5, 6])
        )
        reached = tf.graph_util.extract_sub_graph(
            graph.as_graph_def(), [model.get_pooled_output().op.name]
        )
        random_operations = [
            graph.get_operation_by_name(node.name)
            for node in reached.node
            if ("Random" in node.op or "TruncatedNormal" in node.op)
            and node.op != "StatelessRandomGetKeyCounter"
        ]
        return evaluate(list(map(seed_of, random_operations)))


def seed_of(operation):
    """The seed of one random operation; TensorFlow 2.15 makes it a key before."""
    if operation.type == "StatelessRandomUniformIntV2":
        key = operation.inputs[1].op
        assert key.type == "StatelessRandomGetKeyCounter"
        return key.inputs[0]
    assert operation.type == "StatelessRandomUniformInt"
    return operation.inputs[1]


def test_every_dropout_of_a_large_model_draws_its_own_mask():
    seeds = {tuple(seed) for seed in seeds_of_masks(num_hidden_layers=24, is_training=True)}
    # One for the embeddings; in each layer one for attention and one for each of the two additions.
    assert len(seeds) == 1 + 24 * 3
    assert {step for _, step in seeds} == {6}


def test_without_training_nothing_is_random():
    assert seeds_of_masks(num_hidden_layers=2, is_training=False) == []


def loss_and_gradients(gradient_checkpointing):
    """Of a model with dropout and padding; also names and shapes of all variables."""
    with tf.Graph().as_default():
        probabilities = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
        model = modeling.BertModel(
            config_of(modeling, num_hidden_layers=3, **probabilities),
            True,
            **constants(),
            dropout_seed=tf.constant([5, 6]),
            gradient_checkpointing=gradient_checkpointing,
        )
        loss = tf.reduce_sum(tf.square(model.get_pooled_output()))
        variables = tf.trainable_variables()
        gradients = {
            variable.op.name: tf.convert_to_tensor(gradient)
            for variable, gradient in zip(variables, tf.gradients(loss, variables))
            if gradient is not None
        }
        shapes = [(variable.op.name, variable.shape.as_list()) for variable in variables]
        return evaluate(dict(gradients, loss=loss)), shapes


def test_gradient_checkpointing_changes_neither_numbers_nor_variables():
    kept, shapes = loss_and_gradients(gradient_checkpointing=False)
    recomputed, same_shapes = loss_and_gradients(gradient_checkpointing=True)
    assert same_shapes == shapes
    assert recomputed.keys() == kept.keys()
    assert len(kept) == 1 + len(shapes)
    for name, expected in kept.items():
        np.testing.assert_allclose(recomputed[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_gradient_checkpointing_needs_masks_that_can_be_drawn_twice():
    config = config_of(modeling, hidden_dropout_prob=0.1)
    with pytest.raises(ValueError, match="dropout_seed"):
        modeling.BertModel(config, True, **constants(), gradient_checkpointing=True)


PEAK_OF_A_STEP = """
import sys
import tensorflow.compat.v1 as tf
import modeling
from bert_classifier.training import memory

tf.disable_eager_execution()
config = modeling.BertConfig(
    50, hidden_size=64, num_hidden_layers=12, num_attention_heads=4, intermediate_size=256
)
# Masks from a constant would be made in advance, and kept as constants.
dropout_seed = tf.placeholder(tf.int32, [2])
model = modeling.BertModel(
    config, True, tf.zeros([32, 128], tf.int32), dropout_seed=dropout_seed,
    gradient_checkpointing=sys.argv[1] == "True",
)
loss = tf.reduce_sum(tf.square(model.get_pooled_output()))
gradients = tf.gradients(loss, tf.trainable_variables())
step = [gradient for gradient in gradients if gradient is not None]
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    before = memory.peak_megabytes()
    session.run(step, {dropout_seed: [5, 6]})
print(memory.peak_megabytes() - before)
"""


def test_gradient_checkpointing_takes_less_memory():
    """Eleven layers keep what one layer does; the other things that a step needs are few."""
    kept, recomputed = (
        float(
            subprocess.run(
                [sys.executable, "-c", PEAK_OF_A_STEP, str(is_on)],
                check=True,
                stdout=subprocess.PIPE,
            ).stdout
        )
        for is_on in (False, True)
    )
    assert recomputed < kept / 2, (recomputed, kept)


def test_model_leaves_the_configuration_as_it_is():
    config = modeling.BertConfig(vocab_size=50, hidden_size=24, num_hidden_layers=1)
    before = config.to_dict()
    modeling.BertModel(config, False, tf.zeros([1, 4], tf.int32))
    assert config.to_dict() == before


def test_a_graph_goes_when_nobody_needs_it():
    """Each evaluation makes one. tf.custom_gradient, for one, would keep them all."""
    with tf.Graph().as_default() as graph:
        model = modeling.BertModel(config_of(modeling), False, tf.zeros([1, 4], tf.int32))
        evaluate(model.get_pooled_output())
        tf.gradients(model.get_pooled_output(), tf.trainable_variables())
    graph = weakref.ref(graph)
    del model
    gc.collect()
    assert graph() is None


# The configuration


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_configuration_defaults_and_json_equal_googles():
    assert modeling.BertConfig(99).to_dict() == google.BertConfig(99).to_dict()
    assert modeling.BertConfig(99).to_json_string() == google.BertConfig(99).to_json_string()


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(BERT_BASE),
        json.dumps({**BERT_BASE, "directionality": "bidi", "pooler_fc_size": 768}),
        json.dumps({**BERT_BASE, "hidden_act": "relu", "hidden_dropout_prob": 0}),
    ],
)
def test_configuration_file_is_read_as_google_reads_it(tmp_path, content):
    json_file = write(tmp_path / "bert_config.json", content)
    config = modeling.BertConfig.from_json_file(json_file)
    assert config.to_dict() == google.BertConfig.from_json_file(json_file).to_dict()
    given = {name: value for name, value in vars(config).items() if value is not None}
    assert given == config.to_dict()


def test_configuration_file_may_begin_with_a_byte_order_mark(tmp_path):
    json_file = write(tmp_path / "bert_config.json", b'\xef\xbb\xbf{"vocab_size": 7}')
    assert modeling.BertConfig.from_json_file(json_file).vocab_size == 7


def refusal_of(json_file):
    """The message about a file, without the file's name at its beginning."""
    with pytest.raises(ValueError) as refusal:
        modeling.BertConfig.from_json_file(json_file)
    message = str(refusal.value)
    assert message.startswith(json_file + ":")
    assert "\n" not in message
    return message[len(json_file) + 1 :]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "1: not JSON at column 1 (Expecting value); correct the line or give the bert_config"),
        ('{"vocab_size": 5,\n "hidden_size": 12\n "x": 1}', "3: not JSON at column 2 (Expecting"),
        (b"\x80 not a text", " cannot be read ('utf-8' codec can't decode byte 0x80"),
        ("[1]", " the content is of type list; write an object"),
        ("null", " the content is of type NoneType; write an object"),
        ("{}", ' "vocab_size" is missing; add it: the number of lines in vocab.txt'),
        ('{"hidden_size": 768}', ' "vocab_size" is missing; add it'),
    ],
)
def test_a_file_that_holds_no_configuration_is_refused(tmp_path, content, message):
    assert refusal_of(write(tmp_path / "bert_config.json", content)).startswith(message)


@pytest.mark.parametrize(
    "name, message", [("absent.json", " no such file; give the"), ("", " cannot be read (")]
)
def test_a_path_that_is_no_file_is_refused(tmp_path, name, message):
    assert refusal_of(str(tmp_path / name)).startswith(message)


@pytest.mark.parametrize(
    "key, value, cure",
    [
        ("vocab_size", "null", "write a whole number of 1 or more"),
        ("vocab_size", '"768"', "write a whole number of 1 or more"),
        ("vocab_size", "[5]", "write a whole number of 1 or more"),
        ("vocab_size", "Infinity", "write a whole number of 1 or more"),
        ("hidden_size", "1.5", "write a whole number of 1 or more"),
        ("hidden_size", "768.0", "write a whole number of 1 or more"),
        ("hidden_size", "true", "write a whole number of 1 or more"),
        ("num_hidden_layers", "0", "write a whole number of 1 or more"),
        ("num_attention_heads", "0", "write a whole number of 1 or more"),
        ("intermediate_size", "-3", "write a whole number of 1 or more"),
        ("max_position_embeddings", '"x"', "write a whole number of 1 or more"),
        ("type_vocab_size", "false", "write a whole number of 1 or more"),
        ("hidden_dropout_prob", "1", "write a number of 0 or more and below 1"),
        ("hidden_dropout_prob", "-0.1", "write a number of 0 or more and below 1"),
        ("hidden_dropout_prob", "NaN", "write a number of 0 or more and below 1"),
        ("hidden_dropout_prob", "false", "write a number of 0 or more and below 1"),
        ("attention_probs_dropout_prob", '"0.1"', "write a number of 0 or more and below 1"),
        ("initializer_range", "-0.02", "write a number of 0 or more"),
        ("initializer_range", "Infinity", "write a number of 0 or more"),
        (
            "hidden_act",
            '"swish"',
            'write one of "linear", "relu", "tanh", "gelu", "gelu_new", "gelu_erf"',
        ),
        (
            "hidden_act",
            "1",
            'write one of "linear", "relu", "tanh", "gelu", "gelu_new", "gelu_erf"',
        ),
    ],
)
def test_an_impossible_value_is_refused_with_its_key(tmp_path, key, value, cure):
    content = '{"vocab_size": 5, "%s": %s}' % (key, value)
    refusal = refusal_of(write(tmp_path / "bert_config.json", content))
    assert refusal == ' "%s" is %s; %s' % (key, value, cure)


def test_heads_that_do_not_divide_the_hidden_size_are_refused(tmp_path):
    content = '{"vocab_size": 5, "hidden_size": 37, "num_attention_heads": 12}'
    assert refusal_of(write(tmp_path / "bert_config.json", content)) == (
        ' "hidden_size" is 37, not a multiple of "num_attention_heads", 12; correct one of them'
    )


def test_model_refuses_an_impossible_configuration():
    config = modeling.BertConfig(vocab_size=99, hidden_size=37)  # google's test makes this one
    with pytest.raises(ValueError, match='"hidden_size" is 37'):
        modeling.BertModel(config, False, tf.zeros([1, 4], tf.int32))
