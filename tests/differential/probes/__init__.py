"""Nodes that tell what ComfyUI really made, for tests/differential, and the pictures that its graphs load.

DifferentialProbe  anything -> nothing   the dimensions, numbers and lengths of what it is given, into the UI output

Started with `--extra-model-paths-config FILE`, where FILE says `differential: {custom_nodes: <the folder tests/differential>}`.
"""
import os

import torch
from PIL import Image

import folder_paths


def described(value):
    if isinstance(value, bool):
        return {"bool": value}
    if isinstance(value, int):
        return {"int": str(value)}
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, torch.Tensor):
        return {"tensor": list(value.shape)}
    if isinstance(value, dict) and isinstance(value.get("samples"), torch.Tensor):
        return {"latent": list(value["samples"].shape)}
    if isinstance(value, dict) and "waveform" in value:
        return {"audio": list(value["waveform"].shape), "rate": value["sample_rate"]}
    if hasattr(value, "get_components"):
        return {"video": list(value.get_components().images.shape)}
    return {"other": type(value).__name__}


class DifferentialProbe:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*",)}}

    INPUT_IS_LIST = True
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "gate_probe"

    def run(self, value):
        return {"ui": {"seen": [described(item) for item in value]}}


def make_pictures():
    folder = folder_paths.get_input_directory()
    os.makedirs(folder, exist_ok=True)
    Image.new("RGB", (300, 200), (9, 90, 200)).save(os.path.join(folder, "picture.png"))
    Image.new("RGB", (9, 5), (200, 90, 9)).save(os.path.join(folder, "tiny.png"))
    Image.new("RGBA", (70, 130), (9, 90, 9, 100)).save(os.path.join(folder, "clear.png"))
    frames = [Image.new("RGBA", (48, 96), (60 * n, 0, 0, 50 * n)) for n in range(4)]
    frames[0].save(os.path.join(folder, "moving.webp"), save_all=True, append_images=frames[1:], lossless=True)


make_pictures()

NODE_CLASS_MAPPINGS = {"DifferentialProbe": DifferentialProbe}
