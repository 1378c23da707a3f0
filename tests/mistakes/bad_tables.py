"""Files of settings: TOML and JSON that cannot be read, or say what cannot be done; and files of prompts."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator

from tests.mistakes.harness import TAKEN, Case, Ground, Plant, chance

TOML = any(map(importlib.util.find_spec, ("tomllib", "tomli")))

SYNTAX: dict[str, bytes | str] = {
    "without a value": "network_dim =", "without =": "network_dim 4", "with a text left open": 'a = "x',
    "with a table left open": "[network", "with a list left open": "a = [1, 2", "with a bare word": "a = cat",
    "with a key twice": "network_dim = 4\nnetwork_dim = 8", "with a table twice": "[a]\nb=1\n[a]\nc=2",
    "with a key that is a table": "a = 1\n[a]\nb = 2", "with two values": "a = 1 2", "with a comma": "a = 1,",
    "with JSON in it": '{"network_dim": 4}', "with YAML in it": "network:\n  dim: 4",
    "with words in it": "--network_dim 4", "that is a picture": b"\x89PNG\r\n\x1a\n" + bytes(60),
    "of zeros": bytes(64), "in UTF-16": "network_dim = 4".encode("utf-16"),
    "in UTF-32": "network_dim = 4".encode("utf-32"), "in Latin-1": 'output_name = "é"'.encode("latin-1"),
    "cut inside a letter": 'output_name = "é'.encode()[:-1], "nested without end": "a = " + "[" * 100_000,
    "with tables without end": "a = " + "{b = " * 50_000,
    "of a name without end": "a" + ".a" * 20_000 + " = {",
    "with a backslash": r'train_data_dir = "C:\users\x"',
    "with a tab from a path": r'train_data_dir = "C:\train"',
    "with a control letter": 'output_name = "a\x01"', "with half a pair": r'output_name = "\ud800"',
    "with a date that is none": "a = 2026-13-45", "with a number of 07": "network_dim = 07",
    "with a number without end": "network_dim = " + "9" * 5000, "with a number of _": "network_dim = 1__0",
}  # fmt: skip
VALUES: dict[str, tuple[str, str]] = {  # text, and what has to be named
    "a setting that there is not": ("network_dimm = 4", "network_dimm"),
    "a table that there is not": ("[networkk]\ndimm = 4", "dimm"),
    "a date for a number": ("network_dim = 2026-11-21", "dim"),
    "a time for a number": ("network_dim = 12:30:00", "dim"),
    "a date and time for a text": ("output_name = 2026-11-21T10:00:00Z", "output_name"),
    "a list for a number": ("network_dim = [4, 8]", "dim"),
    "a list of lists": ("betas = [[0.9], [0.99]]", "betas"),
    "an empty list for a number": ("network_dim = []", "dim"),
    "a table for a number": ("network_dim = {a = 1}", "a"),
    "a switch for a number": ("network_dim = true", "dim"),
    "a text for a switch": ('cache_latents = "maybe"', "cache_latents"),
    "a number for a switch": ("cache_latents = 2", "cache_latents"),
    "nan for a rate": ("learning_rate = nan", "learning_rate"),
    "inf for a rate": ("learning_rate = inf", "learning_rate"),
    "below inf for a rate": ("learning_rate = -inf", "learning_rate"),
    "a number of a thousand digits": ("network_dim = " + "9" * 1000, "dim"),
    "a number of a thousand digits for a rate": ("learning_rate = " + "9" * 1000, "learning_rate"),
    "a fraction for a whole number": ("network_dim = 4.5", "dim"),
    "nothing for a number": ('network_dim = ""', "dim"),
    "a number for a folder": ("train_data_dir = 3", "train_data_dir"),
    "a list for a folder": ('train_data_dir = ["a", "b"]', "train_data_dir"),
    "a switch for a text": ("output_name = true", "output_name"),
    "a name with a zero": (r'output_name = "a\u0000"', "output_name"),
    "too small a number": ("network_dim = 0", "dim"),
    "too large a number": ("train_batch_size = 1000000000000", "batch_size"),
    "a kind that there is not": ('[optimizer]\nkind = "adamm"', "adamm"),
    "a setting of another kind": ("[network]\nfactor = 4", "factor"),
    "what sd-scripts has and this has not": ("deepspeed = true", "deepspeed"),
    "datasets": ("[[datasets]]\nresolution = 64", "dataset_config"),
    "itself": ('config_file = "a.toml"', "config_file"),
    "arguments that are no pairs": ('network_args = ["conv_dim"]', "conv_dim"),
    "arguments that are numbers": ("network_args = [1, 2]", "1"),
    "an empty name": ('"" = 3', ""),
    "a name with a line break": ('"a\\nb" = 3', "a"),
    "a name with points": ('"...." = 3', "...."),
    "items without order": ("[data.datasets.5]\nbatch_size = 1", "data.datasets"),
}  # fmt: skip
SUBSET = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = '{}'\n"
DATASETS: dict[str, tuple[str, str]] = {
    "that is empty": ("", "[[datasets]]"),
    "without datasets": ("[general]\nshuffle_caption = true", "[[datasets]]"),
    "of a dataset that is one table": ("[datasets]\nresolution = 64", "datasets"),
    "of a dataset that is a number": ("datasets = 3", "datasets"),
    "of datasets that are numbers": ("datasets = [1, 2]", "datasets"),
    "with general as a number": ("general = 3\n" + SUBSET, "general"),
    "with general as a list": ("[[general]]\na = 1\n" + SUBSET, "general"),
    "with a table that there is not": ("[train]\nx = 1\n" + SUBSET, "train"),
    "without subsets": ("[[datasets]]\nresolution = 64", "image_dir"),
    "with a subset that is one table": ("[[datasets]]\n[datasets.subsets]\nimage_dir = 'x'", "subsets"),
    "with a subset without a folder": ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 2", "image_dir"),
    "with a folder that is not there": (
        "[[datasets]]\n[[datasets.subsets]]\nimage_dir = '/gone/x'",
        "/gone/x"),
    "with a folder that is a file": (
        "[[datasets]]\n[[datasets.subsets]]\nimage_dir = '/dev/null'", "/dev/null"),
    "with a folder of a number": ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 3", "image_dir"),
    "with a folder of nothing": ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = ''", "image_dir"),
    "with a setting that there is not": (SUBSET + "num_repeat = 2", "num_repeat"),
    "with a network's setting": (SUBSET + "network_dim = 2", "network_dim"),
    "with repeats of 0": (SUBSET + "num_repeats = 0", "num_repeats"),
    "with repeats below 0": (SUBSET + "num_repeats = -1", "num_repeats"),
    "with repeats of nan": (SUBSET + "num_repeats = nan", "num_repeats"),
    "with repeats of a word": (SUBSET + "num_repeats = 'many'", "num_repeats"),
    "with a size of three": ("[general]\nresolution = [64, 64, 64]\n" + SUBSET, "resolution"),
    "with a size of nothing": ("[general]\nresolution = []\n" + SUBSET, "resolution"),
    "with a size of 0": ("[general]\nresolution = 0\n" + SUBSET, "resolution"),
    "with a size of words": ("[general]\nresolution = ['a', 'b']\n" + SUBSET, "resolution"),
    "with a size of tables": ("[general]\nresolution = [{a = 1}]\n" + SUBSET, "resolution"),
    "with a size without end": (f"[general]\nresolution = {'9' * 500}\n" + SUBSET, "resolution"),
    "with a batch of 0": ("[[datasets]]\nbatch_size = 0\n" + SUBSET.partition("\n")[2], "batch_size"),
    "with only regularisation": (SUBSET + "is_reg = true", "is_reg"),
    "with metadata that is not there": (SUBSET + "metadata_file = '/gone/m.json'", "/gone/m.json"),
    "with masks": (SUBSET + "conditioning_data_dir = 'x'", "conditioning_data_dir"),
    "with a share of captions above 1": (SUBSET + "caption_dropout_rate = 1.5", "caption_dropout_rate"),
    "with a colour that is none": (SUBSET + "transparent_color = 'schwarz'", "transparent_color"),
}  # fmt: skip
JSON: dict[str, bytes | str] = {
    "that is empty": "", "that is cut": '{"schema": 1, "values": {', "that is a list": "[1, 2]",
    "that is a number": "3", "that is nothing": "null", "in UTF-16": "{}".encode("utf-16"),
    "that is a picture": b"\x89PNG" + bytes(40), "with a comma too many": '{"schema": 1,}',
    "nested without end": "[" * 200_000, "of nothing": "{}",
    "of kohya_ss for Flux": '{"LoRA_type": "Flux1"}',
    "of a newer schema": '{"schema": 99, "values": {}}', "of a schema that is a text": '{"schema": "1"}',
    "of schema 0": '{"schema": 0, "values": {}}', "of schema nan": '{"schema": NaN, "values": {}}',
    "of schema true": '{"schema": true, "values": {}}', "without values": '{"schema": 1}',
    "of values in a list": '{"schema": 1, "values": [1]}',
    "of values that there are not": '{"schema": 1, "values": {"network.dimm": 4}}',
    "of values that are tables": '{"schema": 1, "values": {"network.dim": {"a": 1}}}',
    "of values that are nan": '{"schema": 1, "values": {"lr.learning_rate": NaN}}',
    "of values without end": '{"schema": 1, "values": {"network.dim": ' + "9" * 10_000 + "}}",
    "of text that is none": '{"schema": 1, "values": {"training.comment": "\\ud800"}}',
    "of a path that is none": '{"schema": 1, "values": {"data.train_data_dir": "a\\ud800"}}',
}  # fmt: skip
NAMED = {
    "of values that are tables": "dim",
    "of values that are nan": "learning_rate",
    "of a path that is none": "train_data_dir",
}  # and not the file


def config(content: bytes | str, name: str = "a.toml", option: str = "config_file") -> Plant:
    def plant(ground: Ground) -> list[str]:
        if isinstance(content, str) and "{}" in content and option == "dataset_config":
            file = ground.write(name, content.replace("{}", str(ground.pictures)))
        else:
            file = ground.write(name, content)
        one = option == "dataset_config" or b"train_data_dir" in file.read_bytes()
        own = {"train_data_dir": None} if one else {}
        own.update({"output_name": None} if b"output_name" in file.read_bytes() else {})
        return ground.train(**{option: file}, **own)

    return plant


def tables() -> Iterator[Case]:
    for name, text in SYNTAX.items():
        yield Case(f"a TOML {name}", config(text), ("a.toml",))
        yield Case(f"datasets in a TOML {name}", config(text, option="dataset_config"), ("a.toml",))
    for name, (text, said) in VALUES.items():
        yield Case(f"a TOML of {name}", config(text), (said,))
    for name, (text, said) in DATASETS.items():
        yield Case(f"datasets {name}", config(text, option="dataset_config"), (said,))
    for option in ("config_file", "dataset_config"):
        yield Case(f"no {option}", lambda g, o=option: g.train(**{o: g.folder / "gone.toml"}), ("gone.toml",))
        yield Case(f"a folder for {option}", lambda g, o=option: g.train(**{o: g.set}), ("pictures",))
        yield Case(
            f"a name without end for {option}", lambda g, o=option: g.train(**{o: "a" * 300}), ("aaa",)
        )
    for name, text in {"mark": b"\xef\xbb\xbfnetwork_dim = 4\r\n", "comment": b"# only this"}.items():
        yield Case(f"a TOML with a {name}", config(text), (), ends=TAKEN)


def torn() -> Iterator[Case]:
    """A sound file of settings with letters lost at seeded places."""
    sound = '[network]\ndim = 4\nalpha = 2.0\n[lr]\nkind = "cosine"\nlr_warmup_steps = 2\n'
    for turn in range(10):
        draw = chance("torn", turn)
        at = draw.randrange(len(sound))
        text = sound[:at] + draw.choice(["", '"', "[", "=", "\0", "{"]) + sound[at + draw.randrange(1, 5) :]
        yield Case(f"a torn TOML {turn}", config(text), (), ends=(0, 2))


# ── prompts ───────────────────────────────────────────────────────────────────────────────────────────────

LINES: dict[str, tuple[str, bytes | str, tuple[str, ...]]] = {
    "that is empty": ("p.txt", "", ("p.txt",)),
    "of comments": ("p.txt", "# a\n\n# b\n", ("p.txt",)),
    "in UTF-16": ("p.txt", "a cat".encode("utf-16"), ("p.txt",)),
    "in Latin-1": ("p.txt", "été".encode("latin-1"), ("p.txt",)),
    "that is a picture": ("p.txt", b"\x89PNG\r\n\x1a\n" + bytes(99), ("p.txt",)),
    "of an unknown flag": ("p.txt", "a cat\na dog --zz 3", ("p.txt", "2", "zz")),
    "of a width of a word": ("p.txt", "a --w wide", ("p.txt", "1", "--w")),
    "of a width of nan": ("p.txt", "a --w nan", ("p.txt", "1", "--w")),
    "of a height of inf": ("p.txt", "a --h inf", ("p.txt", "1", "--h")),
    "of a height below nothing": ("p.txt", "a --h -64", ("p.txt", "1", "--h")),
    "of a width without end": ("p.txt", "a --w " + "9" * 5000, ("p.txt", "1", "--w")),
    "of a picture without end": ("p.txt", "a --w 999999999", ("p.txt", "1", "--w")),
    "of steps with a fraction": ("p.txt", "a --s 3.5", ("p.txt", "1", "--s")),
    "of a seed of a word": ("p.txt", "a --d seed", ("p.txt", "1", "--d")),
    "of a scale of nan": ("p.txt", "a --l nan", ("p.txt", "1", "--l")),
    "of a sampler that there is not": ("p.txt", "a --ss zzz", ("p.txt", "1", "zzz")),
    "of two bad lines": ("p.txt", "a --zz 1\nb --yy 2", ("p.txt", "zz", "yy")),
    "as TOML that is none": ("p.toml", "[prompt\n", ("p.toml",)),
    "as TOML of another kind": ("p.toml", "[network]\ndim = 64\n", ("p.toml", "network")),
    "as TOML of a bad width": ("p.toml", "[prompt]\nprompt = 'a'\nwidth = nan\n", ("p.toml", "width")),
    "as TOML that is empty": ("p.toml", "", ("p.toml",)),
    "as JSON that is none": ("p.json", "[", ("p.json",)),
    "as JSON that is a number": ("p.json", "3", ("p.json",)),
    "as JSON of numbers": ("p.json", "[1, 2]", ("p.json",)),
    "as JSON that is empty": ("p.json", "[]", ("p.json",)),
    "as JSON without an end": ("p.json", "[" * 200_000, ("p.json",)),
    "as JSON of a bad width": ("p.json", '[{"prompt": "a", "width": "wide"}]', ("p.json", "width")),
    "as JSON of a list for a prompt": ("p.json", '[{"prompt": ["a"]}]', ("p.json",)),
    "as JSON of half a pair": ("p.json", '["a \\ud800"]', ("p.json",)),
    "of an unknown ending": ("p.yaml", "- a --zz 1", ("p.yaml",)),
}  # fmt: skip


def prompts(name: str, content: bytes | str) -> Plant:
    return lambda g: g.train(sample_prompts=g.write(name, content), sample_every_n_steps=1)


CASES = [
    *((*tables(), *torn()) if TOML else ()),
    *(
        Case(f"a JSON {name}", config(text, "a.json"), (NAMED.get(name, "a.json"),))
        for name, text in JSON.items()
    ),
    *(
        Case(f"prompts {name}", prompts(file, text), says)
        for name, (file, text, says) in LINES.items()
        if TOML or not file.endswith(".toml")
    ),
    Case(
        "no prompts",
        lambda g: g.train(sample_prompts=g.folder / "gone.txt", sample_at_first=1),
        ("gone.txt",),
    ),
    Case("a folder for prompts", lambda g: g.train(sample_prompts=g.set, sample_at_first=1), ("pictures",)),
    Case(
        "a job in a file that has none",
        lambda g: g.train(
            "--from", g.write("a.safetensors", b"\x02\0\0\0\0\0\0\0{}" + json.dumps({}).encode())
        ),
        ("a.safetensors",),
    ),
]
