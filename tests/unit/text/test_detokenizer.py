"""Incremental text equals the text of the whole sequence, at a cost that does not grow."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers

from tdpipe.text.detokenizer import REPLACEMENT, IncrementalDetokenizer

END = 1
QUICK = settings(max_examples=200, deadline=None)
# Characters of one to four bytes, joined ones, and the replacement character itself.
texts = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("aé€😀日\u200d\ufffd")))


def split(token_ids, cuts):
    """The sequence in pieces, cut at places that wrap around its length."""
    places = sorted({cut % (len(token_ids) + 1) for cut in cuts})
    borders = [0, *places, len(token_ids)]
    return [token_ids[a:b] for a, b in pairwise(borders)]


def feed(tokenizer, pieces) -> tuple[list[str], str]:
    """What each append returned, and what finish returned."""
    detokenizer = IncrementalDetokenizer(tokenizer)
    shown = [detokenizer.append(piece) for piece in pieces]
    rest = detokenizer.finish()
    assert detokenizer.text == "".join(shown) + rest
    return shown, rest


class Alphabet:
    """A tokenizer whose decoder is another library decoder: sentencepiece with byte fallback."""

    def __init__(self):
        words = ["\N{LOWER ONE EIGHTH BLOCK}hello", "\N{LOWER ONE EIGHTH BLOCK}you", "ther", "."]
        vocabulary = [*words, *(f"<0x{byte:02X}>" for byte in range(256))]
        self.fast = FastTokenizer(models.BPE({one: i for i, one in enumerate(vocabulary)}, []))
        self.fast.pre_tokenizer = pre_tokenizers.Metaspace()
        self.fast.decoder = decoders.Sequence(
            [
                decoders.Replace("\N{LOWER ONE EIGHTH BLOCK}", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(content=" ", left=1),
            ]
        )

    def decode(self, token_ids, skip_special_tokens=True):
        return self.fast.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def bytes_of(self, text):
        return [4 + byte for byte in text.encode()]


@given(texts, st.lists(st.integers(0, 1000), max_size=30))
@QUICK
def test_text_in_pieces_is_the_text(tokenizer, text, cuts):
    token_ids = tokenizer.encode(text)
    shown, rest = feed(tokenizer, split(token_ids, cuts))
    assert "".join(shown) + rest == tokenizer.decode(token_ids) == text


@given(texts)
@QUICK
def test_byte_by_byte_each_character_comes_when_it_is_whole(tokenizer, text):
    pieces, due = [], []
    for character in text:
        tokens = [tokenizer.encode(character)] if character.isascii() else byte_tokens(character)
        pieces += tokens
        due += [""] * (len(tokens) - 1) + [character]
    shown, rest = feed(tokenizer, pieces)
    assert "".join(shown) + rest == text
    if REPLACEMENT not in text:
        assert shown == due and rest == ""


def byte_tokens(character):
    """One token for each byte; the byte-level alphabet follows the special tokens."""
    order = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [[3 + order.index(byte_letter(byte))] for byte in character.encode()]


def byte_letter(byte):
    """The letter that stands for a byte in a byte-level vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [one for one in range(256) if one not in printable]
    return chr(byte) if byte in printable else chr(256 + others.index(byte))


@given(
    st.lists(st.integers(0, 339), max_size=60),
    st.lists(st.integers(0, 1000), max_size=60),
)
@settings(max_examples=400, deadline=None)
def test_any_tokens_in_any_pieces_give_the_text_of_all(tokenizer, token_ids, cuts):
    for pieces in (split(token_ids, cuts), [[one] for one in token_ids]):
        shown, rest = feed(tokenizer, pieces)
        assert "".join(shown) + rest == tokenizer.decode(token_ids)


@given(st.lists(st.sampled_from([b"\xe2", b"\x82", b"\xac", b"\xf0", b"\x9f", b"a"]), max_size=60))
@settings(max_examples=400, deadline=None)
def test_bytes_that_are_no_text_give_the_text_of_all(tokenizer, letters):
    token_ids = [byte_token(letter[0]) for letter in letters]
    shown, rest = feed(tokenizer, [[one] for one in token_ids])
    assert "".join(shown) + rest == tokenizer.decode(token_ids)


def byte_token(byte):
    order = sorted(pre_tokenizers.ByteLevel.alphabet())
    return 3 + order.index(byte_letter(byte))


@given(
    st.lists(
        st.one_of(st.sampled_from(["0", "1", "2", "3"]), st.sampled_from("é€😀\n")), max_size=20
    ),
    st.lists(st.integers(0, 1000), max_size=20),
)
@QUICK
def test_spaces_and_byte_fallback_of_sentencepiece(parts, cuts):
    alphabet = Alphabet()
    token_ids = [
        token
        for part in parts
        for token in ([int(part)] if part.isdigit() else alphabet.bytes_of(part))
    ]
    for pieces in (split(token_ids, cuts), [[one] for one in token_ids]):
        shown, rest = feed(alphabet, pieces)
        assert "".join(shown) + rest == alphabet.decode(token_ids)


def test_special_tokens_have_no_text(tokenizer):
    hello = tokenizer.encode("hello")
    shown, rest = feed(tokenizer, [[0], hello, [END], [2], hello, [END]])
    assert shown == ["", "hello", "", "", "hello", ""] and rest == ""


def test_an_incomplete_end_comes_with_finish(tokenizer):
    euro = byte_tokens("\N{EURO SIGN}")
    shown, rest = feed(tokenizer, [[byte_token(ord("a"))], *euro[:2]])
    assert shown == ["a", "", ""] and rest == REPLACEMENT


class Counting:
    """Counts the tokens that are decoded."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.num_decoded = 0

    def decode(self, token_ids, skip_special_tokens=True):
        self.num_decoded += len(token_ids)
        return self.tokenizer.decode(token_ids, skip_special_tokens)


@pytest.mark.parametrize("text", ["a", "\N{REPLACEMENT CHARACTER}", "</s>", "broken", "first"])
def test_cost_per_token_does_not_grow(tokenizer, text):
    broken = {"broken": [byte_token(0xE2)], "first": [byte_token(0x82), byte_token(0xE2)]}
    token_ids = broken.get(text) or tokenizer.encode(text)
    counting = Counting(tokenizer)
    feed(counting, [[one] for one in token_ids] * 500)
    assert counting.num_decoded < 60 * 500 * len(token_ids)
