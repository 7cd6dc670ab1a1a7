"""The pages tell the truth: lengths, links, and every flag, module, file and test they name."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

from bert_classifier import flags
from bert_classifier.server.limits import Limits

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
README, README_ZH = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [README, README_ZH, ROOT / "CONTRIBUTING.md", *DOCS]
STAGES = "data|model|training|inspection|export|serving"
GOOGLES_MODULES = "run_classifier_gpu|modeling|optimization|tokenization|tf_metrics"
FOLDERS = "bert_classifier|tests|docs|tools|examples|benchmarks"
NOT_OURS = {"model.onnx", "run_classifier.py", "model.safetensors"}
# Of absl, curl, horovodrun, saved_model_cli, TensorBoard, TensorFlow, TensorFlow Serving and Slurm.
FLAGS_OF_OTHERS = set(
    "help network-interfaces ssh-port ssh-identity-file dir tag_set signature_def logdir "
    "tf_xla_cpu_global_jit enable_batching nodes ntasks-per-node gpus-per-node cpus-per-task time "
    "signal query-gpu format silent fail data".split()
)


def each(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


def code_spans(page):
    """What stands between backticks, on one line."""
    return re.findall("`([^`\n]+)`", page.read_text(encoding="utf-8"))


def anchors(page):
    """The fragments of links to the headings of a page, as GitHub makes them."""
    text = re.sub("```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall("^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def flags_of_the_program():
    names = set()
    for flag in (flag for of_group in flags.groups().values() for flag in of_group):
        names |= {flag.name, "no" + flag.name} if flag.boolean else {flag.name}
    return names


def flags_of_the_other_commands():
    names = ("compare.py", "convert.py", "predict.py", "serve.py")
    commands = [ROOT / "bert_classifier" / name for name in names]
    sources = [*commands, *(ROOT / "benchmarks").glob("*.py")]
    written = {name for path in sources for name in re.findall('"--([a-z_]+)"', path.read_text())}
    return written | set(Limits._fields)


def names_defined_in(path):
    """The functions, classes and variables of a module, without those that it imports."""
    names = set()
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names.add(statement.name)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = getattr(statement, "targets", None) or [statement.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_the_page_of_the_flags_is_what_their_definitions_say():
    page = runpy.run_path(str(ROOT / "tools" / "make_flags_page.py"))["page"]()
    assert (ROOT / "docs" / "flags.md").read_text(encoding="utf-8") == page, (
        "run .venv/bin/python tools/make_flags_page.py"
    )


@each(PAGES)
def test_pages_are_short(page):
    limit = 220 if page.name == "README.md" else 250
    assert len(page.read_text(encoding="utf-8").splitlines()) <= limit


@each(PAGES)
def test_links_lead_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not fragment or fragment in anchors(target), link


def test_every_page_is_in_the_readme():
    links = re.findall(r"\]\(docs/([^)#]+\.md)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert {page.name for page in DOCS} == set(links)


def shape_of(page):
    """What a translation keeps: commands, headings by their level, rows of tables, links."""
    text = page.read_text(encoding="utf-8")
    code = re.findall("```.*?```", text, flags=re.DOTALL)
    prose = re.sub("```.*?```", "", text, flags=re.DOTALL)
    return {
        "code": [re.sub(" +# .*", "", block) for block in code],
        "headings": re.findall("^#+", prose, flags=re.MULTILINE),
        "rows": [row.count("|") for row in prose.splitlines() if row.startswith("|")],
        "links": [link for link in re.findall(r"\]\(([^)]+)\)", prose) if "README" not in link],
        "spans": sorted(re.findall("`([^`\n]+)`", prose)),
    }


@pytest.mark.parametrize("part", ["code", "headings", "rows", "links", "spans"])
def test_the_chinese_readme_has_the_commands_and_headings_of_the_english_one(part):
    assert shape_of(README_ZH)[part] == shape_of(README)[part]


def test_the_two_readmes_name_each_other():
    assert "](README.zh-CN.md)" in README.read_text(encoding="utf-8")
    assert "](README.md)" in README_ZH.read_text(encoding="utf-8")


@each(PAGES)
def test_flags_exist(page):
    named = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", page.read_text(encoding="utf-8")))
    known = flags_of_the_program() | flags_of_the_other_commands() | FLAGS_OF_OTHERS
    assert not named - known


@each([*PAGES, ROOT / "CHANGELOG.md"])
def test_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python -m (bert_classifier\S*\w)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


@each(PAGES)
def test_files_exist(page):
    text = page.read_text(encoding="utf-8").replace("examples/s", "")  # a unit
    paths = set(re.findall(r"(?<![\w./-])(?:%s)/[\w./-]*\w" % FOLDERS, text))
    paths |= set(re.findall(r"(?<![\w./*-])\w+\.py\b", text)) - NOT_OURS
    assert not [path for path in sorted(paths) if not (ROOT / path).exists()]


@each(PAGES)
def test_names_are_in_the_files_that_they_are_said_to_be_in(page):
    text = page.read_text(encoding="utf-8")
    for name, path in re.findall(r"`(\w+)`\s+in\s+`([\w/]+\.py)`", text):
        assert name in names_defined_in(ROOT / path), (name, path)


@each(PAGES)
def test_functions_and_tests_exist(page):
    for span in set(code_spans(page)) - NOT_OURS:
        of_stage = re.fullmatch(r"(%s)\.(\w+)(?:\.(\w+))?" % STAGES, span)
        of_google = re.fullmatch(r"(%s)\.(?!py)(\w+)" % GOOGLES_MODULES, span)
        test = re.fullmatch(r"(tests/\S+)::(\w+)", span)
        if of_stage:
            stage, module, name = of_stage.groups()
            path = ROOT / "bert_classifier" / stage / (module + ".py")
        elif of_google:
            path, name = ROOT / (of_google.group(1) + ".py"), of_google.group(2)
        elif test:
            path, name = ROOT / test.group(1), None
            assert re.search(r"def %s\(" % test.group(2), path.read_text(encoding="utf-8")), span
        else:
            continue
        assert path.is_file(), span
        assert name is None or name in names_defined_in(path), span
