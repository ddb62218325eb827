"""Pictures in shards: the same batches as from a folder, to the bit and in their order; and what is said else."""

from __future__ import annotations

import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiny
import torch
from pictures import assert_told

from export.samples import annotated_pictures, read_samples
from gfl import train
from gfl.data.__main__ import main
from gfl.data.coco import CocoData, read_coco
from gfl.data.loader import EvalLoader, LoadedBatch, TrainLoader
from gfl.data.same_pictures import same_pictures
from gfl.data.shards import index, parquet
from gfl.data.shards.member import Member
from gfl.data.shards.pattern import Images, Shards, are_there, images_at, shards_of
from gfl.data.sizes import canvases_for
from gfl.data.source import frames
from gfl.data.synthetic import write_synthetic
from gfl.engine.checkpoints import read_state
from gfl.record.run_data import data_as_started
from gfl.settings import DataConfig

PICTURES, BATCH = 13, 4
CFG = DataConfig(short_side=(32, 64), long_side=96, flip_vertical=0.3, brightness=0.2, workers=0)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GFL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in COCO's layout, of 13 pictures to train on and 3 to evaluate on."""
    folder = tmp_path_factory.mktemp("data") / "loose"
    write_synthetic(folder, train=PICTURES, val=3, size_hw=tiny.CANVAS)
    return folder


@pytest.fixture(scope="module")
def loose(folder: Path) -> CocoData:
    return read_coco(tiny.annotations(folder), folder / "train2017", keep_empty=True)


@pytest.fixture(scope="module")
def shards(folder: Path) -> Path:
    """The same data set with its pictures in .tar and Parquet shards."""
    target = folder.with_name("sharded")
    shutil.copytree(folder / "annotations", target / "annotations")
    for name in ("train", "val"):
        flags = ("--images", str(folder / f"{name}2017"), "--output", str(target / f"{name}2017"))
        assert main(["shards", str(tiny.annotations(folder, name)), *flags, "--megabytes", "0.05"]) == 0
    files = list(contents(folder).items())
    for number in range(3):
        names, pictures = zip(*files[number::3], strict=True)
        columns = {"label": range(len(names)), "file_name": names, "bytes": pictures}
        pyarrow.parquet.write_table(pyarrow.table(columns), target / f"{number}.parquet", row_group_size=2)
    structs = [{"bytes": content, "path": name} for name, content in files]
    pyarrow.parquet.write_table(pyarrow.table({"image": structs}), target / "hugging.parquet", row_group_size=3)
    tar_of(target / "others.tar", {"b.png": b"", "a.png": b""})
    return target


def contents(folder: Path) -> dict[str, bytes]:
    """Names and bytes of the pictures to train on."""
    return {path.name: path.read_bytes() for path in sorted((folder / "train2017").iterdir())}


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, BytesIO(content))
    return path


def batches(data: CocoData, workers: int = 0, rank: int = 0, world: int = 1, begin: int = 0) -> list[LoadedBatch]:
    """Those of the second epoch, or of what is left of it."""
    cfg = DataConfig(short_side=(32, 64), long_side=96, flip_vertical=0.3, brightness=0.2, workers=workers)
    canvases = canvases_for(data, cfg)
    loader = TrainLoader(data, cfg, canvases, batch_size=BATCH // world, seed=3, rank=rank, world=world)
    plan = loader.plan(1)
    assert len(plan) > 2
    return [
        batch._replace(batch=type(batch.batch)(*(part.clone() for part in batch.batch)))
        for batch in loader.batches(plan[begin:])
    ]


def assert_same(one: list[LoadedBatch], other: list[LoadedBatch]) -> None:
    assert [batch.image_ids for batch in one] == [batch.image_ids for batch in other]
    assert [batch.failed for batch in one + other] == [()] * len(one + other)
    for left, right in zip(one, other, strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip((*left.batch, left.scales), (*right.batch, right.scales), strict=True)
        )


# ---- the same as from a folder ----

FORMS = {
    "tar": "train2017/train2017-*.tar",
    "numbers": "train2017/train2017-{000000..000003}.tar",
    "parquet": "[0-2].parquet",
    "struct": "hugging.parquet",
}


def images_of(form: str, shards: Path) -> str:
    return f"file://{shards}/{FORMS['tar']}" if form == "uri" else f"{shards}/{FORMS[form]}"


@pytest.mark.parametrize("form", [*FORMS, "uri"])
def test_batches_are_those_of_the_folder(form: str, folder: Path, loose: CocoData, shards: Path) -> None:
    data = read_coco(tiny.annotations(folder), images_of(form, shards), keep_empty=True)
    assert isinstance(data.images, Shards)
    assert (data.notes, data.unreadable) == ((), frozenset())
    expected = batches(loose)
    assert_same(batches(data), expected)
    assert_same(batches(data, workers=2), expected)
    assert_same(batches(data, begin=2), expected[2:])  # as a run goes on in the middle of an epoch
    for rank in range(2):
        assert_same(batches(data, rank=rank, world=2), batches(loose, rank=rank, world=2))


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from the folder."""
    return tiny.run_training(folder, tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.parametrize("then", ["shards", "folder"])
def test_run_from_shards_stopped_within_an_epoch_leaves_the_run_from_the_folder(
    then: str, whole: Path, folder: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parted = tmp_path / "parted"
    step, calls = train.step, iter(range(1, 100))

    def stopped(*given: object) -> object:
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*given)  # type: ignore[arg-type]  # as they came

    with monkeypatch.context() as patch:
        patch.setattr(train, "step", stopped)
        assert train.main(tiny.train_arguments(shards, parted)) == 143
    assert read_state(parted / "last.pt")["cursor"]["step"] == 3  # type: ignore[index]
    bindings = [] if then == "shards" else ["--gin_bindings", f"DATA_ROOT = {str(folder)!r}"]
    assert train.main(["--resume", "--workdir", str(parted), *bindings]) == 0
    tiny.assert_equal_bits(read_state(parted / "last.pt"), read_state(whole / "last.pt"))
    assert (parted / "val_detections.json").read_text() == (whole / "val_detections.json").read_text()


def test_index_is_made_once_and_anew_when_a_shard_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(index, "MANY", 0)
    files = contents(folder)
    shard = tar_of(tmp_path / "a.tar", files)
    found = read_coco(tiny.annotations(folder), shard, keep_empty=True).pictures[3].path
    assert isinstance(found, Member)
    assert found.read() == files[found.name]
    with monkeypatch.context() as patch:
        patch.setattr(index, "tar_members", None)
        assert read_coco(tiny.annotations(folder), shard, keep_empty=True).pictures[3].path == found
    tar_of(shard, dict(reversed(files.items())))
    os.utime(shard, ns=(1, 1))
    moved = read_coco(tiny.annotations(folder), shard, keep_empty=True).pictures[3].path
    assert isinstance(moved, Member)
    assert moved.begin != found.begin
    assert moved.read() == files[found.name]
    assert capsys.readouterr().out.count("reading the headers of 1 shards, this once") == 2


@pytest.mark.parametrize("before", ["./", "train2017/"])
def test_folders_before_the_names_are_passed_over(before: str, folder: Path, loose: CocoData, tmp_path: Path) -> None:
    shard = tar_of(tmp_path / "a.tar", {before + name: content for name, content in contents(folder).items()})
    data = read_coco(tiny.annotations(folder), shard, keep_empty=True)
    assert_same(batches(data), batches(loose))
    assert [note for note in data.notes if "without folders" in note] == list(data.notes)
    assert len(data.notes) == (before == "train2017/")


def test_pictures_of_one_name_in_two_folders_stay_two(folder: Path, tmp_path: Path) -> None:
    files = list(contents(folder).values())
    shard = tar_of(tmp_path / "a.tar", {"one/1.png": files[0], "two/1.png": files[1]})
    names = ["two\\1.png", "one/1.png", "1.png"]
    members, note = index.find_members(Path("a.json"), Shards(str(shard)), names)
    assert [member.is_file() for member in members] == [True, True, False]
    assert [member.read() for member in members[:2]] == [files[1], files[0]]
    assert [member.name for member in members] == ["1.png"] * 3
    assert note == ""


def test_evaluation_and_checks_read_shards(folder: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, images = str(tiny.annotations(folder, "val")), str(shards / "val2017" / "val2017-*.tar")
    loose, data = (read_coco(file, each, keep_empty=True) for each in (folder / "val2017", images))
    assert_same(*(list(EvalLoader(each, CFG, canvases_for(loose, CFG), batch_size=2)) for each in (data, loose)))
    assert len(same_pictures([each.path for each in loose.pictures], [each.path for each in data.pictures])) == 3
    html = folder.with_name("page.html")
    assert main(["check", "--annotations", file, "--images", images, "--read_pictures", "--html", str(html)]) < 2
    assert "every picture read" in capsys.readouterr().out
    assert html.read_text().count("data:image/") > 2


def test_few_pictures_are_looked_at_where_each_is_dear(
    folder: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    sizes = frames.upright_sizes
    monkeypatch.setattr(frames, "upright_sizes", lambda paths: looked.append(len(paths)) or sizes(paths))
    monkeypatch.setattr(frames, "PROBED_FAR", 4)
    for form in ("tar", "parquet", "uri"):
        read_coco(tiny.annotations(folder), images_of(form, shards), keep_empty=True)
    assert looked == [13, 5, 5]


# ---- what is wrong ----


def test_missing_picture_is_a_blank_and_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = contents(folder)
    name, _ = files.popitem()
    shard = tar_of(tmp_path / "a.tar", files)
    data = read_coco(tiny.annotations(folder), shard, keep_empty=True)
    assert [picture.file_name for picture in data.pictures if picture.id in data.unreadable] == [name]
    failed = [each for batch in batches(data) for each in batch.failed]
    assert failed == [
        f"got no picture {name} in the shards {shard}, expected one of that name; add it, or remove it from the "
        "annotations"
    ]
    assert main(["check", "--annotations", str(data.annotations), "--images", str(shard)]) == 1
    assert f"pictures that are missing (1): passed over\n      {name}\n" in capsys.readouterr().out


def test_picture_in_two_shards_is_told_with_both(folder: Path, tmp_path: Path) -> None:
    files = contents(folder)
    name, content = next(iter(files.items()))
    one, two = tar_of(tmp_path / "a-1.tar", files), tar_of(tmp_path / "a-2.tar", {name: content, "readme.txt": b""})
    words = [name, str(one), str(two), "1 pictures", "expected each picture once"]
    assert_told(lambda: read_coco(tiny.annotations(folder), tmp_path / "a-*.tar", keep_empty=True), words)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda content: content[:-12_000], ["a.tar", "unexpected end of data", "whole archive"]),
        (lambda content: b"", ["a.tar", "empty", "whole archive"]),
        (lambda content: b"\x1f\x8b" + content, ["a.tar", "not compressed"]),
        (lambda content: bytes(10240), ["a.tar", "no files"]),
    ],
    ids=["cut", "empty", "compressed", "bare"],
)
def test_broken_shard_is_told(spoil: Callable[[bytes], bytes], words: list[str], folder: Path, tmp_path: Path) -> None:
    shard = tar_of(tmp_path / "a.tar", contents(folder))
    shard.write_bytes(spoil(shard.read_bytes()))
    assert_told(lambda: read_coco(tiny.annotations(folder), shard, keep_empty=True), words)


def test_shard_cut_off_while_it_is_read_costs_its_pictures_alone(folder: Path, tmp_path: Path) -> None:
    shard = tar_of(tmp_path / "a.tar", contents(folder))
    data = read_coco(tiny.annotations(folder), shard, keep_empty=True)
    os.truncate(shard, 20_000)
    failed = [each for batch in batches(data) for each in batch.failed]
    assert len(failed) == PICTURES - 1
    assert all(f"of {shard} on, expected" in each and "whole shard" in each for each in failed)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("{}/none-*.tar", ["none-*.tar", "at least one shard"]),
        ("{}/train2017/train2017-{{000000..000009}}.tar", ["train2017-000004.tar", "no such file"]),
        ("{}/others.tar", ["none of the 13 pictures", "2 other files (e.g. b.png)", "names of the annotations"]),
        ("{}/a.tar.gz", ["a.tar.gz", "not compressed"]),
        ("file://{}/train2017", ["file://", "expected a folder, or shards"]),
        ("nowhere://{}/a.tar", ["nowhere://", "Protocol not known"]),
    ],
)
def test_shards_that_do_not_serve_are_told(images: str, words: list[str], folder: Path, shards: Path) -> None:
    assert_told(lambda: read_coco(tiny.annotations(folder), images.format(shards), keep_empty=True), words)


def test_parquet_that_does_not_serve_is_told(
    folder: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(columns: dict[str, list[object]]) -> object:
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
        return read_coco(tiny.annotations(folder), tmp_path / "a.parquet", keep_empty=True)

    assert_told(lambda: read({"file_name": ["a"], "image": ["a"]}), ["file_name, image", "one of bytes", "rename it"])
    assert_told(lambda: read({"bytes": [b"a"]}), ["columns bytes", "one of names", "file_name or"])
    monkeypatch.setattr(parquet, "MOST_GROUP_BYTES", 20_000)
    shutil.copyfile(shards / "0.parquet", tmp_path / "b.parquet")  # of no index yet
    words = ["b.parquet", "row groups of 2 pictures", "row_group_size"]
    assert_told(lambda: read_coco(tiny.annotations(folder), tmp_path / "b.parquet", keep_empty=True), words)


# ---- which shards, and writing them ----


def test_images_are_a_folder_or_shards(tmp_path: Path) -> None:
    def kinds(*texts: str) -> list[Images]:
        return [images_at(text) for text in texts]

    (tmp_path / "folder.tar").mkdir()
    assert kinds("data/val", str(tmp_path / "folder.tar")) == [Path("data/val"), tmp_path / "folder.tar"]
    patterns = ["a-*.tar", "~/a-{0..9}.parquet", "s3://bucket/a-{00..10}.tar"]
    assert kinds(*patterns) == list(map(Shards, patterns))
    assert not are_there(Shards(f"{tmp_path}/*.tar"))
    assert images_at(Shards("a.tar")) == Shards("a.tar")


def test_numbers_stand_for_shards_in_order(tmp_path: Path) -> None:
    for name in ("a08b1", "a09b1", "a10b1", "a08b2", "a09b2", "a10b2", "a11b1"):
        (tmp_path / f"{name}.tar").write_bytes(b"")
    found = shards_of(Shards(f"{tmp_path}/a{{08..10}}b{{1..2}}.tar"))
    assert [Path(shard.path).stem for shard in found] == ["a08b1", "a08b2", "a09b1", "a09b2", "a10b1", "a10b2"]


def test_written_shards_hold_all_pictures_and_are_the_same_again(
    folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = str(tiny.annotations(folder)), tmp_path / "train2017"
    arguments = ["shards", file, "--images", str(folder / "train2017"), "--output", str(output)]
    assert main([*arguments, "--megabytes", "0.05"]) == 0
    assert f"13 pictures, 0 MB: TRAIN_IMAGES = '{output}/train2017-*.tar'" in capsys.readouterr().out
    written = sorted(output.iterdir())
    assert len(written) > 2
    assert [path.read_bytes() for path in written] == [
        path.read_bytes() for path in sorted((shards / "train2017").iterdir())
    ]
    found: dict[str, bytes] = {}
    for path in written:
        assert path.stat().st_size < 70_000
        with tarfile.open(path) as archive:
            found |= {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]  # files
    assert found == contents(folder)
    assert main(arguments) == 2
    assert "already there" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "other"), "--megabytes", "0"]) == 2


def test_picture_that_cannot_be_written_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(folder, tmp_path / "data")
    lost = min((data / "train2017").iterdir())
    lost.unlink()
    flags = ("--images", str(data / "train2017"), "--output", str(tmp_path / "out"))
    assert main(["shards", str(tiny.annotations(data)), *flags]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"left out: got no picture from {lost}")
    assert "1 shard, 12 pictures" in said.out


def test_an_export_compares_on_pictures_in_shards(folder: Path, shards: Path) -> None:
    images = Shards(images_of("tar", shards))
    pictures, truth = annotated_pictures(tiny.annotations(folder), images, 4)
    loose, _ = annotated_pictures(tiny.annotations(folder), folder / "train2017", 4)
    assert truth.image_ids == (1, 5, 9, 13)
    for one, other in zip(
        read_samples(pictures, tiny.CANVAS, 64, 96), read_samples(loose, tiny.CANVAS, 64, 96), strict=True
    ):
        assert one.name == other.name
        np.testing.assert_array_equal(one.image, other.image)


def test_a_report_finds_the_shards_of_a_run_that_was_started_elsewhere(shards: Path) -> None:
    given = DataConfig(
        root=None, train_json="a.json", train_images=FORMS["tar"], val_json="a.json", val_images="s3://b/a.tar"
    )
    found = data_as_started(given, shards)
    assert (found.train_images, found.val_images) == (images_of("tar", shards), "s3://b/a.tar")
