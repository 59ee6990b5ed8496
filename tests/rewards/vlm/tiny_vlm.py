"""A vision-language model of LLaVA's class in its published layout, tiny and random, that vLLM serves on a CPU.

Run with an interpreter that has transformers: python tests/rewards/vlm/tiny_vlm.py FOLDER. Channel 0 of every hidden
state is the same constant, and the words that judges ask for read it: they are always the likeliest, and which of them
wins depends on the pictures.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SPECIAL = ("<s>", "</s>", "<pad>", "<image>")
WORDS = ("Yes", "No", "A", "B")
SIDE, PATCH, WIDTH = 56, 14, 64
TEMPLATE = (
    "{% for m in messages %}USER: {% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% elif c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, a few merges, and the judges' words as tokens of their own."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        ["How many of these are in the picture? Answer with JSON."],
        trainers.BpeTrainer(vocab_size=300, special_tokens=list(SPECIAL), initial_alphabet=alphabet),
    )
    core.add_tokens([word for word in WORDS if len(word) > 1])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    fast.chat_template = TEMPLATE
    return fast


def network(words: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Two layers of each kind."""
    text = LlamaConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=SIDE,
        patch_size=PATCH, projection_dim=32,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default", vision_feature_layer=-1, image_seq_length=(SIDE // PATCH) ** 2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.15)
        language, projector = model.model.language_model, model.model.multi_modal_projector
        language.embed_tokens.weight[:, 0] = 3.0
        projector.linear_2.weight[0] = 0.0
        projector.linear_2.bias[0] = 3.0
        for layer in language.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = 0.0
        for word in WORDS:
            model.lm_head.weight[words.convert_tokens_to_ids(word), 0] = 4.0
    return model


def published(name: str) -> str:
    """The name of a tensor in the published checkpoints, which transformers 5 shortens."""
    name = name.removeprefix("model.")
    if name == "lm_head.weight":
        return f"language_model.{name}"
    for part, inner in (("language_model.", "model."), ("vision_tower.", "vision_model.")):
        if name.startswith(part) and not name.startswith(part + inner):
            return part + inner + name.removeprefix(part)
    return name


def save(folder: Path) -> None:
    """Write model, tokenizer and processor."""
    words = tokenizer()
    model = network(words)
    model.save_pretrained(folder)
    tensors = {published(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        image_processor=pictures, tokenizer=words, patch_size=PATCH, vision_feature_select_strategy="default",
        chat_template=TEMPLATE, num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip


if __name__ == "__main__":
    save(Path(sys.argv[1]))
