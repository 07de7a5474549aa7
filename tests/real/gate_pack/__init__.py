"""A node pack for tests of the owner posture: what packs do, in one file, without a model.

A web extension (web/gate_pack.js), routes (GET and POST /gate_pack/...), events without a prompt id, an unknown binary frame, a node that reads
inputs which it does not declare, and one that saves where it likes. Copy the folder into ComfyUI's custom_nodes.
"""

import json
import os

import folder_paths
import numpy
from aiohttp import web
from PIL import Image
from server import PromptServer

KEPT = {}


class GatePackSum:
    """Adds all inputs that begin with `n_`, none of which is declared: as loaders of several LoRAs do."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": (["sum"],), "slider": ("GATE_SLIDER", {"default": 0})}, "optional": FlexibleInputs()}

    RETURN_TYPES = ("*",)
    FUNCTION = "run"
    CATEGORY = "gate_pack"

    def run(self, kind, slider, **numbers):
        total = sum(value["n"] if isinstance(value, dict) else value for name, value in numbers.items() if name.startswith("n_"))
        PromptServer.instance.send_sync("gate_pack.total", {"total": total, "slider": slider})
        return (str(total),)


class FlexibleInputs(dict):
    """Says that it holds whatever is asked for."""

    def __contains__(self, key):
        return True

    def __getitem__(self, key):
        return ("*",)


class GatePackSave:
    """Saves a picture of its own naming into the root of output/, and shows the text that it was given."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"forceInput": True}), "images": ("IMAGE",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "gate_pack"

    def run(self, text, images):
        name = f"gate_pack_{text}.png"
        array = (images[0].cpu().numpy() * 255).astype(numpy.uint8)
        Image.fromarray(array).save(os.path.join(folder_paths.get_output_directory(), name))
        PromptServer.instance.send_sync(99, b"gate_pack frame")
        return {"ui": {"text": [text], "images": [{"filename": name, "subfolder": "", "type": "output"}]}}


@PromptServer.instance.routes.get("/gate_pack/kept/{name}")
async def get_kept(request):
    name = request.match_info["name"]
    return web.json_response({"kept": KEPT.get(name), "seen": sorted(request.headers.keys()), "query": dict(request.query)})


@PromptServer.instance.routes.post("/gate_pack/kept/{name}")
async def post_kept(request):
    body = await request.read()
    KEPT[request.match_info["name"]] = len(body) if len(body) > 1000 else json.loads(body)
    return web.Response(status=201)


@PromptServer.instance.routes.delete("/gate_pack/kept/{name}")
async def delete_kept(request):
    KEPT.pop(request.match_info["name"], None)
    return web.Response(status=204)


NODE_CLASS_MAPPINGS = {"GatePackSum": GatePackSum, "GatePackSave": GatePackSave}
NODE_DISPLAY_NAME_MAPPINGS = {"GatePackSum": "Gate pack: sum", "GatePackSave": "Gate pack: save"}
WEB_DIRECTORY = "./web"
