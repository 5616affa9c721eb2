"""Place recognition: match kernels against a plain reference, and what the index promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from slam.descriptor_space import Binary, Real, count_bits, count_bits_by_table, hamming, pack
from slam.inverted_file import InvertedFile
from slam.retrieval import Candidate, Retrieval
from slam.retrieval_settings import RetrievalSettings
from slam.vocabulary import Vocabulary, k_means

SAME = RetrievalSettings(minimum_score=0.0, assignments=1)  # of look-up and of adding


def tokens(count: int, rows: int = 40, channels: int = 70, seed: int = 1) -> list[np.ndarray]:
    """Images that share some tokens with their neighbours, all a little changed."""
    rng = np.random.default_rng(seed)
    pool = rng.normal(size=(count * 10 + rows, channels))
    return [
        pool[10 * n : 10 * n + rows] + rng.normal(0, 0.3, (rows, channels)) for n in range(count)
    ]


def corners(count: int, rows: int = 60, seed: int = 2) -> list[np.ndarray]:
    """The same of bits, some of which flip."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 2, (count * 15 + rows, 256), dtype=np.uint8)
    flips = [(rng.random((rows, 256)) < 0.08).astype(np.uint8) for _ in range(count)]
    return [
        np.packbits(pool[15 * n : 15 * n + rows] ^ flip, axis=1) for n, flip in enumerate(flips)
    ]


def numbers(found: list[Candidate]) -> list[int]:
    return [candidate.number for candidate in found]


def scores(found: list[Candidate]) -> dict[int, float]:
    return {candidate.number: candidate.score for candidate in found}


def filled(images: list[np.ndarray], make: Callable[[], Retrieval]) -> Retrieval:
    retrieval = make()
    for number, image in enumerate(images):
        retrieval.add(number, image)
    return retrieval


def binary_vocabulary(images: list[np.ndarray], words: int) -> Vocabulary:
    return Vocabulary.learn(Binary(), Binary().check(np.concatenate(images)), words)


# --- a plain reference ---------------------------------------------------------------------------


def reference_words(
    vectors: np.ndarray, centres: np.ndarray, assignments: int, *, residual: bool
) -> dict[int, np.ndarray]:
    """Signs of the sums in each word, -1 and 1, one descriptor and one word after the other."""
    total: dict[int, np.ndarray] = {}
    for vector in vectors:
        for word in np.argsort(np.linalg.norm(centres - vector, axis=1), kind="stable")[
            :assignments
        ]:
            part = vector - centres[word] if residual else vector
            total[int(word)] = total.get(int(word), 0) + part
    return {word: np.where(value >= 0, 1.0, -1.0) for word, value in total.items()}


def reference_score(
    one: dict[int, np.ndarray], two: dict[int, np.ndarray], exponent: float, agreement: float
) -> float:
    u = [float(one[word] @ two[word]) / len(one[word]) for word in one if word in two]
    return sum(x**exponent for x in u if x > max(agreement, 0)) / np.sqrt(len(one) * len(two))


@pytest.mark.parametrize("assignments", [1, 3])
@pytest.mark.parametrize("agreement", [0.0, 0.2])
def test_scores_of_tokens_are_those_of_the_reference(assignments: int, agreement: float) -> None:
    images = tokens(6)
    centres = k_means(Real(70), np.concatenate(images).astype(np.float32), 30)
    settings = RetrievalSettings(
        minimum_score=0.0, assignments=assignments, agreement=agreement, exponent=2.5
    )
    made = filled(images, lambda: Retrieval(Real(70), settings, Vocabulary.exhaustive(centres)))
    exact = centres.astype(np.float64)
    known = [reference_words(image, exact, 1, residual=True) for image in images]
    for image in images:
        asked = reference_words(image, exact, assignments, residual=True)
        wanted = [reference_score(asked, words, 2.5, agreement) for words in known]
        got = scores(made.query(image, most=len(images)))
        assert [got.get(n, 0.0) for n in range(6)] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("assignments", [1, 3])
def test_scores_of_bits_are_those_of_the_reference(assignments: int) -> None:
    images = corners(6)
    vocabulary = binary_vocabulary(images, 9)  # 3 cells at most: all of them are probed
    settings = RetrievalSettings(minimum_score=0.0, binary_assignments=assignments)
    made = filled(images, lambda: Retrieval(Binary(), settings, vocabulary))
    vectors = [np.unpackbits(image, axis=1) * 2.0 - 1 for image in images]
    centres = np.unpackbits(vocabulary.words.view(np.uint8), axis=1) * 2.0 - 1
    known = [reference_words(vector, centres, 1, residual=False) for vector in vectors]
    for vector, image in zip(vectors, images, strict=True):
        asked = reference_words(vector, centres, assignments, residual=False)
        wanted = [reference_score(asked, words, 3.0, 0.5) for words in known]
        got = scores(made.query(image, most=len(images)))
        assert [got.get(n, 0.0) for n in range(6)] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("kind", ["tokens", "corners"])
def test_scores_are_symmetric_and_1_for_itself(kind: str) -> None:
    images = tokens(8) if kind == "tokens" else corners(8)
    space = Real(70) if kind == "tokens" else Binary()
    made = filled(images, lambda: Retrieval(space, SAME))
    table = np.array([[scores(made.query(i, most=8)).get(n, 0) for n in range(8)] for i in images])
    assert np.diag(table) == pytest.approx(1, abs=1e-12)
    assert table == pytest.approx(table.T, abs=1e-12)
    assert table[0, 1] > 2 * table[0, 6]  # neighbours share more
    assert table.max() <= 1 + 1e-12


# --- what the index promises ---------------------------------------------------------------------


def test_recent_keyframes_can_be_left_out() -> None:
    images = corners(30)
    images[29] = images[3]  # back at the place of 3
    made = filled(images[:29], lambda: Retrieval(Binary(), SAME))
    near_28 = corners(30)[28]
    assert numbers(made.query(near_28, most=2)) == [28, 27]
    assert max(numbers(made.query(near_28, exclude_after=20, most=30)), default=0) <= 20
    assert numbers(made.query(images[29], exclude_after=20, most=1)) == [3]
    assert made.query(images[29], exclude_after=-1) == []
    assert numbers(made.query(images[29], exclude_after=3, most=1)) == [3]  # it is included


def test_candidates_are_best_first_and_of_equals_the_later_first() -> None:
    images = corners(10)
    made = filled([*images, images[4], images[4]], lambda: Retrieval(Binary(), SAME))
    found = made.query(images[4], most=12)
    assert numbers(found)[:3] == [11, 10, 4]
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    assert len(made.query(images[4])) == SAME.candidates
    assert made.query(images[4], most=0) == []


def test_scores_below_the_least_are_no_candidates() -> None:
    images = corners(10)
    strict = RetrievalSettings(minimum_score=0.5)
    assert numbers(filled(images, lambda: Retrieval(Binary(), strict)).query(images[4])) == [4]


def test_the_same_keyframes_give_the_same_scores_bit_by_bit() -> None:
    images = corners(40)
    one, two = (filled(images, lambda: Retrieval(Binary(), SAME)) for _ in range(2))
    assert [one.query(i, most=40) for i in images] == [two.query(i, most=40) for i in images]


def test_the_order_of_keyframes_changes_nothing_once_there_is_a_vocabulary() -> None:
    images = corners(20)
    vocabulary = binary_vocabulary(images, 100)
    one = filled(images, lambda: Retrieval(Binary(), SAME, vocabulary))
    two = Retrieval(Binary(), SAME, vocabulary)
    for number in np.random.default_rng(5).permutation(20).tolist():
        two.add(number, images[number])
    for image in images:
        assert one.query(image, most=20) == two.query(image, most=20)


def test_another_order_finds_the_same_places_with_a_vocabulary_of_its_own() -> None:
    images = corners(20)
    made = Retrieval(Binary(), SAME)
    for number in np.random.default_rng(5).permutation(20).tolist():
        made.add(number, images[number])
    for number, image in enumerate(images):
        found = numbers(made.query(image, most=2))
        assert found[0] == number and abs(found[1] - number) == 1


def test_removed_keyframes_are_gone_and_the_others_keep_their_scores() -> None:
    images = corners(20)
    vocabulary = binary_vocabulary(images, 100)
    made = filled(images, lambda: Retrieval(Binary(), SAME, vocabulary))
    before, memory = scores(made.query(images[5], most=20)), made.memory
    for number in (5, *range(8, 18)):  # enough that the lists are swept
        made.remove(number)
        assert number not in made
    kept = {n: s for n, s in before.items() if n in made}
    assert len(made) == 9 and 4 in kept
    assert scores(made.query(images[5], most=20)) == kept
    assert made.memory < 0.7 * memory
    made.add(5, images[5])  # the number is free again
    assert made.query(images[5], most=1) == [Candidate(5, pytest.approx(1))]
    with pytest.raises(ValueError, match="number: wanted a keyframe that was added, got 9"):
        made.remove(9)


def test_a_keyframe_removed_while_the_vocabulary_grows_stays_away() -> None:
    images = corners(16)
    made = Retrieval(Binary(), SAME)
    for number in range(15):
        made.add(number, images[number])
    made.remove(3)
    made.add(15, images[15])
    made.add(16, images[3])  # the 16th: all are put in new words
    assert 3 not in made and len(made) == 16
    assert numbers(made.query(images[3], most=1)) == [16]


def test_the_vocabulary_grows_and_then_stays() -> None:
    images = corners(20)
    made = Retrieval(Binary(), RetrievalSettings(learn_until=4, descriptors_per_word=2))
    seen = []
    for number, image in enumerate(images):
        made.add(number, image)
        seen.append(made.vocabulary)
    assert seen[0] is seen[2] and seen[2] is not seen[3] and seen[3] is seen[19]
    sizes = [0 if v is None else len(v) for v in (seen[0], seen[3])]
    assert sizes[0] == pytest.approx(30, rel=0.3) and sizes[1] == pytest.approx(120, rel=0.3)
    assert all(numbers(made.query(i, most=1)) == [n] for n, i in enumerate(images))
    made.remove(0)
    assert len(made) == 19 and 0 not in numbers(made.query(images[0], most=20))


def test_learning_ends_when_the_settings_say_and_lets_descriptors_go() -> None:
    images = corners(12)
    made = Retrieval(Binary(), RetrievalSettings(learn_until=6))
    learnt, memory = [], []
    for number, image in enumerate(images):
        before = made.vocabulary
        made.add(number, image)
        learnt += [number] if made.vocabulary is not before else []
        memory.append(made.memory)
    assert learnt == [0, 3, 5]  # the 1st, the 4th, and the last
    assert memory[5] < memory[4]


def test_images_without_descriptors_are_kept_and_never_found() -> None:
    made, none = Retrieval(Binary(), SAME), np.empty((0, 32), np.uint8)
    assert made.query(none) == [] and made.query(corners(1)[0]) == []
    made.add(0, none)
    assert made.query(corners(1)[0]) == []
    made.add(1, corners(1)[0])
    made.add(2, none)
    assert len(made) == 3 and made.query(none) == []
    assert numbers(made.query(corners(1)[0])) == [1]
    made.remove(0)
    made.remove(2)
    assert numbers(made.query(corners(1)[0])) == [1]


@pytest.mark.parametrize("rows", [1, 2, 500])
def test_coinciding_descriptors_make_one_word(rows: int) -> None:
    made = Retrieval(Binary(), SAME)
    made.add(7, np.full((rows, 32), 170, np.uint8))
    assert made.query(np.full((3, 32), 170, np.uint8)) == [Candidate(7, pytest.approx(1))]
    assert made.vocabulary is not None and len(made.vocabulary) == 1
    assert made.query(np.full((3, 32), 85, np.uint8)) == []  # every bit differs


@pytest.mark.parametrize(
    ("space", "given", "words"),
    [
        (Binary(), np.zeros((3, 31), np.uint8), r"\[n, 32\] uint8, got \[3, 31\] uint8"),
        (Binary(), np.zeros((3, 32), np.float32), r"\[n, 32\] uint8, got \[3, 32\] float32"),
        (Binary(), np.zeros(32, np.uint8), r"got \[32\] uint8"),
        (Real(8), np.zeros((3, 9), np.float32), r"\[n, 8\] real numbers, got \[3, 9\]"),
        (Real(8), np.zeros((3, 8), np.uint8), r"real numbers, got \[3, 8\] uint8"),
        (Real(8), np.full((3, 8), np.nan), "wanted finite numbers, got NaN or infinity"),
    ],
)
def test_wrong_descriptors_are_refused_in_one_line(
    space: Binary | Real, given: np.ndarray, words: str
) -> None:
    made = Retrieval(space, SAME)
    for call in (lambda: made.add(0, given), lambda: made.query(given)):
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert len(made) == 0


def test_wrong_numbers_and_vocabularies_are_refused() -> None:
    made = filled(corners(1), lambda: Retrieval(Binary(), SAME))
    with pytest.raises(ValueError, match="number: wanted a new keyframe, got 0 again"):
        made.add(0, corners(1)[0])
    with pytest.raises(ValueError, match=r"wanted words for Real\(channels=8\).*channels=9"):
        Retrieval(Real(8), SAME, Vocabulary.exhaustive(np.zeros((4, 9))))
    with pytest.raises(ValueError, match=r"similarity: wanted \[9\], got \[8\]"):
        InvertedFile(8, np.zeros(8))


def test_tensors_are_taken_as_arrays_are() -> None:
    images = tokens(5)
    one = filled(images, lambda: Retrieval(Real(70), SAME))
    two = filled([torch.from_numpy(i) for i in images], lambda: Retrieval(Real(70), SAME))
    assert one.query(images[2]) == two.query(torch.from_numpy(images[2]).float())


# --- words and bits ------------------------------------------------------------------------------


def test_few_cells_find_the_word_that_all_words_would() -> None:
    points = np.concatenate(tokens(40)).astype(np.float32)
    vocabulary = Vocabulary.learn(Real(70), points, 200)
    distance = np.linalg.norm(points[:, None] - vocabulary.words, axis=2)
    nearest = vocabulary.assign(points, 3)
    assert (nearest[:, 0] == distance.argmin(1)).mean() > 0.9
    ranked = np.take_along_axis(distance, nearest, axis=1)
    assert (np.diff(ranked, axis=1) >= -1e-3).all()
    assert Vocabulary.exhaustive(vocabulary.words[:2]).assign(points[:1], 3)[0, 2] == -1


def test_exhaustive_words_are_the_nearest() -> None:
    points = np.concatenate(tokens(10))
    vocabulary = Vocabulary.exhaustive(points[::7])
    distance = np.linalg.norm(points[:, None] - points[::7], axis=2)
    wanted = np.argsort(distance, axis=1)[:, :5]
    assert (vocabulary.assign(points.astype(np.float32), 5) == wanted).all()


@pytest.mark.parametrize("bits", [1, 63, 64, 65, 256])
def test_packed_bits_differ_as_the_bits_do(bits: int) -> None:
    one, two = (np.random.default_rng(seed).random((20, bits)) < 0.5 for seed in (1, 2))
    assert (hamming(pack(one), pack(two)) == (one != two).sum(1)).all()
    assert (hamming(pack(one)[:, None], pack(two)) == (one[:, None] != two).sum(2)).all()


def test_bits_are_counted_without_a_new_numpy_too() -> None:
    values = np.random.default_rng(3).integers(0, 2**64, (50, 4), dtype=np.uint64)
    values[0] = 2**64 - 1
    assert (count_bits_by_table(values[:, 1]) == count_bits(values[:, 1])).all()
    assert (count_bits_by_table(values) == count_bits(values)).all()
    assert count_bits_by_table(values)[0, 0] == 64


def test_long_lists_are_read_in_parts_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    images = corners(20)
    vocabulary = binary_vocabulary(images, 30)
    made = filled(images, lambda: Retrieval(Binary(), SAME, vocabulary))
    whole = scores(made.query(images[7], most=20))
    monkeypatch.setattr("slam.inverted_file.CHUNK", 13)
    assert scores(made.query(images[7], most=20)) == pytest.approx(whole, abs=1e-12)
