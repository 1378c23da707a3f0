"""Options: every declared one with values that it cannot have, names that there are not, and what cannot go
together."""

from __future__ import annotations

import pathlib
import typing
from collections.abc import Callable, Iterator, Sequence

from lora_train.blocks import BlockRates
from lora_train.compat import FOREIGN, Refused, off
from lora_train.job import declared
from lora_train.knobs import Setting
from lora_train.options import FILES
from lora_train.values import unwrapped
from tests.mistakes.harness import TAKEN, Case, Ground, Plant, chance

NUMBERS = ("nan", "inf", "-inf", "1e400", "many", "1 2", "--", "0x", "½", "1_0_", "1\n2x")
WRONG: dict[object, tuple[str, ...]] = {
    int: (*NUMBERS, "1.5", "1,2", "9" * 5000 + "x"),
    float: (*NUMBERS, "1,5,2", "1+1j"),
    bool: ("maybe", "2", "nan", "-1", "truefalse", "[]"),
    pathlib.Path: ("a\0b", "a" * 300, "a/" * 3000),
    BlockRates: ("x", "nan", "-1", "1e9", "{}", "512x", "9" * 400),
}
OF_CLASSES = ("x", "nan", "-1", "0", "1e9", "1,2,3,4,5", "{}", "512x", "9" * 400)


def wrong(s: Setting) -> list[str]:
    """Values that a setting cannot have."""
    inner, optional = unwrapped(s.type)
    each = typing.get_args(inner)[0] if typing.get_origin(inner) is tuple else inner
    if s.choices:
        found = ["nonsense", "nan", "0x", f"{s.choices[0]}\0", "a,b"]
    elif each is str:
        return []
    else:
        found = [*WRONG.get(each, OF_CLASSES)]
    if each is not inner:
        found = [value for value in found if value not in ("1 2", "1,2", "1,5,2")]
    if s.low is not None and not s.choices:
        found.append(repr(s.low - 1))
    if s.high is not None and not s.choices:
        found.append(repr(s.high + 1) if s.high < 1e300 else "inf")
    return found + ([""] if not optional and each is inner else [])


def declarations() -> Iterator[Case]:
    """Three wrong values for each, drawn from all there are, alternately under its path and its name."""
    for s in declared():
        if ".N." in s.path:
            continue
        translated = any(name in FOREIGN for name in (s.name, *s.aka))
        values = [value for value in wrong(s) if not translated or not off(value)]
        drawn = chance("flag", s.path).sample(values, min(3, len(values)))
        for n, value in enumerate(drawn):
            own = [name for name in s.aka if name not in FOREIGN and name not in FILES]
            name = own[0] if own and n % 2 else s.path
            yield Case(
                f"--{name} {value[:20]!r} {n}",
                lambda g, name=name, value=value: g.train(f"--{name}={value}"),
                (value[:9] if s.name == "resume" else s.name,),  # it is read before the others are looked at
            )


def items() -> Iterator[Case]:
    """One wrong value for each setting of a dataset and of its folders."""
    for s in declared():
        values = wrong(s) if ".N." in s.path else []
        if values:
            value, path = chance("item", s.path).choice(values), s.path.replace(".N.", ".0.")
            yield Case(
                f"--{path} {value[:20]!r}",
                lambda g, path=path, value=value: g.train(
                    "--data.datasets.0.subsets.0.image_dir", g.pictures, f"--{path}={value}",
                    train_data_dir=None),
                (path,),
            )  # fmt: skip


def foreign() -> Iterator[Case]:
    """What sd-scripts has and this has not."""
    for name, rule in FOREIGN.items():
        if isinstance(rule, Refused):
            value = next(v for v in ("7", "3.5") if v not in rule.off)
            yield Case(f"--{name} of sd-scripts", lambda g, n=name, v=value: g.train(f"--{n}", v), (name,))


def slips() -> Iterator[Case]:
    """Names with a letter lost, doubled or swapped."""
    names = [s.path for s in declared() if ".N." not in s.path]
    known = {name for s in declared() for name in (s.path, *s.aka)} | {*FOREIGN, *FILES}
    for path in chance("slips").sample(names, 25):
        draw, name = chance("slip", path), path.rpartition(".")[2]
        at = draw.randrange(1, len(name))
        slip = draw.choice([name[:at] + name[at + 1 :], name[:at] + name[at - 1 :], name + "s", name.upper()])
        if slip not in known:
            yield Case(f"--{slip} for {path}", lambda g, slip=slip: g.train(f"--{slip}", "1"), (slip,))


def words(*more: str, **others: object) -> Plant:
    return lambda ground: ground.train(*more, **others)


ALONE: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "a word without an option": (words("hello"), ("hello",)),
    "an option of one letter": (words("-z", "3"), ("-z",)),
    "an option without a value": (words("--network_dim"), ("network_dim",)),
    "two dashes alone": (words("--", "x"), ("x",)),
    "three dashes": (words("---network_dim", "4"), ("network_dim",)),
    "an option of nothing": (words("--=3"), ()),
    "an option that is a blank": (words("-- ", "3"), ()),
    "an option in another alphabet": (words("--шаги", "3"), ("шаги",)),
    "an option with a line break": (words("--a\nb", "3"), ("a",)),
    "an option without end": (words("--" + "a" * 100_000), ("aaa",)),
    "a setting of another kind": (words("--network.factor", "4"), ("network.factor",)),
    "items with a gap": (
        words("--data.datasets.3.batch_size", "1", train_data_dir=None), ("data.datasets",)),
    "an item of a list that is none": (words("--network.0.dim", "1"), ("network.0.dim",)),
    "a command that there is not": (lambda g: ["trian"], ("trian", "train")),
    "a command of nothing": (lambda g: [""], ()),
    "network_args without =": (words("--network_args", "conv_dim"), ("conv_dim",)),
    "network_args of another kind": (words("--network_args", "zzz=1"), ("zzz",)),
    "network_args of nan": (words("--network_args", "conv_dim=nan"), ("conv_dim",)),
    "optimizer_args without =": (words("--optimizer_args", "eps"), ("eps",)),
    "optimizer_args that are unknown": (words("--optimizer_args", "zzz=1"), ("zzz",)),
    "optimizer_args of inf": (words("--optimizer_args", "eps=inf"), ("eps",)),
    "an optimizer that there is not": (words("--optimizer_type", "Adamm"), ("Adamm", "optimizer")),
    "a schedule that there is not": (words("--lr_scheduler", "cosinus"), ("cosinus",)),
    "a module that there is not": (words("--network_module", "os.system"), ("os.system",)),
    "three text encoders' rates": (words("--text_encoder_lr", "1", "2", "3"), ("text_encoder_lr",)),
    "a loss that there is not": (words("--loss_type", "l3"), ("loss_type",)),
}  # fmt: skip

TOGETHER: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "both parts alone": (
        words("--network_train_unet_only", "--network_train_text_encoder_only"), ("only",)),
    "a rate of 0": (words("--learning_rate", "0"), ("learning_rate",)),
    "a rate of the UNet of 0": (words("--unet_lr", "0"), ("unet_lr",)),
    "a warm-up of a schedule without one": (words("--lr_warmup_steps", "5"), ("lr_warmup_steps",)),
    "three betas": (words("--optimizer.betas", "0.9,0.99,0.999"), ("betas",)),
    "samples without steps to take them": (words("--sample_every_n_steps", "0"), ("sample_every_n_steps",)),
    "a tracker without a folder": (words("--log_with", "tensorboard"), ("log_with",)),
    "buckets out of order": (
        words("--enable_bucket", "--min_bucket_reso", "512", "--max_bucket_reso", "256"), ("bucket_reso",)),
    "buckets of odd steps": (words("--enable_bucket", "--bucket_reso_steps", "12"), ("bucket_reso_steps",)),
    "a size below a bucket": (words("--enable_bucket", resolution=32), ("resolution",)),
    "a size without a whole latent": (words(resolution=7), ("resolution",)),
    "folders in two ways": (
        lambda g: g.train("--data.datasets.0.subsets.0.image_dir", g.pictures), ("train_data_dir",)),
    "half precision on a CPU": (words("--mixed_precision", "fp16", "--device", "cpu"), ("mixed_precision",)),
    "to resume what is not there": (lambda g: g.train(resume=g.folder / "gone"), ("place.resume", "gone")),
    "to repeat what is not there": (
        lambda g: g.train("--from", g.folder / "gone.safetensors"), ("gone.safetensors",)),
    "to repeat a picture": (lambda g: g.train("--from", g.pictures / "a.png"), ("a.png",)),
    "no seed that fits": (words(seed=2**70), ("seed",)),
    "separators of nothing": (words("--caption_separator", "  "), ("caption_separator",)),
    "endings of captions that are none": (words("--caption_extension", "/"), ("caption_extension",)),
    "text that is none": (words("--training_comment", "a\udcffb"), ("training_comment",)),
    "a colour that is none": (words("--transparent_color", "schwarz"), ("transparent_color",)),
}  # fmt: skip


def drawing(command: str, *more: object) -> Plant:
    return lambda ground: ground.draw(command, *more)


DRAWN: dict[str, tuple[Sequence[object], tuple[str, ...]]] = {
    "without a prompt": ((), ("prompt",)),
    "with a prompt of unknown flags": (("--prompt", "a --zz 3"), ("zz",)),
    "with steps of a word": (("--prompt", "a --s many"), ("--s", "many")),
    "with a width of nan": (("--prompt", "a --w nan"), ("--w", "nan")),
    "with a seed below nothing": (("--prompt", "a --d -3"), ("--d",)),
    "with a sampler that there is not": (("--prompt", "a", "--sampler", "zzz"), ("zzz",)),
    "from a file that is not there": (("--from_file", "/gone/prompts.txt"), ("/gone/prompts.txt",)),
    "from a folder": (("--from_file", "/dev"), ("/dev",)),
    "from a name too long": (("--from_file", "a" * 300), ("aaa",)),
    "with weights that are not there": (
        ("--prompt", "a --w 64 --h 64 --s 1", "--network_weights", "gone.safetensors"),
        ("gone.safetensors",)),
    "with weights of a name too long": (
        ("--prompt", "a", "--network_weights", "a" * 300 + ".safetensors"), ("aaaaaaaa",)),
    "on a device that there is not": (("--prompt", "a", "--device", "tpu"), ("place.device", "tpu")),
    "with an option that there is not": (("--prompt", "a", "--nothing", "1"), ("nothing",)),
}  # fmt: skip
WEIGHTS = {"sample": (), "plot": ("--network_weights", "x.safetensors")}
OF_ONE: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "a sample with strengths of no weights": (
        drawing("sample", "--prompt", "a", "--network_mul", "1"), ("network_mul",)),
    "a sample with a strength of nan": (
        drawing("sample", "--prompt", "a", "--network_weights", "a", "--network_mul", "nan"), ("nan",)),
    "a sheet of spans without end": (
        drawing("plot", "--prompt", "a", "--network_weights", "a", "--strengths", "0-1:0"), ("0-1:0",)),
    "a sheet of too many": (
        drawing("plot", "--prompt", "a", "--network_weights", "a", "--strengths", "0-1:0.00001"),
        ("0-1:0.00001",)),
    "a sheet of words": (
        drawing("plot", "--prompt", "a", "--network_weights", "a", "--strengths", "all"), ("all",)),
    "a page of settings that is old": (
        lambda g: ["settings", "--check", str(g.pictures / "a.txt")], ("a.txt",)),
    "a page of settings that is not there": (
        lambda g: ["settings", "--check", str(g.folder / "gone")], ("gone",)),
    "a page of settings that is a picture": (
        lambda g: ["settings", "--check", str(g.pictures / "a.png")], ("a.png",)),
}  # fmt: skip


def harmless() -> Iterator[Case]:
    for name, more in {
        "a whole number with a point": ("--network_dim", "4.0"),
        "a number in other figures": ("--network_dim", "４"),
        "an option that is off": ("--sdxl", "false"),
        "the same option twice": ("--network_dim", "0", "--network_dim", "4"),
    }.items():
        yield Case(name, words(*more), (), ends=TAKEN)


def listed(
    table: dict[str, tuple[Plant | Callable[[Ground], Sequence[str]], tuple[str, ...]]],
) -> Iterator[Case]:
    for name, (plant, says) in table.items():
        yield Case(name, plant, says)


CASES = [
    *declarations(),
    *items(),
    *foreign(),
    *slips(),
    *listed(ALONE),
    *listed(TOGETHER),
    *listed(OF_ONE),
    *harmless(),
    *(
        Case(f"{command} {name}", drawing(command, *WEIGHTS[command], *more), says)
        for command in ("sample", "plot")
        for name, (more, says) in DRAWN.items()
    ),
]
