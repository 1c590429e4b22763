"""Fine-tunes MiniLM-L6 on TREC questions in any number of processes, and goes on by itself after a restart.

    python -m paddle.distributed.launch --nproc_per_node 2 examples/cluster/train.py --output runs/cluster

Started again, with the same or another number of processes, it continues from the newest checkpoint: that is all that
an elastic restart needs. `paddlejob.yaml` and `train.slurm` start it on clusters. ``--output`` must be on a disk that
all machines share.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import paddle

from paddle_infra.data import (
    LabelMap,
    LengthBucketSampler,
    Loader,
    PaddingCollator,
    SequenceClassificationDataset,
    Tokenizer,
    deduplicate,
    read_question_labels,
    resources,
    split,
)
from paddle_infra.models import BertForSequenceClassification
from paddle_infra.train import (
    Accuracy,
    Checkpoint,
    DataParallel,
    Evaluator,
    History,
    ProgressBar,
    Sharding,
    Trainer,
    TrainingInterrupted,
    adamw,
    checkpoints_in,
    seed_everything,
)

INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/cluster"))
    parser.add_argument("--strategy", choices=["parallel", "sharding"], default="parallel")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-steps", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=16, help="of one micro-batch of one process")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--every-steps", type=int, default=50, help="a restart loses at most so many steps")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train; exit with 130 after a signal, so that the cluster knows that there is more to do."""
    options = arguments()
    strategy = DataParallel() if options.strategy == "parallel" else Sharding()
    seed_everything(options.seed)

    weights = resources.fetch("minilm-l6")
    examples = deduplicate(
        read_question_labels(resources.fetch("trec-questions") / "question_labels.txt"), on_conflict="drop"
    )
    parts = split(examples, {"train": 0.9, "valid": 0.1}, seed=options.seed)
    tokenizer, labels = Tokenizer.from_pretrained(weights), LabelMap.from_examples(parts["train"])

    def loader(part: str, *, shuffle: bool) -> Loader:
        data = SequenceClassificationDataset(parts[part], tokenizer, labels, max_length=64)
        sampler = LengthBucketSampler(data.lengths, options.batch_size, shuffle=shuffle, seed=options.seed)
        return Loader(data, sampler, PaddingCollator(tokenizer.pad_id))

    def logits(model: paddle.nn.Layer, batch: dict[str, paddle.Tensor]) -> paddle.Tensor:
        return model(**{name: batch[name] for name in INPUTS})

    train = loader("train", shuffle=True)
    model = BertForSequenceClassification.from_pretrained(weights, labels=tuple(labels.to_list()))
    # Not of the number of processes: the schedule of a resumed run must be that of the first.
    trainer = Trainer(
        model,
        adamw(model, 5e-5, warmup_steps=20, schedule="constant"),
        lambda model, batch: paddle.nn.functional.cross_entropy(logits(model, batch), batch["labels"]),
        evaluator=Evaluator(
            lambda model, batch: {"logits": logits(model, batch), "labels": batch["labels"]},
            [Accuracy(len(labels))],
        ),
        strategy=strategy,
        callbacks=[
            ProgressBar(),
            History(options.output / "history.jsonl"),
            Checkpoint(options.output / "checkpoints", every_steps=options.every_steps),
        ],
        accumulate=options.accumulate,
    )
    # What process 0 sees decides: another one might look a moment later.
    has_begun = strategy.gather(bool(checkpoints_in(options.output / "checkpoints")))[0]
    try:
        state = trainer.fit(
            train,
            loader("valid", shuffle=False),
            max_epochs=options.epochs,
            max_steps=options.max_steps,
            resume="latest" if has_begun else None,
        )
    except TrainingInterrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    if strategy.rank == 0:
        print(f"finished after step {state.step}: {state.metrics}")


if __name__ == "__main__":
    main()
