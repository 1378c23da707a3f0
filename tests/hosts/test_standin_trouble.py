"""What goes wrong in a WebUI while, before and between runs; on the stand-in."""

import contextlib
import gc
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from lora_train.adapters.network import Network
from lora_train.data.batches import Batches
from lora_train.data.cache import Cache
from lora_train.errors import Mistake
from lora_train.hosts.webui.host import WebuiHost
from lora_train.hosts.webui.loan import Loan
from lora_train.hosts.webui.proof import Proof
from lora_train.run.control import Control
from lora_train.run.desk import Desk
from lora_train.run.session import Session
from lora_train.train.events import Watcher

for name in ("ldm", "einops", "transformers"):
    pytest.importorskip(name, reason=f"the WebUI's own model classes need {name}")

from tests.hosts.standin import runs  # noqa: E402
from tests.hosts.standin.runs import At, same, untouched  # noqa: E402
from tests.hosts.standin.world import world  # noqa: E402

CAT = "a cat"
SOON = 30  # seconds
Full = torch.cuda.OutOfMemoryError
pictures, train = runs.pictures, runs.train


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    with world(tmp_path_factory.mktemp("webui")) as made:
        yield made


@contextlib.contextmanager
def full(module, after: int):
    """The card is full from the `after`-th call of a module on."""
    calls = []

    def hook(*_):
        calls.append(1)
        if len(calls) > after:
            raise Full("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class Background:
    """A run in a thread of its own, as the tab has it."""

    def __init__(self, train, *words, **others):
        self.file = self.error = None
        self.thread = threading.Thread(target=self._go, args=(train, words, others), daemon=True)
        self.thread.start()

    def _go(self, train, words, others):
        try:
            self.file = train(*words, **others)
        except BaseException as e:  # noqa: BLE001 (told to the test)
            self.error = e

    def end(self):
        self.thread.join(SOON)
        assert not self.thread.is_alive(), "the run does not end"
        return self.file


class TestOutOfMemory:
    @pytest.mark.parametrize("after", [0, 1, 2])
    def test_leaves_no_trace_wherever_it_comes(self, webui, train, after):
        unet = webui.model.model.diffusion_model
        with full(unet.middle_block, after), untouched(webui), pytest.raises((Full, Mistake)):
            train()

    def test_in_the_autoencoder(self, webui, train):
        with full(webui.model.first_stage_model.encoder, 0), untouched(webui), pytest.raises((Full, Mistake)):
            train()

    def test_the_next_run_learns_the_same_as_ever(self, webui, train):
        plain = train("plain")
        with full(webui.model.model.diffusion_model.out, 1), contextlib.suppress(Full, Mistake):
            train("failed")
        same(load_file(plain), load_file(train("again")))


@contextlib.contextmanager
def generation(webui):
    """Somebody's txt2img holds the lock until `let_go` is set."""
    begun, let_go, got = threading.Event(), threading.Event(), []

    def wait(p):
        begun.set()
        let_go.wait(SOON)

    webui.processing.before_steps.append(wait)
    thread = threading.Thread(target=lambda: got.append(webui.picture(CAT)), daemon=True)
    thread.start()
    assert begun.wait(SOON)
    webui.processing.before_steps.clear()
    try:
        yield let_go, got
    finally:
        let_go.set()
        thread.join(SOON)


def until(true):
    end = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


class TestALongGeneration:
    @pytest.fixture
    def generating(self, webui):
        with generation(webui) as made:
            yield made

    def test_start_waits_for_it(self, webui, train, generating):
        let_go, got = generating
        run = Background(train)
        time.sleep(1)
        assert run.thread.is_alive()
        assert not got
        let_go.set()
        assert run.end().is_file()
        assert run.error is None
        assert got[0].tobytes() == webui.picture(CAT).tobytes()

    def test_a_stop_meanwhile_ends_the_run_at_once_and_leaves_nothing_behind(
        self, webui, train, generating, tmp_path
    ):
        let_go, got = generating
        control, row = Control(), webui.call_queue.queue_lock._pending_threads
        run = Background(train, control=control)
        until(lambda: row)
        control.stop()
        run.end()
        assert not got, "the generation still has the lock"
        assert type(run.error).__name__ == "Ended"
        assert not [*(tmp_path / "out").rglob("*.safetensors")]
        let_go.set()
        until(lambda: got and not row)
        with untouched(webui):
            assert got[0].tobytes() == webui.picture(CAT).tobytes()

    def test_who_came_after_a_run_that_left_is_next(self, webui, train, generating):
        let_go, got = generating
        control, row = Control(), webui.call_queue.queue_lock._pending_threads
        run = Background(train, control=control)
        until(lambda: row)
        other = threading.Thread(target=lambda: got.append(webui.picture(CAT)), daemon=True)
        other.start()
        until(lambda: len(row) == 2)
        control.stop()
        run.end()
        let_go.set()
        other.join(SOON)
        assert len(got) == 2
        assert train("after").is_file()

    @pytest.mark.parametrize("save", [True, False])
    def test_a_stop_on_the_way_back_from_a_pause_saves_without_the_model(self, webui, train, save):
        control, told = Control(), []

        class Told(Watcher):
            def preparing(self, what, done, of):
                told.append(what)

        stopped = Control()
        plain = train("plain", watchers=[At(2, stopped.stop)], control=stopped)
        bare, row = webui.picture(CAT), webui.call_queue.queue_lock._pending_threads
        run = Background(train, "paused", control=control, watchers=[At(1, control.pause), Told()])
        until(lambda: control.resting)
        with generation(webui) as (_, got):
            told.clear()
            control.go_on()
            until(lambda: row)
            until(lambda: told)
            assert set(told) == {"waiting for the model"}
            control.stop(save=save)
            file = run.end()
            assert run.error is None
            assert not got
            assert file.is_file() == save
        assert not save or file.name == "paused-step00000002.safetensors"
        if save:
            same(load_file(plain), load_file(file))
        with untouched(webui):
            assert webui.picture(CAT).tobytes() == got[0].tobytes() == bare.tobytes()

    def test_a_stop_in_a_pause_asks_for_no_model(self, webui, train):
        """The person may have chosen another one meanwhile, which then stays."""
        control = Control()
        run = Background(train, control=control, watchers=[At(1, control.pause)])
        until(lambda: control.resting)
        with webui.call_queue.queue_lock:
            control.stop()
            assert run.end().is_file()
        assert run.error is None

    def test_two_starts_at_once_run_one_after_the_other(self, webui, train):
        seen = []

        class Seen(Watcher):
            def __init__(self, who):
                self.who = who

            def stepped(self, progress):
                seen.append(self.who)

        with untouched(webui):
            both = [Background(train, who, watchers=[Seen(who)]) for who in ("one", "two")]
            files = [run.end() for run in both]
        assert [run.error for run in both] == [None, None]
        same(*(load_file(file) for file in files))
        assert seen in (["one"] * 3 + ["two"] * 3, ["two"] * 3 + ["one"] * 3)


def test_nothing_of_ours_outlives_a_run(webui, train):
    """And no tensor of anybody's that was not there before."""
    kinds = (Session, Network, torch.optim.Optimizer, Batches, Cache, Loan, Proof)

    def alive(kind):
        gc.collect()
        return sum(issubclass(type(x), kind) for x in gc.get_objects())

    train("first")  # what is kept for good, such as the prompt's empty cond, is there after one
    before, seen = (alive(kinds), alive(torch.Tensor)), []
    train("second", watchers=[At(2, lambda: seen.append(alive(kinds)))], network__train_unet_only=True)
    assert seen[0] >= before[0] + len(kinds)
    assert (alive(kinds), alive(torch.Tensor)) == before
    assert before[0] == 0


class TestTheModelIsGone:
    def test_none_is_loaded(self, webui, train):
        data = webui.sd_models.model_data
        kept, data.sd_model = data.sd_model, None
        try:
            assert WebuiHost().header()["loaded"] is False
            with pytest.raises(Mistake, match="no model|[Nn]o checkpoint"):
                train()
            assert data.sd_model is None
            assert webui.call_queue.queue_lock.acquire(blocking=False)
            webui.call_queue.queue_lock.release()
        finally:
            data.sd_model = kept

    def test_it_was_unloaded_between_two_runs(self, webui, train):
        """In the settings: "Unload SD checkpoint to RAM"; training asks for it again."""
        plain = train("plain")
        webui.sd_models.unload_model_weights()
        same(load_file(plain), load_file(train("again")))

    def test_another_was_chosen_between_two_runs(self, webui, train):
        first = webui.model.sd_checkpoint_info
        webui.checkpoint("between", scale=0.5)
        plain = train("plain")
        try:
            webui.switch(webui.sd_models.get_closet_checkpoint_match("between").title)
            other = load_file(train("other"))
            assert any(not torch.equal(t, other[name]) for name, t in load_file(plain).items())
        finally:
            webui.switch(first.title)
        same(load_file(plain), load_file(train("again")))

    @pytest.mark.parametrize(("flag", "family"), [("is_sd3", "sd3"), ("is_ssd", None), ("none", None)])
    def test_one_that_cannot_be_trained_is_named(self, webui, train, monkeypatch, flag, family):
        """SD3 and what is made like it; a distilled SDXL; something that no version of the WebUI knew."""
        monkeypatch.setattr(webui.model, "is_sd1", False)
        if flag != "none":
            monkeypatch.setattr(webui.model, flag, True)
        header = WebuiHost().header()
        assert header["trainable"] is False
        assert len(header["reason"]) > 20
        assert "Invalid" not in header["reason"]
        assert family is None or header["family"] == family
        with untouched(webui), pytest.raises(Mistake) as said:
            train()
        assert len(str(said.value).splitlines()) == 1

    def test_a_run_names_the_checkpoint_and_the_own_one_comes_back(self, webui, train):
        first, other = webui.model.sd_checkpoint_info, webui.checkpoint("named", scale=0.5)
        before, plain = webui.picture(CAT), load_file(train("plain"))
        learned = load_file(train("named", model__pretrained_model_name_or_path=other))
        assert any(not torch.equal(t, learned[name]) for name, t in plain.items())
        assert webui.model.sd_checkpoint_info.filename == first.filename
        assert webui.shared.opts.sd_model_checkpoint == first.title
        assert webui.picture(CAT).tobytes() == before.tobytes()

    def test_the_named_checkpoint_is_not_there(self, webui, train, tmp_path):
        with untouched(webui), pytest.raises(Mistake, match="gone"):
            train(model__pretrained_model_name_or_path=tmp_path / "gone.safetensors")


class TestSomebodyPressesThings:
    def test_interrupt_ends_a_picture_and_not_the_training(self, webui, train, tmp_path):
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("a cat --w 64 --h 64 --s 4 --d 1", encoding="utf-8")
        drawn = {"output__sample_prompts": prompts, "output__sample_every_n_steps": 2}
        plain = train("plain", **drawn)

        def press(p):
            webui.shared.state.interrupt()

        webui.processing.before_steps.append(press)
        try:
            again = train("again", **drawn)
        finally:
            webui.processing.before_steps.clear()
            webui.shared.state.interrupted = False
        same(load_file(plain), load_file(again))

    def test_reload_ui_takes_the_loras_patches_off_and_on(self, webui, train):
        """Scripts are run again while ours trains; the model stays loaded."""
        import networks

        def reload():
            networks.uninstall()
            networks.install()

        before, plain = webui.picture(CAT), train("plain")
        same(load_file(plain), load_file(train("again", watchers=[At(1, reload)])))
        assert webui.picture(CAT).tobytes() == before.tobytes()

    def test_unload_during_a_run(self, webui, train):
        """The route that does so takes no lock. On a CPU the weights stay where they are."""
        plain = train("plain")
        again = train("again", watchers=[At(1, webui.sd_models.unload_model_weights)])
        same(load_file(plain), load_file(again))


class TestAFileThatWasSaved:
    def test_the_same_name_again_is_what_generate_then_uses(self, webui, train, tmp_path):
        """The extension compares names, so without a word from us it would draw with the old weights."""
        out = {"output__output_dir": webui.loras, "lr__learning_rate": 0.02}
        train("often", **out)
        bare, first = webui.picture(CAT), webui.picture(f"{CAT}<lora:often:1>")
        assert first.tobytes() != bare.tobytes()
        webui.loras.joinpath("often.safetensors").unlink()
        file = train("often", **out, training__max_train_steps=6)
        fresh = webui.loras / "fresh.safetensors"
        again = webui.picture(f"{CAT}<lora:often:1>")
        fresh.write_bytes(file.read_bytes())
        assert again.tobytes() == webui.picture(f"{CAT}<lora:fresh:1>").tobytes()
        assert again.tobytes() != first.tobytes()
        assert webui.picture(CAT).tobytes() == bare.tobytes()


class TestTheDesk:
    """A person sees a sentence, and the next job goes on."""

    @pytest.fixture
    def desk(self, webui):
        made = Desk(WebuiHost(), WebuiHost().folders)
        yield made
        made.close()

    @staticmethod
    def ended(desk, *ids):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            rows = {row["id"]: row for row in desk.queue()}
            if all(rows[i]["state"] not in ("waiting", "running", "paused") for i in ids):
                return [rows[i] for i in ids]
            time.sleep(0.1)
        raise AssertionError(desk.queue())

    def test_a_full_card_is_a_sentence_and_the_next_job_runs(self, webui, desk, pictures, tmp_path):
        values = {
            "data.train_data_dir": str(pictures), "data.resolution": 64, "training.max_train_steps": 2,
            "network.dim": 2, "output.output_dir": str(tmp_path / "out"),
        }  # fmt: skip
        with untouched(webui):
            with full(webui.model.model.diffusion_model.out, 0):
                first = desk.add({**values, "output.output_name": "first"}, start=True)["id"]
                (failed,) = self.ended(desk, first)
            second = desk.add({**values, "output.output_name": "second"}, start=True)["id"]
            (done,) = self.ended(desk, second)
        assert (failed["state"], done["state"]) == ("failed", "done")
        assert "memory" in failed["error"]
        assert "Traceback" not in failed["error"]
        assert done["file"].endswith("second.safetensors")
