"""The form's settings are the declared ones."""

import json

from lora_train.adapters import FAMILIES
from lora_train.job import assemble, declared
from lora_train.run.schema import TITLES, schema


def test_every_setting_is_there_with_all_that_a_form_needs():
    found = json.loads(json.dumps(schema()))
    rows = {row["path"]: row for row in found["settings"]}
    assert rows.keys() == {s.path for s in declared() if ".N." not in s.path}
    assert {row["group"] for row in rows.values()} <= {group["name"] for group in found["groups"]}
    assert all(row["help"] and row["type"] for row in rows.values())
    sized = [kind for kind in FAMILIES if kind not in ("ia3", "full")]
    assert rows["network.dim"] == {
        "path": "network.dim", "name": "dim", "group": "network", "type": "int", "choices": None, "low": 1,
        "high": 512, "unit": None, "default": 4, "optional": False, "help": rows["network.dim"]["help"],
        "basic": True, "kinds": {"of": "network.kind", "are": sized}, "source": "sd-scripts: --network_dim",
    }  # fmt: skip
    assert rows["optimizer.kind"]["type"] == "choice"
    assert rows["data.caption_extension"]["type"] == "list"


def test_the_defaults_are_values_that_are_taken():
    values = {row["path"]: row["default"] for row in schema()["settings"]}
    assemble({**values, "training.max_train_epochs": None}, tolerant=True)


def test_no_group_is_without_a_title():
    assert {s.group for s in declared()} <= TITLES.keys()
