"""A CLIP tokenizer small enough for the quickstart: its words and digits are one token each."""

from __future__ import annotations

import json
from pathlib import Path

from render import COLOURS
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

MAX_LENGTH = 8
"""Tokens per prompt with both markers. `write 42 in red` takes seven; short, because SD3 without T5 appends as many
zero tokens again and pays for each of them at every network call."""
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Train a byte-pair vocabulary on the quickstart's words, write its files into `folder`, and load them as a
    `CLIPTokenizer`.
    """
    words = ["write", "in", *COLOURS]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[START, END],
        end_of_word_suffix="</w>",
        initial_alphabet=letters,
        min_frequency=1,
    )
    bpe.train_from_iterator([word for word in words for _ in range(4)] + letters, trainer)
    state = json.loads(bpe.to_str())["model"]
    vocab = dict(state["vocab"])
    for letter in letters:
        vocab.setdefault(f"{letter}</w>", len(vocab))
    merges = [tuple(pair) for pair in state["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)
    tokenizer.save_pretrained(folder)
    loaded = CLIPTokenizer.from_pretrained(folder)
    for word in words:
        if len(loaded(word).input_ids) != 3:
            raise AssertionError(f"{word!r} should be one token, is {loaded.tokenize(word)}")
    return loaded
