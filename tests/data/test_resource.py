"""A malformed description of a resource is refused before anything is fetched."""

from __future__ import annotations

from typing import Any

import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.data import Resource


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "../up"}, "expected a name"),
        ({"package": "tiny --index-url=http://x"}, "expected a package name"),
        ({"version": ">1"}, "expected an exact version"),
        ({"sha256": "ABC"}, "expected a SHA-256"),
        ({"members": {}}, "at least one member"),
        ({"members": {"/etc/x": "a"}}, "leads out"),
        ({"members": {"../x": "a"}}, "leads out"),
        ({"members": {"a//b": "a"}}, "not a plain relative path"),
        ({"members": {"": "a"}}, "is empty"),
        ({"members": {"/": "a/"}}, "is empty"),
        ({"members": {"x": "a/"}}, "needs a destination that is empty or ends with '/'"),
    ],
)
def test_a_malformed_resource_is_refused(change: dict[str, Any], reason: str) -> None:
    fields: dict[str, Any] = {
        "name": "n", "package": "p", "version": "1", "sha256": "0" * 64, "members": {"a": "a"}
    }  # fmt: skip
    Resource(**fields)
    with pytest.raises(InvalidInputError, match=reason):
        Resource(**{**fields, **change})
