"""What --input names: every picture once, and all else counted and named."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from gfl.errors import InputError
from infer.opened import Unreadable
from infer.sources import Files, find_inputs
from infer.videos import Frame, Video, Videos

PIXELS = np.full((48, 64, 3), 90, np.uint8)


def write_picture(path: Path, kind: str = "") -> Path:
    """A picture in the format that the suffix names, or another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(kind or path.suffix, PIXELS)
    assert done
    path.write_bytes(data.tobytes())
    return path


def write_video(path: Path, frames: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (32, 24))
    for level in range(frames):
        writer.write(np.full((24, 32, 3), 40 * level, np.uint8))
    writer.release()
    return path


def names(inputs: object) -> list[str]:
    assert isinstance(inputs, Files)
    return [file.name for file in inputs.files]


def notes(inputs: object) -> Sequence[str]:
    assert isinstance(inputs, Files)
    return inputs.notes


# ---- folders ----


def test_all_that_is_no_input_is_counted_and_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    for index in range(5):
        (tmp_path / f"{index}.xyz").write_text("0")
    write_picture(tmp_path / "below" / "b.png")
    found = find_inputs(str(tmp_path))
    assert names(found) == ["a.png"]
    assert notes(found) == ("left out: 5 files of other kinds (.xyz), 1 folder not looked into: --recursive",)


def test_folders_below_are_looked_into_when_asked_for(tmp_path: Path) -> None:
    for name in ("a.png", "below/a.png", "below/deeper/b.png"):
        write_picture(tmp_path / name)
    found = find_inputs(str(tmp_path), recursive=True)
    assert names(found) == ["a.png", "below/a.png", "below/deeper/b.png"]
    assert notes(found) == ()


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp", ".webp", ".tiff", ".ppm", ".jp2", ".ras", ".hdr", ".avif"])
@pytest.mark.parametrize("name", ["a.xyz", "a", "a.JPEG", "a.jp2", "a.txt"])
def test_every_format_that_opencv_decodes_is_taken_whatever_the_name(tmp_path: Path, kind: str, name: str) -> None:
    if not cv2.haveImageWriter(f"a{kind}"):
        pytest.skip(f"this build of OpenCV writes no {kind}")
    write_picture(tmp_path / name, kind)
    inputs = find_inputs(str(tmp_path))
    assert names(inputs) == [name]
    assert [source.open().decode().shape for source in inputs] == [PIXELS.shape]


def test_hidden_files_stay_out_and_are_counted(tmp_path: Path) -> None:
    for name in ("a.jpg", "._a.jpg", ".git/b.jpg"):
        write_picture(tmp_path / name)
    for recursive in (False, True):
        found = find_inputs(str(tmp_path), recursive=recursive)
        assert names(found) == ["a.jpg"]
        assert notes(found) == ("left out: 2 hidden files and folders (._a.jpg, .git)",)


def test_what_only_looks_like_a_picture_neither_hangs_nor_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "empty").touch()
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        server.bind("socket.jpg")
        found = find_inputs(str(tmp_path))
    assert names(found) == ["a.png"]
    assert notes(found) == (
        "left out: 1 file of another kind (without a suffix), 2 pipes, devices or sockets (pipe.jpg, socket.jpg), "
        "2 links that lead nowhere (broken.jpg, circle.jpg), 1 folder not looked into: --recursive",
    )
    with pytest.raises(InputError, match="a pipe, a device or a socket"):
        find_inputs(str(tmp_path / "pipe.jpg"))


def test_a_file_exchanged_for_a_pipe_meanwhile_ends_that_picture(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    inputs = find_inputs(str(tmp_path))
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="it is a pipe, a device or a socket"):
        next(iter(inputs)).open()
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match="No such file"):
        next(iter(inputs)).open()


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "closed" / "b.png")
    scandir = os.scandir

    def scan(folder: str) -> object:
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    for found in (find_inputs(str(tmp_path), recursive=True), find_inputs(f"{tmp_path}/**/*.png")):
        assert names(found) == ["a.png"]
        assert notes(found) == ("left out: 1 folder that cannot be looked into (closed)",)


def test_folders_deeper_than_a_path_can_name_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(25):
        os.mkdir("x" * 200)
        os.chdir("x" * 200)
    found = find_inputs(str(tmp_path), recursive=True)
    assert names(found) == ["a.png"]
    assert "1 folder that cannot be looked into (xxx" in notes(found)[0]


# ---- links, and the same by two ways ----


def test_links_give_a_picture_once_under_its_own_name(tmp_path: Path) -> None:
    write_picture(tmp_path / "data" / "z.png")
    (tmp_path / "data" / "a.png").symlink_to("z.png")
    write_picture(tmp_path / "elsewhere" / "c.png")
    (tmp_path / "data" / "c.png").symlink_to(tmp_path / "elsewhere" / "c.png")
    found = find_inputs(str(tmp_path / "data"))
    assert names(found) == ["c.png", "z.png"]
    assert notes(found) == ("left out: 1 link to what is taken by another name",)
    (tmp_path / "way").symlink_to("data")
    assert names(find_inputs(str(tmp_path / "way"))) == ["c.png", "z.png"]


def test_circles_of_links_end(tmp_path: Path) -> None:
    write_picture(tmp_path / "a" / "b" / "x.png")
    (tmp_path / "a" / "0_up").symlink_to("..")
    (tmp_path / "a" / "b" / "0_up").symlink_to(tmp_path)
    assert names(find_inputs(str(tmp_path), recursive=True)) == ["a/b/x.png"]
    assert names(find_inputs(f"{tmp_path}/**/*.png")) == ["a/b/x.png"]


def test_patterns_that_overlap_give_a_picture_once(tmp_path: Path) -> None:
    for name in ("x.png", "a/x.png", "a/b/x.png", "a/b/notes.txt"):
        write_picture(tmp_path / name, ".png")
    (tmp_path / "a" / "b" / "notes.txt").write_text("none")
    for pattern in ("**/**/*.png", "**/*", "**", "**/**"):
        assert names(find_inputs(f"{tmp_path}/{pattern}")) == ["a/b/x.png", "a/x.png", "x.png"]
    assert names(find_inputs(f"{tmp_path}/*/*")) == ["a/x.png"]
    assert notes(find_inputs(f"{tmp_path}/*/*")) == ("left out: 1 folder not looked into: --recursive",)
    assert names(find_inputs(f"{tmp_path}/*/*", recursive=True)) == ["a/b/x.png", "a/x.png"]
    assert names(find_inputs(f"{tmp_path}/[ab]/b/*")) == ["a/b/x.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    write_picture(tmp_path / "a[1].png")
    assert names(find_inputs(str(tmp_path / "a[1].png"))) == ["a[1].png"]


def test_of_several_inputs_each_picture_is_taken_once(tmp_path: Path) -> None:
    for name in ("x.png", "a/x.png", "a/y.png", "b/x.png"):
        write_picture(tmp_path / name)
    texts = [f"{tmp_path}/a", f"{tmp_path}/*/x.png", f"{tmp_path}/a/x.png", f"{tmp_path}/a/../x.png"]
    found = find_inputs(*texts)
    assert sorted(file.path.resolve() for file in found.files) == sorted(  # type: ignore[union-attr]
        tmp_path.resolve() / name for name in ("x.png", "a/x.png", "a/y.png", "b/x.png")
    )
    assert len(set(names(found))) == 4
    assert names(find_inputs(*texts[:3])) == ["a/x.png", "a/y.png", "b/x.png"]
    with pytest.raises(InputError, match=r"\*\.jpg matches nothing"):
        find_inputs(f"{tmp_path}/a", f"{tmp_path}/*.jpg")


def test_folders_that_are_looked_into_otherwise_are_not_counted(tmp_path: Path) -> None:
    for name in ("x.png", "a/x.png", "b/x.png"):
        write_picture(tmp_path / name)
    assert notes(find_inputs(f"{tmp_path}/**/*")) == notes(find_inputs(f"{tmp_path}/**")) == ()
    assert notes(find_inputs(str(tmp_path), f"{tmp_path}/a")) == (
        "left out: 1 folder not looked into: --recursive",  # b
    )


def test_an_empty_input_is_not_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="got an empty --input"):
        find_inputs("")
    assert names(find_inputs(".")) == ["a.png"]


# ---- a run's own results ----


@pytest.mark.parametrize("mark", ["detections.json", "summary.json", "results.jsonl", "results-00001.parquet"])
def test_a_runs_own_results_are_no_input(tmp_path: Path, mark: str) -> None:
    for name in ("a.png", "drawn/a.jpg", "output/drawn/a.jpg", "output/shard-1-of-2/drawn/a.jpg", "own/drawn/b.jpg"):
        write_picture(tmp_path / name)
    for folder in (tmp_path, tmp_path / "output", tmp_path / "output" / "shard-1-of-2"):
        (folder / mark).write_text("{}")
    expected = ["a.png", "own/drawn/b.jpg"]
    found = find_inputs(str(tmp_path), recursive=True)
    assert names(found) == expected
    assert names(find_inputs(f"{tmp_path}/**/*")) == expected
    assert "6 parts of a run's results (" in notes(found)[0]


# ---- names ----


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"\xff\xfe", b"a\x1b[2J.png", b"a\nb.png", b"x" * 251 + b".png"])
def test_odd_names_are_read_or_end_that_picture(tmp_path: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    try:
        path.write_bytes(write_picture(tmp_path / "good.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    inputs = find_inputs(str(tmp_path))
    assert sorted(os.fsencode(file) for file in names(inputs)) == sorted([name, b"good.png"])
    path.write_bytes(b"")
    with pytest.raises(InputError) as caught:
        next(iter(find_inputs(str(path)))).open().decode()
    assert str(caught.value).isprintable()


# ---- videos ----


def test_a_folder_of_videos_gives_all_frames_with_their_times(tmp_path: Path) -> None:
    for name in ("b.avi", "below/a.avi"):
        write_video(tmp_path / name)
    (tmp_path / "c.mp4").write_bytes(b"no video" * 100)
    inputs = find_inputs(str(tmp_path), recursive=True)
    assert isinstance(inputs, Videos)
    sources = list(inputs)
    assert [source.name for source in sources] == [
        *(f"b.avi#00000{i}" for i in (1, 2, 3)),
        *(f"below/a.avi#00000{i}" for i in (1, 2, 3)),
        "c.mp4",
    ]
    times = [source.time_s for source in sources if isinstance(source, Frame)]
    np.testing.assert_allclose(times, [0, 0.1, 0.2] * 2, atol=1e-6)
    first = inputs.videos[0]
    assert isinstance(first, Video)
    assert (first.fps, first.size, first.total) == (10.0, (24, 32), 3)
    assert isinstance(sources[-1], Unreadable)
    with pytest.raises(InputError, match=r"c\.mp4 cannot be opened as a video"):
        sources[-1].open()


def test_of_pictures_and_videos_pictures_are_taken_and_videos_counted(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    write_video(tmp_path / "b.avi")
    found = find_inputs(str(tmp_path))
    assert names(found) == ["a.png"]
    assert notes(found) == ("left out: 1 video beside the pictures: --input '*.avi'",)
    assert isinstance(find_inputs(f"{tmp_path}/*.avi"), Videos)


def test_a_video_is_known_by_its_content_where_its_name_does_not_say_it(tmp_path: Path) -> None:
    assert isinstance(find_inputs(str(write_video(tmp_path / "a.avi").rename(tmp_path / "clip"))), Video)


def test_a_video_whose_name_is_no_utf8_is_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9.avi")))
    try:
        write_video(tmp_path / "a.avi").rename(path)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert len(list(find_inputs(str(path)))) == 3


def test_frames_go_on_in_time_where_the_stamps_do_not() -> None:
    video = Video(Path("a.avi"), "a.avi", 0, 25.0, (24, 32))
    times = [-np.inf]
    for stated in (0.0, 0.04, 0.04, float("nan"), 0.5):
        times.append(video._time_after(times[-1], stated))
    np.testing.assert_allclose(times[1:], [0.0, 0.04, 0.08, 0.12, 0.5])


def test_videos_of_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.avi")
    monkeypatch.setenv("GFL_MOST_PIXELS", "767")
    with pytest.raises(InputError, match=r"got a picture of 768 pixels, .*a\.avi"):
        find_inputs(str(path))


def test_most_pixels_of_the_command_line_hold_for_videos(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi")
    with pytest.raises(InputError, match=r"got a picture of 768 pixels, .*a\.avi"):
        find_inputs(str(path), most_pixels=767)
    assert isinstance(find_inputs(str(path), most_pixels=768), Video)
    found = find_inputs(str(tmp_path), most_pixels=767)
    assert isinstance(found, Videos)
    assert isinstance(found.videos[0], Unreadable)
