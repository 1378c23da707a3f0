"""Files of settings: sd-scripts' --config_file and --dataset_config, as names and values."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from lora_train.compat import FOREIGN, OF_DATASETS, Refused, Translated, Values, off
from lora_train.errors import Mistake
from lora_train.knobs import Setting, general
from lora_train.records import is_record, read_json, unpacked
from lora_train.toml import read_toml
from lora_train.values import shown

log = logging.getLogger(__name__)


def read_config(path: pathlib.Path, declared: Sequence[Setting]) -> Values:
    """sd-scripts' --config_file, or a .json: a job or preset, or settings of another program.

    Raises:
        Mistake: it cannot be read, is a --dataset_config, or trains something that there is not.
    """
    if path.suffix.lower() == ".json":
        return _read_record(path)
    return config(read_toml(path), path, declared)


def config(
    table: Mapping[str, object], path: pathlib.Path, declared: Sequence[Setting], *, datasets: bool = False
) -> Values:
    """sd-scripts' --config_file: flat names, in sections that are headings only; sections that spell a path,
    such as [network] with dim, are read too.

    Args:
        datasets: a --dataset_config is read as well.

    Returns:
        Under "stages", where there are [[stages]], what each says.

    Raises:
        Mistake: it is a --dataset_config.
    """
    if not isinstance(table.get("datasets"), list):
        paths, parts = {s.path for s in declared}, table.get("stages")
        found = dict(_entries({k: v for k, v in table.items() if k != "stages"}, "", paths))
        if parts is None:
            return found
        if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
            raise Mistake(f"{path}: stages: expected tables in double brackets, [[stages]]")
        return {**found, "stages": [dict(_entries(part, "", paths)) for part in parts]}
    if datasets:
        return dataset_config(table, path)
    raise Mistake(f"{path}: describes datasets; give it as --dataset_config")


def _read_record(path: pathlib.Path) -> Values:
    found = read_json(path)
    if is_record(found):
        return unpacked(found, path)
    from lora_train.run.programs import heard  # which needs torch, and a word on the command line may not

    said = heard(found, path)
    if said.refused:
        raise Mistake("\n".join(f"{path}: {line}" for line in said.refused))
    for note in said.notes:
        log.info("%s: %s", path, note)
    return said.words


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
    return dataset_config(read_toml(path), path)


def dataset_config(tables: Mapping[str, object], path: pathlib.Path) -> Values:
    """As `read_dataset_config`, of what stands in the file."""
    found: Values = {}
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
                meant = rule.into(value)
                found.update({f"{lead}.{path.rpartition('.')[2]}": v for path, v in meant.items()})
            except Mistake as e:
                complaints.append(str(e))
    return complaints
