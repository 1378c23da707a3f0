"""Metadata edited in place: no tensor moves, no hash of them changes; and the card beside a file."""

from __future__ import annotations

import base64
import hashlib
import json
import pathlib

import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from lora_train.cli import main
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.models.written import write
from lora_train.tools.card import Card
from lora_train.tools.metadata import Metadata, opened
from lora_train.tools.stated import buckets, hashes, legacy, tags


def lora(path: pathlib.Path, size: int = 8, **texts: str) -> pathlib.Path:
    rng = torch.Generator().manual_seed(1)
    key = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {
        f"{key}.lora_down.weight": torch.randn(size, 640, generator=rng).half(),
        f"{key}.lora_up.weight": torch.randn(640, size, generator=rng).half(),
        f"{key}.alpha": torch.tensor(4.0),
    }
    rows = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    write(path, rows, tensors.__getitem__, {"ss_v2": "False", "ss_output_name": "mine", **texts}, hashed=True)
    return path


def texts(path: pathlib.Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def body(path: pathlib.Path) -> bytes:
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def picture(path: pathlib.Path, size: int = 16) -> pathlib.Path:
    Image.new("RGB", (size, size), "red").save(path)
    return path


def test_entries_are_set_and_removed_and_tensors_stay(tmp_path):
    file = lora(tmp_path / "a.safetensors")
    before, data = texts(file), body(file)
    cover = picture(tmp_path / "cover.png")
    words = {
        "set": ["ssmd_keywords=cat, dog", "modelspec.author=mé"],
        "remove": ["ss_out*"],
        "cover": [cover],
    }
    report = build(Metadata, {"model": file, "overwrite": True, **words}).run()
    after = texts(file)
    assert body(file) == data
    assert after["ssmd_keywords"] == "cat, dog"
    assert after["modelspec.author"] == "mé"
    assert "ss_output_name" not in after
    [kept] = json.loads(after["ssmd_cover_images"])
    assert base64.b64decode(kept) == cover.read_bytes()
    assert after["sshs_model_hash"] == before["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert report.files == (file,)
    assert not list(tmp_path.glob("*.part"))


def test_another_file_is_written_and_the_first_stays(tmp_path):
    file, other = lora(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    data = file.read_bytes()
    build(Metadata, {"model": file, "save_to": other, "set": ["a=b=c"]}).run()
    assert file.read_bytes() == data
    assert texts(other)["a"] == "b=c"
    with pytest.raises(Mistake, match="is there already"):
        build(Metadata, {"model": file, "save_to": other, "set": ["a=1"]}).run()


@pytest.mark.parametrize("size", [8, 1200])  # below 1 MB and above
def test_hashes_are_those_of_sd_scripts(tmp_path, size):
    """Its `precalculate_safetensors_hashes`, by safetensors' own writer."""
    file = lora(tmp_path / "a.safetensors", size, ssmd_rating="3")
    with safe_open(file, "pt") as there:
        tensors = {name: there.get_tensor(name) for name in there.keys()}  # noqa: SIM118
    own = {name: text for name, text in texts(file).items() if name.startswith("ss_")}
    data = safetensors.torch.save(tensors, own)
    length = int.from_bytes(data[:8], "little")
    assert texts(file)["sshs_model_hash"] == hashlib.sha256(data[8 + length :]).hexdigest()
    expected = hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    assert legacy(opened(file), texts(file)) == texts(file)["sshs_legacy_hash"] == expected
    assert all(row["equal"] for row in hashes(opened(file), texts(file)).values())
    build(
        Metadata, {"model": file, "overwrite": True, "set": ["ss_training_comment=longer than before"]}
    ).run()
    assert all(row["equal"] for row in hashes(opened(file), texts(file)).values())


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"set": ["a"], "overwrite": True}, "set = a: expected key=value"),
        ({"set": ["ssmd_rating=11"], "overwrite": True}, "0 to 10"),
        ({"set": ["a=b"]}, "save_to: expected the file to write"),
        ({"remove": ["ss_output"], "overwrite": True}, "did you mean ss_output_name"),
        ({"set": ["ssmd_cover_images=x"], "overwrite": True}, "JSON list"),
        ({"cover": ["none.png"], "overwrite": True}, "expected a picture"),
    ],
)
def test_what_cannot_be_edited_is_said_and_nothing_written(tmp_path, values, complaint):
    file = lora(tmp_path / "a.safetensors")
    data = file.read_bytes()
    with pytest.raises(Mistake, match=complaint):
        build(Metadata, {"model": file, **values}).run()
    assert file.read_bytes() == data


def test_a_picture_that_claims_to_be_huge_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    file, large = lora(tmp_path / "a.safetensors"), picture(tmp_path / "p.png", 900)
    for tool, values in ((Metadata, {"cover": [large], "overwrite": True}), (Card, {"preview": large})):
        with pytest.raises(Mistake, match="expected a picture"):
            build(tool, {"model": file, **values}).run()


def test_damaged_files_are_refused(tmp_path):
    file = lora(tmp_path / "a.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(Mistake, match="cut short"):
        build(Metadata, {"model": file, "overwrite": True, "set": ["a=b"]}).run()
    huge = tmp_path / "huge.safetensors"
    huge.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(Mistake, match=r"not a \.safetensors file"):
        build(Metadata, {"model": huge}).run()


def test_the_command_shows_them_as_json(tmp_path, capsys):
    file = lora(tmp_path / "a.safetensors")
    assert main(["metadata", str(file), "--set", "ssmd_tags=a,b", "--overwrite"]) == 0
    assert main(["metadata", str(file), "--json"]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown[shown.index("{") :])["metadata"]["ssmd_tags"] == "a,b"


def test_tags_and_buckets_are_summed_over_folders():
    found = {
        "ss_tag_frequency": json.dumps({"1_a": {"cat ": 2, "dog": 1}, "1_b": {"cat": 3}}),
        "ss_datasets": json.dumps(
            [{"bucket_info": {"buckets": {"0": {"resolution": [64, 32], "count": 3}}}}]
        ),
        "ss_bucket_info": json.dumps({"buckets": {"0": {"resolution": [64, 64], "count": 5}}}),
    }
    assert tags(found) == [("cat", 5, ["1_a", "1_b"]), ("dog", 1, ["1_a"])]
    assert buckets(found) == [("64x64", 5), ("64x32", 3)]
    odd = {"buckets": {"0": {"resolution": [64, 64], "count": "many"}, "1": {"resolution": [8], "count": 0}}}
    assert buckets({"ss_bucket_info": json.dumps(odd)}) == []
    assert tags({"ss_tag_frequency": "{"}) == buckets({"ss_bucket_info": "[1]"}) == []


def test_a_card_is_edited_and_what_else_is_in_it_stays(tmp_path):
    file = lora(tmp_path / "a.safetensors", **{"modelspec.trigger_phrase": "zwx"})
    (tmp_path / "a.json").write_text(json.dumps({"notes": "mine", "extra": 1}), encoding="utf-8")
    values = {"model": file, "description": "a cat", "preferred_weight": 0.8, "fill": True}
    report = build(Card, {**values, "preview": picture(tmp_path / "p.png", 900)}).run()
    card = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert card == {
        "description": "a cat", "sd version": "SD1", "activation text": "zwx", "preferred weight": 0.8,
        "negative text": "", "notes": "mine", "extra": 1,
    }  # fmt: skip
    assert max(Image.open(tmp_path / "a.preview.png").size) == 768
    assert {path.name for path in report.files} == {"a.json", "a.preview.png"}
    build(Card, {"model": file, "clear": ["description"]}).run()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["description"] == ""
    with pytest.raises(Mistake, match="is there already"):
        build(Card, {"model": file, "preview": tmp_path / "p.png"}).run()


def test_a_json_file_that_is_no_card_is_left_alone(tmp_path):
    file = lora(tmp_path / "a.safetensors")
    other = tmp_path / "a.json"
    other.write_text('{"LoRA_type": "Standard"}', encoding="utf-8")
    with pytest.raises(Mistake, match="expected a card"):
        build(Card, {"model": file, "notes": "x"}).run()
    assert other.read_text(encoding="utf-8") == '{"LoRA_type": "Standard"}'


def test_a_file_as_safetensors_writes_it_is_edited_too(tmp_path):
    file = tmp_path / "b.safetensors"
    save_file({"x": torch.arange(6.0), "y": torch.ones(2, dtype=torch.int16)}, file)
    build(Metadata, {"model": file, "overwrite": True, "set": ["a=b"]}).run()
    with safe_open(file, "pt") as there:
        assert torch.equal(there.get_tensor("x"), torch.arange(6.0))
        assert there.metadata() == {"a": "b"}
