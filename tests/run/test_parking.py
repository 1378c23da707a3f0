"""What a run has on the card leaves it for a pause and comes back as it was; nothing outlives the run."""

import contextlib
import gc
import threading

import pytest
import torch

from lora_train.adapters.network import Network
from lora_train.data.batches import Batches
from lora_train.data.cache import Cache
from lora_train.run.control import Control
from lora_train.run.session import Session
from lora_train.train import parked as parking
from lora_train.train.learner import Learner
from tests.run.conftest import At
from tests.run.test_session import LIVELY, same
from tests.tiny import Tiny, TinyHost

LATENT, COND, SIZES = (1, 4, 8, 8), (1, 40, 12), (1, 6)
NUMBERS = {(2,), (3,), (4,)}  # a step's loss, norm, and the losses of its samples
BESIDE = {LATENT, LATENT[1:], COND, SIZES, (1000,), (1,), *NUMBERS}  # kept off the card, or of one batch


class Card:
    """Plays a card on a CPU: what leaves it is ruined there, and is whole again once it is fetched back."""

    def __init__(self, monkeypatch):
        self.off: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.back = 0
        monkeypatch.setattr(parking, "away", lambda tensor: True)
        monkeypatch.setattr(parking, "fetched", self.fetched)

    def fetched(self, tensor, device):
        if tensor.data_ptr() in self.off:
            self.back += 1
            return self.off.pop(tensor.data_ptr())[0]
        kept, waiting = tensor.clone(), tensor.clone()
        tensor.fill_(77)
        self.off[waiting.data_ptr()] = kept, waiting
        return waiting


@pytest.fixture
def card(monkeypatch):
    return Card(monkeypatch)


class Host(TinyHost):
    """Looks around in a pause."""

    def __init__(self, look):
        super().__init__()
        self.look = look

    @contextlib.contextmanager
    def borrow(self, model, *, device, precision, waiting):
        look = self.look

        class Paused(Tiny):
            @contextlib.contextmanager
            def given_back(self, waiting):
                look(self)
                yield
                waiting()

        yield Paused()


def alive(kind) -> list:
    gc.collect()
    return [x for x in gc.get_objects() if issubclass(type(x), kind)]


CASES = {
    "all that is drawn": LIVELY,
    "captions cached": {"network__train_unet_only": True},
    "a LoRA in the prompts": {"output__sample_every_n_steps": 100},
}


@pytest.mark.parametrize("case", CASES)
def test_everything_leaves_the_card_and_the_run_is_the_same(trained, card, tmp_path, case):
    values, seen = dict(CASES[case]), []
    if "prompts" in case:
        values["output__sample_prompts"] = prompts = tmp_path / "prompts.txt"
        prompts.write_text("a cat <lora:other:1>", encoding="utf-8")
        for folder in "ab":
            trained(folder, training__max_train_steps=1, output__output_name="other")
    whole = trained("a", **values)
    before = {id(t) for t in alive(torch.Tensor)}

    def look(lent):
        models = {id(t) for net in lent.parts.values() for t in (*net.parameters(), *net.buffers())}
        known = before | models
        off = {t.data_ptr() for pair in card.off.values() for t in pair}
        here = [t for t in alive(torch.Tensor) if id(t) not in known and t.data_ptr() not in off]
        seen.extend(tuple(t.shape) for t in here)
        control.go_on()

    control = Control()
    again = trained("b", host=Host(look), control=control, watchers=[At(3, control.pause)], **values)
    assert same(whole, again)
    assert card.back > 300
    assert not card.off
    assert set(seen) <= BESIDE
    assert seen.count(COND) <= 1


def test_a_pause_while_captions_are_encoded(trained, card):
    values = {"network__train_unet_only": True}
    whole, control, off = trained("a", **values), Control(), []

    class Told(At):
        def preparing(self, what, done, of):
            if what == "caching captions" and done == 2:
                control.pause()

    def look(lent):
        off.extend(tuple(kept.shape) for kept, _ in card.off.values())
        control.go_on()

    assert same(whole, trained("b", host=Host(look), control=control, watchers=[Told(0, None)], **values))
    assert off.count(COND) == 2
    assert not card.off


def test_what_is_saved_in_a_pause_and_after_a_stop_in_one_needs_no_card(trained, card, tmp_path):
    stopped, control = trained("a", stop=4), Control()

    def look(lent):
        control.save_now()
        threading.Timer(1.0, control.stop).start()

    paused = trained("b", host=Host(look), control=control, watchers=[At(3, control.pause)])
    assert paused.progress.stopped
    assert card.back == 0
    assert same(stopped, paused)
    assert same(trained("a", place__resume=stopped.state), trained("b", place__resume=paused.state))


def test_nothing_is_moved_where_nobody_asks(trained, card):
    off, control = [], Control()

    def look(lent):
        off.append(len(card.off))
        control.go_on()

    trained(
        "a", host=Host(look), control=control, place__park_on_pause=False, watchers=[At(3, control.pause)]
    )
    assert off == [0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_cards_memory_is_free_in_a_pause():
    """Of a network and its optimizer; each tensor is the one it was."""
    device = torch.device("cuda")
    net = torch.nn.Linear(1000, 1000, device=device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)

    def step():
        net(torch.ones(1, 1000, device=device)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    before, values = (
        torch.cuda.memory_allocated(),
        [t.clone().cpu() for t in parking.tensors([net, optimizer])],
    )
    with parking.parked(net, optimizer):
        assert before - torch.cuda.memory_allocated() >= 3 * 4_000_000
        assert all(t.device.type == "cpu" for t in parking.tensors([net, optimizer]))
    assert torch.cuda.memory_allocated() == before
    back = [t.cpu() for t in parking.tensors([net, optimizer])]
    assert all(torch.equal(a, b) for a, b in zip(values, back, strict=True))
    assert all(t.device.type == "cuda" for t in parking.tensors([net, optimizer]))
    step()


@pytest.mark.parametrize("how", ["to the end", "stopped", "failed"])
def test_nothing_of_a_run_outlives_it(trained, how):
    kinds = (Session, Network, Learner, torch.optim.Optimizer, Batches, Cache, Tiny)
    before = len(alive(kinds))
    tensors = len(alive(torch.Tensor))
    control = Control()

    def act():
        assert len(alive(kinds)) >= before + len(kinds)
        if how == "failed":
            raise RuntimeError("on purpose")
        if how == "stopped":
            control.stop()

    with contextlib.suppress(RuntimeError):
        trained("a", control=control, watchers=[At(2, act)], network__train_unet_only=True)
    assert len(alive(kinds)) == before
    assert len(alive(torch.Tensor)) <= tensors
