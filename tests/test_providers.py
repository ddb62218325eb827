"""Which part of ONNX Runtime is asked to run a file, and which one did, on a machine that has only the CPU's."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import tempfile
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from standin_openvino import StandinOpenvino
from tiny_onnx import BATCH, H, W, write_onnx

from gfl.errors import InputError
from gfl.runtime import onnx_session
from gfl.runtime.onnx_file import open_onnx
from gfl.runtime.onnx_session import working_in
from gfl.runtime.open import open_model
from gfl.runtime.providers import (
    OPTIONS,
    NodeCounts,
    ProviderChoice,
    ProviderReport,
    Target,
    read_profile,
    refusal,
    targets,
)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
CANN = "CANNExecutionProvider"

cpu_only = pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers() or CANN in onnxruntime.get_available_providers(),
    reason="this onnxruntime has more than the CPU's provider",
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("file") / "tiny.onnx")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, to see what is left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def pictures() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 3, H, W)).astype(np.uint8)
    return images, np.tile(np.array([[H, W]], np.int32), (BATCH, 1))


def nodes_of_optimised(path: Path, folder: Path) -> int:
    """How many nodes ONNX Runtime makes of a file, by the graph that it writes after its optimisations."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file is for this machine only
    onnxruntime.InferenceSession(str(path), options, providers=[CPU])
    return len(onnx.load(folder / "optimised.onnx").graph.node)


# ---- what ran where ----


@pytest.mark.parametrize("name", ["cpu", "auto"])
@cpu_only
def test_every_node_is_counted_once(name: str, path: Path, tmp_path: Path) -> None:
    model = open_onnx(path, threads=1, choice=ProviderChoice(name))
    assert model.provider_report() == ProviderReport(CPU, {}, ())
    model.run(*pictures())
    expected = ProviderReport(CPU, {CPU: nodes_of_optimised(path, tmp_path)}, ())
    assert model.provider_report() == expected
    model.run(*pictures())
    assert model.provider_report() == expected


def test_counting_changes_no_result_and_leaves_no_file(path: Path, temporary: Path) -> None:
    model = open_onnx(path, threads=1)
    first = model.run(*pictures())
    assert list(temporary.iterdir()) == []
    second = model.run(*pictures())
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    plain = onnxruntime.InferenceSession(str(path), providers=[CPU])
    feed = dict(zip(("images", "image_sizes"), pictures(), strict=True))
    for name, array in zip(model.output_names, plain.run(None, feed), strict=True):
        np.testing.assert_array_equal(array, first[name])
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_the_cpu_runs_without_room_for_temporary_files(
    path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    if not is_there:
        temporary.rmdir()  # as in a container that is read-only
    model = open_onnx(path, choice=ProviderChoice("cpu"))
    if is_there:  # and full: the profile ends in the middle

        def cut(profile: Path) -> NodeCounts:
            profile.write_bytes(profile.read_bytes()[:100])
            return read_profile(profile)

        monkeypatch.setattr(onnx_session, "read_profile", cut)
    model.run(*eight_batches()[0])
    assert model.provider_report() == ProviderReport(CPU, {}, ())


def test_a_file_that_never_ran_leaves_nothing_behind(path: Path, temporary: Path) -> None:
    model = open_onnx(path, threads=1)
    assert len(list(temporary.iterdir())) == 1
    del model
    assert list(temporary.iterdir()) == []


def test_a_wrong_picture_is_no_fault_of_the_provider(path: Path) -> None:
    images, sizes = pictures()
    model = open_onnx(path, threads=1)
    with pytest.raises(Exception, match="images") as caught:
        model.run(images[:, :, :32], sizes)
    assert type(caught.value).__name__ == "InvalidArgument"
    model.run(images, sizes)
    assert model.provider_report().nodes_by_provider.keys() == {CPU}


PROFILE = """[
{"cat": "Session", "name": "model_run", "args": {}},
{"cat": "Node", "name": "Conv_1_fence_before", "args": {"op_name": "Conv"}},
{"cat": "Node", "name": "Conv_1_kernel_time", "args": {"op_name": "FusedConv", "provider": "CUDAExecutionProvider"}},
{"cat": "Node", "name": "Conv_2_kernel_time", "args": {"op_name": "QLinearConv", "provider": "CPUExecutionProvider"}},
{"cat": "Node", "name": "Add_kernel_time", "args": {"op_name": "Add", "provider": "CPUExecutionProvider"}}
]"""


def test_a_profile_is_counted_by_provider(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(PROFILE)
    assert read_profile(file) == NodeCounts({CUDA: 1, CPU: 2}, {CUDA: 1, CPU: 1})


@pytest.mark.parametrize(
    ("nodes", "part"),
    [
        (NodeCounts({CUDA: 9}, {CUDA: 3}), None),
        (NodeCounts({CUDA: 9, CPU: 40}, {CUDA: 3}), None),  # small work may stay on the CPU
        (NodeCounts({CUDA: 1}, {}), None),  # the whole graph compiled into one node
        (NodeCounts({CPU: 49}, {CPU: 3}), "ran none of the 49 nodes"),
        (NodeCounts({CUDA: 9, CPU: 40}, {CUDA: 2, CPU: 1}), "1 of the 3 convolutions"),
    ],
)
def test_a_provider_took_the_graph_when_it_ran_every_convolution(nodes: NodeCounts, part: str | None) -> None:
    reason = refusal("cuda", nodes)
    assert reason is None if part is None else part in str(reason)


# ---- a provider that is not there ----


@pytest.mark.parametrize(
    ("name", "needs"), [("cuda", ["onnxruntime-gpu"]), ("cann", ["onnxruntime-cann", "numpy<2", "CANN toolkit"])]
)
@cpu_only
def test_an_absent_provider_is_an_error_unless_the_cpu_may_stand_in(name: str, needs: list[str], path: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_onnx(path, threads=1, choice=ProviderChoice(name))
    for part in (f"the provider {name}", CPU, *needs, "--allow_fallback"):
        assert part in str(caught.value)

    model = open_onnx(path, threads=1, choice=ProviderChoice(name, allow_fallback=True))
    model.run(*pictures())
    report = model.provider_report()
    assert report.provider == CPU
    assert report.nodes_by_provider.keys() == {CPU}
    why, what = report.notes
    assert why.startswith(f"provider {name}: ")
    assert all(part in why for part in needs)
    assert what == f"{report.nodes_by_provider[CPU]} nodes ran on {CPU}"


class ListsMore(types.ModuleType):
    """ONNX Runtime as onnxruntime-cann gives it without CANN: the provider is listed, and silently not started."""

    def __init__(self, *names: str) -> None:
        super().__init__("onnxruntime")
        self.names = names

    def __getattr__(self, name: str) -> object:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [*self.names, CPU]

    def InferenceSession(self, path: str, options: object, **rest: object) -> object:  # noqa: N802  # its name there
        return onnxruntime.InferenceSession(path, options, providers=[CPU])


def test_a_provider_that_is_listed_but_not_started_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ListsMore(CANN, CUDA))
    with pytest.raises(InputError, match=r"the provider cann for tiny\.onnx, but it was not started"):
        open_onnx(path, threads=1, choice=ProviderChoice("cann"))


def test_auto_goes_on_to_the_provider_that_starts_and_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ListsMore(CANN, CUDA))
    model = open_onnx(path, threads=1)
    assert model.provider_report().notes == ()  # nothing else was asked for
    model = open_onnx(path, threads=1, choice=ProviderChoice())
    model.run(*pictures())
    report = model.provider_report()
    assert report.provider == CPU
    assert [note.split(":")[0] for note in report.notes] == [
        "provider cann",
        "provider cuda",
        f"{report.nodes_by_provider[CPU]} nodes ran on {CPU}",
    ]


class StartsNothing(ListsMore):
    """The same, but the session claims that its provider was started: only the count of nodes tells."""

    def InferenceSession(self, path: str, options: object, **rest: object) -> object:  # noqa: N802  # its name there
        session = onnxruntime.InferenceSession(path, options, providers=[CPU])
        [(asked, _)] = rest["providers"]  # type: ignore[misc]  # a list of one pair
        session.get_providers = lambda: [asked, CPU]
        return session


def test_what_ran_decides_and_not_what_the_session_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", StartsNothing(CUDA))
    strict = open_onnx(path, threads=1, choice=ProviderChoice("cuda"))
    for _ in range(2):  # and again: the session is not run without the provider that was asked for
        with pytest.raises(InputError, match="CUDAExecutionProvider ran none of the"):
            strict.run(*pictures())

    for choice in (ProviderChoice("cuda", allow_fallback=True), ProviderChoice()):
        model = open_onnx(path, threads=1, choice=choice)
        assert model.provider_report().provider == CUDA
        model.run(*pictures())
        assert model.provider_report().provider == CPU
        assert "ran none of the" in model.provider_report().notes[0]


def test_int8_goes_to_no_cann(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx(tmp_path / "int8.onnx", precision="int8")
    monkeypatch.setitem(sys.modules, "onnxruntime", StartsNothing(CANN))
    with pytest.raises(InputError, match="QuantizeLinear"):
        open_onnx(path, threads=1, choice=ProviderChoice("cann"))
    model = open_onnx(path, threads=1, choice=ProviderChoice())
    assert model.provider_report().provider == CPU
    assert "QuantizeLinear" in model.provider_report().notes[0]


# ---- several threads ----


def run_in_threads(model: object, batches: list[tuple[NDArray[np.uint8], NDArray[np.int32]]]) -> list[object]:
    """Each batch in a thread of its own, all beginning at once."""
    together = threading.Barrier(len(batches))

    def run(batch: tuple[NDArray[np.uint8], NDArray[np.int32]]) -> object:
        together.wait(timeout=30)
        return model.run(*batch)  # type: ignore[attr-defined]  # any open file

    with ThreadPoolExecutor(len(batches)) as pool:
        return list(pool.map(run, batches))


def eight_batches() -> list[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    rng = np.random.default_rng(0)
    sizes = np.tile(np.array([[H, W]], np.int32), (BATCH, 1))
    return [(rng.integers(0, 256 >> n % 4, (BATCH, 3, H, W)).astype(np.uint8), sizes - n) for n in range(8)]


def assert_same_outputs(one: list[object], other: list[object]) -> None:
    for ours, theirs in zip(one, other, strict=True):
        assert isinstance(ours, dict)
        assert isinstance(theirs, dict)
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


class Counts(ListsMore):
    """ONNX Runtime, counting how many runs of one session overlap while its profiler is on."""

    def __init__(self) -> None:
        super().__init__(CUDA)  # listed and not started, so that sessions are swapped in the first run, too
        self.first_runs = 0

    def InferenceSession(self, path: str, options: object, **rest: object) -> object:  # noqa: N802  # its name there
        session = onnxruntime.InferenceSession(path, options, providers=[CPU])
        [(asked, _)] = rest["providers"]  # type: ignore[misc]  # a list of one pair
        session.get_providers = lambda: [asked, CPU]
        end = session.end_profiling

        def end_profiling() -> str:
            self.first_runs += 1
            return end()

        session.end_profiling = end_profiling
        return session


def test_threads_that_make_the_first_run_at_once_get_what_one_thread_gets(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = eight_batches()
    alone = open_onnx(path, threads=1)
    expected = [alone.run(*batch) for batch in batches]
    runtime = Counts()
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    model = open_onnx(path, threads=1, choice=ProviderChoice())
    assert_same_outputs(run_in_threads(model, batches), expected)
    assert runtime.first_runs == 2  # CUDA's session, which left all to the CPU, and the CPU's: each counted once
    assert model.provider_report().provider == CPU


# ---- OpenVINO ----

INSTALLED = importlib.util.find_spec("openvino") is not None


@pytest.fixture(params=["stand-in", "installed"])
def openvino(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "openvino", StandinOpenvino("FP32"))
    elif not INSTALLED:
        pytest.skip("openvino is not installed: pip install openvino")


@pytest.mark.usefixtures("openvino")
def test_openvino_gives_what_onnx_runtime_gives_in_several_threads_too(path: Path) -> None:
    batches = eight_batches()
    model = open_model(path, threads=1, choice=ProviderChoice("openvino"))
    reference = open_model(path, threads=1, choice=ProviderChoice("cpu"))
    for found, batch in zip(run_in_threads(model, batches), batches, strict=True):
        expected = reference.run(*batch)
        assert isinstance(found, dict)
        assert set(found) == set(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)
    assert model.provider_report() == ProviderReport("OpenVINO CPU f32", {}, ())


@pytest.mark.usefixtures("openvino")
def test_openvino_takes_a_folder_of_canvases_and_names_a_damaged_file(tmp_path: Path) -> None:
    write_onnx(tmp_path / "wide.onnx", size=(64, 128))
    write_onnx(tmp_path / "small.onnx")
    assert open_model(tmp_path, threads=1, choice=ProviderChoice("openvino")).canvases == ((64, 96), (64, 128))
    model = onnx.load(tmp_path / "wide.onnx")
    model.graph.node[0].op_type = "Unknown"
    onnx.save(model, tmp_path / "wide.onnx")
    with pytest.raises(InputError, match=r"wide\.onnx cannot be opened by OpenVINO \("):
        open_model(tmp_path, choice=ProviderChoice("openvino"))


def test_openvino_never_computes_in_another_precision_than_it_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_bf16, without = StandinOpenvino("FP32", "BF16"), StandinOpenvino("FP32", "INT8")
    monkeypatch.setitem(sys.modules, "openvino", with_bf16)
    bf16 = ProviderChoice("openvino", options={"precision": "bf16"})
    for choice, said in ((ProviderChoice("openvino"), "f32"), (bf16, "bf16")):
        assert open_model(path, threads=3, choice=choice).provider_report().provider == f"OpenVINO CPU {said}"
        assert with_bf16.settings[-1]["INFERENCE_PRECISION_HINT"] == said
        assert with_bf16.settings[-1]["INFERENCE_NUM_THREADS"] == "3"
    monkeypatch.setitem(sys.modules, "openvino", without)
    with pytest.raises(InputError, match="this CPU does not compute in it; omit it"):
        open_model(path, choice=bf16)


def test_openvino_that_is_missing_is_told_in_one_sentence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"needs the package openvino \(pip install openvino\)"):
        open_model(path, choice=ProviderChoice("openvino"))


def test_openvino_runs_a_whole_file_so_that_no_fallback_is_taken() -> None:
    with pytest.raises(InputError, match="got allow_fallback for the provider openvino"):
        ProviderChoice("openvino", allow_fallback=True)


# ---- options ----


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("cann", {"precision_mod": "force_fp16"}, ["precision_mod'", "did you mean precision_mode?"]),
        ("cann", {"precision_mode": "fp16"}, ["precision_mode 'fp16'", "force_fp16", "allow_mix_precision"]),
        ("cann", {"device_id": "npu:0"}, ["device_id=npu:0", "whole number"]),
        ("cann", {"dump_om_model": "yes"}, ["dump_om_model 'yes'", "0, 1"]),
        ("cann", {"om_cache": ""}, ["empty om_cache"]),
        ("cuda", {"gpu_mem": "5"}, ["did you mean gpu_mem_limit?"]),
        ("cuda", {"precision_mode": "force_fp16"}, ["the provider cuda", "device_id, gpu_mem_limit"]),
        ("cpu", {"device_id": "0"}, ["the provider cpu", "expected none"]),
        ("tpu", {}, ["the provider 'tpu'", "auto, cpu, cuda, cann, openvino", "did you mean cpu?"]),
        ("gpu", {}, ["did you mean cuda?"]),
        ("npu", {}, ["did you mean cann?"]),
        ("tensorrt", {}, ["the provider 'tensorrt'", "give another"]),
        ("cudaa", {}, ["did you mean cuda?"]),
    ],
)
def test_a_mistyped_choice_is_told(name: str, options: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        ProviderChoice(name, options=options)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_each_provider_gets_its_own_options() -> None:
    choice = ProviderChoice("auto", options={"device_id": "1", "gpu_mem_limit": "9", "precision_mode": "force_fp32"})
    assert targets(choice, [CPU, CUDA, CANN, "AzureExecutionProvider"]) == [
        Target("cann", {"device_id": "1", "precision_mode": "force_fp32"}),
        Target("cuda", {"device_id": "1", "gpu_mem_limit": "9"}),
        Target("cpu", {}),
    ]
    assert targets(ProviderChoice("cuda", allow_fallback=True), [CPU]) == [Target("cuda", {}), Target("cpu", {})]
    assert targets(ProviderChoice("cuda"), [CPU]) == [Target("cuda", {})]
    assert set(OPTIONS["auto"]) == set(OPTIONS["cann"]) | set(OPTIONS["cuda"])


def test_the_cache_of_compiled_graphs_is_a_folder_of_ours(tmp_path: Path) -> None:
    target = Target("cann", {"om_cache": str(tmp_path / "om"), "device_id": "0"})
    assert target.runtime_options == {"dump_om_model": "1", "device_id": "0"}
    assert target.om_cache == tmp_path / "om"
    before = Path.cwd()
    with contextlib.suppress(ValueError), working_in(target.om_cache):
        inside = Path.cwd()
        raise ValueError("an error leaves it, too")
    assert (inside, Path.cwd()) == (tmp_path / "om", before)
    with working_in(Target("cpu", {}).om_cache):
        assert Path.cwd() == before


# ---- files ----


def test_exports_of_a_folder_share_the_choice(tmp_path: Path) -> None:
    write_onnx(tmp_path / "wide.onnx", size=(64, 128))
    write_onnx(tmp_path / "small.onnx")
    model = open_model(tmp_path, threads=1, choice=ProviderChoice("cuda", allow_fallback=True))
    assert model.canvases == ((64, 96), (64, 128))
    assert model.provider_report().notes or CUDA in onnxruntime.get_available_providers()


def test_a_damaged_file_is_told_whatever_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(b"no protobuf")
    for choice in (ProviderChoice("cpu"), ProviderChoice()):
        with pytest.raises(InputError, match=r"cannot be read as an \.onnx"):
            open_onnx(path, choice=choice)
