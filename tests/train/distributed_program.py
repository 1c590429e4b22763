"""What the tests of several processes run in each of them: ``distributed_program.py SCENARIO FOLDER``.

Results go to ``FOLDER/NAME-RANK.npz`` and ``FOLDER/NAME-RANK.json``; the test process compares them.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import paddle

from paddle_infra._core.errors import PaddleInfraError
from paddle_infra.train import (
    EMA,
    FGM,
    Callback,
    Checkpoint,
    DataParallel,
    History,
    ProgressBar,
    Sharding,
    Trainer,
    TrainingInterrupted,
    VisualDLLogger,
)
from paddle_infra.train.distributed.processes import together
from tests.train import distributed_cases as cases
from tests.train.problem import SeekableLoader, make_trainer, tensors, training_step

STRATEGIES: dict[str, Callable[[], Any]] = {
    "parallel": DataParallel,
    "overlap": lambda: DataParallel(overlap=True),
    "sharding": Sharding,
    "gradients": lambda: Sharding(2),
    "parameters": lambda: Sharding(3),
}


class Faulty(Callback):
    """Fails in one process only."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_fit_begin(self, trainer: Trainer) -> None:
        def fail() -> None:
            if trainer.strategy.rank == self.rank:
                raise KeyError("only here")

        together(trainer.strategy, fail)


class StopAt:
    """A training step whose n-th call in process 1 gets a signal."""

    def __init__(self, rank: int, at: int, number: int) -> None:
        self.rank, self.at, self.number, self.calls = rank, at, number, 0

    def __call__(self, model: paddle.nn.Layer, batch: dict[str, paddle.Tensor]) -> paddle.Tensor:
        self.calls += 1
        if self.rank == 1 and self.calls == self.at:
            os.kill(os.getpid(), self.number)
        return training_step(model, batch)


class Program:
    """One process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rank = folder, int(os.environ["PADDLE_TRAINER_ID"])

    def save(self, name: str, trainer: Trainer, **more: Any) -> None:
        # The whole optimizer, also where processes share it: asked of all, whole in number 0.
        found = tensors(trainer)
        own = {key.removeprefix("optimizer/"): paddle.to_tensor(value) for key, value in found.items()
               if key.startswith("optimizer/")}  # fmt: skip
        whole = trainer.strategy.full_optimizer_state(own)
        found |= {f"optimizer/{key}": value.numpy() for key, value in whole.items()}
        np.savez(self.folder / f"{name}-{self.rank}.npz", **found)
        self.note(name, own=sorted(own), state=trainer.state.to_dict(), **more)

    def note(self, name: str, **values: Any) -> None:
        (self.folder / f"{name}-{self.rank}.json").write_text(json.dumps(values))

    def parity(self) -> None:
        """The same runs as one process makes with twice the micro-batches per window."""
        for kind, strategy in STRATEGIES.items():
            for accumulate in (1, 3):
                trainer = make_trainer(
                    model=cases.seeded_mlp(), optimizer=None, strategy=strategy(), accumulate=accumulate
                )
                before = trainer.evaluate(SeekableLoader())
                trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=2)
                self.save(f"{kind}-{accumulate}", trainer, before=before, total=trainer.total_steps)
            trainer = make_trainer(model=cases.seeded_mlp(), strategy=strategy(), accumulate=2)
            trainer.fit(cases.PatchyLoader(), max_epochs=2)
            self.save(f"{kind}-patchy", trainer)

    def transformer(self) -> None:
        """A Transformer whose layers use each other's weights; and how many bytes of it are here, and when."""
        for kind in ("parallel", "sharding", "gradients", "parameters"):
            held = cases.Held()
            trainer = cases.transformer_trainer(STRATEGIES[kind](), held)
            trainer.fit(cases.Sentences(), max_steps=3)
            metrics = trainer.evaluate(cases.Sentences())
            self.save(f"transformer-{kind}", trainer, metrics=metrics, held=held.shares)

    def branches(self) -> None:
        """Parameters that some processes do not use, or none does."""
        for kind in ("parallel", "overlap", "gradients"):
            trainer = cases.branches_trainer(self.rank, strategy=STRATEGIES[kind]())
            trainer.fit(SeekableLoader(), max_steps=1)
            self.save(f"branches-{kind}", trainer, gradients=trainer.callbacks[0].names)

    def properties(self) -> None:
        """Gradients of windows against one large batch: the cases that the test has drawn."""
        drawn = json.loads((self.folder / "cases.json").read_text())
        errors = [
            {
                kind: cases.gradient_errors(case, STRATEGIES[kind]())
                for kind in ("parallel", "overlap", "gradients", "parameters")
            }
            for case in drawn
        ]
        self.note("properties", errors=errors)

    def refusals(self) -> None:
        """Errors that all processes raise together."""
        found = {
            "float16": self.error(lambda: make_trainer(model=cases.half(), strategy=DataParallel())),
            "different": self.error(
                lambda: make_trainer(model=paddle.nn.Linear(64, 10 + self.rank), strategy=DataParallel())
            ),
            "parts": self.error(lambda: make_trainer(model=cases.distributed(), strategy=DataParallel())),
            "around": self.error(
                lambda: make_trainer(strategy=Sharding(2), training_step=FGM(training_step, "0.weight")).fit(
                    SeekableLoader(), max_steps=1
                )
            ),
            "few parameters": self.error(
                lambda: make_trainer(model=paddle.nn.Linear(64, 10, bias_attr=False), strategy=Sharding())
            ),
            "few batches": self.error(
                lambda: make_trainer(strategy=DataParallel()).fit(cases.Short(1), max_epochs=1)
            ),
            "plain loader": self.error(
                lambda: make_trainer(strategy=DataParallel()).fit([{}, {}], max_epochs=1)
            ),
            "two calls": self.error(
                lambda: make_trainer(strategy=DataParallel(overlap=True), training_step=cases.two_calls).fit(
                    SeekableLoader(), max_steps=1
                )
            ),
            "not finite": self.error(
                lambda: make_trainer(
                    strategy=DataParallel(overlap=True), training_step=cases.NotFinite(self.rank)
                ).fit(SeekableLoader(), max_steps=1)
            ),
            "only one fails": self.error(
                lambda: make_trainer([Faulty(1)], strategy=DataParallel()).fit(SeekableLoader(), max_steps=1)
            ),
            "not finite in parts": self.error(
                lambda: make_trainer(
                    strategy=Sharding(2), training_step=cases.NotFinite(self.rank), accumulate=2
                ).fit(SeekableLoader(), max_steps=1)
            ),
            "average": self.error(
                lambda: make_trainer([EMA(0.9)], strategy=Sharding(3)).fit(SeekableLoader(), max_steps=1)
            ),
            "histograms": self.error(
                lambda: make_trainer(
                    [VisualDLLogger(self.folder / "refused-log", histograms_every=1)], strategy=Sharding(3)
                ).fit(SeekableLoader(), max_steps=1)
            ),
            "called elsewhere": self.error(
                lambda: make_trainer(strategy=Sharding(3)).network(paddle.zeros([1, 64]))
            ),
            "sparse": self.error(cases.train_sparse),
            "sparse in parts": self.error(lambda: cases.train_sparse(Sharding(2))),
        }
        full = Checkpoint(self.folder / "refused", every_steps=1)
        make_trainer([full], strategy=DataParallel()).fit(SeekableLoader(), max_steps=1)
        found["folder"] = self.error(
            lambda: make_trainer([Checkpoint(self.folder / "refused")], strategy=DataParallel()).fit(
                SeekableLoader(), max_steps=1
            )
        )
        with patch(
            "paddle_infra.train.checkpoints.checkpointing.write_checkpoint", side_effect=cases.full_disk
        ):
            blocked = Checkpoint(self.folder / "full", every_steps=1)
            found["full disk"] = self.error(
                lambda: make_trainer([blocked], strategy=DataParallel()).fit(SeekableLoader(), max_steps=1)
            )
        own = self.folder / f"elsewhere-{self.rank}"
        single = make_trainer([Checkpoint(own, every_steps=1)])
        single.fit(SeekableLoader(), max_steps=1 + self.rank)
        found["different checkpoints"] = self.error(
            lambda: make_trainer([Checkpoint(own)], strategy=DataParallel()).fit(
                SeekableLoader(), max_steps=3, resume="latest"
            )
        )
        self.note("refusals", **found)

    def error(self, action: Callable[[], Any]) -> str:
        try:
            action()
        except (PaddleInfraError, KeyError) as raised:
            return f"{type(raised).__name__}: {raised}"
        return "no error"

    def logging(self) -> None:
        """Process 0 writes and shows, the others keep quiet; dropout differs, the weights do not."""
        from rich.console import Console

        screen = io.StringIO()
        folder = self.folder / "logged"
        callbacks = [
            ProgressBar(console=Console(file=screen, width=200)),
            History(folder / "history.jsonl"),
            VisualDLLogger(folder / "visualdl"),
            Checkpoint(folder / "checkpoints", every_steps=2),
        ]
        trainer = make_trainer(callbacks, strategy=DataParallel())
        model = trainer.model
        weights = {name: value.numpy().tolist() for name, value in list(model.state_dict().items())[:1]}
        dropped = paddle.nn.functional.dropout(paddle.ones([64]), 0.5).numpy().tolist()
        trainer.fit(SeekableLoader(), SeekableLoader(), max_steps=4)
        self.note("logging", screen=screen.getvalue(), weights=weights, dropped=dropped)

    def whole(
        self, kind: str, *, name: str, step: Any = None, resume: str | None = None, **options: Any
    ) -> None:
        """A run with checkpoints that can be interrupted and resumed."""
        folder = self.folder / name
        callbacks = [
            Checkpoint(folder / "checkpoints", every_steps=2, keep_last=None),
            History(folder / "h.jsonl"),
        ]
        trainer = make_trainer(
            callbacks,
            strategy=STRATEGIES[kind](),
            accumulate=2,
            training_step=step or training_step,
            **options,
        )
        try:
            trainer.fit(SeekableLoader(), SeekableLoader(), max_steps=10, resume=resume)
        except TrainingInterrupted as stop:
            self.note(f"stopped-{name}", step=stop.step, text=str(stop))
            return
        self.save(f"final-{name}", trainer)


def main() -> None:
    scenario, folder = sys.argv[1], Path(sys.argv[2])
    warnings.simplefilter("error", ResourceWarning)
    program = Program(folder)
    if scenario == "checks":
        program.parity()
        program.transformer()
        program.branches()
        program.properties()
        program.refusals()
        program.logging()
    elif scenario == "straight":
        program.whole("sharding", name="straight-sharding")
        program.whole("parameters", name="straight-parameters")
        program.whole(
            "parameters", name="parameters", step=StopAt(program.rank, at=11, number=signal.SIGTERM)
        )
        paddle.distributed.barrier()
        program.whole("parallel", name="straight-parallel")
        program.whole("parallel", name="parallel", step=StopAt(program.rank, at=11, number=signal.SIGTERM))
        paddle.distributed.barrier()
        program.whole("sharding", name="sharding", step=StopAt(program.rank, at=11, number=signal.SIGKILL))
    elif scenario == "resumed":
        program.whole("sharding", name="sharding", resume="latest")
        program.whole("parameters", name="parameters", resume="latest")
        program.whole("parallel", name="parallel", resume="latest")
        program.whole("parallel", name="grown", resume="latest", model=cases.seeded_mlp())
    else:
        raise SystemExit(f"no scenario {scenario!r}")


if __name__ == "__main__":
    main()
