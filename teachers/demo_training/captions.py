"""Captions of the demo CLIP: words, sentences and the byte-pair vocabulary."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from storage.taxonomy import CLASSES, SKY, SemanticClass

TEMPLATES = (
    "a photo of a {word}",
    "a photo of the {word}",
    "a picture of a {word}",
    "a close view of a {word}",
    "there is a {word} in the scene",
    "a {word} seen from a car",
    "{word}",
)
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 32
_NUM_MERGES = 400
_END_OF_WORD = "</w>"


def caption_classes() -> tuple[SemanticClass, ...]:
    """Return the classes that captions name, with the sky and without "other"."""
    return tuple(entry for entry in (*CLASSES, SKY) if entry.name != "other")


def sentences() -> Iterator[str]:
    """Yield every template with every word of every class."""
    for entry in caption_classes():
        for word in entry.words:
            for template in TEMPLATES:
                yield template.format(word=word)


def build_tokenizer() -> CLIPTokenizer:
    """Return a CLIP tokenizer whose byte-pair merges were learned from the captions.

    It splits and lower-cases text exactly as CLIP's does. Any text can be encoded, since every byte has a token.
    """
    byte_symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _learn_merges(_NUM_MERGES)
    tokens = [*byte_symbols, *(f"{byte}{_END_OF_WORD}" for byte in byte_symbols)]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, BEGIN, END]))}
    spelt: Any = merges  # pairs are what the byte-pair model takes; the signature names strings alone
    return CLIPTokenizer(vocab=vocabulary, merges=spelt, model_max_length=MAX_TOKENS)


def _learn_merges(num_merges: int) -> list[tuple[str, str]]:
    """Learn byte-pair merges. Equal counts are ordered by spelling, unlike in the tokenizers library's trainer."""
    words: dict[tuple[str, ...], int] = {}
    for sentence in sentences():
        for word in re.findall(r"[a-z]+", sentence.lower()):
            symbols = (*word[:-1], word[-1] + _END_OF_WORD)
            words[symbols] = words.get(symbols, 0) + 1
    merges: list[tuple[str, str]] = []
    while len(merges) < num_merges:
        counts: dict[tuple[str, str], int] = {}
        for symbols, count in words.items():
            for pair in pairwise(symbols):
                counts[pair] = counts.get(pair, 0) + count
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        words = {_merged(symbols, best): count for symbols, count in words.items()}
    return merges


def _merged(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    result: list[str] = []
    for symbol in symbols:
        if result and (result[-1], symbol) == pair:
            result[-1] += symbol
        else:
            result.append(symbol)
    return tuple(result)
