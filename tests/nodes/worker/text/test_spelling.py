"""What one expert tells of a text that is given to it as bytes: against all ways to cut it, counted one by one."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from nodes.worker.text.batcher import Batcher
from nodes.worker.text.lexicon import Lexicon
from nodes.worker.text.mixing import Counts, Mixture
from nodes.worker.text.model import Cache
from nodes.worker.text.sampling import Sampling
from nodes.worker.text.sharing import Turn, Voice, turn_from
from nodes.worker.text.spelling import END_SYMBOL, MOST_BYTES, SYMBOLS, Spelled, Spelling
from nodes.worker.text.tokens import ANSWER, BEGIN, END, Tokenizer
from nodes.worker.text.writing import Order, PromptRefused
from orchestrator.execution.bytewise import Draws, tells_bytes
from orchestrator.fleet.wire import MAX_STRING_BYTES
from tests.fakes.spellers import TableModel, ask, begin, heard, write

PROMPT = (BEGIN, ord("?"), ANSWER)
WORDS = ("ab", "abc", "ca", "cab", "bb")
EVERYTHING = 1000
Floats = NDArray[np.float64]


def table(words: tuple[str, ...], letters: bytes = b"abc") -> TableModel:
    """Letters, words and the end, each as probable as the tokens before make it, with no pattern."""
    tokenizer = Tokenizer(words)
    usable = [*letters, END, *range(259, tokenizer.size)]

    @cache
    def probabilities(before: tuple[int, ...]) -> Floats:
        seed = int.from_bytes(hashlib.sha256(repr(before).encode()).digest()[:8], "big")
        found_v = np.zeros(tokenizer.size)
        found_v[usable] = np.random.default_rng(seed).dirichlet(np.full(len(usable), 0.6)) * 0.9 + 0.1 / len(usable)
        return found_v

    return TableModel(words, probabilities)


def spelling(model: TableModel, *, healing: bool = True) -> Spelling:
    place = (model, Cache(model))  # type: ignore[arg-type]
    return Spelling(place, PROMPT, temperature=0.0, counts=Counts(), healing=healing)  # type: ignore[arg-type]


def tell(one: Spelling, data: bytes, count: int = EVERYTHING) -> Spelled:
    """What it tells behind these bytes, with all that it has to read."""
    one.hear(data)
    planned = one.plan()
    if planned is not None:
        model, row = planned
        one.advance(model.step([row])[0])
    return one.tell(count, ends=True)


def next_of(told: Spelled) -> Floats:
    """Probabilities of the next byte, and of the end."""
    if told.next_bytes is not None:
        return told.next_bytes.astype(float)
    found_s = np.zeros(SYMBOLS)
    for string, probability in zip(told.strings, told.probabilities.astype(float), strict=False):
        found_s[string[0] if string else END_SYMBOL] += probability
    return found_s


def covering(model: TableModel, data: bytes) -> Iterator[tuple[int, ...]]:
    """Every way to cut a text into tokens of which the last one reaches beyond it, or ends it."""
    tokenizer = model.tokenizer
    usable = [*b"abc", END, *range(259, tokenizer.size)]

    def grown(tokens: tuple[int, ...], left: bytes) -> Iterator[tuple[int, ...]]:
        for token in usable:
            string = tokenizer.token_bytes(token)
            if (token == END and not left) or (string.startswith(left) and len(string) > len(left)):
                yield (*tokens, token)
            elif string and left.startswith(string):
                yield from grown((*tokens, token), left[len(string) :])

    yield from grown((), data)


def counted(model: TableModel, data: bytes, *, canonical: bool) -> Floats:
    """The next symbol by all these ways; of the canonical ones all tokens but the last are as the tokenizer cuts."""
    cut = tuple(model.tokenizer.encode_bytes(data))
    found_s = np.zeros(SYMBOLS)
    for tokens in covering(model, data):
        if canonical and tokens[:-1] != cut[: len(tokens) - 1]:
            continue
        probability = 1.0
        for place, token in enumerate(tokens):
            probability *= float(model._probabilities((*PROMPT, *tokens[:place]))[token])
        string = b"".join(model.tokenizer.token_bytes(token) for token in tokens)
        found_s[END_SYMBOL if tokens[-1] == END else string[len(data)]] += probability
    return np.asarray(found_s / found_s.sum())


TEXTS = [bytes(text) for size in range(5) for text in itertools.product(b"abc", repeat=size)]


def test_every_way_that_is_the_tokenizers_but_for_the_newest_token_is_counted() -> None:
    model = table(WORDS)
    worst = max(
        np.abs(next_of(tell(spelling(model), text)) - counted(model, text, canonical=True)).max() for text in TEXTS
    )
    # What is not read has less than a thousandth, and half precision rounds.
    assert worst < 2e-3


def test_without_the_longer_tokens_the_count_is_another() -> None:
    model = table(WORDS)
    found = [next_of(tell(spelling(model, healing=False), text)) for text in TEXTS]
    wrong = [np.abs(f - counted(model, t, canonical=True)).max() for f, t in zip(found, TEXTS, strict=True)]
    assert np.mean(np.array(wrong) > 0.05) > 0.5


def test_where_a_text_can_be_cut_in_one_way_only_nothing_is_left_out() -> None:
    alone = table(())
    for text in TEXTS:
        assert next_of(tell(spelling(alone), text)) == pytest.approx(counted(alone, text, canonical=False), abs=2e-3)
    # With words it is not the sum over all ways to cut: that is what is approximated.
    model = table(WORDS)
    apart = [np.abs(counted(model, t, canonical=True) - counted(model, t, canonical=False)).max() for t in TEXTS]
    assert max(apart) > 0.05


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(alphabet="ab ,", max_size=3).map(str.encode), max_size=8))
def test_what_is_told_does_not_hang_on_the_pieces_in_which_the_text_came(pieces: list[bytes]) -> None:
    model = table((" ab", "ab", " a", "aba", "b"), b"ab ,")
    patient = spelling(model)
    for piece in pieces[:-1]:
        tell(patient, piece)
    found = next_of(tell(patient, pieces[-1] if pieces else b""))
    assert found == pytest.approx(next_of(tell(spelling(model), b"".join(pieces))), abs=4e-3)


VOCABULARIES, WEIGHTS, DRAWN = (WORDS, ("ac", "acb", "cc")), (0.7, 0.3), 1500


def first_two() -> dict[bytes, float]:
    """Probabilities of the first two symbols by the definition, "." for the end."""
    models = [table(words) for words in VOCABULARIES]
    found: dict[bytes, float] = {}
    for first, probability in averaged(models, b"").items():
        for second, more in (averaged(models, first) if first != b"." else {b"": 1.0}).items():
            found[first + second] = probability * more
    return found


def averaged(models: list[TableModel], text: bytes) -> dict[bytes, float]:
    both_s = np.average([counted(model, text, canonical=True) for model in models], axis=0, weights=WEIGHTS)
    return {b"." if s == END_SYMBOL else bytes([s]): float(both_s[s]) for s in np.flatnonzero(both_s).tolist()}


def drawn(weights: tuple[float, float]) -> Counter[bytes]:
    """The first two symbols of texts of two vocabularies, as engines and gateway write them."""
    models = [table(words) for words in VOCABULARIES]
    found: Counter[bytes] = Counter()
    for seed in range(DRAWN):
        order = Order("?", sampling=Sampling(1.0))
        text = write(models, order, weights=weights, choose=Draws(seed).choose, strings=6, steps=2)
        found[(text.data + b"." * (text.finish == "stop"))[:2]] += 1
    return found


def test_texts_of_two_vocabularies_follow_the_definition_and_other_weights_do_not() -> None:
    hoped = {text: probability * DRAWN for text, probability in first_two().items()}
    often = [text for text, count in hoped.items() if count > 5.0]
    for weights, accepted in ((WEIGHTS, True), ((0.45, 0.55), False)):
        counts = drawn(weights)
        assert set(counts) <= set(hoped)
        cells = [[found[text] for text in often] for found in (counts, hoped)]
        p_value = stats.chisquare(*([*cell, DRAWN - sum(cell)] for cell in cells)).pvalue
        assert bool(p_value > 0.01) is accepted
        assert accepted or p_value < 1e-3


def months(before: tuple[int, ...]) -> Floats:
    """Certain of " March", then of the end."""
    found_v = np.full(Tokenizer((" March", " May")).size, 1e-9)
    found_v[259 if before == PROMPT else END] = 1.0
    return np.asarray(found_v / found_v.sum())


def test_in_the_middle_of_a_word_nothing_is_read_and_the_rest_of_it_is_told() -> None:
    model = TableModel((" March", " May"), months)
    one = spelling(model)
    first = tell(one, b"")
    assert first.strings[0] == b" March"
    for start, rest in ((b" Ma", b"rch"), (b"r", b"ch")):
        read = model.read
        told = tell(one, start)
        assert (told.strings[0], told.read_tokens, model.read) == (rest, 0, read)
        assert float(told.probabilities[0]) > 0.99
    done = tell(one, b"ch")
    assert (done.strings[0], done.read_tokens, model.read) == (b"", 1, 1 + len(PROMPT) - 1 + 1)


def test_without_healing_the_rest_of_the_word_is_not_found() -> None:
    told = tell(spelling(TableModel((" March", " May"), months), healing=False), b" Mar")
    assert b"ch" not in told.strings[:3]
    assert told.read_tokens == 4


def test_the_rest_is_told_with_the_next_byte_where_strings_are_cut() -> None:
    model = table(WORDS)
    whole, cut = tell(spelling(model), b"a"), tell(spelling(model), b"a", count=3)
    assert whole.next_bytes is None
    assert float(whole.probabilities[-1]) == 0.0
    assert cut.strings == whole.strings[:3]
    assert float(cut.probabilities.astype(float).sum()) == pytest.approx(1.0, abs=2e-3)
    assert next_of(cut) == pytest.approx(next_of(whole), abs=2e-3)


def test_what_others_wrote_against_all_odds_is_followed() -> None:
    def stubborn(before: tuple[int, ...]) -> Floats:
        found_v = np.zeros(259)
        found_v[ord("a")] = 1.0
        return found_v

    told = tell(spelling(TableModel((), stubborn)), b"zzz")
    assert told.strings[0] == b"a"
    assert float(told.probabilities[0]) == 1.0


def test_a_lexicon_finds_what_begins_with_a_string() -> None:
    lexicon = Lexicon(Tokenizer(("ab", "abc", "b", "é")))
    for start in (b"", b"a", b"ab", b"abc", b"\xc3", b"\xff", b"\xff\xff", b"q"):
        found = {lexicon.strings[place] for place in range(*lexicon.beyond(start).indices(len(lexicon.strings)))}
        assert found == {one for one in lexicon.strings if one.startswith(start) and len(one) > len(start)}


def test_a_longer_string_than_a_gateway_takes_is_told_in_parts_and_written_whole() -> None:
    word = "x" * 300

    def sure(before: tuple[int, ...]) -> Floats:
        found_v = np.full(260, 1e-7)
        found_v[259 if before == PROMPT else END] = 1.0
        return np.asarray(found_v / found_v.sum())

    model = TableModel((word,), sure)
    assert tell(spelling(model), b"", count=1).strings == (b"x" * MOST_BYTES,)
    assert MOST_BYTES == MAX_STRING_BYTES
    found = write([model, letters(word.encode())], Order("?"), steps=400)
    assert (found.text, found.finish) == (word, "stop")
    alone = write([model], Order("?"))
    assert (alone.text, alone.steps) == (word, 3), "two parts and the end"


@pytest.mark.parametrize("only", [None, ANSWER], ids=["no numbers", "a mark"])
def test_an_expert_that_can_say_nothing_tells_so_and_no_other_text_is_harmed(only: int | None) -> None:
    def broken(before: tuple[int, ...]) -> Floats:
        found_v = np.full(259, np.nan if only is None else 0.0)
        found_v[only or 0] = np.nan if only is None else 1.0
        return found_v

    batcher = begin(TableModel((), broken), Order("?"))
    good: Any = letters(b"yes")
    batcher.join_shared(2, Mixture([good], [1.0]), Order("?"), quiet=False)
    for key in (1, 2):
        assert batcher.turn(key, Turn(strings=4)) is None
    told = {running.key: running.writing.told for running in batcher.step() if isinstance(running.writing, Voice)}
    assert isinstance(told[1], Spelled)
    assert isinstance(told[2], Spelled)
    assert told[2].strings[0] == b"y"
    assert told[1].strings == ()
    assert [tells_bytes(heard(one)) for one in told.values() if isinstance(one, Spelled)] == [False, True]


# ---- as an engine writes


def letters(text: bytes) -> TableModel:
    """Writes these bytes one by one, then the end, whatever it has read before."""

    def probabilities(before: tuple[int, ...]) -> Floats:
        found_v = np.full(259, 1e-7)
        place = len(before) - len(PROMPT)
        found_v[text[place] if place < len(text) else END] = 1.0
        return np.asarray(found_v / found_v.sum())

    return TableModel((), probabilities)


def test_letters_of_several_bytes_are_sent_whole() -> None:
    text = "naïve 🦊 ok"
    model, batcher = letters(text.encode()), begin(letters(text.encode()), Order("?", max_tokens=60))
    said, newest = [], b""
    for byte in [*text.encode(), None]:
        told, piece, finish = ask(batcher, Turn(strings=4, pieces=(newest,) if newest else (), tell_text=True))
        said.append(piece)
        assert "\ufffd" not in piece
        assert not finish
        assert told is not None
        newest = b"" if byte is None else bytes([byte])
    assert "".join(said) == text
    assert write([model], Order("?")).text == text


def test_half_a_letter_at_the_end_is_told_as_such() -> None:
    batcher = begin(letters("é".encode()), Order("?", max_tokens=9))
    ask(batcher, Turn(strings=4))
    told, said, finish = ask(batcher, Turn(strings=4, pieces=("é".encode()[:1],), last=True, tell_text=True))
    assert (told, said, finish) == (None, "\ufffd", "length")


@pytest.mark.parametrize(
    ("stop", "text", "finish"), [((), "one two", "stop"), ((" t",), "one", "stop"), (("x",), "one two", "stop")]
)
def test_stop_strings_hold_where_two_experts_write_their_halves(stop: tuple[str, ...], text: str, finish: str) -> None:
    models = [letters(b"one two"), letters(b"one two")]
    found = write(models, Order("?", stop=stop))
    assert (found.text, found.finish) == (text, finish)


def test_steps_end_a_text_and_so_does_a_full_context() -> None:
    found = write([letters(b"abcdefgh")], Order("?"), steps=3)
    assert (found.text, found.finish, found.steps) == ("abc", "length", 3)
    short = letters(b"abcdefgh")
    short.context_tokens = short.sizes["context_tokens"] = len(PROMPT) + 5
    found = write([letters(b"abcdefgh"), short], Order("?"))
    assert (found.finish, found.data) == ("length", b"abcde")


def test_a_turn_of_pieces_must_be_readable() -> None:
    good = {"token_ids": [], "count": 0, "tops": 0, "dense": False, "tell_text": True, "last": False}
    assert turn_from({**good, "strings": 3, "pieces": ["\xc3", ""]}).pieces == (b"\xc3", b"")
    for bad in ({"strings": 3}, {"strings": 3, "pieces": [7]}, {"strings": 3, "pieces": ["\u20ac"]}):
        with pytest.raises(PromptRefused, match="cannot be read"):
            turn_from({**good, **bad})
    assert Batcher().turn(1, Turn(strings=1)) is None
