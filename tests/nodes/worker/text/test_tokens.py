"""The tokenizer: any text goes in and comes back."""

from hypothesis import given
from hypothesis import strategies as st

from nodes.worker.text.tokens import ANSWER, BEGIN, END, Tokenizer
from nodes.zoo.language.vocabulary import common_words, shipped_tokenizer

SHIPPED = shipped_tokenizer()


@given(st.text(max_size=80))
def test_round_trip(text: str) -> None:
    assert SHIPPED.decode(SHIPPED.encode(text)) == text


@given(st.text(alphabet="What is the price of plum? 0123456789.", max_size=60))
def test_round_trip_of_what_looks_like_questions(text: str) -> None:
    assert SHIPPED.decode(SHIPPED.encode(text)) == text


@given(st.text(alphabet="is the sum, 3é ", max_size=30), st.integers(0, 3), st.text(alphabet="is the, 3é ", max_size=8))
def test_before_a_seam_the_cut_stays_as_it_is_whatever_follows(text: str, short: int, more: str) -> None:
    data = text.encode()
    data = data[: len(data) - short]
    seam = SHIPPED.seam(data)
    whole = data + more.encode()
    assert SHIPPED.encode_bytes(whole) == SHIPPED.encode_bytes(whole[:seam]) + SHIPPED.encode_bytes(whole[seam:])
    assert SHIPPED.seam(data, seam) == seam


def test_a_long_text_has_seams_and_a_word_under_way_has_none() -> None:
    assert SHIPPED.seam(b"What is the sum") == len(b"What is the")
    assert SHIPPED.seam(b"3,5 ") == len(b"3,5")
    assert SHIPPED.seam(b"Wednes") == 0
    assert SHIPPED.seam("é".encode()) == 0


def test_common_words_are_one_token_and_others_are_spelled() -> None:
    assert len(SHIPPED.encode("What is the sum of")) == 5
    assert SHIPPED.encode("plum") == list(b"plum")


def test_marks_frame_a_question_and_say_nothing() -> None:
    ids = SHIPPED.prompt("3")
    assert ids == [BEGIN, ord("3"), ANSWER]
    assert SHIPPED.decode([*ids, END]) == "3"


def test_the_digest_names_the_vocabulary() -> None:
    assert SHIPPED.digest == Tokenizer(SHIPPED.words).digest
    assert SHIPPED.digest != Tokenizer(SHIPPED.words[:-1]).digest
    assert SHIPPED.size < 512


def test_the_shipped_words_are_those_that_training_questions_use() -> None:
    assert list(SHIPPED.words) == common_words()
