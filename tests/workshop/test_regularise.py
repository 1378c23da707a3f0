"""Pictures of the class are drawn by what is there already, and weighed against the subject's."""

from __future__ import annotations

import contextlib
import json

import pytest
from PIL import Image

from lora_train.data.folder import Data, Dataset, Subset
from lora_train.data.plan import plan
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.run.control import Ended
from lora_train.workshop.opened import Opened
from lora_train.workshop.regularise import Regularise
from tests.tiny import Tiny, TinyHost


class Host(TinyHost):
    """Remembers what it drew."""

    def __init__(self):
        super().__init__()
        self.prompts = []

    @contextlib.contextmanager
    def borrow(self, model, **asked):
        with super().borrow(model, **asked) as lent:
            sample = lent.sample
            lent.sample = lambda prompt: self.prompts.append(prompt) or sample(prompt)
            yield lent


@pytest.fixture
def folder(tmp_path):
    """Four pictures of two shapes, as 3_okara dog."""
    folder = tmp_path / "my set é" / "3_okara dog"
    folder.mkdir(parents=True)
    for n, size in enumerate([(64, 64), (64, 64), (96, 48), (96, 48)]):
        Image.new("RGB", size, (n * 40, 0, 0)).save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text(f"okara, dog {n}")
    return folder


def work(folder, **values):
    return build(Regularise, {"folder": folder, "class_prompt": "a dog", "resolution": 64, **values})


def pictures(folder):
    return sorted(path.name for path in folder.glob("*.png"))


def test_only_what_lacks_is_drawn(folder):
    host, reg = Host(), folder.parent / "reg" / "1_okara dog"
    values = {"num_class_images": 6, "class_seed": 7, "class_sampler": "euler_a", "class_infer_steps": 3}
    report = work(folder, **values).within(host)
    assert len(pictures(reg)) == report.facts["changed"] == 6
    assert [(p.prompt, p.seed, p.sample_sampler, p.sample_steps) for p in host.prompts] == [
        ("a dog", 7 + n, "euler_a", 3) for n in range(6)]  # fmt: skip
    before = {path.name: path.read_bytes() for path in reg.iterdir()}
    (reg / pictures(reg)[1]).unlink()
    report = work(folder, **values).within(host)
    assert [p.seed for p in host.prompts[6:]] == [8]
    assert {path.name: path.read_bytes() for path in reg.iterdir()} == before
    assert report.facts["balance"]["samples"] == 12
    assert report.facts["balance"]["shown"] == 2
    assert work(folder, **values).within(host).facts["changed"] == 0


def test_one_is_drawn_like_each_picture(folder):
    host = Host()
    asked = {"class_prompt": "[filewords]", "num_class_images_per": 1, "instance_token": "okara",
             "class_token": "dog", "enable_bucket": True, "min_bucket_reso": 32, "max_bucket_reso": 128,
             "bucket_reso_steps": 16}  # fmt: skip
    work(folder, **asked).within(host)
    assert [p.prompt for p in host.prompts] == [f"dog {n}" for n in range(4)]
    assert [(p.width, p.height) for p in host.prompts][::2] == [(64, 64), (80, 64)]
    host.prompts.clear()
    work(folder, **asked, only="name:0.png").within(host)
    assert host.prompts == []


def test_a_run_takes_them_for_regularisation(folder):
    """The balance that is shown is that of the run."""
    report = work(folder, num_class_images=5).within(Host())
    subsets = (Subset(image_dir=folder, num_repeats=3.0),
               Subset(image_dir=folder.parent / "reg" / "1_okara dog", is_reg=True))  # fmt: skip
    planned = plan(
        Data(datasets=(Dataset(subsets=subsets, resolution=work(folder, num_class_images=1).resolution),))
    )
    shares = planned.sources[0].shares
    reg = [s for s in shares if planned.sources[0].items[s.items[0]].subset.is_reg]
    assert sum(s.count for s in shares) - sum(s.count for s in reg) == report.facts["balance"]["samples"]
    assert sum(s.count for s in reg) == report.facts["balance"]["samples"]
    assert sum(len(s.items) for s in reg) == report.facts["balance"]["class"] == 5
    assert "each is shown 2.4 times" in report.lines[-1]


def test_a_stop_keeps_what_was_drawn(folder):
    def told(done, of):
        if done == 2:
            raise Ended

    host = Host()
    report = work(folder, num_class_images=4).within(host, told)
    assert report.facts["stopped"]
    assert len(pictures(folder.parent / "reg" / "1_okara dog")) == report.facts["changed"] == 2
    assert work(folder, num_class_images=4).within(host).facts["changed"] == 2


def test_nothing_is_drawn_to_look(folder, capsys):
    report = work(folder, num_class_images=3, dry_run=True).within(Host())
    assert report.facts["changed"] == 3
    assert not (folder.parent / "reg").exists()
    found = work(folder, num_class_images=3).foreseen(Opened(folder))
    assert (found["of"], found["count"], found["balance"]["class"]) == (4, 3, 0)
    json.dumps(found)


def test_what_cannot_be_is_refused(folder, tmp_path):
    for values, says in (
        ({}, "num_class_images: expected how many"),
        ({"num_class_images": 2, "num_class_images_per": 1}, "leave one out"),
        ({"num_class_images": 2, "class_prompt": None}, "class_prompt: expected what"),
        ({"num_class_images": 2, "class_data_dir": folder}, "another folder than that of the subject"),
    ):
        with pytest.raises(Mistake, match=says):
            work(folder, **values)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(Mistake, match="no picture to draw"):
        work(empty, num_class_images=2).within(Host())
    (folder / "0.txt").unlink()
    with pytest.raises(Mistake, match="says nothing of 1 pictures without a caption"):
        work(folder, num_class_images=2, class_prompt="[filewords]").within(Host())
    with pytest.raises(Mistake, match="expected a model"):
        work(folder, num_class_images=2).run()


def test_the_lent_model_is_asked_for_by_its_settings(folder):
    class Asked(TinyHost):
        @contextlib.contextmanager
        def borrow(self, model, *, device, precision, waiting):
            self.asked = (str(model.pretrained_model_name_or_path), model.clip_skip, device, precision)
            yield Tiny()

    host = Asked()
    asked = {"pretrained_model_name_or_path": "x.safetensors", "clip_skip": 2, "device": "cpu"}
    work(folder, num_class_images=1, **asked).within(host)
    assert host.asked == ("x.safetensors", 2, "cpu", "no")
