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
