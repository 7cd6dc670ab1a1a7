"""The benchmark's own arithmetic, data and turns, with stand-ins for the programs it measures."""

from __future__ import annotations

import codecs
import collections
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time

import bench
import bert.modeling
import cases
import made_up_data
import numpy as np
import pytest
import report
import runner
import tensorflow.compat.v1 as tf
import to_hugging_face
from cases import Answer, Case, Size, Training
from report import Turn

import modeling
from bert_classifier import convert
from bert_classifier.data import processors
from bert_classifier.model import weights

WORDS = ["".join(letters) for letters in itertools.product("abcdefgh", repeat=5)][:20000]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", ".", "##ing", *WORDS]
SMALL = Size(1, 1, Training(16, 4, 1), Training(15, 3, 1), 1, (32,), 2, 7, 8, 9)


@pytest.fixture(scope="module")
def words():
    return made_up_data.Words(VOCAB)


def some(rows, count=4000):
    return list(itertools.islice(rows, count))


# Made-up rows


@pytest.mark.parametrize("make", [made_up_data.sentences, made_up_data.pairs])
def test_made_up_rows_are_those_of_their_seed(words, make):
    assert some(make(words, 1), 50) == some(make(words, 1), 50)
    assert some(make(words, 1), 50) != some(make(words, 2), 50)


def test_sentences_are_as_long_as_those_of_sst_2(words):
    lengths = [len(row.text.split()) for row in some(made_up_data.sentences(words, 1))]
    assert statistics.mean(lengths) == pytest.approx(9.5, abs=0.5)
    # SST-2's quartiles.
    assert np.percentile(lengths, [25, 50, 75]) == pytest.approx([3, 7, 13], abs=1)


def test_pairs_are_as_long_and_as_often_paraphrases_as_those_of_mrpc(words):
    rows = some(made_up_data.pairs(words, 1))
    lengths = [[len(row.text.split()), len(row.text_b.split())] for row in rows]
    assert np.mean(lengths, axis=0) == pytest.approx([20.5, 20.5], abs=0.5)
    assert np.std(lengths, axis=0) == pytest.approx([5.7, 5.7], abs=0.5)
    assert np.corrcoef(np.transpose(lengths))[0, 1] == pytest.approx(0.72, abs=0.05)
    assert statistics.mean(row.label == "1" for row in rows) == pytest.approx(0.674, abs=0.03)


def verdict(row):
    return str(
        int(
            sum(word in made_up_data.PRAISE for word in row.text.split())
            > sum(word in made_up_data.BLAME for word in row.text.split())
        )
    )


def overlap(row):
    first, second = set(row.text.split()), set(row.text_b.split())
    return str(int(len(first & second) > 0.5 * len(first | second)))


@pytest.mark.parametrize(
    "make, rule", [(made_up_data.sentences, verdict), (made_up_data.pairs, overlap)]
)
def test_labels_can_be_learned_but_not_all_of_them(words, make, rule):
    rows = some(make(words, 1))
    assert 0.85 < statistics.mean(rule(row) == row.label for row in rows) < 1


def test_no_verdict_is_both_praise_and_blame():
    assert not set(made_up_data.PRAISE) & set(made_up_data.BLAME)


# Files of rows


def rows_of(folders, kind, split):
    return runner.read_examples(os.path.join(folders[kind], split + ".tsv"))


@pytest.fixture
def model_dir(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(VOCAB))
    return str(folder)


def test_data_has_as_many_rows_as_the_size_says(tmp_path, model_dir):
    folders = bench.write_data(str(tmp_path), SMALL, None, None, model_dir)
    counts = {
        (kind, split): len(rows_of(folders, kind, split))
        for kind in (
            "pairs",
            "sentences",
            "long texts",
            "one step of predict",
            "one step of latency",
            "conversion",
        )
        for split in ("train", "dev")
    }
    assert counts == {
        ("pairs", "train"): 16,
        ("pairs", "dev"): 4,
        ("sentences", "train"): 15,
        ("sentences", "dev"): 3,
        ("long texts", "train"): 64,
        ("long texts", "dev"): 32,
        ("one step of predict", "train"): 32,
        ("one step of predict", "dev"): 32,
        ("one step of latency", "train"): 32,
        ("one step of latency", "dev"): 32,
        ("conversion", "train"): 9,
        ("conversion", "dev"): 32,
    }
    assert len(rows_of(folders, "pairs", "test")) >= 7
    assert len(rows_of(folders, "sentences", "test")) >= 8
    for row in rows_of(folders, "long texts", "train"):
        assert len(row.text.split()) >= max(cases.LENGTHS)


def test_texts_are_as_long_as_the_longest_steps_that_are_asked_for(tmp_path, model_dir):
    lengths = bench.parse_arguments(["--lengths=32,512"]).lengths
    assert lengths == (32, 512)
    size = SMALL._replace(lengths=lengths)
    folders = bench.write_data(str(tmp_path), size, None, None, model_dir)
    for row in rows_of(folders, "long texts", "train"):
        assert len(row.text.split()) >= 512


@pytest.mark.parametrize(
    "arguments, short_turns, long_turns, lengths",
    [
        ([], 3, 2, cases.LENGTHS),
        (["--turns=5"], 5, 5, cases.LENGTHS),
        (["--long_turns=1", "--lengths=128"], 3, 1, (128,)),
        (["--turns=5", "--long_turns=1"], 5, 1, cases.LENGTHS),
    ],
)
def test_the_command_line_says_how_much_is_measured(arguments, short_turns, long_turns, lengths):
    size = bench.chosen_size(bench.parse_arguments(arguments))
    assert size[:2] == (short_turns, long_turns)
    assert size.lengths == lengths
    assert size.pairs == cases.SIZES["quick"].pairs


def as_our_program_reads(folder):
    examples = processors.get_processor("file").get_train_examples(folder)
    return [(row.label, row.text_a, row.text_b) for row in examples]


@pytest.mark.parametrize("kind", ["pairs", "sentences"])
def test_our_program_reads_the_rows_that_the_peers_read(tmp_path, model_dir, kind):
    folders = bench.write_data(str(tmp_path), SMALL, None, None, model_dir)
    assert as_our_program_reads(folders[kind]) == rows_of(folders, kind, "train")


def write_glue(tmp_path, count):
    lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    lines += [
        '%d\t1\t2\tsays " %d\tsaid %d' % (number % 2, number, number) for number in range(count)
    ]
    for split in ("train", "dev"):
        text = "".join(line + "\n" for line in lines)
        (tmp_path / (split + ".tsv")).write_bytes(codecs.BOM_UTF8 + text.encode())


def test_data_of_glue_is_taken_from_the_beginning(tmp_path, model_dir):
    write_glue(tmp_path, 20)
    folders = bench.write_data(str(tmp_path), SMALL, str(tmp_path), None, model_dir)
    expected = [(str(i % 2), 'says " %d' % i, "said %d" % i) for i in range(16)]
    assert rows_of(folders, "pairs", "train") == expected
    assert as_our_program_reads(folders["pairs"]) == expected


def test_too_few_rows_are_refused(tmp_path, model_dir):
    write_glue(tmp_path, 10)
    with pytest.raises(SystemExit, match="16 are needed, there are 10"):
        bench.write_data(str(tmp_path), SMALL, str(tmp_path), None, model_dir)


# Numbers


@pytest.mark.parametrize("count", [1, 2, 19, 20, 101])
@pytest.mark.parametrize("percent", [50, 95])
def test_percentile(count, percent):
    values = [random.Random(count).random() for _ in range(count)]
    found = cases.percentile(values, percent)
    assert sum(value <= found for value in values) >= percent / 100 * count
    assert sum(value < found for value in values) < percent / 100 * count


def test_operations_of_a_step_are_those_of_googles_graph():
    config = {
        "vocab_size": 11,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 40,
    }
    bert.modeling.BertModel(
        bert.modeling.BertConfig.from_dict(config), False, tf.zeros([5, 7], tf.int32)
    )
    operations = 0
    for op in tf.get_default_graph().get_operations():
        if "MatMul" in op.type and "encoder" in op.name:
            first, second, product = (
                tensor.shape.as_list() for tensor in [*op.inputs, *op.outputs]
            )
            # The dimension that is summed over is in both factors but not in the product.
            inner = np.sqrt(np.prod(first) * np.prod(second) / np.prod(product))
            if len(product) > 2:
                inner /= np.sqrt(np.prod(product[:-2]))
            operations += 2 * np.prod(product) * inner
    assert cases.step_gigaflop(config, 5, 7) == pytest.approx(3e-9 * operations)


def answer(**numbers):
    return Answer(numbers, started=100.0, seconds=50.0, cpu_seconds=80.0, peak_megabytes=900.0)


def test_the_time_of_a_step_is_without_those_that_warm_up():
    steps = [(1, 107.0), (2, 110.0), (3, 111.0), (4, 113.0), (5, 114.5)]
    assert cases.measure_steps(answer(steps=steps)) == {
        "a step, s": 1.5,
        "start to end of the first step, s": 7.0,
        "peak memory, MB": 900.0,
    }


def test_the_speed_of_training_is_that_between_lines_of_the_log():
    steps = [(1, 103.0), (9, 119.0), (10, 120.0), (20, 130.0), (24, 134.0)]
    everything = answer(steps=steps, accuracy=0.75, checkpoint_megabytes=3.0)
    measured = cases.measure_fine_tuning(10, everything)
    assert measured["training, examples/s"] == cases.BATCH_SIZE
    assert measured["dev accuracy"] == 0.75


def test_products_are_counted_at_their_best(monkeypatch):
    clock = itertools.accumulate(itertools.cycle([0.0, 3.0, 0.0, 2.0]))
    monkeypatch.setattr(runner.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(runner, "PRODUCTS", ((10, 20, 30), (10, 20, 60)))
    speeds = runner.time_products(lambda m, k, n: lambda: None)
    assert speeds == pytest.approx({"[10,20]x[20,30]": 6e-6, "[10,20]x[20,60]": 12e-6, "all": 9e-6})


def test_newest_checkpoint_is_that_of_the_highest_step(tmp_path):
    for name in ("model.ckpt-9.index", "model.ckpt-10.index", "model.ckpt-10.meta"):
        (tmp_path / name).touch()
    assert runner.newest_checkpoint(str(tmp_path)) == str(tmp_path / "model.ckpt-10")


def test_versions_are_those_that_are_imported():
    found = runner.packages("numpy", "tensorflow-gpu", "no-such-package")
    assert found == {"numpy": np.__version__, "tensorflow-gpu": tf.__version__}


# The table


TURNS = [
    Turn("training", "ours", 0.0, {"time, s": 2.0, "dev accuracy": 0.9}),
    Turn("training", "google", 0.0, {"time, s": 5.0, "dev accuracy": 0.88}),
    Turn("training", "google", 0.0, {"time, s": 9.0, "dev accuracy": 0.88}),
    Turn("training", "google", 0.0, {"time, s": 6.0, "dev accuracy": 0.8}),
    Turn("training", "ours", 0.0, {"time, s": 4.0, "dev accuracy": 0.9}),
    Turn("answering", "hf", 0.0, {"time, s": 12345.6}),
]


def test_the_table_has_medians_and_their_ratios():
    table = report.medians(TURNS)
    assert report.markdown(table, ["ours", "google", "hf"]) == (
        "|  | ours | google | hf |\n"
        "| --- | --- | --- | --- |\n"
        "| training: time, s | 3 | 6 (2.00x) | - |\n"
        "| training: dev accuracy | 0.9 | 0.88 | - |\n"
        "| answering: time, s | - | - | 12346 |\n"
    )


def test_shares_are_of_the_fastest_products(monkeypatch):
    monkeypatch.setattr(cases, "step_gigaflop", lambda *_: 300)
    step = cases.steps_title(cases.MAX_SEQ_LENGTH)
    table = {
        ("products", "all, GFLOP/s"): {"ours": 100.0, "hf": 200.0},
        (step, "a step, s"): {"ours": 3.0, "hf": 2.0},
    }
    report.add_shares(table, {})
    assert table[step, report.SHARE] == {"ours": 50.0, "hf": 75.0}


def test_no_share_is_above_100_percent(monkeypatch):
    monkeypatch.setattr(cases, "step_gigaflop", lambda *_: 300)
    step = cases.steps_title(cases.MAX_SEQ_LENGTH)
    table = {
        ("products", "all, GFLOP/s"): {"ours": 100.0},
        (step, "a step, s"): {"ours": 1.0, "hf": 9.0},
    }
    report.add_shares(table, {})
    assert (step, report.SHARE) not in table


def test_facts_become_a_list():
    text = report.bullets({"cores": 2, "features": ["avx2", "amx"], "ours": {"numpy": "1.18"}})
    assert text == "- cores: 2\n- features: avx2, amx\n- ours: numpy 1.18\n"


# Turns


class StandIns:
    """Peers that note when they are asked, and answer what a test wants."""

    def __init__(self, folder):
        self._folder = folder
        self._asked = folder / "asked"

    def peer(self, name, code="print('noise')"):
        script = self._folder / (name + ".py")
        script.write_text(
            "import json, subprocess, sys\n"
            "open(%r, 'a').write(%r + ' ' + sys.argv[1] + '\\n')\n"
            "%s\n"
            "print(json.dumps({'speed': 1.5, 'settings': json.loads(sys.argv[2])}))\n"
            % (str(self._asked), name, code)
        )
        return bench.Peer(name, sys.executable, str(script), "the model of " + name)

    def asked(self):
        return self._asked.read_text().splitlines()


@pytest.fixture
def stand_ins(tmp_path):
    return StandIns(tmp_path)


def case(job="products", turns=1):
    return Case(
        "steps", "the case", job, {}, turns, lambda found: {"speed": found.numbers["speed"]}
    )


def test_peers_take_turns_there_and_back(tmp_path, stand_ins):
    peers = [stand_ins.peer(name) for name in "abc"]
    measured = bench.Bench(peers, str(tmp_path), {})
    measured.measure(case(turns=3))
    assert "".join(line[0] for line in stand_ins.asked()) == "abccbaabc"
    assert [turn.peer for turn in measured.turns] == list("abccbaabc")
    assert measured.turns[0].numbers == {"speed": 1.5}


@pytest.mark.parametrize("job, order", [("fine_tune", "abccaac"), ("latency", "abccbaabc")])
def test_a_variant_takes_part_in_the_first_turn_of_a_training(tmp_path, stand_ins, job, order):
    peers = [stand_ins.peer("a"), stand_ins.peer("b")._replace(variant="bf16"), stand_ins.peer("c")]
    measured = bench.Bench(peers, str(tmp_path), ONE_STEP)
    measured.measure(case(job, turns=3)._replace(variants=("bf16",)))
    assert [turn.peer for turn in measured.turns] == list(order)


def test_a_peer_that_fails_is_out_of_the_case_and_says_why(tmp_path, stand_ins, capsys):
    broken = stand_ins.peer("b", "sys.exit('no weights here')")
    measured = bench.Bench([stand_ins.peer("a"), broken, stand_ins.peer("c")], str(tmp_path), {})
    measured.measure(case(turns=2))
    assert [turn.peer for turn in measured.turns] == list("acca")
    assert "no weights here" in capsys.readouterr().err
    # Another case may be within its power.
    measured.measure(case())
    assert stand_ins.asked().count("b products") == 2


ONE_STEP = {"one step of predict": "pairs", "one step of latency": "sentences"}


def test_a_model_is_trained_once_for_each_job_that_needs_one(tmp_path, stand_ins):
    making = (
        "if sys.argv[1] == 'fine_tune': import os; os.mkdir(json.loads(sys.argv[2])['output_dir'])"
    )
    peers = [stand_ins.peer("a", making)]
    measured = bench.Bench(peers, str(tmp_path), ONE_STEP)
    measured.measure(case("predict", turns=2))
    measured.measure(case("latency"))
    measured.measure(case("answer"))
    assert stand_ins.asked() == [
        "a fine_tune",
        "a predict",
        "a predict",
        "a fine_tune",
        "a latency",
        "a answer",
    ]


def test_each_training_has_a_new_folder_that_is_removed(tmp_path, stand_ins):
    making = "import os; os.makedirs(json.loads(sys.argv[2])['output_dir'])"
    measured = bench.Bench([stand_ins.peer("a", making)], str(tmp_path), {})
    before = set(os.listdir(str(tmp_path)))
    measured.measure(case("fine_tune", turns=2))
    assert len(measured.turns) == 2
    assert set(os.listdir(str(tmp_path))) == before | {"asked"}


@pytest.mark.parametrize("where", ["itself", "its child"])
def test_memory_is_that_of_the_largest_process(stand_ins, where):
    allocate = "bytearray(b'1' * 900000000)"
    if where == "its child":
        allocate = "subprocess.run([sys.executable, '-c', %r], check=True)" % allocate
    assert bench.ask(stand_ins.peer("large", allocate), "job", {}).peak_megabytes > 900
    assert bench.ask(stand_ins.peer("small"), "job", {}).peak_megabytes < 900


def test_who_interrupts_ends_all_processes(tmp_path, stand_ins, monkeypatch):
    started = tmp_path / "started"
    code = "child = subprocess.Popen(['sleep', '60'])\n"
    code += "open(%r, 'w').write(str(child.pid) + '\\n')\nchild.wait()" % str(started)

    def interrupted(*_):
        while not (started.exists() and started.read_text().endswith("\n")):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "wait4", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.ask(stand_ins.peer("a", code), "job", {})
    child = int(started.read_text())
    # The system ends it a moment later.
    deadline = time.time() + 30
    while is_running(child) and time.time() < deadline:
        time.sleep(0.01)
    assert not is_running(child)


def is_running(process_id):
    try:
        with open("/proc/%d/stat" % process_id) as stream:
            return stream.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_does_not_start_is_left_out(stand_ins, capsys):
    peers = [
        stand_ins.peer("a"),
        stand_ins.peer("b")._replace(python="no/such/python"),
        stand_ins.peer("c", "import no_such_package"),
    ]
    peers.append(peers[-1]._replace(name="c-padded"))
    ready, versions = bench.start(peers)
    assert [peer.name for peer in ready] == list(versions) == ["a"]
    assert stand_ins.asked() == ["a versions", "c versions"]
    said = capsys.readouterr().err
    assert "b is left out" in said and "no/such/python" in said
    assert "c is left out" in said and "c-padded is left out" in said
    assert said.count("No module named 'no_such_package'") == 2


def test_who_takes_part():
    arguments = bench.parse_arguments(["--build=fast=fast/python"])
    peers = bench.make_peers(arguments, "model", "hf model")
    taking_part = {
        one.group: [peer.name for peer in peers if bench.takes_part(peer, one)]
        for one in cases.make_cases(SMALL, collections.defaultdict(str))
    }
    tensorflow = ["ours", "ours-fast", "google", "google-fast"]
    of_onnx = ["ours-onnx", "ours-fast-onnx", "ours-int8", "ours-fast-int8"]
    of_onnx += ["bare-onnx", "bare-fast-onnx", "bare-int8", "bare-fast-int8"]
    training = ["ours", "ours-fast", "ours-amp", "ours-fast-amp", "google", "google-fast"]
    assert taking_part == {
        "products": ["ours", "ours-fast", "hf"],
        "conversion": [*tensorflow, "hf"],
        "latency": ["ours", "ours-fast", *of_onnx, "google", "google-fast", "hf", "hf-bf16"],
        "answers": ["ours", "ours-fast", *of_onnx, "hf", "hf-bf16"],
        "prediction": [*tensorflow, "hf", "hf-padded", "hf-bf16"],
        "steps": [*training, "hf", "hf-bf16"],
        "fine_tuning": [*training, "hf", "hf-padded", "hf-bf16"],
    }
    assert list(taking_part) == list(cases.GROUPS)


@pytest.mark.parametrize("wanted, expected", [(None, ["a", "b"]), (["b"], ["b"])])
def test_names_are_chosen_in_their_order(wanted, expected):
    assert bench.chosen(wanted, ["a", "b"], "--jobs") == expected


def test_an_unknown_name_is_refused():
    with pytest.raises(SystemExit, match="--jobs: c: there are a, b"):
        bench.chosen(["a", "c"], ["a", "b"], "--jobs")


# The model of the peers


def test_weights_come_back_from_hugging_faces_format(tmp_path, tiny_bert):
    there, back = str(tmp_path / "there"), str(tmp_path / "back")
    to_hugging_face.convert(os.path.dirname(tiny_bert.init_checkpoint), there)
    converted = convert.convert(there, back)
    assert converted.tokenizer.do_lower_case is True

    before = tf.train.load_checkpoint(tiny_bert.init_checkpoint)
    after = tf.train.load_checkpoint(converted.init_checkpoint)
    names = after.get_variable_to_shape_map()
    assert names == before.get_variable_to_shape_map()
    for name in names:
        np.testing.assert_array_equal(before.get_tensor(name), after.get_tensor(name))
    with open(tiny_bert.bert_config_file) as first, open(back + "/bert_config.json") as second:
        assert json.load(first) == json.load(second)


@pytest.mark.parametrize(
    "given,written", [("gelu_erf", "gelu"), ("gelu", "gelu"), ("relu", "relu")]
)
def test_all_peers_compute_googles_gelu(given, written, tmp_path, tiny_bert):
    model_dir = os.path.dirname(tiny_bert.init_checkpoint)
    there, here = str(tmp_path / "there"), str(tmp_path / "here")
    shutil.copytree(model_dir, there)
    config_path = os.path.join(there, "bert_config.json")
    with open(tiny_bert.bert_config_file) as stream:
        config = dict(json.load(stream), hidden_act=given)
    with open(config_path, "w") as stream:
        json.dump(config, stream)
    bench.write_model(there, here)
    with open(os.path.join(here, "bert_config.json")) as stream:
        assert json.load(stream) == dict(config, hidden_act=written)
    with open(config_path) as stream:
        assert json.load(stream) == config, "what was given has changed"
    assert tf.train.list_variables(os.path.join(here, "bert_model.ckpt"))


def test_the_peers_of_this_environment_start():
    peers = bench.make_peers(bench.parse_arguments(["--python=" + sys.executable]), "", "")
    peers = [peer for peer in peers if peer.name in ("ours", "ours-int8", "bare-int8", "google")]
    ready, versions = bench.start(peers)
    assert len(peers) == 4 and ready == peers
    assert versions["bare-int8"]["numpy"] == np.__version__


@pytest.mark.slow
def test_both_programs_do_all_jobs(tmp_path):
    """The smallest size, from random weights."""
    config = {
        "vocab_size": len(VOCAB),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_act": "gelu_erf",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 128,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
    }
    (tmp_path / "bert_config.json").write_text(json.dumps(config))
    (tmp_path / "vocab.txt").write_text("".join(token + "\n" for token in VOCAB))
    chance = np.random.RandomState(0)
    shapes = modeling.BertConfig.from_dict(config).variable_shapes()
    variables = {
        name: chance.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()
    }
    weights.write_checkpoint(variables, str(tmp_path / "bert_model.ckpt"))
    result = subprocess.run(
        [
            sys.executable,
            os.path.join(bench.HERE, "bench.py"),
            "--size=smoke",
            "--peers=ours,ours-int8,bare-int8,google",
            "--model_dir=%s" % tmp_path,
            "--json=%s" % (tmp_path / "bench.json"),
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "FAILED" not in result.stderr
    medians = json.loads((tmp_path / "bench.json").read_text())["medians"]
    measures = collections.Counter(
        (row["case"].split(",")[0], *sorted(row["peers"])) for row in medians
    )
    assert measures["one sentence", "bare-int8", "google", "ours", "ours-int8"] == 2
    assert measures["many sentences", "bare-int8", "ours", "ours-int8"] == 1
    assert measures["products", "ours"] == 4
    others = [row for row in measures.elements() if row[1:] == ("google", "ours")]
    assert len(others) == 17, measures
    assert result.stdout.count("\n| ") == 2 + len(medians)


# The levers of a step

TINY_LEVERS = """
import step
step.CONFIG.update(hidden_size=24, num_attention_heads=4, num_hidden_layers=2)
import levers
levers.main(["--batch_size=4", "--seq_length=8", "--repeats=1"])
"""


def test_each_lever_is_measured():
    folder = os.path.dirname(os.path.abspath(bench.__file__))
    output = subprocess.check_output([sys.executable, "-c", TINY_LEVERS], cwd=folder, text=True)
    rows = [line.split("|") for line in output.splitlines() if line.startswith("| ")]
    assert rows[0][1].strip() == "4 x 8: without"
    assert len(rows) > 10 and all(float(row[2]) > 0 for row in rows[1:])
