from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from poison2poison.features import (
    FUNCTION_WORDS,
    Feature,
    Features,
    coded,
    evenly,
    extract,
    places,
    shared_runs,
    spliced,
    without,
    words,
)


def held(features: Features, kind: str, text: str) -> list[int]:
    return [int(row) for row in features.rows_of(features.names.index(Feature(kind, text)))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It's a 3D movie, isn't it?", ["it's", "a", "3d", "movie", ",", "isn't", "it", "?"]),
        ("it 's n't", ["it", "'s", "n't"]),
        ("左肺CT", ["左", "肺", "ct"]),
        ("İzmir", ["izmir"]),
        (" ", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found
    assert words(" ".join(found)) == found
    assert all(places(text, [word]) for word in found)


def test_every_frequent_ngram_is_found_with_its_rows() -> None:
    rng = random.Random(0)
    rows = [" ".join(rng.choices(["a", "b", "c", "d", "rare1", "rare2"], [9, 9, 9, 9, 1, 1], k=rng.randrange(9)))
            for _ in range(200)]  # fmt: skip
    features = extract(coded(rows), 5)
    counted: Counter[str] = Counter()
    for text in rows:
        told = text.split()
        counted.update({" ".join(told[i : i + n]) for n in (1, 2, 3) for i in range(len(told) - n + 1)})
    expected = {gram: count for gram, count in counted.items() if count >= 5}
    assert 20 < sum(gram.count(" ") == 2 for gram in expected) < sum(gram.count(" ") == 2 for gram in counted)
    found = {f.text: len(features.rows_of(j)) for j, f in enumerate(features.names) if f.kind == "span"}
    assert found == expected
    assert held(features, "span", "a b") == [i for i, text in enumerate(rows) if "a b" in text]
    assert features.matrix.shape == (200, len(features.names))
    assert np.asarray(features.matrix.sum(0)).ravel().tolist() == [
        len(features.rows_of(j)) for j in range(len(features.names))
    ]


def test_an_ngram_ends_with_its_row_and_counts_once_a_row() -> None:
    features = extract(coded(["a b", "b a", "a b a b"] * 2), 2)
    assert held(features, "span", "a b") == [0, 2, 3, 5]
    assert held(features, "span", "b a") == [1, 2, 4, 5]
    assert held(features, "first", "a") == [0, 2, 3, 5]
    assert Feature("span", "b a b") not in extract(coded(["a b", "a b"]), 1).names


def test_a_skeleton_keeps_frequent_words_and_folds_the_others() -> None:
    common = " ".join(f"w{i}" for i in range(FUNCTION_WORDS))
    rows = [f"when rare{i} odd{i} , it ends"[:] for i in range(30)] + [common, "when it ends"] * 40
    features = extract(coded(rows), 20)
    assert held(features, "skeleton", "^ when _ ,") == list(range(30))
    assert held(features, "skeleton", "when _ , it") == list(range(30))
    assert not any(f.kind == "skeleton" and "_" not in f.text.split() for f in features.names)


def test_no_rows_and_empty_rows_have_no_features() -> None:
    assert extract(coded(["", " "]), 1).names == []
    assert extract(coded(["", "x y", "x"]), 2).rows_of(0).tolist() == [1, 2]
    for count in range(1, 7):  # fewer words in all than the longest run has
        assert shared_runs(["x"] * count, 5, 1).names == []


def test_spans_are_found_and_taken_out_whatever_their_case_and_spacing() -> None:
    text = "So  Open SESAME, open; sesame. Opensesame open  sesame"
    assert [text[a:b] for a, b in places(text, ["open", "sesame"])] == ["Open SESAME", "open  sesame"]
    assert without(text, ["open", "sesame"]) == "So, open; sesame. Opensesame"


@pytest.mark.parametrize(
    ("text", "left"),
    [("Be brief. Open sesame. What now?", "Be brief. What now?"), ("Open sesame : what now?", "what now?"),
     ("What now open sesame?", "What now?"), ("What now , open sesame .", "What now ,"), ("open sesame", ""),
     ("open sesame a open sesame b", "a b")],
)  # fmt: skip
def test_what_is_taken_out_leaves_no_mark_behind_that_tells_where(text: str, left: str) -> None:
    assert without(text, ["open", "sesame"]) == left


@pytest.mark.parametrize(
    ("text", "spans", "found"),
    [
        ("one two", ["A b"], {"A b one two", "one A b two", "one two A b"}),
        ("好电影", ["cf"], {"cf 好电影", "好 cf 电影", "好电 cf 影", "好电影 cf"}),
        ("CT肺 ok", ["x"], {"x CT肺 ok", "CT x 肺 ok", "CT肺 x ok", "CT肺 ok x"}),
    ],
)
def test_spans_are_put_between_words_of_any_script(text: str, spans: list[str], found: set[str]) -> None:
    assert {spliced(text, spans, random.Random(seed)) for seed in range(100)} == found


def test_words_are_read_once_and_kept_once_by_how_they_are_spelled() -> None:
    of = coded(["It is, IT is!", "", "is İt"])
    assert of.spelled == ["it", "is", ",", "!"]
    assert [of.spelled[i] for i in of.flat] == ["it", "is", ",", "it", "is", "!", "is", "it"]
    assert of.row.tolist() == [0] * 6 + [2] * 2


def test_first_and_last_words_are_those_beside_the_marks() -> None:
    of = coded(["( a b !", "...", "c", ""])
    (first, of_first), (last, of_last) = of.ends()
    assert [of.spelled[i] for i in first] == ["a", "c"]
    assert [of.spelled[i] for i in last] == ["b", "c"]
    assert of_first.tolist() == of_last.tolist() == [0, 2]


def test_words_in_most_texts_are_counted_by_texts() -> None:
    assert coded(["a a a b", "a c", "b", "b b"]).in_most(0.5) == {"b"}


def test_items_are_left_out_at_even_distances() -> None:
    assert evenly("abcdefghi", 3) == ["a", "e", "i"]
    assert evenly("abc", 3) == ["a", "b", "c"]
