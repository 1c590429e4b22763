"""Attention on a GPU: time, TFLOP/s and memory beside PyTorch and flash-attn, and beside what was predicted.

    make bench-gpu

Needs a GPU, PyTorch with CUDA, and the library that ``make cuda`` builds. Contestants take turns; the GPU's own events
time them; a figure is a median. Rows are appended to ``benchmarks/data/gpu_attention.csv``; ``report_gpu.py`` puts
predictions beside them.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import _gpu_contestants as gpu
from benchmarks._gpu_roofline import Attention, gpu_of, predict_forward
from benchmarks._harness import ROOT, append_rows, context, round_ratios, summarize

LIBRARY = ROOT / "build/cuda/libpaddle_infra_kernels.so"
SHAPES = ((32, 512, 16), (8, 2048, 16), (2, 8192, 16), (1, 512, 12), (64, 128, 12))
CASES = [
    Attention(*shape, head_dim, is_causal)
    for head_dim in (64, 128)
    for shape in SHAPES
    for is_causal in (False, True)
]


def measure(run: Callable[[], Any], repeats: int) -> float:
    """Return the seconds of one run on the GPU."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e-3 / repeats


def peak_of(run: Callable[[], Any]) -> int:
    """Return the bytes that a run takes beside its inputs. Ours has its results beforehand: they are added."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    grown = torch.cuda.max_memory_allocated() - before
    return grown if grown else result.numel() * result.element_size()


def runnable(case: Attention, library: ctypes.CDLL) -> dict[str, Callable[[], Any]]:
    """Return the contestants that can compute the case, after comparing their results."""
    found, results = {}, {}
    for name in gpu.available():
        run = gpu.contestant(name, case, library)
        try:
            results[name] = run().float()
        except RuntimeError as error:  # a backend that does not have this case says so
            if name == gpu.OURS:
                raise
            print(f"{name}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        found[name] = run
    for name, result in results.items():
        difference = float((result - results[gpu.OURS]).abs().max())
        if not difference <= gpu.TOLERANCE:
            raise RuntimeError(f"{name} is {difference:.1e} from {gpu.OURS}, at most {gpu.TOLERANCE:.0e}")
    return found


def rows_of(case: Attention, library: ctypes.CDLL, rounds: int) -> list[dict[str, Any]]:
    """Let all take turns; return a row for each."""
    import torch

    contestants = runnable(case, library)
    peaks = {name: peak_of(run) for name, run in contestants.items()}
    repeats = max(1, int(5e-3 / measure(contestants[gpu.OURS], 3)))
    times = []
    for turn in range(rounds):
        order = random.Random(turn).sample(list(contestants), len(contestants))
        times.append({name: measure(contestants[name], repeats) for name in order})
    device = gpu_of(torch.cuda.get_device_name())
    rows = []
    for name in contestants:
        found = summarize([turn[name] for turn in times], 1e3)
        ratios = summarize(round_ratios(times, name, gpu.OURS))
        row = {**case._asdict(), "gpu": torch.cuda.get_device_name(), "contestant": name}
        row |= {f"{key}_ms": found[key] for key in ("median", "q20", "q80")} | {"rounds": rounds}
        row |= {f"ratio_{key}": ratios[key] for key in ("median", "q20", "q80")}
        row |= {"teraflops": case.operations() / found["median"] * 1e-9, "peak_mb": 1e-6 * peaks[name]}
        is_predicted = name == gpu.OURS and device is not None
        predicted = predict_forward(case, device) if is_predicted else None
        row |= {"predicted_ms": predicted["seconds"] * 1e3 if predicted else ""}
        rows.append(row | {"bound_by": predicted["unit"] if predicted else ""})
    return rows


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-record", action="store_true", help="only print, append nothing")
    arguments = parser.parse_args()
    path = Path(os.environ.get("PADDLE_INFRA_CUDA_LIBRARY", LIBRARY))
    try:
        import torch
    except ImportError:
        sys.exit("PyTorch is not installed: install it with CUDA")
    if not torch.cuda.is_available():
        sys.exit("there is no GPU that PyTorch can use: this benchmark needs one")
    if not path.is_file():
        sys.exit(f"{path} is not there: run `make cuda`, or set PADDLE_INFRA_CUDA_LIBRARY")
    library, measured_in = ctypes.CDLL(str(path)), context()
    for case in CASES:
        rows = rows_of(case, library, arguments.rounds)
        for row in rows:
            predicted = f"predicted {row['predicted_ms']:.3f}" if row["predicted_ms"] != "" else ""
            print(f"{case} {row['contestant']:16} {row['median_ms']:8.3f} ms {row['teraflops']:6.0f} TFLOP/s "
                  f"{row['ratio_median']:5.2f} x {predicted}", flush=True)  # fmt: skip
        if not arguments.no_record:
            append_rows("gpu_attention", rows, measured_in)


if __name__ == "__main__":
    main()
