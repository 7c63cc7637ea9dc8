"""All runtimes on the miniature network, in real processes. Nothing is asserted on time but that there is one."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from ptqflow.benchmark.grid import Benchmark, Files, benchmark, format_table
from ptqflow.benchmark.params import BenchmarkParams
from ptqflow.benchmark.timed_runtimes import RUNTIMES
from ptqflow.core.artifacts import sha256_file
from ptqflow.core.errors import ArtifactError, BenchmarkError
from ptqflow.core.figures import BENCHMARK, BenchmarkRow
from ptqflow.runtime.manifest import read_manifest

ROOT = Path(__file__).parents[2]
PARAMS = {"batch_sizes": [1, 2], "threads": 1, "rounds": 3, "seconds": 0.01}


def params(**changes: object) -> BenchmarkParams:
    return BenchmarkParams.model_validate(PARAMS | changes)


@pytest.mark.slow
def test_every_installed_runtime_has_both_networks_at_every_batch_size(models: Path, eager: Files) -> None:
    manifest = read_manifest(models / "export")

    result = benchmark(params(batch_sizes=[2]), eager, models / "export", manifest)

    installed = [name for name in RUNTIMES if name != "openvino" or importlib.util.find_spec("openvino")]
    assert [row.runtime for row in result.rows] == installed
    assert list(result.left_out) == [name for name in RUNTIMES if name not in installed]
    assert all(reason.endswith("is not installed") for reason in result.left_out.values())
    rows = {row.runtime: row for row in result.rows}
    assert rows["torch_eager"].int8_size_mb * 1e6 == pytest.approx(eager.int8.stat().st_size)
    assert rows["torchscript"].int8_size_mb * 1e6 == pytest.approx(manifest.files["int8.torchscript.pt"].bytes)
    assert rows["onnxruntime"].versions.startswith("onnxruntime ")
    assert rows["torch_eager"].versions.startswith("torch ")
    for row in result.rows:
        assert (row.batch, row.threads) == (2, 1)
        assert row.cpu
        assert row.model_sha256 == sha256_file(models / "export" / "int8.onnx")
        for network in ("fp32", "int8"):
            median, p95, rate = (getattr(row, f"{network}_{name}") for name in ("median_ms", "p95_ms", "images_per_s"))
            assert 0 < median <= p95
            assert rate == pytest.approx(2000 / median, rel=1e-2)
            assert getattr(row, f"{network}_memory_mb") > 10
        assert 0 < row.speedup_low <= row.speedup <= row.speedup_high
        assert (row.note is not None) == (row.speedup < 1)
    assert result.headline().speedup == {row.runtime: pytest.approx(row.speedup, abs=1e-3) for row in result.rows}
    BENCHMARK.write(result.rows)
    assert BENCHMARK.read() == result.rows
    table = format_table(result.rows)
    assert all(name in table for name in installed)


@pytest.mark.slow
def test_without_onnx_files_only_torch_is_timed(models: Path, eager: Files) -> None:
    whole = read_manifest(models / "export")
    script = {"int8.torchscript.pt": whole.files["int8.torchscript.pt"]}
    manifest = whole.model_copy(update={"files": script})
    result = benchmark(params(batch_sizes=[1]), eager, models / "export", manifest)
    assert [row.runtime for row in result.rows] == ["torch_eager", "torchscript"]
    assert result.left_out["onnxruntime"] == "int8.onnx was not exported"
    assert {row.model_sha256 for row in result.rows} == {script["int8.torchscript.pt"].sha256}


def test_a_changed_file_is_named(models: Path, eager: Files) -> None:
    shutil.copytree(models / "export", "export")
    Path("export/fp32.onnx").write_bytes(b"another")
    manifest = read_manifest(Path("export"))
    scope = params(batch_sizes=[1])
    with pytest.raises(ArtifactError, match=r"export/fp32\.onnx has changed"):
        benchmark(scope, eager, Path("export"), manifest)


def test_missing_weights_are_named(models: Path, eager: Files) -> None:
    manifest = read_manifest(models / "export")
    with pytest.raises(ArtifactError, match="nowhere is missing: run `dvc repro`"):
        benchmark(params(), Files(eager.fp32, Path("nowhere")), models / "export", manifest)


def test_more_threads_than_cores_are_refused(models: Path, eager: Files) -> None:
    manifest = read_manifest(models / "export")
    with pytest.raises(BenchmarkError, match=r"benchmark\.threads is 100000, and there are \d+ cores"):
        benchmark(params(threads=100_000), eager, models / "export", manifest)


def row(batch: int, fp32: float, int8: float, spread: float, note: str | None = None) -> BenchmarkRow:
    timing = {
        "p95_ms": 1.0,
        "images_per_s": 1.0,
        "first_ms": 1.0,
        "load_s": 1.0,
        "memory_mb": 1.0,
        "form": "plain",
        "size_mb": 1.0,
    }
    gain = fp32 / int8
    return BenchmarkRow.model_validate(
        {f"{network}_{figure}": value for network in ("fp32", "int8") for figure, value in timing.items()}
        | {"speedup": gain, "speedup_low": gain - spread, "speedup_high": gain + spread}
        | {"fp32_median_ms": fp32, "int8_median_ms": int8, "batch": batch, "note": note}
        | {
            "runtime": "torchscript",
            "cpu": "A CPU",
            "cores": 2,
            "threads": 2,
            "instructions": "avx2 fma",
            "versions": "torch 2",
            "model_sha256": "0",
        }
    )


def test_the_headline_is_the_geometric_mean_over_the_batch_sizes() -> None:
    measured = Benchmark([row(1, 8.0, 1.0, 0.1), row(32, 2.0, 1.0, 0.1)], {})
    assert measured.headline().speedup == {"torchscript": 4.0}


def test_the_table_has_a_row_for_each_runtime_and_batch_size_and_the_notes_after_them() -> None:
    rows = [row(1, 10.0, 4.0, 0.25), row(32, 100.0, 125.0, 0.05, "the layers conv1 stayed FP32")]
    assert format_table(rows).split("\n") == [
        "A CPU, 2 threads, avx2 fma",
        "             batch  FP32 ms  INT8 ms  FP32 / INT8",
        "torchscript      1    10.00     4.00         2.50  (2.25 to 2.75)",
        "torchscript     32   100.00   125.00         0.80  (0.75 to 0.85)",
        "torchscript, batch 32: the layers conv1 stayed FP32",
    ]
