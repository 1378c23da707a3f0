"""A word learned along with the adapters: its vectors, the run that learns them, and the file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_train.adapters.file import load, told
from lora_train.adapters.word import Embedding, Word, begun, bundled
from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.prompts import Prompt
from lora_train.run.draw import Wardrobe, Worn
from tests.run.test_adapters_in_a_run import Lender
from tests.tiny import TEXT, Tiny

WORD = {"embedding__token_string": "zwx", "data__trigger_word": "zwx", "embedding__num_vectors_per_token": 2,
        "embedding__embedding_learning_rate": 0.05}  # fmt: skip
KEY = "bundle_emb.zwx.string_to_param.*"


def read(text: str) -> torch.Tensor:
    return Tiny().vectors(text)["te1"]


def test_a_word_begins_with_other_words_repeated_or_left_out():
    vectors = {"te1": torch.arange(6.0).reshape(3, 2)}
    for count, rows in ((1, [0]), (3, [0, 1, 2]), (5, [0, 1, 2, 0, 1])):
        made = begun(Embedding(token_string="a", num_vectors_per_token=count), vectors)
        assert torch.equal(made.live()["te1"], vectors["te1"][rows])
    with pytest.raises(Mistake, match=r"embedding.init_word: expected a word"):
        begun(Embedding(token_string="a", init_word=" "), {"te1": torch.zeros(0, 2)})


def test_a_kept_length_leaves_only_the_direction_to_learn():
    start = torch.randn(2, 5, dtype=torch.float64)
    word = Word(Embedding(token_string="a", preserve_embedding_norm=True), {"te1": start})
    with torch.no_grad():
        word.vectors["te1"] *= 3
        word.vectors["te1"][0, 0] += 1
    live = word.live()["te1"]
    torch.testing.assert_close(live.norm(dim=1), start.float().norm(dim=1))
    live[0].square().sum().backward()  # whose length cannot change
    assert word.vectors["te1"].grad.abs().max() < 1e-5


def test_a_word_that_begins_as_its_own_tokens_changes_nothing(trained):
    """Of three letters, as the light host reads; and a rate that moves it not at all to float's eye."""
    same = {**WORD, "embedding__num_vectors_per_token": 3, "embedding__embedding_learning_rate": 1e-30,
            "optimizer__weight_decay": 0.0}  # fmt: skip
    plain = load_file(trained("a", data__trigger_word="zwx", optimizer__weight_decay=0.0).file)
    learned = load_file(trained("b", **same).file)
    assert torch.equal(learned.pop(KEY), read("zwx"))
    assert learned.keys() == plain.keys()
    for key in plain:
        torch.testing.assert_close(learned[key], plain[key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("unet_only", [False, True])
def test_the_word_learns_and_the_models_table_does_not(trained, unet_only):
    lent = Tiny()
    before = lent.parts["te1"].embeddings.weight.clone()
    out = trained("a", host=Lender(lent), network__train_unet_only=unet_only, **WORD)
    learned = load_file(out.file)[KEY]
    assert learned.shape == (2, TEXT)
    assert not torch.equal(learned, read("zw"))
    assert torch.equal(lent.parts["te1"].embeddings.weight, before)
    assert lent.learned == {}


def test_a_run_with_a_word_goes_on_to_the_bit(trained, tmp_path):
    how = {**WORD, "embedding__preserve_embedding_norm": True, "training__mixed_precision": "bf16"}
    whole = load_file(trained("whole", **how).file)
    stopped = trained("stopped", stop=3, output__save_state_on_train_end=True, **how)
    again = load_file(trained("again", place__resume=stopped.state, **how).file)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert not torch.equal(whole[KEY], load_file(stopped.file)[KEY])


def test_two_batches_are_one_of_both(trained):
    how = {**WORD, "optimizer__weight_decay": 0.0, "training__max_train_steps": 2}
    one = load_file(trained("one", data__batch_size=2, **how).file)
    two = load_file(trained("two", training__gradient_accumulation_steps=2, **how).file)
    assert one.keys() == two.keys()
    torch.testing.assert_close(one[KEY], two[KEY], rtol=1e-3, atol=1e-4)


def test_after_its_share_of_the_run_the_word_stays_as_it_is(trained, tmp_path):
    how = {**WORD, "embedding__train_text_encoder_ti_frac": 0.5, "output__save_every_n_steps": 2}
    trained("a", **how)
    at = {step: load_file(tmp_path / "a" / f"x-step{step:08d}.safetensors") for step in (2, 4, 6)}
    assert not torch.equal(at[2][KEY], at[4][KEY])
    assert torch.equal(at[4][KEY], at[6][KEY])
    assert any(not torch.equal(at[4][key], at[6][key]) for key in at[4])
    lines = (tmp_path / "a" / "x-run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rates = [json.loads(line)["lr/embedding"] for line in lines if "lr/embedding" in line]
    assert rates == [0.05] * 4 + [0.0] * 4


def test_an_optimizer_of_one_rate_has_it_for_the_word_too(trained):
    pytest.importorskip("prodigyopt")
    how = {**WORD, "optimizer__kind": "prodigy", "lr__learning_rate": 1.0}
    with pytest.raises(Mistake, match=r"takes one learning rate for all parameters; got .*embedding 0\.05"):
        trained("a", **how)
    out = trained("b", **{k: v for k, v in how.items() if "embedding_learning_rate" not in k})
    assert not torch.equal(load_file(out.file)[KEY], read("zw"))
    assert Embedding().rate() == 5e-4


def test_samples_have_the_word_and_those_without_the_adapters_have_not(trained, tmp_path):
    drawn = []

    class Drawn(Tiny):
        def sample(self, prompt):
            drawn.append((prompt.prompt, dict(self.learned)))
            return super().sample(prompt)

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a zwx --w 64 --h 64 --d 1\n", encoding="utf-8")
    trained("a", host=Lender(Drawn()), output__sample_prompts=prompts, output__sample_every_n_steps=8,
            output__sample_base=True, **WORD)  # fmt: skip
    assert [(text, [*learned]) for text, learned in drawn] == [("a zwx", ["zwx"]), ("a zwx", [])]


def test_the_file_draws_what_was_trained(trained, tmp_path):
    """By the adapters and the word that it brings along, be it worn from the start or named in a prompt."""
    file, prompt = trained("a", **WORD).file, Prompt("a zwx", width=64, height=64, seed=1)
    lent, table = Tiny(), load_file(file)
    bare = lent.sample(prompt).tobytes()
    with Worn(lent, [file]).at([1.0]):
        worn = lent.sample(prompt).tobytes()
    named = Wardrobe(lent, [file.parent]).sample(Prompt("a zwx<lora:x:1>", width=64, height=64, seed=1))
    assert worn == named.tobytes() != bare
    save_file({key: value for key, value in table.items() if key != KEY}, tmp_path / "rest.safetensors")
    with (
        Worn(lent, [tmp_path / "rest.safetensors"]).at([1.0]),
        lent.spoken("zwx", lambda: {"te1": table[KEY]}),
    ):
        assert lent.sample(prompt).tobytes() == worn
    assert lent.learned == {}


def test_a_run_goes_on_from_a_file_with_its_word(trained):
    first = trained("a", **WORD).file
    how = {**WORD, "network__weights": first, "embedding__embedding_learning_rate": 1e-30,
           "optimizer__weight_decay": 0.0}  # fmt: skip
    assert torch.equal(load_file(trained("b", **how).file)[KEY], load_file(first)[KEY])
    without = trained("c", network__weights=first).file
    assert KEY not in load_file(without)


def test_a_word_of_another_model_is_refused(trained, tmp_path):
    tensors = load_file(trained("a", **WORD).file)
    save_file({**tensors, KEY: torch.zeros(2, TEXT + 4)}, tmp_path / "other.safetensors")
    with pytest.raises(Mistake, match="its embedding zwx is of another model's text encoders"):
        trained("b", network__weights=tmp_path / "other.safetensors", **WORD)


def test_the_word_is_written_by_itself_too(trained, tmp_path):
    out = trained("a", output__save_embedding=True, **WORD)
    alone = tmp_path / "a" / "x-run" / "embeddings" / "zwx.safetensors"
    assert told(load_file(alone)) == "a textual inversion embedding"
    assert torch.equal(load_file(alone)["emb_params"], load_file(out.file)[KEY])
    with safe_open(alone, "pt") as file:
        said = file.metadata()
    assert said["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    assert said["modelspec.title"] == "zwx"


def test_others_files_bring_words_along():
    """As the WebUI reads them: one text encoder's under either name, SDXL's two."""
    v, w = torch.randn(2, 3), torch.randn(2, 5)
    assert bundled({"bundle_emb.a.emb_params": v})["a"]["te1"] is v
    assert bundled({"bundle_emb.a.string_to_param.*": v, "lora_unet_x.alpha": w})["a"]["te1"] is v
    both = bundled({"bundle_emb.a.clip_l": v, "bundle_emb.a.clip_g": w, "bundle_emb.b.emb_params": v[0]})
    assert (both["a"]["te1"] is v, both["a"]["te2"] is w) == (True, True)
    assert torch.equal(both["b"]["te1"], v[:1])
    with pytest.raises(Mistake, match=r"bundle_emb\.a\.clip_x: expected an embedding"):
        bundled({"bundle_emb.a.clip_x": v})


def test_sdxls_two_text_encoders_have_the_webuis_names():
    """What the WebUI's loader looks for: `clip_l` and `clip_g`, each as wide as its text encoder."""
    vectors = {"te1": torch.randn(2, 3), "te2": torch.randn(2, 5)}
    word = Word(Embedding(token_string="a b"), vectors)
    assert {key: v.shape[1] for key, v in word.tensors().items()} == {
        "bundle_emb.a b.clip_l": 3, "bundle_emb.a b.clip_g": 5}  # fmt: skip
    assert {key: v.shape[1] for key, v in word.alone().items()} == {"clip_l": 3, "clip_g": 5}
    assert torch.equal(bundled(word.tensors())["a b"]["te2"], vectors["te2"])


@pytest.mark.parametrize("word", ["a.b", " a", "(a)", "a,b"])
def test_a_word_that_a_webui_would_not_find_is_refused(word):
    with pytest.raises(Mistake, match=r"embedding.token_string = .*: expected a word; leave out"):
        assemble({"embedding.token_string": word})


def test_a_word_that_no_caption_holds_is_refused_before_anything(trained, tmp_path):
    with pytest.raises(Mistake, match=r"token_string = zwx: none of the captions holds it; set data.trigger"):
        trained("a", embedding__token_string="zwx")
    assert not (tmp_path / "a").exists() or not any((tmp_path / "a").iterdir())


def test_a_loaded_file_keeps_its_words_keys(trained):
    assert KEY in load(trained("a", **WORD).file)[0]
