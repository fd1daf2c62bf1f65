"""What models that see are trained on here: pictures of coloured boxes with captions, and a small CLIP."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
PIXELS = 16
PRESET: dict[str, Any] = {
    "model": {
        "hidden_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "seq_length": 32,
        "vision": {"type": "lite", "image_size": PIXELS, "num_prefix_tokens": 2, "width": 16},
    },
    "tokenizer": {"type": "bpe", "vocab_size": 300},
    "data": {"sources": [{"type": "images", "paths": "pictures"}], "validation_fraction": 0.25, "min_text_length": 1},
    "train": {
        "train_tokens": 2000,
        "per_gpu_batch_size": 4,
        "precision": "fp32",
        "optimizer": {"type": "adamw", "learning_rate": 0.003},
        "schedule": {"type": "cosine", "warmup_steps": 0, "floor": 1.0},  # the same however long the run is to be
        "picture_augmentation": {},
        "sample_prompts": [],
    },
    "generate": {"max_new_tokens": 6, "greedy": True},
}


def with_vision(**vision: Any) -> dict[str, Any]:
    """The preset with other eyes."""
    return {**PRESET, "model": {**PRESET["model"], "vision": vision}}


def write_pictures(folder: Path) -> None:
    """A folder of pictures with the file of their captions."""
    folder.mkdir()
    lines = []
    for name, colour in COLOURS.items():
        for size in range(12, 24):
            Image.new("RGB", (size, PIXELS), colour).save(folder / f"{name}{size}.png")
            lines.append(json.dumps({"file_name": f"{name}{size}.png", "text": f"A {name} box, {size} wide."}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def write_lines(file: Path) -> None:
    """Text without any picture."""
    lines = [json.dumps({"text": f"The number {one} comes before the number {one + 1}."}) for one in range(60)]
    file.write_text("\n".join(lines))


def write_tower(folder: Path) -> CLIPVisionModel:
    """The vision tower of a CLIP with random weights, in a folder as `transformers` saves it."""
    torch.manual_seed(7)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=PIXELS, patch_size=8)).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3]}))
    return model
