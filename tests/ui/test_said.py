"""What the server says is there in Japanese: reasons of presets, refusals of a host, remarks, limits."""

import ast
import itertools
import pathlib
import re

import pytest

from lora_train.data import health, scan
from lora_train.run import recipes
from lora_train.run.check import words
from lora_train.run.rules import Rules
from lora_train.ui.page import ROOT

FILE = ROOT / "javascript" / "lora_train_1_words_said.js"
ROW = re.compile(r'^\s*\["((?:[^"\\]|\\.)*)", "((?:[^"\\]|\\.)*)"\],$', re.M)
PLACE = re.compile(r"\{(\w+)\}")
PLACES = ROOT / "lora_train"


def plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


TABLE = [(plain(en), plain(ja)) for en, ja in ROW.findall(FILE.read_text(encoding="utf-8"))]


def pattern(english: str) -> re.Pattern:
    number, word = r"([\d.e+-]+)", r"([\w.-]+)"
    places = {"low": number, "high": number, "word": word, "words": r"([\w.-]+(?:, [\w.-]+)*)"}
    parts = enumerate(PLACE.split(english))
    return re.compile("".join(places.get(part, "(.+?)") if i % 2 else re.escape(part) for i, part in parts))


KNOWN = [pattern(english) for english, _ in TABLE]


def there(line: str) -> bool:
    """As the page looks: the whole, or what stands behind a path."""
    ends = [0, *(match.end() for match in re.finditer(": ", line))]
    if any(known.fullmatch(line[at:]) for at in ends for known in KNOWN):
        return True
    first, _, then = line.partition("; ")
    return bool(then) and there(first) and there(then)


def sentences(file: str) -> list[str]:
    """The texts of a source file that are sentences, with 7 for what is put in; no docstrings, no logs."""
    tree = ast.parse(PLACES.joinpath(file).read_text(encoding="utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in ast.walk(node)} - {id(node)}
        if isinstance(node, ast.Expr):
            skipped |= {id(part) for part in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "7" for p in node.values)
            found.append("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return [text for text in found if text.count(" ") >= 3]


def test_every_row_is_read_and_has_the_same_places_in_both_languages():
    rows = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line.startswith('        ["')]
    assert len(rows) == len(TABLE) > 150
    assert len({english for english, _ in TABLE}) == len(TABLE)
    for english, japanese in TABLE:
        assert set(PLACE.findall(japanese)) <= set(PLACE.findall(english)), english
        assert re.search(r"[ぁ-んァ-ヶ一-龠]", japanese), japanese


def test_a_row_is_not_hidden_by_an_earlier_one():
    for i, (english, _) in enumerate(TABLE):
        earlier = [TABLE[k][0] for k in range(i) if KNOWN[k].fullmatch(english)]
        assert not earlier, (english, earlier)


def test_every_reason_of_a_preset():
    lost = set()
    every = itertools.product(
        recipes.NEEDS, recipes.FAMILIES, (None, 6000, 9000, 24_000, 40_000), (None, 20), recipes.BUILTIN,
        ("fp16", "bf16", "fp32", None))  # fmt: skip
    for goal, family, card, pictures, name, dtype in every:
        found = recipes.reasons(goal, family, card, pictures, name=name, dtype=dtype)
        lost |= {why for why in found.values() if not there(why)}
    assert not lost, lost


@pytest.mark.parametrize("file", ["hosts/webui/host.py", "hosts/webui/kinds.py"])
def test_every_refusal_of_the_webui_as_a_host(file):
    kind = "a kind that is not known here"  # stands in a sentence
    said = sentences(file)
    assert said
    lost = [text for text in said if text != kind and not there(text)]
    assert not lost, lost


def test_every_reason_why_a_setting_has_no_effect():
    said = [text for text in sentences("run/applies.py") if "." in text or text[0].islower()]
    lost = [text for text in said if not there(text)]
    assert not lost, lost


def test_every_remark_on_pictures():
    kinds = [*scan.REMARKS, *health.REMARKS]
    lost = [kind for kind in kinds if not there(f"2 {words(kind)}")]
    assert not lost, [words(kind) for kind in lost]


def test_every_advice():
    parts = ("falls apart below it", "repeats itself above it, and memory grows", " and 7 more")
    whole = [text for text in sentences("run/advice.py") if text not in parts]
    said = [text.replace("and 7.", f"and {part}.") for text in whole for part in parts[:2]]
    lost = [text for text in said if not there(text)]
    assert not lost, lost


def test_every_limit():
    plan = {"steps": 9, "disk": {"path": "x", "megabytes": 1.0, "free_megabytes": 9.0}}
    said = [text for _, text in Rules(steps=1, minutes=1, gigabytes=5).complaints(plan, {"seconds": 600})]
    assert len(said) == 3
    lost = [text for text in said if not there(text)]
    assert not lost, lost


@pytest.mark.parametrize(
    "line",
    [
        "network.dim = 0: expected 1 to 512, or nothing", "network.dim = 'x': expected a whole number",
        "lr.learning_rate = 'x': expected a number", "x: no such setting; did you mean y?",
        "data.train_data_dir: expected the folder of the pictures to learn from",
        "data.train_data_dir = C:\\x: expected a folder", "/a/b: no such folder",
        "output.output_name = ink: ink.safetensors is in /x already, and a result is not overwritten; "
        "ink-2 is a free name",
        "output.output_name = 'a/b': expected a file name; leave out '/'",
        "training.mixed_precision = fp16: expected a CUDA device; on a CPU use no or bf16",
        "training.mixed_precision = 'x': expected no, bf16 or fp16",
        "lr.kind = a: expected b or c; did you mean b?",
    ],
)  # fmt: skip
def test_complaints_that_are_frequent(line):
    assert there(line)


def test_the_file_is_where_the_page_loads_it():
    assert FILE in sorted(pathlib.Path(ROOT, "javascript").glob("*.js"))
