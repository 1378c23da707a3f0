"""Kinds of problems of a dataset: what they are called, how bad they are, and which work mends them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from lora_train.data import measures
from lora_train.data.health import CUT, ENLARGED

ERROR, WARN, NOTE = "error", "warn", "note"  # nothing is learned from it · learned, and badly · to know


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something to see about a picture or file, about several together, or about all (no names)."""

    kind: str  # of KINDS
    names: tuple[str, ...] = ()  # within the folder
    facts: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of finding."""

    title: str
    text: str  # what it does to a training, and what helps
    severity: str = WARN
    work: str = ""  # that mends it
    values: Mapping[str, object] = dataclasses.field(default_factory=dict)  # of the work
    only: str = ""  # in words of the filter line, which pictures that are
    groups: bool = False  # whether pictures are found together; one of them is then kept
    pictures: bool = True  # whether its names are those of pictures


ASIDE = "aside"
RGB = {"rgb": True}

KINDS: Mapping[str, Kind] = {
    # files
    "unreadable": Kind(
        "Cannot be read", "Empty, damaged from the start or no picture at all. A run would refuse to begin.",
        ERROR, ASIDE),
    "truncated": Kind(
        "Cut off or damaged inside", "The head can be read and the pixels cannot: a broken download or copy. "
        "Fetch the file again, or put it aside.", ERROR, ASIDE),
    "locked": Kind(
        "May not be read", "The rights of these files keep this program out; change them, or copy the files.",
        ERROR),
    "outside": Kind(
        "Links that lead out of the folder", "They are left alone; follow_links takes them in.", NOTE,
        pictures=False),
    "other": Kind(
        "Neither pictures nor captions", "Files that are not read in training.", NOTE, pictures=False),
    "labels": Kind(
        "Named like masks", "Pictures whose names end as those of masks do, beside pictures of that name. "
        "Set mask_suffix in training, or they are learned from.", NOTE),
    # single pictures
    "tiny": Kind(
        "Too small", "The shorter side is below least_side: there is little to learn in so few pixels. Find "
        "a larger copy.", WARN, ASIDE),
    "enlarged": Kind(
        f"Enlarged more than {ENLARGED:g} times", "Their bucket at this resolution is that much larger, and "
        "the softness of enlarged pictures is learned. A larger copy, an upscaler or a smaller resolution "
        "helps."),
    "cut": Kind(
        f"Lose more than {CUT:.0%} to the bucket's shape", "What is cut off is not learned, though the "
        "caption may name it. Crop by hand to what matters, or turn enable_bucket on."),
    "aspect": Kind(
        "Very long or very wide", "Longer than most_aspect times the shorter side; no bucket is near. Split "
        "or crop them."),
    "blurred": Kind(
        "Blurred", "Even the sharpest parts are soft at the size of training, and softness is learned. Wide "
        "smooth gradients may be meant so: of 73 sharp photographs and drawings one was called blurred.",
        WARN, ASIDE),
    "artefacts": Kind(
        "Heavy JPEG artefacts", f"Saved with a quality below {measures.POOR}, or with blocks that can be "
        "seen though the file is of another kind now; blocks and rings are learned. Of 73 clean photographs "
        "and drawings none was called so; of those saved again as PNG about half are found.", WARN, ASIDE),
    "transparent": Kind(
        "Transparent parts", "They are laid on transparent_color, white if nothing is said; alpha_mask "
        "leaves them out of what is learned.", NOTE, "convert", RGB),
    "cmyk": Kind("Colours for printing (CMYK)", "Converted to RGB in training without the printer's profile, "
        "so colours shift.", WARN, "convert", RGB),
    "deep": Kind("More than 8 bits a channel", "Of which 8 are kept.", NOTE, "convert", RGB),
    "palette": Kind(
        "Few colours (palette)", "At most 256 colours; gradients have steps. Converting makes the file "
        "plain, and brings no colours back.", NOTE, "convert", RGB),
    "animated": Kind(
        "Animations", "Only the first picture is learned from.", WARN, "convert", RGB),
    "turned": Kind(
        "On their side or head", "They are turned as their EXIF data say; other programs may not do it.",
        NOTE, "convert", {"upright": True}),
    # several pictures
    "same": Kind(
        "The same file twice", "Counts twice in training. One of each is kept, a captioned one first.", WARN,
        ASIDE, groups=True),
    "differing": Kind(
        "The same picture, other captions", "The same content under several names with different captions: "
        "which is right?", WARN, groups=True),
    "near": Kind(
        "Nearly the same", "Copies of another size, brightness or compression. One of each group is kept, a "
        "captioned one first, then the largest. Of 4.3 million pairs of 2,928 small drawings on white 577 "
        "are called so, nearly all one figure in another colour.", WARN, ASIDE, groups=True),
    "mirrored": Kind(
        "Nearly the same, mirrored", "flip_aug does this without a second file.", WARN, ASIDE, groups=True),
    "few": Kind(
        "Few pictures", "Fewer than least_pictures that can be read; what is common to all of them by chance "
        "is learned as well."),
    "similar": Kind(
        "All much alike", "Light and dark lie in the same places in most pictures, so the LoRA will insist "
        "on that composition. Add other poses, sizes and backgrounds."),
    # captions
    "missing": Kind(
        "No caption", "The folder's name, or nothing, is taken as the caption. Write some, or tag them.",
        WARN, "tag", only="is:uncaptioned"),
    "empty": Kind("Empty caption", "Learned without words.", WARN, "tag", only="is:empty"),
    "orphan": Kind(
        "Captions without a picture", "Their picture is gone or has another name.", WARN, ASIDE,
        {"problems": ["orphan"]}, pictures=False),
    "encoding": Kind(
        "Captions not in UTF-8", "Training reads UTF-8 unless caption_encoding says otherwise.", WARN,
        "captions", {"to_utf8": True}),
    "garbled": Kind(
        "Captions that cannot be read", "No text in any encoding that is known, too large, or not to be "
        "opened. Write them anew.", ERROR),
    "long": Kind(
        "More tokens than are read", "What is behind max_token_length is never seen. Shorten the caption, or "
        "raise the limit."),
    "lines": Kind(
        "Several lines", "Only the first is read, unless enable_wildcard is on.", NOTE),
    "uncalled": Kind(
        "Without the trigger word", "It is put to them in training as well; in the file it is seen.", WARN,
        "captions"),
    "unique": Kind(
        "Tags of one picture alone", "Nothing else shows what such a tag means: a slip, or a detail that may "
        "go. See lora-train dataset tags.", NOTE),
    # names
    "stem": Kind(
        "One name, several pictures", "a.png and a.jpg share a.txt. Rename one.", groups=True),
    "unicode": Kind(
        "Names that look the same", "Their letters are the same and stored differently (NFC and NFD); on a "
        "Mac one is lost. Rename one.", groups=True),
    "capitals": Kind(
        "Names that differ in capitals alone", "On Windows and Mac they are one file. Rename one.",
        groups=True),
    "lengthy": Kind(
        "Names too long for Windows", "The whole path has more than 259 letters, or the name leaves no room "
        "for the endings of caches. Rename them."),
    "unusual": Kind(
        "Names that some systems refuse", "With letters such as : ? * or one that cannot be seen, a blank or "
        "full stop at the end, or a name that Windows keeps for itself. Rename them.", NOTE),
}  # fmt: skip

SIDELINED = tuple(name for name, kind in KINDS.items() if kind.work == ASIDE)  # that may be put aside
