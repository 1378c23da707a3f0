"""Files of settings: sd-scripts' --config_file and --dataset_config, as names and values."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence

from lora_train.compat import FOREIGN, OF_DATASETS, Refused, Translated, Values, off
from lora_train.errors import Mistake
from lora_train.knobs import Setting, general
from lora_train.records import is_record, read_json, unpacked
from lora_train.toml import read_toml
from lora_train.values import shown


def read_config(path: pathlib.Path, declared: Sequence[Setting]) -> Values:
    """sd-scripts' --config_file: flat names, in sections that are headings only; sections that spell a path,
    such as [network] with dim, are read too. A .json is a job or preset.

    Raises:
        Mistake: it cannot be read, or is a --dataset_config.
    """
    if path.suffix.lower() == ".json":
        return _read_record(path)
    table = read_toml(path)
    if isinstance(table.get("datasets"), list):
        raise Mistake(f"{path}: describes datasets; give it as --dataset_config")
    return dict(_entries(table, "", {s.path for s in declared}))


def _read_record(path: pathlib.Path) -> Values:
    """A job or preset of ours."""
    found = read_json(path)
    if not is_record(found):
        raise Mistake(
            f"{path}: expected a job or preset of lora-train, with a schema; of kohya_ss give the .toml "
            "that it writes when it trains"
        )
    return unpacked(found, path)


def _entries(table: Mapping[str, object], lead: str, paths: set[str]) -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        path = f"{lead}{name}"
        if isinstance(value, dict):
            yield from _entries(value, f"{path}.", paths)
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for i, item in enumerate(value):
                yield from _entries(item, f"{path}.{i}.", paths)
        else:
            yield (path if general(path) in paths or _item(lead) else name), value


def _item(lead: str) -> bool:
    """Whether a section is an item of something, so that its entries are not flat names."""
    return any(word.isdecimal() for word in lead.split("."))


def read_dataset_config(path: pathlib.Path) -> Values:
    """sd-scripts' --dataset_config -> paths under `data`.

    Raises:
        Mistake: it cannot be read, or says what cannot be done; all of it.
    """
    found: Values = {}
    tables = read_toml(path)
    try:
        complaints = _levels(tables, found)
    except Mistake as e:
        complaints = [str(e)]
    if complaints:
        raise Mistake("\n".join(f"{path}: {complaint}" for complaint in complaints))
    return found


def _levels(tables: Mapping[str, object], found: Values) -> list[str]:
    """All tables' entries into `found`; returns what is wrong with them."""
    lost = [name for name in tables if name not in ("general", "datasets")]
    complaints = [f"{name}: expected [general] and [[datasets]]" for name in lost]
    complaints += _level(_table(tables, "general"), "data", found)
    datasets = _tables(tables, "datasets")
    if not datasets:
        complaints.append("expected at least one [[datasets]] with a [[datasets.subsets]]")
    for i, dataset in enumerate(datasets):
        lead = f"data.datasets.{i}"
        complaints += _level({k: v for k, v in dataset.items() if k != "subsets"}, lead, found)
        for j, subset in enumerate(_tables(dataset, "subsets") or [{}]):
            found[f"{lead}.subsets.{j}.image_dir"] = None  # so that an empty one is missed, and not forgotten
            complaints += _level(subset, f"{lead}.subsets.{j}", found)
    return complaints


def _table(tables: Mapping[str, object], name: str) -> Mapping[str, object]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise Mistake(f"{name} = {shown(table)}: expected a table, [{name}]")
    return table


def _tables(tables: Mapping[str, object], name: str) -> list[dict[str, object]]:
    found = tables.get(name, [])
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        raise Mistake(f"{name}: expected tables in double brackets, [[{name}]]")
    return found


def _level(table: Mapping[str, object], lead: str, found: Values) -> list[str]:
    """One table's entries into `found`; returns what is wrong with them."""
    complaints = []
    for name, value in table.items():
        rule = FOREIGN.get(name) if name in OF_DATASETS else None
        if rule is None:
            found[f"{lead}.{name}"] = value
        elif isinstance(rule, Refused) and not off(value, rule):
            complaints.append(f"{name} = {shown(value)}: {rule.reason}")
        elif isinstance(rule, Translated):
            try:
                rule.into(value)
            except Mistake as e:
                complaints.append(str(e))
    return complaints
