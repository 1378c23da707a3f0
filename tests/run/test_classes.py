"""Pictures of the class that are drawn before a run, and the run that learns from them."""

from __future__ import annotations

import dataclasses

import pytest
from PIL import Image
from safetensors.torch import load_file

from lora_train.data.memory import Memory
from lora_train.data.plan import plan
from lora_train.host import HALF, Model
from lora_train.job import assemble
from lora_train.knobs import build
from lora_train.prompts import Prompt
from lora_train.run.base import Base
from lora_train.run.check import check
from lora_train.run.control import Control, Ended
from lora_train.run.samples import wanted
from lora_train.run.store import State
from tests.run.test_adapters_in_a_run import Lender
from tests.tiny import Tiny, TinyHost

CLASS = {"data__class_prompt": "a (dog)", "data__num_class_images": 4, "data__class_seed": 7,
         "data__class_negative_prompt": "blurry", "data__class_infer_steps": 3,
         "data__class_guidance_scale": 6.0, "data__class_sampler": "euler"}  # fmt: skip


class Drawn(Tiny):
    """Remembers what it drew, and what of ours was on it then."""

    def __init__(self):
        super().__init__()
        self.prompts: list[Prompt] = []

    def sample(self, prompt) -> Image.Image:
        assert not any(layer.module._forward_hooks for layer in self.layers())
        self.prompts.append(prompt)
        return super().sample(prompt)


def test_what_lacks_is_drawn_before_the_run_and_used_again(trained, tmp_path):
    lent = Drawn()
    trained("a", host=Lender(lent), **CLASS)
    folder = tmp_path / "a" / "x-run" / "class"
    assert sorted(p.suffix for p in folder.iterdir()) == [".png"] * 4 + [".txt"] * 4
    assert {p.read_text(encoding="utf-8").strip() for p in folder.glob("*.txt")} == {"a (dog)"}
    assert [dataclasses.replace(p, seed=None) for p in lent.prompts] == [
        Prompt("a \\(dog\\)", "blurry", 64, 64, None, 3, 6.0, "euler")] * 4  # fmt: skip
    assert [p.seed for p in lent.prompts] == [7, 8, 9, 10]
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert image.size == (64, 64)
    next(folder.glob("*.png")).unlink()
    trained("a", host=Lender(lent), **CLASS)
    assert len(lent.prompts) == 5


def test_they_are_regularisation_of_the_run(trained, tmp_path):
    """Twice the samples, and a state that knows of them."""
    out = trained("a", output__save_state_on_train_end=True, **CLASS)
    state = State.read(out.state)
    assert state.plain["samples_per_epoch"] == 12
    again = trained("b", place__resume=out.state, training__max_train_steps=10,
                    data__class_data_dir=tmp_path / "a" / "x-run" / "class", **CLASS)  # fmt: skip
    assert again.progress.step == 10


def test_a_run_with_them_goes_the_same_whether_they_were_there(trained, tmp_path):
    folder = tmp_path / "classes"
    first = load_file(trained("a", data__class_data_dir=folder, **CLASS).file)
    again = load_file(trained("a", data__class_data_dir=folder, **CLASS).file)
    assert all(first[key].equal(again[key]) for key in first)
    states = [trained(name, data__class_data_dir=folder, output__save_state_on_train_end=True, **CLASS).state
              for name in ("b", "c")]  # fmt: skip
    one, two = (State.read(state).tensors for state in states)
    assert all(one[key].equal(two[key]) for key in one)


def test_the_hosts_own_folder_is_used(trained, tmp_path):
    class Homed(TinyHost):
        def __init__(self):
            super().__init__()
            self.folders = dataclasses.replace(self.folders, classes=tmp_path / "models" / "lora_train")

    trained("a", host=Homed(), **CLASS)
    assert len([*(tmp_path / "models" / "lora_train" / "x" / "class").glob("*.png")]) == 4


def test_a_stop_keeps_what_was_drawn(trained, tmp_path):
    control = Control()

    class Stopping(Drawn):
        def sample(self, prompt):
            if len(self.prompts) == 1:
                control.stop()
            return super().sample(prompt)

    with pytest.raises(Ended):
        trained("a", host=Lender(Stopping()), control=control, **CLASS)
    assert len([*(tmp_path / "a" / "x-run" / "class").glob("*.png")]) == 2
    lent = Drawn()
    trained("a", host=Lender(lent), **CLASS)
    assert [p.seed for p in lent.prompts] == [9, 10]


def test_they_are_drawn_with_the_loras_beneath(trained, tmp_path):
    below, lent = trained("below").file, Tiny()
    trained("a", model__base_weights=[below], **CLASS)
    with Base.of(Model(base_weights=(below,)), lent.layers()).attached():
        size = {"width": 64, "height": 64, "seed": 7}
        expected = lent.sample(Prompt("a \\(dog\\)", **size))
    plain = lent.sample(Prompt("a \\(dog\\)", **size))
    first = min((tmp_path / "a" / "x-run" / "class").glob("*.png"))
    with Image.open(first) as found:
        assert found.tobytes() == expected.tobytes() != plain.tobytes()


def test_a_pause_gives_the_model_back(trained):
    control = Control()

    class Pausing(Drawn):
        def sample(self, prompt):
            if len(self.prompts) == 1:
                control.pause()
            return super().sample(prompt)

        def given_back(self, waiting=lambda: None):
            control.go_on()
            return super().given_back(waiting)

    lent = Pausing()
    trained("a", host=Lender(lent), control=control, **CLASS)
    assert (lent.pauses, len(lent.prompts)) == (1, 4)


def test_progress_is_told(trained):
    seen = []

    class Onlooker:
        def preparing(self, what, done, of):
            seen.append((what, done, of))

        def __getattr__(self, name):
            return lambda *_: 0

    trained("a", watchers=[Onlooker()], **CLASS)
    assert [row for row in seen if "class" in row[0]] == [
        ("drawing pictures of the class", done, 4) for done in range(4)]  # fmt: skip


def test_the_check_says_what_lacks_and_which_word_is_nowhere(tmp_path, pictures):
    values = {"data.train_data_dir": pictures, "data.resolution": 64, "output.output_dir": tmp_path / "a",
              "data.class_prompt": "a dog", "data.num_class_images_per": 2,
              "embedding.token_string": "zwx"}  # fmt: skip
    report = check(*assemble(values), memory=Memory())
    assert report["notes"] == ["6 pictures of the class lack, and are drawn before the run"]
    assert [line.partition(":")[0] for line in report["complaints"]] == ["embedding.token_string = zwx"]
    fine = check(*assemble({**values, "data.trigger_word": "zwx"}), memory=Memory())
    assert fine["complaints"] == []


def test_sample_prompts_take_in_captions_and_tokens(tmp_path, pictures):
    file = tmp_path / "prompts.txt"
    file.write_text("photo of [filewords] --d 1\na dog --d 2\n[filewords] --d 3\n", encoding="utf-8")
    job, output, _ = assemble({
        "data.train_data_dir": pictures, "data.instance_token": "sks", "data.class_token": "dog",
        "data.resolution": 64, "output.sample_prompts": file})  # fmt: skip
    found = wanted(job, output, plan(job.data))
    assert [(p.prompt, p.seed) for p in found] == [
        ("sks dog, photo of cat, red, big", 1), ("a dog", 2), ("sks dog, sun, hot", 3)]  # fmt: skip
    assert build(type(job.data), {}).instance_token is None


def test_what_a_person_broke_off_is_drawn_anew(trained, tmp_path):
    class Broken(Drawn):
        def sample(self, prompt):
            image = super().sample(prompt)
            if len(self.prompts) == 2:
                image = Image.new("RGB", image.size)
                image.info[HALF] = True
            return image

    trained("a", host=Lender(Broken()), **CLASS)
    trained("b", host=Lender(Drawn()), **CLASS)
    a, b = (sorted((tmp_path / n / "x-run" / "class").glob("*.png")) for n in "ab")
    assert len(a) == 4
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]
