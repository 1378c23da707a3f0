"""What a file's metadata states, and what of it can be held against the file: hashes, tags, folders."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping

from lora_train.models.written import LEGACY, header
from lora_train.weights import Safetensors

MODEL_HASH, LEGACY_HASH, SPEC_HASH = "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"
BLOCK = 1 << 20


def data_hash(file: Safetensors) -> str:
    """sha256 of all behind the header: what the WebUI knows a LoRA by, and sd-scripts' sshs_model_hash."""
    found = hashlib.sha256()
    with file.path.open("rb") as stream:
        stream.seek(file.data)
        while block := stream.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def legacy(file: Safetensors, texts: Mapping[str, str]) -> str:
    """sd-scripts' sshs_legacy_hash: of 64 kB at 1 MB of the file as it would be with its `ss_*` entries
    alone."""
    names = sorted(file.rows, key=lambda name: file.rows[name][1])
    rows = {name: (file.shapes[name], file.dtypes[name]) for name in names}
    short = header(rows, names, {name: text for name, text in texts.items() if name.startswith("ss_")})
    first, last = (max(0, edge - len(short)) for edge in LEGACY)
    with file.path.open("rb") as stream:
        stream.seek(file.data + first)
        data = stream.read(last - first)
    return hashlib.sha256(short[LEGACY[0] : LEGACY[1]] + data).hexdigest()[:8]


def hashes(file: Safetensors, texts: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """Entry -> what the file states, what it comes to, and whether they are one; of those it states."""
    data = data_hash(file)
    found = {MODEL_HASH: data, LEGACY_HASH: legacy(file, texts), SPEC_HASH: f"0x{data}"}
    return {
        name: {
            "stated": texts.get(name),
            "found": value,
            "equal": texts[name] == value if name in texts else None,
        }
        for name, value in found.items()
    }


def nested(texts: Mapping[str, str], key: str) -> object:
    """An entry that is JSON; None where there is none, or it is damaged."""
    try:
        return json.loads(texts.get(key, ""))
    except (ValueError, RecursionError):
        return None


def tags(texts: Mapping[str, str]) -> list[tuple[str, int, list[str]]]:
    """(tag, pictures that have it, folders it is in), the most frequent first; of `ss_tag_frequency`."""
    found, where = Counter(), {}
    every = nested(texts, "ss_tag_frequency")
    for folder, counts in every.items() if isinstance(every, dict) else ():
        for tag, count in counts.items() if isinstance(counts, dict) else ():
            if isinstance(count, int):
                found[tag.strip()] += count
                where.setdefault(tag.strip(), []).append(str(folder))
    return [(tag, count, where[tag]) for tag, count in found.most_common()]


def folders(texts: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """Dataset folder -> repeats and pictures."""
    found = nested(texts, "ss_dataset_dirs")
    pairs = found.items() if isinstance(found, dict) else ()
    return {str(name): dict(row) for name, row in pairs if isinstance(row, dict)}


def buckets(texts: Mapping[str, str]) -> list[tuple[str, int]]:
    """(size, samples an epoch), the most frequent first."""
    every = nested(texts, "ss_datasets")
    infos = [nested(texts, "ss_bucket_info")]
    infos += [d.get("bucket_info") for d in every if isinstance(d, dict)] if isinstance(every, list) else []
    found = Counter()
    for info in infos:
        rows = info.get("buckets") if isinstance(info, dict) else None
        for row in rows.values() if isinstance(rows, dict) else ():
            if isinstance(row, dict) and isinstance(row.get("resolution"), list):
                count = row.get("count")
                found["x".join(map(str, row["resolution"]))] += count if isinstance(count, int) else 0
    return [(size, count) for size, count in found.most_common() if count]
