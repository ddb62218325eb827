"""Join the results of shards into those of the whole input.

    python -m infer.merge --input found/ --output found/whole/

--input is the folder that every `infer/run.py --shard i/n` was given as --output. Drawn pictures stay where they are.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

from gfl.errors import InputError
from gfl.files import to_json, write_atomic
from gfl.program import status_of
from gfl.say import say
from gfl.signals import interrupt_on_sigterm
from gfl.words import counted
from infer.formats import read_head, read_results, write_results
from infer.head import COMMON, RESUMED, Head, ShardOf, differences
from infer.journal import new_journal
from infer.output_folder import DRAWN, JOURNAL, SUMMARY, check_free, output_folder, remove_results, results_in
from infer.rows import Row, Tally, encode


class Shrunk(TypedDict):
    """Pictures that no canvas held at the size of the model's resize rule."""

    pictures: int
    to: float  # the smallest share of its sides that one was shrunk to


class Shard(TypedDict):
    """A shard's summary.json, as far as it is read here."""

    images: int
    failed: list[dict[str, str]]
    detections: int
    detections_of_score: dict[str, int]
    distinct: int
    incomplete: int
    seconds: float
    p50_ms: float | None
    p95_ms: float | None
    share: dict[str, float]
    batch: int
    provider: str
    nodes_by_provider: dict[str, int]
    annotations: str | None
    shrunk: Shrunk
    resumed: int
    pictures: int
    shard: ShardOf
    format: str
    model_sha256: str
    input_sha256: str


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m infer.merge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--input", type=Path, required=True, help="the folder that holds shard-1-of-n to shard-n-of-n")
    flags.add_argument("--output", type=Path, required=True, help="folder for the whole; it must not hold results yet")
    return flags


def find_shards(folder: Path) -> list[Path]:
    """The folders of all shards, in order; InputError where one is missing, or there are shards of two splits."""
    folders = {
        (int(match[2]), int(match[1])): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"shard-(\d+)-of-(\d+)", path.name)) is not None
    }
    if not folders:
        raise InputError(f"{folder} holds no shard-i-of-n, expected the --output of `infer/run.py --shard i/n`")
    counts = sorted({count for count, _ in folders})
    if len(counts) > 1:
        raise InputError(
            f"{folder} holds shards of {' and of '.join(map(str, counts))}, expected one split; remove the rest"
        )
    count = counts[0]
    missing = [f"{i}/{count}" for i in range(1, count + 1) if (count, i) not in folders]
    missing += [f"{i}/{n}" for (n, i), path in sorted(folders.items()) if not is_whole(path)]
    if missing:
        raise InputError(
            f"{folder} lacks the results of shard {', '.join(missing)}, expected all {count}; "
            f"run them: infer/run.py --shard {missing[0]}"
        )
    return [folders[count, i] for i in range(1, count + 1)]


def is_whole(folder: Path) -> bool:
    """Whether a shard has run to its end."""
    return (folder / SUMMARY).is_file() and any(name not in (SUMMARY, DRAWN) for name in results_in(folder))


def read_shard(folder: Path) -> Shard:
    """A shard's summary; InputError where it cannot be read."""
    try:
        content: Shard = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        lacking = Shard.__required_keys__ - content.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / SUMMARY} cannot be read ({error}), expected that of infer/run.py") from error
    if lacking:
        raise InputError(f"{folder / SUMMARY} lacks {sorted(lacking)[0]}, expected that of infer/run.py; run it again")
    return content


def check_same(folders: Sequence[Path], shards: Sequence[Shard]) -> None:
    """Raise InputError where the shards were of different models, pictures or flags, or are not all the parts."""
    for place, (folder, shard) in enumerate(zip(folders, shards, strict=True), start=1):
        for what in differences(as_mapping(shard), as_mapping(shards[0]), COMMON):
            raise InputError(
                f"{folder} is of {what} than {folders[0]}, expected shards of one whole; run one of them again"
            )
        if shard["shard"] != {"index": place, "count": len(folders)}:
            raise InputError(
                f"{folder} holds the results of another shard than its name says ({shard['shard']}), expected "
                f"{place} of {len(folders)}; give it back its name, or run the shard again"
            )


def check_heads(folders: Sequence[Path], shards: Sequence[Shard], heads: Sequence[Mapping[str, object]]) -> None:
    """Raise InputError where the results of a shard are of another run than its summary.json."""
    for folder, shard, head in zip(folders, shards, heads, strict=True):
        for what in differences(head, as_mapping(shard), RESUMED):
            raise InputError(
                f"{folder} holds results of {what} than its {SUMMARY} says, expected those of one run; run the shard "
                "again"
            )


def as_mapping(shard: Shard) -> Mapping[str, object]:
    """A shard by its keys."""
    return cast(Mapping[str, object], shard)


def merge_summaries(shards: Sequence[Shard]) -> dict[str, object]:
    """The whole's summary.json: counts are added, and times are those of the slowest shard, as if all ran together."""
    shown: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    for shard in shards:
        shown.update(shard["detections_of_score"])
        nodes.update(shard["nodes_by_provider"])
    ran = [shard for shard in shards if shard["images"]] or list(shards)
    ran_s = sum(shard["seconds"] for shard in ran)
    images, seconds = sum(shard["images"] for shard in shards), max(shard["seconds"] for shard in shards)
    return {
        "images": images,
        "failed": [failure for shard in shards for failure in shard["failed"]],
        "detections": sum(shard["detections"] for shard in shards),
        "detections_of_score": dict(shown.most_common()),
        "distinct": sum(shard["distinct"] for shard in shards),
        "incomplete": sum(shard["incomplete"] for shard in shards),
        "seconds": seconds,
        "img_per_s": images / seconds,
        "p50_ms": max((shard["p50_ms"] for shard in shards if shard["p50_ms"] is not None), default=None),
        "p95_ms": max((shard["p95_ms"] for shard in shards if shard["p95_ms"] is not None), default=None),
        "share": {
            part: sum(shard["share"][part] * shard["seconds"] for shard in ran) / ran_s for part in ran[0]["share"]
        },
        "shrunk": {
            "pictures": sum(shard["shrunk"]["pictures"] for shard in shards),
            "to": min(shard["shrunk"]["to"] for shard in shards),
        },
        "resumed": sum(shard["resumed"] for shard in shards),
        "provider": ", ".join(dict.fromkeys(shard["provider"] for shard in ran)),
        "nodes_by_provider": dict(nodes),
        "pictures": sum(shard["pictures"] for shard in shards),
        "draw": any(as_mapping(shard)["draw"] for shard in shards),
        "edges": any(as_mapping(shard).get("edges") for shard in shards) or None,
        **{key: as_mapping(shards[0]).get(key) for key in COMMON},
        "shards": list(shards),
    }


def read_whole_shard(folder: Path, shard: Shard) -> Iterator[Row]:
    """The pictures of a shard; InputError where they are not those that its summary.json counts."""
    tally = Tally([])
    for row in read_results(shard["format"], folder):
        if len(row["detections"]) != row["count"]:
            raise InputError(f"{folder} lacks detections of {row['file']}; run the shard again")
        tally.add({**row, "detections": []})
        yield row
    for name, got, said in (
        ("detections", tally.detections, shard["detections"]),
        ("images", tally.images, shard["images"]),
        ("pictures", tally.pictures, shard["pictures"]),
    ):
        if got != said:
            raise InputError(f"{folder} has {got} {name}, its summary.json says {said}; run the shard again")


def merge(folder: Path, output: Path) -> tuple[dict[str, object], list[str]]:
    """Join the shards of a folder; the whole's summary and the names of its files.

    Raises InputError where they are not one whole.
    """
    folders = find_shards(folder)
    shards = [read_shard(path) for path in folders]
    check_same(folders, shards)
    try:
        summary = merge_summaries(shards)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"a {SUMMARY} below {folder} holds values that are not infer's ({error!r}), expected it as it was written; "
            "run the shard again"
        ) from error
    if not summary["images"] and summary["failed"]:
        raise InputError(f"none of the pictures could be read, nothing was written; see {folders[0] / SUMMARY}")
    name = shards[0]["format"]
    heads = [read_head(name, path) for path in folders]
    check_heads(folders, shards, heads)
    head = cast(Head, {**heads[0], "pictures": summary["pictures"], "shard": None, "draw": False, "edges": None})
    check_free(output)
    with output_folder(output) as whole, new_journal(whole / JOURNAL, head) as journal:
        try:
            for path, shard in zip(folders, shards, strict=True):
                for row in read_whole_shard(path, shard):
                    journal.add(encode(row))
            journal.end()
            names = write_results(name, head, journal.rows(), whole)
            write_atomic(whole / SUMMARY, to_json(summary, indent=2))
            if JOURNAL not in names:
                journal.path.unlink()
        except BaseException:
            remove_results(whole)
            raise
    return summary, [*names, SUMMARY]


def main(argv: Sequence[str] | None = None) -> int:
    """Merge as the command line says; 0, 2 on a user's mistake, 130, 143 or 129 when stopped by a signal."""
    arguments = parser().parse_args(argv)

    def work() -> None:
        summary, names = merge(arguments.input, arguments.output)
        say(f"{counted(int(str(summary['images'])), 'image')}, {counted(int(str(summary['detections'])), 'detection')}")
        say(f"wrote {', '.join(str(arguments.output / name) for name in names)}")

    return status_of(work, stopped=f"stopped; nothing was written to {arguments.output}")


if __name__ == "__main__":
    interrupt_on_sigterm()
    sys.exit(main())
