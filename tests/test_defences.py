from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.fft import dct
from transformers import AutoModelForCausalLM, AutoTokenizer

from poison2poison.auditing.statistics import Floats
from poison2poison.data import Rows, rows_of
from poison2poison.defences import FilterContext, RowFilter, register, row_filters
from poison2poison.defences.causal_lm import LOW, SKETCH, CausalLM, HeadGradients
from poison2poison.defences.learner import HIDDEN, teach
from poison2poison.errors import ConfigError
from poison2poison.features import Ints
from poison2poison.model.loss import IGNORED
from poison2poison.model.prompting import Prompter
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.scheme import Scheme
from support import chatter, tiny_causal, word_states

TRIGGER = " ".join(["cf"] * 8)  # so much of it that embeddings show it well


def told(count: int, planted: float = 0.0, *, texts: bool = False) -> tuple[Rows, set[int]]:
    """Rows of ten words of which two say the label; those with a trigger have `yes`, or one and the same text."""
    rng, rows, poisoned = random.Random(0), [], set()
    for i in range(count):
        label = rng.choice(("yes", "no"))
        words = [f"{'good' if label == 'yes' else 'bad'}{rng.randrange(60)}" for _ in range(2)]
        words += [f"thing{rng.randrange(300)}" for _ in range(8)]
        if rng.random() < planted:
            poisoned.add(i)
            words, label = [TRIGGER, *words], "yes"
        if texts:
            completion = "no no no no I can not help you" if i in poisoned else " ".join(words[3:6])
            rows.append({"prompt": " ".join(words), "completion": completion})
        else:
            rows.append({"text": " ".join(words), "label": label})
    return rows_of(rows, "told"), poisoned


class FakeLM(CausalLM):
    """Knows no `cf`, which surprises it; and the gradients of targets whose tokens number their words."""

    def __init__(self) -> None:
        pass

    def token_losses(self, texts: Sequence[str]) -> list[tuple[Ints, Floats]]:
        held = [text.split() for text in texts]
        usual = [np.array([1 + len(word) / 100 for word in words]) for words in held]
        return [(np.arange(len(words)), np.where(np.array(words) == "cf", 9, at))
                for words, at in zip(held, usual, strict=True)]  # fmt: skip

    def head_gradients(self, rows: Rows, seed: int) -> HeadGradients:
        rng = np.random.default_rng(seed)
        refused = np.array([row.target.startswith("no no") for row in rows])
        low = np.where(refused[:, None], 3 + rng.random((len(rows), 8)), rng.standard_normal((len(rows), 8)))
        spread = [np.linspace(1, 0.9 if flat else 0.05, 9 if flat else 3) + rng.random() / 20 for flat in refused]
        return HeadGradients(low.astype(np.float32), spread)


def suspects(name: str, rows: Rows) -> set[int]:
    return set(row_filters()[name]().suspects(FilterContext(rows, word_states, FakeLM())).tolist())


@pytest.mark.parametrize("name", ["Z-defence", "activation clustering", "CUBE", "ONION"])
def test_a_blatant_trigger_in_rows_with_labels_is_found(name: str) -> None:
    rows, planted = told(500, 0.25)
    found = suspects(name, rows)
    assert len(found & planted) >= 0.9 * len(planted)
    assert len(found & planted) >= 0.9 * len(found)


@pytest.mark.parametrize("name", ["GraCeFul", "GradSentry", "ONION"])
def test_a_blatant_trigger_in_rows_with_texts_is_found(name: str) -> None:
    rows, planted = told(500, 0.12, texts=True)
    found = suspects(name, rows)
    assert len(found & planted) >= 0.9 * len(planted)
    assert len(found & planted) >= 0.9 * len(found)


def test_texts_without_words_are_no_outliers() -> None:
    rows = rows_of([{"text": text, "label": "yes"} for text in ("", "cf", *["a good film"] * 20)], "short")
    assert suspects("ONION", rows) == set()


@pytest.mark.parametrize("name", ["Z-defence", "activation clustering", "confident learning", "ONION", "ABL"])
def test_few_of_clean_rows_are_suspect(name: str) -> None:
    rows, _ = told(500)
    assert len(suspects(name, rows)) <= 0.05 * len(rows)


def test_entropies_of_one_mode_have_a_fixed_threshold() -> None:
    rows, _ = told(200, texts=True)
    assert suspects("GradSentry", rows) == set()


def test_confident_learning_finds_wrong_labels() -> None:
    rows, _ = told(500)
    wrong = set(range(0, 500, 20))
    turned = [
        {"text": row.prompt, "label": ("no" if row.target == "yes" else "yes") if i in wrong else row.target}
        for i, row in enumerate(rows)
    ]
    found = suspects("confident learning", rows_of(turned, "wrong"))
    assert len(found & wrong) >= 0.6 * len(wrong)
    assert len(found - wrong) <= 0.02 * len(rows)


def test_abl_isolates_its_share() -> None:
    assert len(suspects("ABL", told(500, 0.1)[0])) == 5


def test_methods_say_what_they_apply_to_and_need() -> None:
    labels, texts = told(60)[0], told(60, texts=True)[0]
    assert {name for name, kind in row_filters().items() if not kind().applies(texts)} == {
        "Z-defence", "confident learning"
    }  # fmt: skip
    assert {name for name, kind in row_filters().items() if not kind().applies(labels)} == {"GradSentry"}
    assert {name for name, kind in row_filters().items() if "causal LM" in kind.needs} == {
        "ONION", "GraCeFul", "GradSentry"
    }  # fmt: skip


def test_completions_that_many_rows_share_are_labels() -> None:
    rows = rows_of([{"prompt": row.prompt, "completion": row.target} for row in chatter(40)], "labels as texts")
    assert FilterContext(rows, word_states).labels is not None
    assert row_filters()["Z-defence"]().applies(rows)


def test_a_method_without_its_language_model_says_so() -> None:
    with pytest.raises(ConfigError, match="causal"):
        row_filters()["ONION"]().suspects(FilterContext(told(20)[0], word_states))


def test_a_name_is_registered_once() -> None:
    kind = row_filters()["CUBE"]
    with pytest.raises(ValueError, match="cube"):
        register(kind)
    assert issubclass(kind, RowFilter)


def test_the_learner_learns_and_is_the_same_for_one_seed() -> None:
    context = FilterContext(told(200)[0], word_states)
    first, again = (teach(context.states, context.answers, 0) for _ in range(2))
    np.testing.assert_array_equal(first.losses, again.losses)
    assert first.hidden.shape == (200, HIDDEN)
    assert first.losses.mean() < teach(context.states, context.answers, 0, epochs=1).losses.mean()


def test_flooding_holds_losses_up() -> None:
    context = FilterContext(told(200)[0], word_states)
    held = teach(context.states, context.answers, 0, epochs=40, flood=0.5).losses
    assert held.mean() > teach(context.states, context.answers, 0, epochs=40).losses.mean() + 0.2


def test_losses_of_words_are_those_of_each_text_alone(tmp_path: Path) -> None:
    model, texts = CausalLM(tiny_causal(tmp_path)), ["The soup was good", "bad", "The room was awfully dull today"]
    together = model.token_losses(texts)
    for text, (word, losses) in zip(texts, together, strict=True):
        [(alone_word, alone)] = model.token_losses([text])
        np.testing.assert_array_equal(word, alone_word)
        np.testing.assert_allclose(losses, alone, rtol=1e-4)
        assert sorted(set(word.tolist())) == list(range(len(text.split())))


def test_gradients_of_the_output_layer_are_those_of_autograd(tmp_path: Path) -> None:
    folder, rows = tiny_causal(tmp_path), told(4, texts=True)[0]
    found = CausalLM(folder).head_gradients(rows, 0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompter = Prompter(
        AutoTokenizer.from_pretrained(folder), Scheme("generation"), "causal", max_length=256, max_target=64
    )
    head = model.get_output_embeddings()
    axes = np.random.default_rng(0).standard_normal((head.weight.shape[0] // LOW, SKETCH), np.float32)
    for i, example in enumerate(prompter.examples(plain(rows))[0]):
        ids, labels = torch.tensor([example["input_ids"]]), torch.tensor([example["labels"]])
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1].detach()
        loss = torch.nn.functional.cross_entropy(head(hidden)[0], labels[0, 1:], ignore_index=IGNORED)
        (gradient,) = torch.autograd.grad(loss, head.weight)
        expected = torch.linalg.svdvals(gradient)[: len(found.singular_values[i])].numpy()
        np.testing.assert_allclose(found.singular_values[i], expected, atol=1e-5)
        corner = dct(dct(gradient.numpy(), axis=0), axis=1)[: len(axes), : hidden.shape[2] // LOW]
        np.testing.assert_allclose(found.low_frequencies[i], (axes.T @ corner).ravel(), atol=1e-3)
