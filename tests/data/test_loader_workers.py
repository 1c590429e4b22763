"""Workers change nothing but the time, and no fault of theirs is lost or hangs."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_infra._core.errors import InvalidInputError, SampleError
from paddle_infra.data import Loader
from tests.data.worker_cases import (
    Broken,
    InOrder,
    Noisy,
    Slow,
    SlowThenBroken,
    Uneven,
    Unloadable,
    columns,
    killed,
    refuse_23,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_worker_is_left() -> Iterator[None]:
    before = set(active_children())  # those that the traceback of another test's failure holds
    yield
    deadline = time.monotonic() + 10
    while set(active_children()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(active_children()) - before


def loader(dataset: Any, collate: Callable[..., Any] = columns, **options: Any) -> Loader:
    return Loader(dataset, InOrder(), collate, **options)


def bits(batches: list[dict[str, Any]]) -> list[dict[str, bytes]]:
    """Everything but the process that made it."""
    return [{k: np.asarray(v).tobytes() for k, v in b.items() if k != "process"} for b in batches]


def test_any_number_of_workers_gives_the_same_bits_in_the_same_order() -> None:
    expected = [bits(list(loader(Uneven(), seed=3).iterate(epoch))) for epoch in range(2)]
    for workers, prefetch in ((1, 1), (3, 2)):
        several = loader(Uneven(), seed=3, workers=workers, prefetch=prefetch)
        processes = set()
        for epoch in range(2):
            made = list(several.iterate(epoch))
            assert bits(made) == expected[epoch]
            processes |= {int(p) for batch in made for p in batch["process"]}
        assert len(processes) == workers  # the same ones in both epochs
        assert os.getpid() not in processes
        several.close()


def test_the_middle_of_an_epoch_has_the_same_bits() -> None:
    full = bits(list(loader(Noisy()).iterate(1)))
    several = loader(Noisy(), workers=2)
    for start, step in ((3, 1), (1, 2), (8, 1), (9, 2)):
        assert bits(list(loader(Noisy()).iterate(1, start, step))) == full[start::step]
        assert bits(list(several.iterate(1, start, step))) == full[start::step]
    several.close()


def test_noise_depends_on_seed_epoch_and_batch_and_on_nothing_else() -> None:
    def noise(seed: int, epoch: int) -> list[float]:
        return [float(n) for batch in loader(Noisy(), seed=seed).iterate(epoch) for n in batch["noise"]]

    random.seed(1)
    np.random.seed(1)
    first = noise(0, 0)
    np.random.seed(2)
    assert noise(0, 0) == first
    values = first + noise(0, 1) + noise(1, 0)
    assert len(set(values)) == 3 * 30


@pytest.mark.parametrize("workers", [0, 2])
def test_the_generators_of_this_process_are_as_before(workers: int) -> None:
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    several = loader(Broken("error"), workers=workers)
    with pytest.raises(SampleError):
        list(several.iterate(0))
    assert (random.random(), np.random.random()) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_ids(workers: int) -> None:
    several = loader(Noisy(), workers=workers, with_ids=True)
    for batch in several.iterate(0):
        assert batch["ids"].dtype == np.int64
        assert batch["ids"].tolist() == batch["index"].tolist()
    several.close()


def test_ids_need_a_dict_without_that_key() -> None:
    with pytest.raises(InvalidInputError, match=r"with_ids: expected a collate function .* dict, got list"):
        next(loader(Noisy(), list, with_ids=True).iterate(0))
    with pytest.raises(InvalidInputError, match="with_ids: expected batches without the key 'ids'"):
        next(loader(Noisy(), lambda samples: {"ids": 1}, with_ids=True).iterate(0))


def test_a_sample_that_cannot_be_read_is_named_with_the_traceback_of_the_worker() -> None:
    with pytest.raises(SampleError, match="sample 17 cannot be read: OSError: disk on fire") as caught:
        list(loader(Broken("error"), workers=2).iterate(0))
    trace = str(caught.value.__cause__)
    assert "in a worker process" in trace
    assert re.search(r'worker_cases\.py", line \d+, in __getitem__\n +raise OSError\("disk on fire"\)', trace)


def test_a_sample_that_cannot_be_collated_is_named() -> None:
    with pytest.raises(
        SampleError, match="sample 23 cannot be collated: InvalidInputError: expected another sample"
    ):
        list(loader(Noisy(), refuse_23, workers=2).iterate(0))


def test_a_fault_is_reported_although_other_batches_come_first() -> None:
    start = time.monotonic()
    with pytest.raises(SampleError, match="sample 5 cannot be read: OSError: disk on fire"):
        next(loader(SlowThenBroken(), workers=2).iterate(0))  # the first batch takes a minute
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("fault", "how"), [("kill", r"was killed by SIGKILL \(out of memory\?\)"), ("exit", "exited with code 3")]
)
def test_a_worker_that_dies_is_an_error_that_names_the_sample(fault: str, how: str) -> None:
    start = time.monotonic()
    with pytest.raises(SampleError, match=f"worker 0 {how} while it read sample 17; expected it to go on"):
        list(loader(Broken(fault), workers=2).iterate(0))
    assert time.monotonic() - start < 30  # no time-out is waited for


def test_a_worker_that_dies_while_collating() -> None:
    with pytest.raises(SampleError, match=r"worker \d was killed by .* while it collated the samples \[\d"):
        list(loader(Noisy(), killed, workers=2).iterate(0))


def test_workers_killed_from_outside_between_two_epochs() -> None:
    several = loader(Noisy(), workers=2)
    processes = {int(p) for batch in several.iterate(0) for p in batch["process"]}
    for process in processes:
        os.kill(process, signal.SIGKILL)
    with pytest.raises(SampleError, match=r"worker . was killed by SIGKILL .* between two batches"):
        list(several.iterate(1))
    assert len(list(several.iterate(1))) == 8  # with new ones
    several.close()


def test_what_cannot_be_pickled() -> None:
    with pytest.raises(InvalidInputError, match=r"workers: expected a dataset .* pickled .*, got .*lambda"):
        next(loader(Noisy(), lambda samples: samples, workers=1).iterate(0))
    with pytest.raises(
        InvalidInputError, match=r"a worker could not load the dataset .*: ImportError: no such"
    ):
        next(loader(Unloadable(), workers=1).iterate(0))
    with pytest.raises(InvalidInputError, match=r"a worker could not send the batch: .*lambda"):
        list(loader(Broken("unpicklable", at=0), list, workers=1).iterate(0))


def test_an_iteration_that_is_left_early_ends_its_workers() -> None:
    several = loader(Noisy(), workers=2)
    batches = several.iterate(0)
    next(batches)
    assert len(active_children()) == 2
    batches.close()  # type: ignore[attr-defined]
    assert not active_children()
    assert bits(list(several.iterate(1))) == bits(list(loader(Noisy()).iterate(1)))
    several.close()


def test_two_iterations_at_once() -> None:
    several = loader(Noisy(), workers=1)
    pairs = list(zip(several.iterate(0), several.iterate(1), strict=True))
    assert bits([one for one, _ in pairs]) == bits(list(loader(Noisy()).iterate(0)))
    assert bits([other for _, other in pairs]) == bits(list(loader(Noisy()).iterate(1)))
    several.close()


def test_a_loader_that_is_forgotten_ends_its_workers() -> None:
    list(loader(Noisy(), workers=2).iterate(0))
    assert not active_children()


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_the_process_that_is_forked_has_no_thread_but_those_of_numpy() -> None:
    """NumPy's matrix library takes care of its threads in a fork; Paddle's pools do not."""
    count = "import numpy, os; print(len(os.listdir('/proc/self/task')))"
    expected = int(subprocess.run([sys.executable, "-c", count], capture_output=True, check=True).stdout)
    several = loader(Noisy(), workers=1)
    process = int(next(iter(list(several.iterate(0))))["process"][0])
    server = int(Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1].split()[1])
    assert server != os.getpid()
    assert len(list(Path(f"/proc/{server}/task").iterdir())) <= expected
    several.close()


SCRIPT = """
import signal
from paddle_infra.data import Loader
from tests.data.worker_cases import InOrder, Slow, columns
if {guard}:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell are born ignoring it
    print("start", flush=True)
    for batch in Loader(Slow(), InOrder(), columns, workers=2).iterate(0):
        print(*{{int(p) for p in batch["process"]}}, flush=True)
"""


def start(tmp_path: Path, guard: str = "__name__ == '__main__'") -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(guard=guard))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def group(process: subprocess.Popen[str]) -> list[int]:
    """The processes of its session that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, session = (entry / "stat").read_text().rsplit(") ", 1)[1].split()[:4]
            except (OSError, ValueError):  # it has just ended
                continue
            if int(session) == process.pid and state != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "to_group"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGKILL, False)]
)
def test_a_stopped_program_leaves_no_process(tmp_path: Path, number: signal.Signals, to_group: bool) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "start\n"
        while process.stdout.readline() != "reading\n":  # in a worker; the main process waits for it
            pass
        assert len(group(process)) >= 4  # main, server, two workers
        if to_group:
            os.killpg(process.pid, number)  # as Ctrl-C on a terminal does
        else:
            process.send_signal(number)
        if number == signal.SIGINT:
            _, err = process.communicate(timeout=30)
            assert process.returncode == -signal.SIGINT
            assert err.count("Traceback") == 1  # that of the main process only
        else:
            process.wait(30)  # at once: nobody can tell the workers, each of which reads for a minute
        deadline = time.monotonic() + 10
        while group(process) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not group(process)


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    with start(tmp_path, guard="True") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "exited with code 1 before its first batch" in err
    assert 'must do its work under `if __name__ == "__main__":`' in err


def test_slow_is_fast_at_first() -> None:
    assert next(loader(Slow()).iterate(0))["index"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "expected workers to be an integer >= 0, got -1"),
        ({"workers": True}, "expected workers to be an integer >= 0, got True"),
        ({"prefetch": 0}, "expected prefetch to be an integer >= 1, got 0"),
        ({"seed": -1}, "expected seed to be an integer >= 0, got -1"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        loader(Noisy(), **options)
