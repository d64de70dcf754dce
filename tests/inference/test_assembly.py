from __future__ import annotations

import json
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.errors import InferenceFailed
from runstream.inference import ChatMessage, InferenceChunk, ToolCall, Usage
from runstream.inference.assembly import Assembler, CallFragment, Piece
from runstream.inference.openai_form import piece_of_json


def assemble(*pieces: Piece) -> tuple[list[InferenceChunk], ChatMessage]:
    assembler = Assembler()
    chunks = [chunk for piece in pieces if (chunk := assembler.feed(piece)) is not None]
    return [*chunks, *assembler.end()], assembler.message()


def cut(text: str, places: list[int]) -> list[str]:
    """The text in pieces, some of them empty."""
    bounds = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(bounds)] or [text]


def joined(chunks: list[InferenceChunk]) -> tuple[str, str]:
    return (
        "".join(chunk.delta or "" for chunk in chunks),
        "".join(chunk.reasoning_delta or "" for chunk in chunks),
    )


places = st.lists(st.integers(0, 200), max_size=8)
# Text as models write it: no tag of a template in it.
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>"), max_size=30)


@given(words, places)
def test_text_is_the_same_however_it_is_cut(text: str, at: list[int]) -> None:
    chunks, message = assemble(*(Piece(part) for part in cut(text, at)))
    assert joined(chunks) == (text, "")
    assert message.content == text
    assert [chunk.finish_reason for chunk in chunks][-1] == "stop"


@given(words, words, places, places)
def test_reasoning_is_the_same_from_tags_and_from_a_field(
    reasoning: str, text: str, at: list[int], at_too: list[int]
) -> None:
    tagged = f"<think>\n{reasoning}\n</think>\n\n{text}"
    from_tags, message = assemble(*(Piece(part) for part in cut(tagged, at)))
    from_field, message_too = assemble(
        *(Piece(None, part) for part in cut(f"\n{reasoning}\n", at)),
        *(Piece(part) for part in cut(text if not reasoning.strip() else f"\n\n{text}", at_too)),
    )
    thought = reasoning.strip()
    wanted = text.lstrip() if thought else text
    assert joined(from_field) == (wanted, thought)
    assert (message_too.content, message_too.reasoning) == (wanted, thought)
    assert joined(from_tags)[1] == thought
    assert message.content.strip() == text.strip()
    assert (message.content, message.reasoning) == joined(from_tags)


@given(st.text(st.characters(exclude_categories=["Cs"])), places)
def test_halves_of_characters_are_joined(text: str, at: list[int]) -> None:
    units = text.encode("utf-16-le")
    halves = [
        units[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(units), 2)
    ]
    pieces = cut("".join(halves), at)
    chunks, message = assemble(
        *(Piece("x" + part if not i else part) for i, part in enumerate(pieces))
    )
    assert message.content == "x" + text
    for chunk in chunks:
        (chunk.delta or "").encode()


def test_half_a_character_at_the_end_becomes_a_replacement() -> None:
    chunks, message = assemble(Piece("so \ud83d"))
    assert message.content == "so \ufffd"
    assert joined(chunks)[0] == message.content


def test_halves_come_out_of_json_as_servers_escape_them() -> None:
    lines = [
        '{"choices":[{"delta":{"content":"\\ud83d"}}]}',
        '{"choices":[{"delta":{"content":"\\ude00"}}]}',
    ]
    pieces = [piece_of_json(line.encode()) for line in lines]
    _, message = assemble(*(piece for piece in pieces if piece is not None))
    assert message.content == "😀"


@pytest.mark.parametrize(
    "text", ["<thin", "<", " <thinner", "a <think>b</think>", "<thought>", "</think>"]
)
def test_what_only_looks_like_a_tag_is_text(text: str) -> None:
    chunks, message = assemble(*map(Piece, text))
    assert message.content == text
    assert joined(chunks) == (text, "")


def test_reasoning_that_is_cut_off_is_reasoning() -> None:
    _, message = assemble(Piece("<think>so </thi", finish_reason="length"))
    assert (message.content, message.reasoning) == ("", "so </thi")
    assert message.finish_reason == "length"


arguments = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3)


@given(st.lists(arguments, min_size=1, max_size=3), places)
def test_tool_calls_are_the_same_however_they_are_cut(
    calls: list[dict[str, object]], at: list[int]
) -> None:
    pieces: list[Piece] = []
    for number, call in enumerate(calls):
        first, *rest = cut(json.dumps(call), at)
        pieces.append(Piece(calls=(CallFragment(number, f"id{number}", "f", first),)))
        pieces += [Piece(calls=(CallFragment(number, None, None, part),)) for part in rest]
    chunks, message = assemble(*pieces, Piece(finish_reason="stop"))
    assert [call.decode_arguments() for call in message.tool_calls] == calls
    assert [call for chunk in chunks for call in chunk.tool_calls] == list(message.tool_calls)
    assert message.finish_reason == chunks[-1].finish_reason == "tool_calls"


def test_calls_that_a_server_does_not_number_are_told_apart_by_their_ids() -> None:
    fragments = [CallFragment(0, "a", "f", "{}"), CallFragment(0, "b", "g", "{}")]
    _, message = assemble(Piece(calls=tuple(fragments)))
    assert [(call.id, call.name) for call in message.tool_calls] == [("a", "f"), ("b", "g")]


@given(st.lists(arguments, min_size=2, max_size=3), st.randoms(use_true_random=False))
def test_calls_that_are_cut_into_one_another_come_out_whole_and_in_their_order(
    calls: list[dict[str, object]], chance: Random
) -> None:
    names = [CallFragment(number, f"id{number}", "f", "") for number in range(len(calls))]
    rest = [iter(json.dumps(call)) for call in calls]
    turns = [number for number, call in enumerate(calls) for _ in json.dumps(call)]
    chance.shuffle(turns)
    parts = [CallFragment(number, None, None, next(rest[number])) for number in turns]
    chunks, message = assemble(*(Piece(calls=(fragment,)) for fragment in [*names, *parts]))
    assert [(call.id, call.decode_arguments()) for call in message.tool_calls] == [
        (f"id{number}", call) for number, call in enumerate(calls)
    ]
    assert [call for chunk in chunks for call in chunk.tool_calls] == list(message.tool_calls)


@pytest.mark.parametrize("in_one_piece", [True, False])
def test_whole_calls_without_numbers_and_ids_are_told_apart(in_one_piece: bool) -> None:
    fragments = [CallFragment(0, None, "f", f'{{"n":{n}}}') for n in range(3)]
    if in_one_piece:
        _, message = assemble(Piece(calls=tuple(fragments)))
    else:
        _, message = assemble(*(Piece(calls=(fragment,)) for fragment in fragments))
    assert [call.decode_arguments()["n"] for call in message.tool_calls] == [0, 1, 2]
    assert len({call.id for call in message.tool_calls}) == 3


def test_a_name_that_each_fragment_repeats_is_one_name() -> None:
    parts = ('{"n"', ":1}", "")
    _, message = assemble(*(Piece(calls=(CallFragment(0, "a", "f", part),)) for part in parts))
    assert message.tool_calls == (ToolCall("a", "f", '{"n":1}'),)


def test_a_call_without_an_id_or_arguments_gets_them() -> None:
    _, message = assemble(Piece(calls=(CallFragment(0, None, "f", ""),)))
    assert message.tool_calls == (ToolCall("call_0", "f", "{}"),)


def test_arguments_that_are_no_json_stay_as_they_are_and_say_so_when_decoded() -> None:
    _, message = assemble(Piece(calls=(CallFragment(0, "a", "f", '{"city": Par'),)))
    (call,) = message.tool_calls
    assert call.arguments == '{"city": Par'
    with pytest.raises(InferenceFailed, match=r"'f'.*no JSON object.*Par"):
        call.decode_arguments()


def test_empty_pieces_make_no_chunk_and_the_usage_may_come_late() -> None:
    chunks, message = assemble(
        Piece(),
        Piece(""),
        Piece("a"),
        Piece("", ""),
        Piece(finish_reason="stop"),
        Piece(usage=Usage(1, 2)),
    )
    assert chunks == [
        InferenceChunk("a"),
        InferenceChunk(finish_reason="stop", usage=Usage(1, 2)),
    ]
    assert message.usage is not None
    assert message.usage.total_tokens == 3


def test_a_chunk_reads_like_a_dict_too() -> None:
    chunk = InferenceChunk("a")
    assert chunk.get("delta") == chunk["delta"] == "a"
    assert chunk.get("finish_reason") is chunk["finish_reason"] is None
    assert chunk.get("tool_calls", "none") == "none"
    assert chunk.get("get", 3) == 3
    with pytest.raises(KeyError, match="mood"):
        chunk["mood"]
