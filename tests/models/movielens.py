"""MovieLens 100K as the columns of a recommender."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MOST_GENRES = 6
HISTORY = 30


@dataclass(frozen=True)
class MovieLens:
    """Ratings in the order of time; ids of users and films count from 1, 0 is none.

    Attributes:
        user: user of each rating.
        item: film of each rating.
        is_liked: whether it is 4 or 5 of 5.
        users: columns of each user: id, gender, occupation, tens of years of age.
        genres: numbers of the genres of each film, padded.
        num_genres: how many each has.
        year: of each film, NaN if it is not known.
    """

    user: np.ndarray
    item: np.ndarray
    is_liked: np.ndarray
    users: np.ndarray
    genres: np.ndarray
    num_genres: np.ndarray
    year: np.ndarray

    @property
    def user_sizes(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.users.max(axis=0) + 1)

    @property
    def num_items(self) -> int:
        return len(self.year)

    def histories(self, is_known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The films each user liked before each rating, the last HISTORY of the known ones, and how many."""
        history, lengths = np.zeros((len(self.user), HISTORY), np.int64), np.zeros(len(self.user), np.int64)
        liked: dict[int, list[int]] = {}
        counts = self.is_liked & is_known
        for row, (user, item, is_liked) in enumerate(zip(self.user, self.item, counts, strict=True)):
            before = liked.setdefault(int(user), [])[-HISTORY:]
            history[row, : len(before)], lengths[row] = before, len(before)
            if is_liked:
                liked[int(user)].append(int(item))
        return history, lengths


def load(directory: Path) -> MovieLens:
    def table(name: str) -> list[list[str]]:
        lines = (directory / f"ml-100k.{name}").read_text(encoding="utf-8").splitlines()
        return [line.split("\t") for line in lines[1:]]

    ratings = np.array([[float(value) for value in row] for row in table("inter")])
    ratings = ratings[np.argsort(ratings[:, 3], kind="stable")]
    films = {int(row[0]): row for row in table("item")}
    names = sorted({genre for row in films.values() for genre in row[3].split()})
    count = max(films) + 1
    genres, lengths = np.zeros((count, MOST_GENRES), np.int64), np.zeros(count, np.int64)
    year = np.full(count, np.nan, np.float32)
    for film, row in films.items():
        own = [names.index(genre) for genre in row[3].split()][:MOST_GENRES]
        genres[film, : len(own)], lengths[film] = own, len(own)
        year[film] = float(row[2]) if row[2].strip().isdigit() else np.nan
    people = {int(row[0]): row for row in table("user")}
    occupations = sorted({row[3] for row in people.values()})
    users = np.zeros((max(people) + 1, 4), np.int64)
    for user, row in people.items():
        users[user] = user, row[2] == "M", occupations.index(row[3]), int(row[1]) // 10
    user, item = ratings[:, 0].astype(np.int64), ratings[:, 1].astype(np.int64)
    return MovieLens(user, item, ratings[:, 2] >= 4, users, genres, lengths, year)


def batches(rows: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    rows = rng.permutation(rows)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
