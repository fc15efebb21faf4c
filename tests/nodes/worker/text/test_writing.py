"""What a text sends and when it ends, on scripted tokens."""

from collections.abc import Sequence

import pytest

from nodes.worker.text.mixing import Chosen, Mixture
from nodes.worker.text.tokens import END, Tokenizer
from nodes.worker.text.writing import Allowance, Order, PromptRefused, Writing, held_back, order_from


class _Model:
    """Stands for a loaded model where nothing is run."""

    tokenizer = Tokenizer(["abc"])
    context_tokens = 40

    def __init__(self) -> None:
        self.sizes = {"context_tokens": 40, "layers": 1, "kv_heads": 1, "head_width": 2}


def writing(order: Order) -> Writing:
    return Writing(Mixture([_Model()], [1.0]), order)  # type: ignore[list-item]


def written(order: Order, tokens: Sequence[int]) -> tuple[list[str], Writing]:
    text = writing(order)
    pieces = []
    for token in tokens:
        piece = text.take(Chosen(token, 0.5))
        pieces += [piece.text] if piece else []
        if text.finish:
            break
    return pieces, text


def test_ends_at_the_end_mark_which_says_nothing() -> None:
    pieces, text = written(Order("q"), [*b"hi", END])
    assert ("".join(pieces), text.finish, text.completion_tokens) == ("hi", "stop", 3)
    assert text.margin_fraction == 0.5


def test_a_stop_string_cuts_and_what_may_begin_one_waits() -> None:
    pieces, text = written(Order("q", stop=("END",)), b"a EN EEND more")
    assert "".join(pieces) == "a EN E"
    assert text.finish == "stop"
    assert all("END".startswith(piece) is False or piece == "" for piece in pieces[:1])


@pytest.mark.parametrize(
    ("text", "stops", "held"),
    [("abE", ["END"], 1), ("abEN", ["END"], 2), ("ab", ["END"], 0), ("", ["x"], 0), ("xx", ["xxy", "x!"], 2)],
)
def test_held_back(text: str, stops: list[str], held: int) -> None:
    assert held_back(text, stops) == held


def test_letters_of_several_bytes_are_sent_whole() -> None:
    pieces, text = written(Order("q", max_tokens=3), "é!".encode())
    assert pieces == ["é", "!"]
    assert text.finish == "length"


def test_length_and_budget() -> None:
    _, text = written(Order("q", max_tokens=2), b"abcdef")
    assert (text.finish, text.completion_tokens) == ("length", 2)
    # Three marks and letters of the prompt at 1 J, 2 J on top, then 0.5 J per token: 2 J are left.
    allowance = Allowance(limit_j=7.0, overhead_j=2.0, prefill_j_per_token=1.0, decode_j_per_token=0.5)
    pieces, text = written(Order("q", allowance=allowance), b"abcdef")
    assert (text.finish, text.completion_tokens, "".join(pieces)) == ("budget", 4, "abcd")


def test_joules_that_pay_for_nothing_end_a_text_before_it_begins() -> None:
    allowance = Allowance(limit_j=1.0, overhead_j=2.0, decode_j_per_token=0.5)
    assert writing(Order("q", allowance=allowance)).finish == "budget"


def test_min_tokens_go_past_end_and_stop() -> None:
    _, text = written(Order("q", max_tokens=9, min_tokens=4, stop=("b",)), [END, *b"bbbbbb"])
    assert (text.finish, text.completion_tokens) == ("stop", 5)


def test_questions_that_leave_no_room_are_refused() -> None:
    with pytest.raises(PromptRefused, match="40 is the limit"):
        writing(Order("long " * 20))


def test_orders_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(PromptRefused, match="cannot be read"):
        order_from({"question": "x"})
