"""ALBERT and ELECTRA: google's ALBERT, and BERT under their names, are the oracles."""

import dataclasses
import json
import os
import zlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from google_bert import albert_modeling as google
from graphs import INPUTS, SETTINGS, assert_equal, constants, evaluate
from program import ROOT

import encoder_config
import modeling

ALBERT = {**SETTINGS, "embedding_size": 16, "num_hidden_layers": 4}
KINDS = [
    {"model_type": "albert", "embedding_size": 16},
    {"model_type": "albert", "embedding_size": 16, "num_hidden_groups": 2, "inner_group_num": 2},
    {"model_type": "albert_zh", "embedding_size": 16},
    {"model_type": "electra", "embedding_size": 16},
    {"model_type": "electra"},
    {"model_type": "bert"},
]


def config_of(**changes):
    return modeling.BertConfig(**{**SETTINGS, "num_hidden_layers": 4, **changes})


def outputs_and_gradients(model, sequence=True, session_config=None):
    """All that a model computes, and the gradient of each variable; its weights are known ones."""
    outputs = {"pooled": model.get_pooled_output()}
    if sequence:
        outputs["sequence"] = model.get_sequence_output()
        outputs["embedding"] = model.get_embedding_output()
    loss = tf.add_n([tf.reduce_sum(tf.square(output)) for output in outputs.values()])
    variables = tf.trainable_variables()
    gradients = {
        "gradient of " + variable.op.name: tf.convert_to_tensor(gradient)
        for variable, gradient in zip(variables, tf.gradients(loss, variables))
        if gradient is not None
    }
    return evaluate({**outputs, **gradients}, config=session_config)


# ALBERT is google's


@pytest.mark.parametrize("without", [[], ["input_mask"], ["token_type_ids"]], ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_hidden_groups": 2},
        {"num_hidden_groups": 3},
        {"num_hidden_groups": 4},
        {"inner_group_num": 2},
        {"num_hidden_groups": 2, "inner_group_num": 2},
        {"embedding_size": 32},
        {"num_hidden_layers": 1},
        {"hidden_act": "relu"},
    ],
    ids=str,
)
def test_outputs_and_gradients_equal_googles_albert(changes, without):
    def run(make_config, make_model):
        with tf.Graph().as_default():
            inputs = {name: value for name, value in constants().items() if name not in without}
            model = make_model(make_config(**{**ALBERT, **changes}), True, **inputs)
            return outputs_and_gradients(model)

    googles = run(google.AlbertConfig, google.AlbertModel)
    ours = run(modeling.AlbertConfig, modeling.AlbertModel)
    for name, expected in googles.items():
        # The gradients of a sum of squares are large: what counts is the relative difference.
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(ours[name] / scale, expected / scale, atol=1e-5, err_msg=name)
    assert ours.keys() == googles.keys()


def test_the_logits_of_an_albert_differ_by_less_than_1e_5():
    def run(make_config, make_model):
        with tf.Graph().as_default():
            model = make_model(make_config(**ALBERT), False, **constants())
            weights = tf.get_variable("output_weights", [3, SETTINGS["hidden_size"]])
            logits = tf.matmul(model.get_pooled_output(), weights, transpose_b=True)
            loss = -tf.reduce_mean(tf.nn.log_softmax(logits)[:, 0])
            variables = tf.trainable_variables()
            gradients = zip(variables, tf.gradients(loss, variables))
            return evaluate(
                {"logits": logits, **{v.op.name: tf.convert_to_tensor(g) for v, g in gradients}}
            )

    assert_equal(
        run(modeling.AlbertConfig, modeling.AlbertModel),
        run(google.AlbertConfig, google.AlbertModel),
    )


def test_the_variables_of_an_albert_are_googles_in_name_shape_and_order():
    def variables(make_config, make_model):
        with tf.Graph().as_default():
            # From ten groups on, the order of creation is not the alphabetical one.
            config = make_config(**{**ALBERT, "num_hidden_layers": 11, "num_hidden_groups": 11})
            make_model(config, True, **constants())
            return [(variable.name, variable.shape) for variable in tf.trainable_variables()]

    ours = variables(modeling.AlbertConfig, modeling.AlbertModel)
    assert ours == variables(google.AlbertConfig, google.AlbertModel)


def test_an_albert_config_has_googles_defaults():
    googles = vars(google.AlbertConfig(99))
    ours = vars(modeling.AlbertConfig(99))
    assert {name: ours.get(name) for name in SETTINGS} == {name: googles[name] for name in SETTINGS}
    assert ours["embedding_size"] == googles["embedding_size"]
    assert modeling.AlbertConfig(99).num_groups == googles["num_hidden_groups"]


def test_a_file_of_google_is_read_as_google_reads_it(tmp_path):
    path = tmp_path / "albert_config.json"
    path.write_text(json.dumps({"vocab_size": 30000, "num_hidden_groups": 1, "hidden_size": 768}))
    googles = google.AlbertConfig.from_json_file(str(path))
    for reads in (modeling.AlbertConfig, modeling.BertConfig):
        ours = reads.from_json_file(str(path))
        assert ours.model_type == "albert"
        for name in ("embedding_size", "hidden_dropout_prob", "type_vocab_size", "hidden_size"):
            assert getattr(ours, name) == getattr(googles, name), name


# Each kind


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_the_configuration_tells_the_variables(changes):
    config = config_of(**changes)
    modeling.BertModel(config, False, **constants())
    made = [(v.op.name, v.shape.as_list()) for v in tf.trainable_variables()]
    assert list(config.variable_shapes().items()) == made
    assert all(map(config.owns, config.variable_shapes()))
    assert encoder_config.kind_of_variables(config.variable_shapes()) == changes["model_type"]
    assert encoder_config.kind_of_variables(["global_step", "output_weights"]) is None
    poolers = [name for name in config.variable_shapes() if config.is_pooler(name)]
    assert bool(poolers) == (changes["model_type"] != "electra")


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_a_configuration_comes_back_from_its_file(changes):
    config = config_of(**changes)
    again = modeling.BertConfig.from_dict(json.loads(config.to_json_string()))
    assert again == config


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_the_pooled_output_is_that_of_the_whole_last_layer(changes):
    groups = 1 if "num_hidden_groups" in changes else None
    config = config_of(**{**changes, "num_hidden_layers": 1, "num_hidden_groups": groups})
    model = modeling.BertModel(config, False, **constants())
    pooled = model.get_sequence_output()[:, 0]
    if config.kind.has_pooler:
        with tf.variable_scope("bert/pooler", reuse=True):
            pooled = modeling.dense(pooled, config.hidden_size, tf.tanh)
    found, expected = evaluate([model.get_pooled_output(), pooled])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert len(model.get_all_encoder_layers()) == (config.inner_group_num or 1)


def test_the_words_of_brightmarts_albert_are_projected_before_the_sum():
    config = config_of(model_type="albert_zh", embedding_size=16)
    model = modeling.BertModel(config, False, **constants())
    values = evaluate({v.op.name: v for v in tf.trainable_variables()})
    of = {name.replace("bert/embeddings/", ""): value for name, value in values.items()}
    total = of["word_embeddings"][INPUTS["input_ids"]] @ of["word_embeddings_2"]
    total += of["token_type_embeddings"][INPUTS["token_type_ids"]]
    total += of["position_embeddings"][: total.shape[1]]
    normal = (total - total.mean(-1, keepdims=True)) / total.std(-1, keepdims=True)
    expected = normal * of["LayerNorm/gamma"] + of["LayerNorm/beta"]
    found = evaluate(model.get_embedding_output())
    np.testing.assert_allclose(found, expected, atol=1e-5)


# One encoder under the names of another


def renamed(values, config):
    """The weights of a BERT without shared layers, under the names of another kind."""
    bert = modeling.BertConfig(**{**SETTINGS, "num_hidden_layers": config.num_hidden_layers})
    assert len(bert.variable_shapes()) >= len(config.variable_shapes())
    return {new: values[old] for old, new in zip(bert.variable_shapes(), config.variable_shapes())}


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "electra"},
        {"model_type": "albert", "num_hidden_groups": 4},
        # "gelu" is the exact form in ELECTRA, and that of google's BERT elsewhere.
        {"model_type": "electra", "hidden_act": "gelu_new"},
    ],
    ids=str,
)
def test_a_bert_under_the_names_of_another_kind_is_the_same_encoder(changes):
    config = config_of(**changes)
    activation = {"gelu_erf": "gelu_erf"}.get(config.activation, "gelu")
    with tf.Graph().as_default():
        bert = modeling.BertModel(config_of(hidden_act=activation), False, **constants())
        variables = {variable.op.name: variable for variable in tf.trainable_variables()}
        values, expected = evaluate([variables, bert.get_all_encoder_layers()])
    with tf.Graph().as_default():
        model = modeling.BertModel(config, False, **constants())
        weights = renamed(values, config)
        assigned = [v.assign(weights[v.op.name]) for v in tf.trainable_variables()]
        with tf.Session() as session:
            session.run(assigned)
            found, pooled = session.run([model.get_all_encoder_layers(), model.get_pooled_output()])
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    if not config.kind.has_pooler:
        np.testing.assert_allclose(pooled, expected[-1][:, 0], atol=1e-5)


# Layers that share weights

SHARED = {"model_type": "albert", "num_hidden_layers": 12}
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def gradients(config, gradient_checkpointing, dropout=True):
    # Grappler would fuse the operations of the two graphs in different ways.
    as_it_is = tf.ConfigProto()
    as_it_is.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default() as graph:
        model = modeling.BertModel(
            config,
            dropout,
            **constants(),
            dropout_seed=tf.constant([5, 6]),
            gradient_checkpointing=gradient_checkpointing,
        )
        found = outputs_and_gradients(model, sequence=False, session_config=as_it_is)
        return found, len(graph.get_operations())


@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("changes", [{}, {"inner_group_num": 2, "num_hidden_groups": 3}], ids=str)
def test_gradient_checkpointing_changes_no_bit_of_a_gradient_of_shared_layers(changes, dropout):
    config = config_of(**{**SHARED, **changes}, **(DROPOUT if dropout else {}))
    kept, _ = gradients(config, False, dropout)
    recomputed, _ = gradients(config, True, dropout)
    assert recomputed.keys() == kept.keys()
    assert len(kept) == 1 + len(config.variable_shapes())
    for name, expected in kept.items():
        np.testing.assert_array_equal(recomputed[name], expected, err_msg=name)


def test_the_graph_of_gradient_checkpointing_grows_linearly():
    sizes = [
        gradients(config_of(**{**SHARED, "num_hidden_layers": number}), True)[1]
        for number in (3, 5, 7, 9)
    ]
    growth = np.diff(sizes)
    assert growth.max() - growth.min() <= 0.02 * growth.min(), sizes


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_every_application_of_a_layer_draws_its_own_masks(changes):
    config = config_of(**{**changes, "num_hidden_layers": 6}, **DROPOUT)
    with tf.Graph().as_default() as graph:
        modeling.BertModel(config, True, **constants(), dropout_seed=tf.constant([5, 6]))
        seeds = [
            operation.inputs[position]
            for operation in graph.get_operations()
            for type_of_draw, position in (
                ("StatelessRandomUniformInt", 1),
                ("StatelessRandomGetKeyCounter", 0),  # TensorFlow 2.15
            )
            if operation.type == type_of_draw
        ]
        drawn = {tuple(seed) for seed in evaluate(seeds)}
    # One for the embeddings; in each layer one for attention, one for each of the two additions.
    assert len(drawn) == len(seeds) == 1 + 3 * len(config.layer_scopes())


def test_no_two_masks_of_the_largest_model_have_one_seed():
    """24 applications of a layer, each with three masks: 72 different sums of two numbers."""
    scope = "bert/encoder/transformer/group_0/inner_group_0/"
    places = ["attention_1/self", "attention_1/output", "ffn_1/intermediate/output"]
    sums = {
        (site("layer_%d" % layer) + site(scope + place)) % 2**32
        for layer in range(24)
        for place in places
    }
    assert len(sums) == 72


def site(name):
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


# What is refused


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "gpt2"}, '"model_type" is "gpt2"; the kinds of encoders here are'),
        (
            {"model_type": "albert", "net_structure_type": 1},
            '"net_structure_type" is 1, but ALBERT',
        ),
        ({"model_type": "albert", "layers_to_keep": [1]}, '"layers_to_keep" is .1., but ALBERT'),
        ({"ln_type": "preln"}, '"ln_type" is "preln", but brightmart\'s ALBERT'),
        ({"use_task_id": True}, '"use_task_id" is true, but BERT is computed here'),
        ({"embedding_size": 16}, '"embedding_size" is 16 and "hidden_size" 32, which are equal'),
        ({"num_hidden_groups": 9}, '"num_hidden_groups" is 9, above "num_hidden_layers", 2'),
        ({"inner_group_num": 0}, '"inner_group_num" is 0; write a whole number'),
        ({"layer_norm_eps": "small"}, '"layer_norm_eps" is "small"; write a number of 0 or more'),
        ({"classifier_dropout_prob": 1}, '"classifier_dropout_prob" is 1; write a number of 0'),
    ],
)
def test_what_cannot_be_computed_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        modeling.BertConfig.from_dict({**SETTINGS, **changes})


@pytest.mark.parametrize(
    "keys, kind",
    [
        ({}, "bert"),
        ({"directionality": "bidi", "pooler_fc_size": 768}, "bert"),
        ({"num_hidden_groups": 1, "embedding_size": 128}, "albert"),
        ({"net_structure_type": 0}, "albert"),
        ({"ln_type": "postln", "embedding_size": 128}, "albert_zh"),
        ({"ln_type": "postln", "num_hidden_groups": 1}, "albert_zh"),
        ({"model_type": "electra", "embedding_size": 128}, "electra"),
        ({"model_type": "bert"}, "bert"),
    ],
)
def test_the_kind_is_told_by_the_keys(keys, kind):
    assert encoder_config.kind_of_keys(keys) == kind


def test_ernies_names_and_numbers():
    config = modeling.BertConfig.from_dict(
        {
            "vocab_size": 60,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_hidden_layers": 1,
            "hidden_act": "relu",
            "max_position_embeddings": 513,
            "sent_type_vocab_size": 4,
            "task_type_vocab_size": 16,
            "layer_norm_eps": 1e-5,
        }
    )
    assert config.variable_shapes()["bert/embeddings/token_type_embeddings"] == [4, 32]
    assert config.norm_epsilon == 1e-5
    tensor = tf.constant([[1e-3, 0.0, -1e-3]])
    found = evaluate(modeling.layer_norm(tensor, epsilon=1e-5))
    gamma, beta = evaluate(tf.trainable_variables()[::-1])
    expected = np.array([1e-3, 0.0, -1e-3]) / np.sqrt(2e-6 / 3 + 1e-5) * gamma + beta
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["electra", "bert"])
def test_the_depth_of_each_variable(kind):
    config = config_of(model_type=kind, embedding_size=None if kind == "bert" else 16)
    depths = {name: config.layers_above(name) for name in config.variable_shapes()}
    assert depths[kind + "/embeddings/word_embeddings"] == 6
    assert depths.get("electra/embeddings_project/kernel", 6) == 6
    assert depths[kind + "/encoder/layer_0/output/dense/kernel"] == 5
    assert depths[kind + "/encoder/layer_3/output/dense/kernel"] == 2
    assert depths.get("bert/pooler/dense/kernel", 1) == 1
    assert config.layers_above("output_weights") == 0


def test_shared_layers_have_no_depth():
    with pytest.raises(ValueError, match="share their weights"):
        config_of(**SHARED).layers_above("output_weights")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"model_type": "electra"}, {"model_type": "albert", "num_hidden_groups": 6}],
    ids=str,
)
def test_minilm_under_the_names_of_another_kind_is_the_same_encoder(changes):
    """A real encoder; its activation is the exact gelu, which ELECTRA calls "gelu"."""
    folder = os.path.join(ROOT, ".cache", "minilm-l6-uncased")
    if not os.path.exists(os.path.join(folder, "bert_config.json")):
        pytest.skip("MiniLM is not there: examples/fetch_minilm.py gets it")
    bert = modeling.BertConfig.from_json_file(os.path.join(folder, "bert_config.json"))
    config = dataclasses.replace(bert, **changes)
    if changes["model_type"] == "electra":
        config.hidden_act = "gelu"
    reader = tf.train.load_checkpoint(os.path.join(folder, "bert_model.ckpt"))
    values = {name: reader.get_tensor(name) for name in bert.variable_shapes()}
    names = dict(zip(config.variable_shapes(), bert.variable_shapes()))
    texts = np.random.RandomState(1).randint(1000, 30000, [3, 24]).astype(np.int32)
    mask = (np.arange(24) < np.array([[24], [11], [2]])).astype(np.int32)

    def run(config, weights):
        with tf.Graph().as_default(), tf.Session() as session:
            model = modeling.BertModel(config, False, tf.constant(texts), tf.constant(mask))
            for variable in tf.trainable_variables():
                variable.load(weights[variable.op.name], session)
            return session.run([model.get_all_encoder_layers(), model.get_pooled_output()])

    expected, expected_pooled = run(bert, values)
    found, pooled = run(config, {new: values[old] for new, old in names.items()})
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    if config.kind.has_pooler:
        np.testing.assert_allclose(pooled, expected_pooled, atol=1e-5)
    else:
        np.testing.assert_allclose(pooled, expected[-1][:, 0], atol=1e-5)
