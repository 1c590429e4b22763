from __future__ import annotations

from typing import Any

import pytest

from paddle_infra.train import Callback
from tests.train.problem import SeekableLoader, make_trainer

HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


class Recorder(Callback):
    def __init__(self, log: list[str], name: str = "", fail_at: str | None = None) -> None:
        for hook in HOOKS:
            setattr(self, hook, self._make(log, hook, name, fail_at))

    @staticmethod
    def _make(log: list[str], hook: str, name: str, fail_at: str | None) -> Any:
        def called(trainer: Any, *args: Any) -> None:
            log.append(f"{name}{hook.removeprefix('on_')}")
            if hook == fail_at:
                raise ValueError(f"failed in {hook}")

        return called


class Last(Recorder):
    runs_last = True


def test_order_of_a_run() -> None:
    log: list[str] = []
    small = list(SeekableLoader())[:3]
    make_trainer([Recorder(log)], accumulate=2).fit(small, small[:2], max_epochs=2)
    step = ["step_begin", "gradients", "step_end"]
    epoch = ["epoch_begin", *step, *step]
    validation = [
        "evaluate_begin",
        "evaluate_batch",
        "evaluate_batch",
        "evaluate_end",
        "validation_end",
        "epoch_end",
    ]
    assert log == ["fit_begin", *epoch, *validation, *epoch, *validation, "fit_end", "close"]


def test_order_among_callbacks() -> None:
    log: list[str] = []
    callbacks = [Last(log, "c:"), Recorder(log, "a:"), Recorder(log, "b:")]
    make_trainer(callbacks).fit(list(SeekableLoader())[:1], max_steps=1)
    assert log[:3] == ["a:fit_begin", "b:fit_begin", "c:fit_begin"]


def test_lone_evaluation() -> None:
    log: list[str] = []
    make_trainer([Recorder(log)]).evaluate(list(SeekableLoader())[:2])
    assert log == ["evaluate_begin", "evaluate_batch", "evaluate_batch", "evaluate_end", "close"]


@pytest.mark.parametrize(
    "hook", ["on_fit_begin", "on_step_end", "on_evaluate_batch", "on_close", "on_exception"]
)
def test_exception_in_a_callback_ends_the_run_and_all_are_closed(hook: str) -> None:
    log: list[str] = []
    trainer = make_trainer([Recorder(log, "a:", fail_at=hook), Recorder(log, "b:")])
    loader: Any = SeekableLoader()
    if hook == "on_exception":
        loader = []
    with pytest.raises(ValueError, match=f"failed in {hook}"):
        trainer.fit(loader, SeekableLoader(), max_epochs=1)
    assert {"a:close", "b:close"} <= set(log)
    assert ("b:exception" in log) == (hook not in ("on_close", "on_exception"))


def test_a_callback_stops_the_run() -> None:
    class Stop(Callback):
        def on_step_end(self, trainer: Any) -> None:
            if trainer.state.step == 4:
                trainer.state.stop("enough")

    state = make_trainer([Stop()]).fit(SeekableLoader(), max_epochs=5)
    assert (state.step, state.should_stop, state.stop_reason) == (4, True, "enough")
