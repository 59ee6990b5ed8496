"""Tokenizers of the stock classes that know letters and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer, T5TokenizerFast

SPACE = "\u0120"  # how byte-level tokenizers write a space

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %} quiet{% endif %}"
)


def clip_tokenizer(length: int) -> CLIPTokenizer:
    """CLIP's, one token per letter, cut at `length`."""
    markers = ["<|startoftext|>", "<|endoftext|>"]
    letters = [*ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase)]
    vocab = {word: place for place, word in enumerate([*markers, *letters])}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def t5_tokenizer() -> T5TokenizerFast:
    """T5's, one token per letter."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5TokenizerFast(vocab=[*special, *((letter, -3.0) for letter in ascii_lowercase)], extra_ids=0)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """One token per letter or space, and a chat template that says whether thinking was switched off."""
    vocab = {token: place for place, token in enumerate(["<|endoftext|>", *ascii_lowercase, SPACE])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], unk_token="<|endoftext|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token per word; in Gemma's place, whose own tokenizer wants a real vocabulary."""
    vocab = {word: place for place, word in enumerate(["<pad>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
