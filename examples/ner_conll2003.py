"""Named-entity recognition on CoNLL-2003 with MiniLM-L6.

    python examples/ner_conll2003.py                      # full run: about 20 minutes on 2 cores
    python examples/ner_conll2003.py --max-steps 50       # a quick look

Prints the entity-level F1 (an entity counts if its type and both ends are right: the figure that papers publish) and
the token-level table (every BIO tag by itself). The two are easily mistaken for each other: the weighted token average
that counts ``O``, which is five words out of six and easy, looks like an excellent entity F1 and is not one.

MiniLM-L6 is uncased. Capitals tell names from words, so the words' shapes (``Paris``, ``US``, ``iPhone``, ``42``) are
given to the encoder as token types.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import paddle_infra as pi
from paddle_infra.data import (
    WORD_SHAPES,
    LabelMap,
    LengthBucketSampler,
    Loader,
    PaddingCollator,
    TokenClassificationDataset,
    Tokenizer,
    read_conll,
    resources,
    word_shape,
)
from paddle_infra.models import BertForTokenClassification
from paddle_infra.train import (
    Checkpoint,
    EntityF1,
    Evaluator,
    History,
    ProgressBar,
    TokenTable,
    Trainer,
    adamw,
    load_model,
    seed_everything,
)

INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/ner_conll2003"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-steps", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--no-shapes", action="store_true", help="leave the words' shapes out")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def print_table(title: str, rows: list, width: int = 20) -> None:
    """Print precision, recall, F1 and support."""
    print(f"\n{title:{width}} precision    recall        f1   support")
    for row in rows:
        print(f"{row.name:{width}} {row.precision:9.4f} {row.recall:9.4f} {row.f1:9.4f} {row.support:9d}")


def main() -> None:
    """Train, pick the best epoch on the validation split, score it on the official test split."""
    options = arguments()
    pi.tune_cpu()
    seed_everything(options.seed)
    started = time.monotonic()

    weights, corpus = resources.fetch("minilm-l6"), resources.fetch("conll2003")
    tokenizer = Tokenizer.from_pretrained(weights)
    sentences = {name: read_conll(corpus / f"{name}.txt") for name in ("train", "valid", "test")}
    labels = LabelMap.from_examples(sentences["train"])
    names = labels.to_list()

    def loader(split: str, batch_size: int, *, shuffle: bool) -> Loader:
        data = TokenClassificationDataset(
            sentences[split],
            tokenizer,
            labels,
            max_length=256,
            word_type=None if options.no_shapes else word_shape,
        )
        if data.lost_word_count:
            print(f"{split}: {data.lost_word_count} words lie beyond max_length and are not scored")
        sampler = LengthBucketSampler(data.lengths, batch_size, shuffle=shuffle, seed=options.seed)
        return Loader(data, sampler, PaddingCollator(tokenizer.pad_id))

    train = loader("train", options.batch_size, shuffle=True)
    types = {} if options.no_shapes else {"type_vocab_size": len(WORD_SHAPES)}
    model = BertForTokenClassification.from_pretrained(weights, labels=tuple(names), **types)
    steps = min(options.epochs * len(train), options.max_steps or 10**9)
    entity, tokens = EntityF1(names), TokenTable(names)
    checkpoint = Checkpoint(
        options.output / "checkpoints", best_metric="entity_f1", keep_last=1, overwrite=not options.resume
    )
    trainer = Trainer(
        model,
        adamw(model, options.learning_rate, warmup_steps=steps // 10, total_steps=steps),
        lambda model, batch: model.loss(**{name: batch[name] for name in INPUTS}, labels=batch["labels"]),
        evaluator=Evaluator(
            lambda model, batch: {
                "logits": model(**{name: batch[name] for name in INPUTS}),
                "labels": batch["labels"],
            },
            [entity, tokens],
        ),
        callbacks=[ProgressBar(), History(options.output / "history.jsonl"), checkpoint],
    )
    trainer.fit(
        train,
        loader("valid", 64, shuffle=False),
        max_epochs=options.epochs,
        max_steps=options.max_steps,
        resume="latest" if options.resume else None,
    )

    load_model(checkpoint.best_path, model)
    metrics = trainer.evaluate(loader("test", 64, shuffle=False))
    print_table("entity level (test)", [*entity.table(), *entity.averages()])
    averages = tokens.averages(with_outside=False)
    print_table("token level (test)", [*tokens.table(), *tokens.averages()])
    print_table("  without O", averages)
    print(f"\nentity-level F1 on the official test split: {metrics['entity_f1']:.4f}")
    print(f"weighted token F1 that counts O (not comparable): {metrics['token_weighted_f1']:.4f}")
    print(f"{time.monotonic() - started:.0f} s in all")
    model.save_pretrained(options.output / "model")
    tokenizer.save(options.output / "model")
    (options.output / "test_metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(f"model and metrics: {options.output}")


if __name__ == "__main__":
    main()
