"""Wishes between two steps: pauses, files and pictures, and stops that come early."""

import contextlib
import threading
import time

import pytest

from lora_train.errors import Mistake
from lora_train.run.control import Control
from lora_train.run.session import Ended
from lora_train.train.events import Watcher
from tests.run.conftest import At
from tests.run.test_session import LIVELY, lines, same
from tests.tiny import Tiny, TinyHost


def soon(do, seconds=0.3):
    threading.Timer(seconds, do).start()


class Reloaded(Tiny):
    """In a pause the model is loaded anew: other modules of the same weights."""

    @contextlib.contextmanager
    def given_back(self, waiting):
        assert not any(m._forward_hooks for net in self.parts.values() for m in net.modules())
        assert not any("forward" in vars(m) for net in self.parts.values() for m in net.modules())
        yield
        self.parts = Tiny().parts


class Host(TinyHost):
    def __init__(self, lent):
        super().__init__()
        self.lent = lent

    def borrow(self, model, *, device, precision, waiting=None):
        return contextlib.nullcontext(self.lent)


@pytest.mark.parametrize("lent", [Tiny, Reloaded])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_paused_run_is_the_run_that_was_not(trained, lent, checkpointing):
    values = {**LIVELY, "place__gradient_checkpointing": checkpointing}
    whole = trained("a", **values)
    control = Control()

    def pause():
        control.pause()
        soon(control.go_on)

    paused = trained("b", host=Host(lent()), control=control, watchers=[At(1, pause), At(5, pause)], **values)
    assert same(whole, paused)
    assert lines(whole) == lines(paused)
    assert paused.progress.seconds < whole.progress.seconds + 5


def test_a_pause_while_latents_are_cached_and_one_that_ends_with_a_stop(trained, tmp_path):
    control = Control()
    control.pause()
    soon(control.go_on)
    assert trained("a", control=control).progress.step == 8
    control = Control()
    control.pause()
    soon(control.stop)
    with pytest.raises(Ended):
        trained("b", control=control)
    assert not (tmp_path / "b" / "x-run").exists()
    control = Control()

    def pause():
        control.pause()
        soon(control.stop)

    ended = trained("c", control=control, watchers=[At(3, pause)])
    assert ended.progress.stopped
    assert ended.file.name == "x-step00000004.safetensors"


def test_a_stop_without_saving_writes_nothing_more(trained, tmp_path):
    control = Control()
    ended = trained("a", control=control, watchers=[At(3, lambda: control.stop(save=False))])
    assert ended.progress.stopped
    assert not ended.progress.keep
    assert not [*(tmp_path / "a").glob("*.safetensors")]
    assert len(lines(ended)) == 3


def test_a_file_and_pictures_are_made_when_asked_and_change_nothing(trained, tmp_path):
    whole = trained("a")
    control, told = Control(), []

    class Told(Watcher):
        def saved(self, progress, file):
            told.append((progress.step, file.name))

        def sampled(self, progress, sample):
            told.append((progress.step, sample["number"]))

    def ask():
        control.save_now()
        control.sample_now()

    ended = trained("b", control=control, watchers=[At(3, ask), Told()], output__sample_base=True)
    assert same(whole, ended)
    pictures = [entry for entry in told if isinstance(entry[1], int)]
    assert [entry for entry in told if entry not in pictures] == [
        (4, "x-step00000004.safetensors"), (8, "x.safetensors")]  # fmt: skip
    assert {step for step, _ in pictures} == {4}
    drawn = [p.name for p in (tmp_path / "b" / "sample").iterdir()]
    assert len(drawn) == 2 * len(pictures)
    assert sum("_base_" in name for name in drawn) == len(pictures)


def test_conds_on_disk_are_made_once_and_give_the_same_file(trained, tmp_path):
    calls = []

    class Counting(Tiny):
        def encode(self, captions, *, weighted=None):
            calls.append(len(captions))
            return super().encode(captions, weighted=weighted)

    values = {"network__train_unet_only": True}
    disk = {
        **values,
        "place__cache_text_encoder_outputs_to_disk": True,
        "output__run_dir": tmp_path / "beside",
    }
    never = trained("n", place__cache_text_encoder_outputs=False, **values)
    memory, first = trained("a", **values), trained("b", host=Host(Counting()), **disk)
    assert len(calls) == 3
    (tmp_path / "beside" / "conds" / "other.safetensors").write_bytes(b"")
    again = trained("c", host=Host(Counting()), **disk)
    assert len(calls) == 3
    assert same(memory, first)
    assert same(memory, again)
    assert same(memory, never)
    assert len([*(tmp_path / "beside" / "conds").iterdir()]) == 3
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["x.safetensors"]


def test_a_state_is_not_gone_on_with_on_another_model(trained):
    import dataclasses

    stopped = trained("a", stop=2)
    other = Tiny()
    other.origin = dataclasses.replace(other.origin, name="other.safetensors", new_hash="1" * 64)
    with pytest.raises(
        Mistake, match=r"tiny\.safetensors \(0{10}\), and this is other\.safetensors \(1{10}\)"
    ):
        trained("a", host=Host(other), place__resume=stopped.state)


def test_a_state_for_a_cut_off_is_kept_while_it_goes_on_and_gone_after(trained, tmp_path):
    last, found = tmp_path / "a" / "x-run" / "last-state" / "state.safetensors", []
    trained("a", watchers=[At(4, lambda: found.append(last.is_file()))], output__save_state_every_n_minutes=0)
    assert found == [True]
    assert not last.parent.exists()


def test_wishes_are_taken_once_and_a_wait_ends_with_one():
    control = Control()
    control.save_now()
    assert (control.asked, control.take_save(), control.take_save(), control.asked) == (
        True,
        True,
        False,
        False,
    )
    began = time.monotonic()
    soon(control.go_on, 0.05)
    control.wait(10)
    assert time.monotonic() - began < 5


def test_adapters_move_only_to_the_same_layers():
    from lora_train.adapters.lora import Lora
    from lora_train.adapters.network import Network

    network = Network(Lora(), Tiny().layers())
    network.move(Tiny().layers())
    with pytest.raises(Mistake, match="has no such layer; it is another one"):
        network.move([])
