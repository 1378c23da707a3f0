import collections
import dataclasses
import itertools
import threading

import pytest
import torch

from lora_train.data.batches import Batches, ahead, arithmetic, every_caption, numbers
from lora_train.data.buckets import Fit
from lora_train.data.folder import Dataset, Item, Planned, Source, Subset
from lora_train.data.plan import balanced, sourced
from lora_train.data.stays import Prior
from lora_train.host import Cond


class Names:
    """Latents that say what they are of, and count what is fetched."""

    def __init__(self, slow=False):
        self.slow, self.fetched, self.threads = slow, 0, set()

    def fetch(self, samples):
        self.fetched += len(samples)
        self.threads.add(threading.current_thread().name)
        return torch.tensor([[float(s.ordinal), float(s.look.flip)] for s in samples])

    def finish(self, fetched, samples):
        return fetched

    def masks(self, samples):
        return None


def items(path, count, bucket, lead, subset) -> list[Item]:
    return [
        Item(path, f"{lead}{n}", bucket, Fit(bucket, bucket), caption=f"{lead}{n}, x, y, z", subset=subset)
        for n in range(count)
    ]


def source(path, count, batch=1, bucket=(64, 64), lead="p", **rules) -> Source:
    subset = Subset(**rules)
    return sourced(Dataset(batch_size=batch, subsets=(subset,)), items(path, count, bucket, lead, subset))


def planned(*sources) -> Planned:
    return Planned(sources, folders=False)


def epoch(batches: Batches, number: int, skip: int = 0) -> list:
    return [group.batches for group in batches.steps(number, skip)]


def joined(one: Source, other: Source) -> Source:
    """Both, as one dataset of two folders."""
    both = dataclasses.replace(one.dataset, subsets=one.dataset.subsets + other.dataset.subsets)
    return sourced(both, one.items + other.items)


def samples(batches: Batches, number: int) -> list[tuple[int, str]]:
    return [
        s for group in epoch(batches, number) for b in group for s in zip(b.ordinals, b.names, strict=True)
    ]


def make(plan: Planned, latents=None, **settings) -> Batches:
    return Batches(plan, latents or Names(), **{"seed": 1, **settings})


def test_an_epoch_shows_every_picture_as_often_as_it_repeats(tmp_path):
    plan = planned(source(tmp_path, 5, num_repeats=3), source(tmp_path, 2, lead="q"))
    for number in (0, 1, 7):
        found = samples(make(plan), number)
        assert sorted(name for _, name in found) == sorted([f"p{n}" for n in range(5)] * 3 + ["q0", "q1"])
        assert sorted(ordinal for ordinal, _ in found) == list(range(number * 17, number * 17 + 17))


def test_epochs_and_seeds_have_orders_of_their_own(tmp_path):
    plan = planned(source(tmp_path, 20))
    orders = [
        tuple(name for _, name in samples(make(plan, seed=seed), number))
        for seed in (1, 2)
        for number in (0, 1)
    ]
    assert len(set(orders)) == 4
    assert orders == [
        tuple(name for _, name in samples(make(plan, seed=seed), number))
        for seed in (1, 2)
        for number in (0, 1)
    ]


def test_with_one_bucket_a_batch_of_four_is_the_same_samples_as_four_of_one(tmp_path):
    ones, fours = (make(planned(source(tmp_path, 10, batch, num_repeats=3))) for batch in (1, 4))
    assert samples(ones, 2) == samples(fours, 2)
    assert [len(b.ordinals) for (b,) in epoch(fours, 2)] == [4] * 7 + [2]
    accumulated = make(planned(source(tmp_path, 10, 1, num_repeats=3)), accumulation=4)
    assert samples(accumulated, 2) == samples(fours, 2)


def test_a_batch_is_of_one_bucket_and_of_one_dataset(tmp_path):
    wide, tall = source(tmp_path, 7, 3, (64, 32), "w"), source(tmp_path, 5, 3, (32, 64), "t")
    first = joined(wide, tall)
    second = source(tmp_path, 6, 2, (64, 32), "s")
    groups = epoch(make(planned(first, second)), 0)
    sizes = {}
    for (batch,) in groups:
        lead = {name[0] for name in batch.names}
        assert len(lead) == 1
        sizes.setdefault(lead.pop(), []).append(len(batch.names))
    assert sizes == {"w": [3, 3, 1], "t": [3, 2], "s": [2, 2, 2]}
    assert [len(b.names) for (b,) in groups[-2:]] == [2, 1]  # the rests at the end, by bucket: 32x64, 64x32


def test_the_numbers_are_those_of_the_batches(tmp_path):
    wide, tall = source(tmp_path, 7, 3, (64, 32), "w", num_repeats=2), source(tmp_path, 5, 3, (32, 64), "t")
    plan = planned(joined(wide, tall), source(tmp_path, 6, 4))
    for accumulation in (1, 2, 3, 4, 50):
        batches = make(plan, accumulation=accumulation)
        groups = epoch(batches, 0)
        assert batches.steps_per_epoch == len(groups)
        assert batches.batches_per_epoch == sum(map(len, groups)) == 5 + 2 + 2  # 14 / 3, 5 / 3, 6 / 4
        assert batches.samples_per_epoch == 14 + 5 + 6
        assert all(len(group) == accumulation for group in groups[:-1])
        assert 1 <= len(groups[-1]) <= accumulation
        assert numbers(plan, accumulation) == batches.numbers


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_an_epoch_can_be_entered_at_any_step_without_loading_what_went_before(tmp_path, slow, accumulation):
    plan = planned(source(tmp_path, 9, 2, shuffle_caption=True, flip_aug=True, caption_dropout_rate=0.3))
    whole = epoch(make(plan, accumulation=accumulation), 3)
    for skip in range(len(whole) + 1):
        latents = Names(slow)
        rest = epoch(make(plan, latents, accumulation=accumulation), 3, skip)
        assert latents.fetched == sum(len(b.ordinals) for group in whole[skip:] for b in group)
        for group, other in zip(rest, whole[skip:], strict=True):
            for a, b in zip(group, other, strict=True):
                assert torch.equal(a.latents, b.latents)
                assert (a.captions, a.ordinals, a.names) == (b.captions, b.ordinals, b.names)


def test_captions_and_flips_are_drawn_for_each_sample(tmp_path):
    plan = planned(source(tmp_path, 1, num_repeats=200, shuffle_caption=True, keep_tokens=1, flip_aug=True))
    found = [batch for (batch,) in epoch(make(plan), 0)]
    assert {len(set(b.captions[0].split(", "))) for b in found} == {4}
    assert {b.captions[0] for b in found} == {f"p0, {', '.join(o)}" for o in itertools.permutations("xyz")}
    flipped = sum(b.latents[0, 1].item() for b in found)
    assert 70 < flipped < 130


def test_turning_flips_on_leaves_captions_as_they_were(tmp_path):
    def captions(**rules):
        plan = planned(source(tmp_path, 5, num_repeats=3, shuffle_caption=True, **rules))
        return [batch.captions for (batch,) in epoch(make(plan), 0)]

    assert captions() == captions(flip_aug=True)


def test_nothing_is_flipped_unasked(tmp_path):
    plan = planned(source(tmp_path, 30))
    assert not any(batch.latents[0, 1] for (batch,) in epoch(make(plan), 0))


def test_captions_that_never_change_can_be_listed(tmp_path):
    assert every_caption(planned(source(tmp_path, 2, num_repeats=5, caption_prefix="sks"))) == [
        "sks p0, x, y, z",
        "sks p1, x, y, z",
    ]
    for rule in ({"shuffle_caption": True}, {"caption_dropout_rate": 0.1}, {"caption_tag_dropout_rate": 0.1}):
        assert every_caption(planned(source(tmp_path, 2), source(tmp_path, 2, **rule))) is None


def test_conds_come_along_in_the_order_of_the_captions(tmp_path):
    plan = planned(source(tmp_path, 4, 3))
    conds = {c: Cond(torch.full((1, 2, 3), float(n))) for n, c in enumerate(every_caption(plan))}
    for (batch,) in epoch(make(plan, conds=conds), 0):
        assert batch.conds.context[:, 0, 0].tolist() == [float(name[1:]) for name in batch.names]
    assert all(batch.conds is None for (batch,) in epoch(make(plan), 0))


def test_pictures_are_loaded_in_a_thread_only_where_that_takes_long(tmp_path):
    plan = planned(source(tmp_path, 6))
    for slow in (False, True):
        latents = Names(slow)
        epoch(make(plan, latents), 0)
        assert (latents.threads == {threading.main_thread().name}) is not slow


def test_the_next_step_is_loaded_while_one_is_used_and_no_further():
    begun = []
    going = ahead(begun.append, range(10))
    next(going)
    going.close()
    assert begun == [0, 1]
    assert list(ahead(lambda n: n * n, range(5))) == [0, 1, 4, 9, 16]
    assert not list(ahead(begun.append, []))


def test_an_error_in_the_thread_comes_out_where_the_step_is_due():
    going = ahead(lambda n: 1 / n, [1, 0, 1])
    assert next(going) == 1
    with pytest.raises(ZeroDivisionError):
        next(going)


@pytest.mark.parametrize(
    ("plan", "steps", "accumulation", "text"),
    [
        (lambda p: planned(source(p, 8, 1, num_repeats=10)), 800, 1,
         "8 pictures x 10 repeats = 80 samples in 1 bucket -> 80 batches of 1 -> 80 steps an epoch; "
         "800 steps = 10 epochs"),
        (lambda p: planned(source(p, 10, 4, num_repeats=3), source(p, 1, 4, (32, 64))), 25, 2,
         "11 pictures, with their repeats = 31 samples in 2 buckets -> 9 batches of up to 4, 2 to a step -> "
         "5 steps an epoch; 25 steps = 5 epochs"),
        (lambda p: planned(source(p, 8, 4)), 5, 1,
         "8 pictures x 1 repeat = 8 samples in 1 bucket -> 2 batches of 4 -> 2 steps an epoch; "
         "5 steps = 2 epochs and 1 step"),
        (lambda p: planned(source(p, 1)), 1, 1,
         "1 picture x 1 repeat = 1 sample in 1 bucket -> 1 batch of 1 -> 1 step an epoch; 1 step = 1 epoch"),
    ],
)  # fmt: skip
def test_the_arithmetic_is_told(tmp_path, plan, steps, accumulation, text):
    assert arithmetic(plan(tmp_path), steps, accumulation) == text


def shown(batches: Batches, number: int) -> collections.Counter:
    return collections.Counter(name for _, name in samples(batches, number))


@pytest.mark.parametrize(("repeats", "count"), [(0.5, 5), (0.3, 3), (1.5, 15), (2.25, 23), (0.01, 1)])
def test_repeats_with_a_fraction_show_each_picture_in_turn(tmp_path, repeats, count):
    batches = make(planned(source(tmp_path, 10, num_repeats=repeats)))
    epochs = [shown(batches, number) for number in range(10)]
    assert [found.total() for found in epochs] == [count] * 10
    assert all(
        max(found.values()) - (min(found.values()) if len(found) == 10 else 0) <= 1 for found in epochs
    )
    assert set(sum(epochs, collections.Counter()).values()) == {count}  # ten epochs of a tenth each


def test_a_folder_makes_as_many_samples_as_are_asked_of_it(tmp_path):
    plan = planned(source(tmp_path, 7, samples_per_epoch=100, num_repeats=3))
    assert shown(make(plan), 0).total() == 100
    assert shown(make(plan), 4).total() == 100


def test_every_epoch_has_the_same_batches_whatever_its_share_of_the_pictures(tmp_path):
    rules = Subset(num_repeats=0.4)
    mixed = [
        i
        for n, b in enumerate([(64, 64), (32, 64), (64, 32)])
        for i in items(tmp_path, 3 + n, b, f"{n}", rules)
    ]
    batches = make(planned(sourced(Dataset(batch_size=2, subsets=(rules,)), mixed)))
    assert {tuple(sorted(len(b.names) for (b,) in epoch(batches, n))) for n in range(20)} == {(1, 2, 2)}
    assert len(sum((shown(batches, n) for n in range(20)), collections.Counter())) == len(mixed)


@pytest.mark.parametrize(
    ("own", "others", "wanted"),
    [
        ([1, 1, 1], 3, [1, 1, 1]), ([1, 1, 1], 7, [3, 2, 2]), ([2, 2, 2], 3, [2, 2, 0]),
        ([1] * 4, 2, [1, 1, 0, 0]), ([], 5, []), ([3], 10, [10]),
    ],
)  # fmt: skip
def test_regularisation_is_repeated_until_it_is_as_much_as_the_rest(own, others, wanted):
    assert balanced(own, others) == wanted


def test_regularisation_pictures_weigh_what_is_asked_and_say_which_are_unused(tmp_path):
    train, reg = source(tmp_path, 2, num_repeats=2), source(tmp_path, 6, lead="r", is_reg=True)
    both = joined(train, reg)
    assert [i.name for i in both.unused()] == ["r4", "r5"]
    batches = make(Planned((both,), folders=False, prior=Prior(prior_loss_weight=0.25)))
    assert shown(batches, 3) == {"p0": 2, "p1": 2, "r0": 1, "r1": 1, "r2": 1, "r3": 1}
    for (batch,) in epoch(batches, 0):
        weights = [1.0] if batch.weights is None else batch.weights.tolist()
        assert weights == [0.25 if batch.names[0][0] == "r" else 1.0]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_processes_share_out_the_batches_of_each_step(tmp_path, world, accumulation):
    plan = planned(source(tmp_path, 7, flip_aug=True, shuffle_caption=True))
    alone = list(make(plan, accumulation=accumulation * world).steps(2))
    each = [list(make(plan, accumulation=accumulation, rank=r, world=world).steps(2)) for r in range(world)]
    for step, groups in zip(alone, zip(*each, strict=True), strict=True):
        assert {g.images for g in groups} == {step.images}
        found = [b for g in groups for b in g.batches]
        assert sorted((b.ordinals[0], b.captions[0]) for b in found) == sorted(
            (b.ordinals[0], b.captions[0]) for b in step.batches
        )


def test_captions_know_the_step_and_the_epoch_they_are_for(tmp_path):
    plan = planned(source(tmp_path, 4, token_warmup_step=0.5, caption_dropout_every_n_epochs=2))
    tags = [len(b.captions[0].split(", ")) for n in (0, 2) for (b,) in epoch(make(plan, steps=24), n)]
    assert tags == [1, 1, 1, 1, 3, 3, 3, 3]
    assert {b.captions[0] for (b,) in epoch(make(plan, steps=24), 1)} == {""}
