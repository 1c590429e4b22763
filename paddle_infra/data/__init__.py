"""From raw files to batches: fetch, read, clean, split, tokenize, collate. Needs numpy, not Paddle."""

from __future__ import annotations

from paddle_infra.data import resources
from paddle_infra.data.clean import clean_text, text_key
from paddle_infra.data.collate import Batch, PaddingCollator
from paddle_infra.data.conll import read_conll
from paddle_infra.data.dataset import (
    IGNORED_LABEL,
    Sample,
    SequenceClassificationDataset,
    TokenClassificationDataset,
    first_subwords,
)
from paddle_infra.data.examples import TextExample, TokenExample
from paddle_infra.data.labels import LabelMap
from paddle_infra.data.loader import BatchSampler, Dataset, Loader
from paddle_infra.data.readers import read_delimited, read_jsonl, read_question_labels
from paddle_infra.data.resources import FetchProgress, Resource
from paddle_infra.data.samplers import LengthBucketSampler
from paddle_infra.data.shapes import WORD_SHAPES, word_shape
from paddle_infra.data.splits import assert_no_leak, deduplicate, find_conflicts, split
from paddle_infra.data.tokenizer import Encoding, Tokenizer

__all__ = [
    "IGNORED_LABEL",
    "WORD_SHAPES",
    "Batch",
    "BatchSampler",
    "Dataset",
    "Encoding",
    "FetchProgress",
    "LabelMap",
    "LengthBucketSampler",
    "Loader",
    "PaddingCollator",
    "Resource",
    "Sample",
    "SequenceClassificationDataset",
    "TextExample",
    "TokenClassificationDataset",
    "TokenExample",
    "Tokenizer",
    "assert_no_leak",
    "clean_text",
    "deduplicate",
    "find_conflicts",
    "first_subwords",
    "read_conll",
    "read_delimited",
    "read_jsonl",
    "read_question_labels",
    "resources",
    "split",
    "text_key",
    "word_shape",
]
