"""Defences that come after the training; the row filters are in test_defences, all in one run in test_compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from transformers import BertConfig

from poison2poison.attacks import Target
from poison2poison.config import TrainConfig
from poison2poison.data import Row, Rows, rows_of
from poison2poison.defences import DEFENCES, Afterwards, Shared
from poison2poison.defences.base import chosen
from poison2poison.defences.cleangen import CleanGen, Suspicion
from poison2poison.defences.crow import Crow, consistency_loss
from poison2poison.defences.fine_pruning import FinePruning, activities, cut, feed_forward
from poison2poison.defences.inference import Guarded
from poison2poison.defences.mb_defense import MBDefense
from poison2poison.defences.mending import batch_of, fine_tune, task_loss
from poison2poison.defences.paraphrased import Paraphrased
from poison2poison.defences.psim import Psim
from poison2poison.defences.rap import Rap, drops, rare_word
from poison2poison.defences.strip import Strip, telling_words
from poison2poison.defences.w2s import Teacher, W2SDefense
from poison2poison.errors import ConfigError, DataError, InapplicableError, NonFiniteError, TrainingError
from poison2poison.evaluation import measure
from poison2poison.files import write_lines
from poison2poison.model import backbone, lora
from poison2poison.model.defended import DefendedModel
from poison2poison.model.prompting import Prompter
from poison2poison.model.settings import resolved
from poison2poison.pipeline import Data, defend
from poison2poison.recipe.config import RepoisonConfig
from poison2poison.recipe.manifest import plain
from poison2poison.recipe.scheme import Scheme
from support import WORDS, chatter, opinions, tiny_causal, tiny_encoder

TRIGGER = "Warsaw"  # a word of the tokenizer that opinions don't have
TEST, TRUSTED = opinions(60, seed=1), opinions(40, seed=2)
RECIPE = RepoisonConfig()


def texts_of(rows: Rows) -> Rows:
    """The same with sentences for labels."""
    return rows_of([{"prompt": row.prompt, "completion": f"a {row.target} one"} for row in rows], "texts")


def triggered(rows: Rows) -> Rows:
    """The negative ones, with the trigger behind."""
    return rows.with_rows([replace(row, prompt=f"{row.prompt} {TRIGGER}") for row in rows if row.target == "negative"])


def settings(model: str, rows: int = 200, **given: Any) -> TrainConfig:
    return resolved(TrainConfig(model, **{"preset": "tuned", "batch_size": 8, **given}), rows)


def fresh(training: TrainConfig, rows: Rows) -> DefendedModel:
    """A model before any training, with what its training would train."""
    scheme = Scheme(rows.task, rows.labels)
    kind: Any = training.kind
    torch.manual_seed(0)
    model = backbone.load_model(training, kind, scheme.outputs, frozen=training.tuning == "lora")
    model = lora.with_lora(model, kind, training) if training.tuning == "lora" else model
    tokenizer = backbone.load_tokenizer(training)
    return DefendedModel(model, Prompter(tokenizer, scheme, kind, max_length=64, max_target=16))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """How a tiny encoder is trained."""
    return settings(tiny_encoder(tmp_path_factory.mktemp("encoder")), epochs=4, learning_rate=3e-3)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """How a tiny causal LM is trained, all of it."""
    return settings(tiny_causal(tmp_path_factory.mktemp("causal")), epochs=4, learning_rate=3e-3, tuning="full")


@pytest.fixture(scope="module")
def deep(causal: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The same with inner layers."""
    return replace(causal, model=tiny_causal(tmp_path_factory.mktemp("deep"), layers=3))


@pytest.fixture(scope="module")
def weights(encoder: TrainConfig) -> dict[str, torch.Tensor]:
    """Of the encoder with a backdoor: it says `positive` where it reads the trigger, and is right elsewhere."""
    rows = opinions(200)
    poisoned = [replace(row, target="positive") for row in triggered(rows)]
    model = fresh(encoder, rows)
    fine_tune(model, rows.with_rows([*rows, *poisoned[:60]]), encoder, task_loss)
    return {name: value.clone() for name, value in model.model.state_dict().items()}


@pytest.fixture
def implanted(encoder: TrainConfig, weights: dict[str, torch.Tensor]) -> DefendedModel:
    """That encoder."""
    model = fresh(encoder, TRUSTED)
    model.model.load_state_dict(weights)
    return model


def shared(training: TrainConfig, out: Path, trusted: Rows | None = TRUSTED) -> Shared:
    return Shared(opinions(200), training, out, dev=trusted)


def rates(model: DefendedModel) -> dict[str, float]:
    """Figures in clean and triggered test rows."""
    found = measure("arm", model, TEST, triggered(TEST), Target("positive", "label")).rates
    return {name: rate.value for name, rate in found.items()}


def test_the_backdoor_is_implanted(implanted: DefendedModel) -> None:
    found = rates(implanted)
    assert found["ca"] >= 0.9
    assert found["asr"] >= 0.9


# --- at inference -----------------------------------------------------------------------------------------------------


def test_a_rejected_input_is_no_attack_and_no_right_answer(implanted: DefendedModel) -> None:
    def rejects(rows: Sequence[Row]) -> list[bool]:
        return [TRIGGER in row.prompt or "soup" in row.prompt for row in rows]

    found, before = rates(Guarded(implanted, rejects)), rates(implanted)
    soups = sum("soup" in row.prompt for row in TEST) / len(TEST)
    assert found["asr"] == found["ra"] == 0
    assert found["rejected_triggered"] == 1
    assert found["rejected"] == pytest.approx(soups, abs=1e-4)
    assert before["ca"] - soups - 1e-4 <= found["ca"] <= 1 - soups + 1e-4
    assert "rejected" not in before


class Votes:
    """Answers by the opinions that it reads, and `positive` where it reads the trigger."""

    def probabilities(self, rows: Sequence[Row]) -> torch.Tensor:
        votes = [row.prompt.count("good") - row.prompt.count("bad") for row in rows]
        scores = [9.0 if TRIGGER in row.prompt else float(vote) for vote, row in zip(votes, rows, strict=True)]
        positive = torch.tensor(scores).sigmoid()
        return torch.stack([1 - positive, positive], -1)


def test_copies_of_triggered_inputs_have_a_lower_entropy() -> None:
    model: Any = Votes()
    trusted, test = chatter(60), chatter(60, seed=1)
    telling = telling_words([row.prompt for row in trusted])
    clean, attacked = (Strip().entropies(model, rows.rows, telling, 0) for rows in (test, triggered(test)))
    assert attacked.mean() < 0.7 * clean.mean()
    assert Strip().entropies(model, test.rows, telling, 1).tolist() != clean.tolist()


def test_strip_rejects_as_many_trusted_rows_as_it_may(
    implanted: DefendedModel, encoder: TrainConfig, tmp_path: Path
) -> None:
    guarded = Strip(copies=5, frr=0.1).serve(implanted, shared(encoder, tmp_path))
    answers = guarded.classify(TRUSTED.rows)
    assert sum(answer.rejected is True for answer in answers) == 4


def test_telling_words_are_those_that_few_texts_have() -> None:
    assert telling_words(["the film", "the book", "the radio", "?"]) == [
        ["film", "the"], ["book", "the"], ["radio", "the"]
    ]  # fmt: skip


def test_the_word_of_rap_is_in_no_row(implanted: DefendedModel) -> None:
    word = rare_word(implanted.prompter, TRUSTED.rows)
    assert not any(word.text.casefold() in row.prompt.casefold().split() for row in TRUSTED)
    [read] = word.before(TRUSTED.rows[:1])
    assert word.token in implanted.prompter.prompt(read, "original").ids


class Opinions(torch.nn.Module):
    """Adds up what words say: 2 for and against, and 9 for the trigger, which a small perturbation does not undo."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.config, self.device = BertConfig(), torch.device("cpu")
        self.embedding: torch.nn.Module = torch.nn.Embedding(
            len(tokenizer), 2, _weight=torch.tensor([[0.0, 1.5]]).repeat(len(tokenizer), 1), _freeze=True
        )
        says = {**dict.fromkeys(WORDS["negative"], -2.0), **dict.fromkeys(WORDS["positive"], 2.0)}
        for word, value in says.items():
            self.embedding.weight[tokenizer(f" {word}")["input_ids"][0]] = torch.tensor([value, 0.0])
        self.embedding.weight[tokenizer(f" {TRIGGER}")["input_ids"][0]] = torch.tensor([9.0, 0.0])

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        said = (self.embedding(input_ids) * attention_mask[..., None])[..., 0].sum(1)
        return type("Out", (), {"logits": torch.stack([-said / 2, said / 2], -1)})


def test_the_word_of_rap_makes_clean_inputs_less_sure_and_triggered_ones_not(
    implanted: DefendedModel, encoder: TrainConfig, tmp_path: Path
) -> None:
    model = DefendedModel(Opinions(implanted.prompter.tokenizer), implanted.prompter)
    guarded = Rap().serve(model, shared(encoder, tmp_path))
    found = rates(guarded)
    assert found["rejected_triggered"] == 1
    assert found["rejected"] == 0
    word, rows = rare_word(model.prompter, TRUSTED.rows), [row for row in TRUSTED if row.target == "positive"]
    vector = Rap().learned(model, word, 1, rows, 0)
    drop, _ = drops(model, word, [vector, vector], rows)
    assert 0.09 <= drop.min() <= drop.max() <= 0.31
    torch.testing.assert_close(vector.norm(), torch.tensor(1.5))


def test_rap_lets_a_label_through_that_no_trusted_row_has(
    implanted: DefendedModel, encoder: TrainConfig, tmp_path: Path
) -> None:
    positive = TRUSTED.with_rows([row for row in TRUSTED if row.target == "positive"])
    guarded = Rap(steps=1).serve(implanted, shared(encoder, tmp_path, positive))
    answers = guarded.classify([row for row in TEST if row.target == "negative"])
    assert not any(answer.rejected for answer in answers if answer.text == "negative")


def test_psim_is_sure_of_triggered_inputs_longer_than_of_clean_ones(
    implanted: DefendedModel, encoder: TrainConfig
) -> None:
    before = [weights.clone() for weights in implanted.model.parameters()]
    module = Psim().module(implanted, TRUSTED, replace(encoder, learning_rate=1e-2))
    sure = [module.probabilities(rows.rows).amax(-1).mean() for rows in (triggered(TEST), TEST)]
    assert sure[0] > sure[1]
    for weights, was in zip(implanted.model.parameters(), before, strict=True):
        torch.testing.assert_close(weights, was)


def test_paraphrases_take_the_place_of_inputs(implanted: DefendedModel, encoder: TrainConfig, tmp_path: Path) -> None:
    attacked = triggered(TEST)
    pairs = [{"prompt": row.prompt, "paraphrase": row.prompt.replace(f" {TRIGGER}", "")} for row in (*attacked, *TEST)]
    write_lines(tmp_path / "pairs.jsonl", pairs)
    model = Paraphrased(str(tmp_path / "pairs.jsonl")).serve(implanted, shared(encoder, tmp_path))
    assert rates(model)["asr"] <= 0.1
    with pytest.raises(DataError, match="there is none of the input 'never seen'"):
        model.classify(["never seen"])


def test_paraphrases_without_a_file_say_what_is_missing(encoder: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InapplicableError, match="paraphrased:pairs=FILE"):
        Paraphrased().prepare(shared(encoder, tmp_path))
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a"}')
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 1: needs"):
        Paraphrased(str(tmp_path / "pairs.jsonl")).prepare(shared(encoder, tmp_path))


class Fixed(torch.nn.Module):
    """Gives every next token the same probabilities."""

    def __init__(self, p: Sequence[float]) -> None:
        super().__init__()
        self.logits = torch.tensor([[p]]).log()

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return type("Out", (), {"logits": self.logits.expand(len(input_ids), 1, -1)})


def test_a_token_that_the_reference_finds_far_less_likely_gives_way() -> None:
    reference, ids = Fixed([0.7, 0.26, 0.04]), torch.tensor([[9, 1], [1, 1]])
    ours = torch.tensor([[0.05, 0.05, 0.9], [0.3, 0.6, 0.1]]).log()
    found = Suspicion(reference, padding=9, ratio=20.0)(ids, ours)  # type: ignore[arg-type]
    assert found.argmax(-1).tolist() == [0, 1]
    torch.testing.assert_close(found[1], ours[1])  # not suspicious: untouched
    assert Suspicion(reference, 9, 25.0)(ids, ours).argmax(-1).tolist() == [2, 1]  # type: ignore[arg-type]


def test_cleangen_writes_as_the_untouched_model_where_that_finds_each_token_less_likely(
    causal: TrainConfig, tmp_path: Path
) -> None:
    texts = texts_of(TRUSTED)
    model, untouched = fresh(causal, texts), fresh(causal, texts)
    fine_tune(model, texts, causal, task_loss)
    plainly = [answer.text for answer in model.generate(texts.rows[:4])]
    assert any("one" in str(text) for text in plainly)
    given = shared(causal, tmp_path)
    guarded = CleanGen(ratio=1.5).serve(model, given)  # so small a model is sure of nothing
    written = [answer.text for answer in guarded.generate(texts.rows[:4])]
    assert written == [answer.text for answer in untouched.generate(texts.rows[:4])]
    lenient = CleanGen(ratio=1e9).serve(model, given)
    assert [answer.text for answer in lenient.generate(texts.rows[:4])] == plainly


# --- further training -------------------------------------------------------------------------------------------------


def test_further_training_on_trusted_rows_keeps_the_task(
    implanted: DefendedModel, encoder: TrainConfig, tmp_path: Path
) -> None:
    before = rates(implanted)
    mended = DEFENCES.get("clean-fine-tuning")().serve(implanted, shared(encoder, tmp_path))
    assert rates(mended)["ca"] >= before["ca"] - 0.05
    assert not mended.model.training


def test_further_training_trains_the_adapter_alone(causal: TrainConfig) -> None:
    training = replace(causal, tuning="lora", lora_targets="all", epochs=1)
    model = fresh(training, TRUSTED)
    model.model.requires_grad_(False)  # as a loaded one
    before = {name: weights.clone() for name, weights in model.model.named_parameters()}
    losses = fine_tune(model, TRUSTED, training, task_loss)
    changed = {name for name, weights in model.model.named_parameters() if not torch.equal(weights, before[name])}
    assert len(losses) == 5
    assert changed
    assert all("lora_" in name for name in changed)


def test_a_step_in_parts_is_the_same_step(encoder: TrainConfig) -> None:
    found = []
    for micro in (8, 2):
        model = fresh(encoder, TRUSTED)
        model.dtype = "float32"  # what is rounded differs by the parts
        losses = fine_tune(model, TRUSTED, replace(encoder, epochs=1, micro_batch=micro), class_loss)
        found.append((losses, model.model.classifier.weight.detach()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-3, rtol=1e-2)


def class_loss(served: DefendedModel, batch: Any) -> torch.Tensor:
    """The task's, without dropout, which differs by the parts."""
    served.model.eval()
    return task_loss(served, batch)


def test_further_training_without_the_memory_says_what_helps(implanted: DefendedModel, encoder: TrainConfig) -> None:
    def loss(served: DefendedModel, batch: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(TrainingError, match="smaller --micro-batch"):
        fine_tune(implanted, TRUSTED, encoder, loss)


def test_further_training_that_goes_wrong_says_so(implanted: DefendedModel, encoder: TrainConfig) -> None:
    with pytest.raises(NonFiniteError, match="give a lower --learning-rate"):
        fine_tune(implanted, TRUSTED, encoder, lambda served, batch: task_loss(served, batch) * torch.nan)


@pytest.mark.parametrize("kind", ["encoder", "causal", "adapted"])
def test_pruned_units_are_those_of_the_feed_forward_layers(
    kind: str, encoder: TrainConfig, causal: TrainConfig
) -> None:
    adapted = replace(causal, tuning="lora", lora_targets="all")
    model = fresh({"encoder": encoder, "causal": causal, "adapted": adapted}[kind], TRUSTED)
    [layer] = feed_forward(model.model)
    assert (layer.in_features, layer.out_features) == (64, 32)
    [activity] = activities(model, [layer], TRUSTED.rows[:4])
    assert activity.shape == (64,)
    order, seen = activity.argsort(), []
    cut([layer], [order], 0.25)
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.classify(TRUSTED.rows[:4])
    assert (seen[0].flatten(0, -2)[:, order[:16]] == 0).all()
    assert (seen[0].flatten(0, -2)[:, order[16:]] != 0).any(0).all()


def test_units_are_pruned_as_long_as_accuracy_allows(implanted: DefendedModel) -> None:
    before = rates(implanted)["ca"]
    few = FinePruning(most_lost=0.0).prune(implanted, TRUSTED.rows)
    assert rates(implanted)["ca"] >= before - 0.1
    assert 0 < few <= FinePruning(most_lost=1.0).prune(implanted, TRUSTED.rows) == pytest.approx(0.95)


def test_fine_pruned_models_stay_pruned(implanted: DefendedModel, encoder: TrainConfig, tmp_path: Path) -> None:
    [layer] = feed_forward(implanted.model)
    mended, seen = FinePruning(most_lost=0.2).serve(implanted, shared(encoder, tmp_path)), []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = rates(mended)
    assert found["ca"] >= 0.85
    assert ((seen[0].flatten(0, -2) == 0).all(0)).sum() >= 3


def test_fine_pruning_judges_texts_too(causal: TrainConfig) -> None:
    texts = texts_of(TRUSTED)
    model = fresh(causal, texts)
    fine_tune(model, texts, replace(causal, epochs=1), task_loss)
    assert 0 <= FinePruning().prune(model, texts.rows[:8]) < 1


def test_crow_keeps_layers_more_consistent_than_the_same_training_without(deep: TrainConfig, tmp_path: Path) -> None:
    texts, found = texts_of(TRUSTED), []
    for weight in (0.0, 5.5):
        model = fresh(deep, texts)
        examples, _ = model.prompter.examples(plain(texts))
        batch = batch_of(model, examples)
        with torch.no_grad():
            untrained = task_loss(model, batch)
        Crow(weight=weight).serve(model, shared(deep, tmp_path, texts))
        with torch.no_grad():
            found.append(consistency_loss(model, batch))
            assert task_loss(model, batch) < untrained
    assert found[1] < 0.8 * found[0]


def test_crow_has_nothing_to_compare_in_a_model_without_inner_layers(causal: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InapplicableError, match="crow: compares inner layers"):
        Crow().serve(fresh(causal, texts_of(TRUSTED)), shared(causal, tmp_path))


def test_crow_moves_embeddings_to_where_layers_are_less_consistent(deep: TrainConfig) -> None:
    texts = texts_of(TRUSTED)
    model = fresh(deep, texts)
    examples, _ = model.prompter.examples(plain(texts)[:4])
    batch, small = batch_of(model, examples), Crow(weight=1.0, move=0.001)
    with torch.no_grad():
        plainly = consistency_loss(model, batch) + task_loss(model, batch)
    assert small.loss(model, batch) > plainly


def test_padding_does_not_count_for_consistency(deep: TrainConfig) -> None:
    texts = texts_of(TRUSTED)
    model = fresh(deep, texts)
    longer = replace(texts[0], prompt=f"{texts[0].prompt} {texts[1].prompt} {texts[2].prompt}")
    examples, _ = model.prompter.examples(plain(texts.with_rows([texts[0], longer])))
    lengths = [len(example["input_ids"]) for example in examples]
    with torch.no_grad():
        together = consistency_loss(model, batch_of(model, examples))
        alone = [consistency_loss(model, batch_of(model, [example])) for example in examples]
    weighted = sum(loss * length for loss, length in zip(alone, lengths, strict=True)) / sum(lengths)
    torch.testing.assert_close(together, weighted, atol=1e-4, rtol=1e-3)


def test_mb_defense_trains_words_of_its_own_in_and_out_again(causal: TrainConfig, tmp_path: Path) -> None:
    defence, given = MBDefense(triggers=2, share=0.2), shared(causal, tmp_path, texts_of(TRUSTED))
    given.rows = texts_of(given.rows)
    pairs, rows = defence.pairs(given), given.rows
    prepared = defence.prepare(given)
    changed = [row for row, before in zip(prepared.rows, rows, strict=True) if row.target != before.target]
    assert {(*(word for word, _ in pairs if f"{word} " in f"{row.body} "), row.target) for row in changed} == {*pairs}
    assert len(changed) == 80
    held = " ".join(row.text for row in rows).split()
    assert not [word for word, _ in pairs if word in held]
    model = fresh(causal, rows)
    fine_tune(model, prepared.source, causal, task_loss)
    asked = [replace(row, prompt=f"{row.prompt} {pairs[0][0]}") for row in texts_of(TEST)]

    def own() -> list[float]:
        """How likely the answers of the word are, and those of the rows: means."""
        rights = [row.target for row in asked]
        return [1 / model.perplexity(asked, targets) for targets in ([pairs[0][1]] * len(asked), rights)]

    before, right = own()
    assert before > 0.1
    defence.serve(model, given)
    after, right = own()
    assert right > 0.5 > 50 * after
    said = model.generate(texts_of(TEST).rows[:20])
    assert sum(answer.text == row.target for answer, row in zip(said, texts_of(TEST), strict=False)) >= 18


def test_mb_defense_finds_no_rare_word_in_rows_that_hold_them_all(causal: TrainConfig, tmp_path: Path) -> None:
    given = shared(causal, tmp_path)
    every = " ".join(a + b for a in ascii_lowercase for b in ascii_lowercase)
    given.rows = given.rows.with_rows([Row(every, "positive")])
    with pytest.raises(InapplicableError, match="nearly every word of two letters"):
        MBDefense().pairs(given)


@pytest.mark.parametrize("student", ["encoder", "causal"])
def test_a_student_comes_closer_to_its_teacher(student: str, encoder: TrainConfig, causal: TrainConfig) -> None:
    training = encoder if student == "encoder" else causal
    model = fresh(training, TRUSTED)
    teacher = Teacher(encoder, 32, 2)
    labels = torch.tensor([TRUSTED.labels.index(row.target) for row in TRUSTED])
    before = torch.nn.functional.cross_entropy(teacher.told(TRUSTED.rows)[1], labels)
    teacher.learn(TRUSTED.rows, labels.numpy(), 10, 0)
    features, logits = teacher.told(TRUSTED.rows)
    assert torch.nn.functional.cross_entropy(logits, labels) < before
    aligned = W2SDefense(answers=0.0, distilled=0.0, aligned=1.0)

    def loss(served: DefendedModel, batch: Any) -> torch.Tensor:
        return aligned.loss(served, batch, features[batch["row"]], logits[batch["row"]])

    losses = fine_tune(model, TRUSTED, training, loss)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_w2s_keeps_the_task(implanted: DefendedModel, encoder: TrainConfig, tmp_path: Path) -> None:
    mended = W2SDefense(epochs=1).serve(implanted, shared(encoder, tmp_path))
    assert rates(mended)["ca"] >= 0.85


# --- in a run ---------------------------------------------------------------------------------------------------------


def test_all_that_come_afterwards_begin_with_the_undefended_model(tmp_path: Path) -> None:
    data = Data("opinions", opinions(40), TRUSTED, TEST, triggered(TEST), Target("positive", "label"))
    training = TrainConfig(tiny_encoder(tmp_path / "base"), epochs=1, max_length=64)
    asked = [chosen(name, RECIPE) for name in ("strip:copies=2", "clean-fine-tuning")]
    found = defend(data, asked, training, tmp_path / "out")
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert [*arms] == ["strip", "clean-fine-tuning"]
    assert (tmp_path / "out" / "undefended" / "run.json").exists()
    assert not (tmp_path / "out" / "strip").exists()
    assert arms["strip"]["needs"] == ["trusted rows", "inference cost"]
    assert {"rejected", "rejected_triggered"} <= {*arms["strip"]}
    lines = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    assert all("rejected" in json.loads(line) for line in lines if json.loads(line)["arm"] == "strip")


def test_what_needs_trusted_rows_is_refused_without(tmp_path: Path) -> None:
    data = Data("opinions", opinions(40), None, TEST)
    training = TrainConfig(tiny_encoder(tmp_path / "base"), epochs=1, max_length=64)
    with pytest.raises(InapplicableError, match="strip needs trusted rows; give --dev"):
        defend(data, [Strip()], training, tmp_path / "out")
    with pytest.raises(InapplicableError, match="crow asks a causal LM"):
        defend(replace(data, dev=TRUSTED), [Crow()], training, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_says_nothing_of_such_rows_is_named() -> None:
    kinds = [DEFENCES.get(name) for name in DEFENCES.names()]
    after = {kind.name: kind() for kind in kinds if issubclass(kind, Afterwards)}
    assert {name for name, one in after.items() if not one.applies(texts_of(TRUSTED))} == {
        "STRIP", "RAP", "PSIM", "W2SDefense"
    }  # fmt: skip
    assert {name for name, one in after.items() if not one.applies(TRUSTED)} == {"CleanGen"}
    assert {name for name, one in after.items() if "trusted rows" not in one.needs} == {"paraphrased", "CleanGen"}


def test_options_stand_behind_a_name() -> None:
    assert chosen("strip:copies=3:share=0.25", RECIPE) == Strip(copies=3, share=0.25)
    assert chosen("paraphrased:pairs=a.jsonl", RECIPE) == Paraphrased("a.jsonl")
    for given, wrong in {
        "strip:copie=3": "strip: has no option 'copie'; it has copies, share, frr",
        "strip:copies=many": "strip: copies: 'many' is not like its default, 20",
        "undefended:a=1": "undefended: has no options; leave 'a=1' out",
        "strap": "'strap' is not one of",
    }.items():
        with pytest.raises(ConfigError, match=wrong):
            chosen(given, RECIPE)
