import json

import pytest
from safetensors import safe_open

from lora_train.data.buckets import Resolution
from lora_train.data.folder import Data, Dataset, Subset
from lora_train.data.plan import plan
from lora_train.data.summary import facts

REFERENCE = {
    "resolution": Resolution(256, 256), "enable_bucket": True, "min_bucket_reso": 128, "max_bucket_reso": 512,
}  # fmt: skip


def test_the_reference_trainers_metadata_come_out(reference):
    """Every entry about data that sd-scripts wrote for these photos, but for what this version cannot do."""
    found = facts(plan(Data(train_data_dir=reference / "data", **REFERENCE)))
    with safe_open(reference / "lora_dim4" / "lora_dim4.safetensors", "pt") as f:
        theirs = f.metadata()
    assert set(found) <= set(theirs)
    for key, value in found.items():
        if key != "ss_bucket_info":
            assert str(value) == theirs[key], key
    ours, theirs = json.loads(found["ss_bucket_info"]), json.loads(theirs["ss_bucket_info"])
    assert ours["buckets"] == theirs["buckets"]
    assert ours["mean_img_ar_error"] == pytest.approx(theirs["mean_img_ar_error"], abs=1e-12)


def test_without_buckets_their_settings_are_none(make, tmp_path):
    make("a.png", caption="x")
    found = facts(plan(Data(train_data_dir=tmp_path, batch_size=2, bucket_no_upscale=True)), accumulation=3)
    assert found["ss_bucket_info"] == "null"
    assert (found["ss_min_bucket_reso"], found["ss_max_bucket_reso"]) == (None, None)
    assert found["ss_bucket_no_upscale"] is False
    assert found["ss_total_batch_size"] == 6


def test_datasets_one_by_one_are_listed(make, tmp_path):
    make("x/a.png", caption="Red, round")
    make("x/b.png", caption="red")
    make("y/c.png", caption="blue")
    x, y = Subset(image_dir=tmp_path / "x", num_repeats=2), Subset(image_dir=tmp_path / "y", keep_tokens=1)
    data = Data(datasets=(
        Dataset(subsets=(x, y), enable_bucket=True, batch_size=2),
        Dataset(subsets=(Subset(image_dir=tmp_path / "x"),), resolution=Resolution(256, 192)),
    ))  # fmt: skip
    found = facts(plan(data))
    assert json.loads(found["ss_dataset_dirs"]) == {
        "x": {"n_repeats": 2, "img_count": 2},
        "y": {"n_repeats": 1, "img_count": 1},
        "x (2)": {"n_repeats": 1, "img_count": 2},
    }
    assert json.loads(found["ss_tag_frequency"]) == {"x": {"red": 2, "round": 1}, "y": {"blue": 1}}
    first, second = json.loads(found["ss_datasets"])
    assert first["num_train_images"] == 5
    assert first["bucket_info"]["buckets"] == {"0": {"resolution": [512, 512], "count": 5}}
    assert [s["image_dir"] for s in first["subsets"]] == ["x", "y"]
    assert [s["keep_tokens"] for s in first["subsets"]] == [0, 1]
    assert second["resolution"] == [256, 192]
    assert second["bucket_info"] is None
    assert found["ss_num_train_images"] == 7
    assert found["ss_num_batches_per_epoch"] == 3 + 2
    assert "ss_resolution" not in found
    assert str(tmp_path) not in str(found)
