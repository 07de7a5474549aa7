"""comfy-api-simplified: HTTP Basic, the key as the password; submits without naming the body's type, and opens `/ws` only then, with the key in the URL."""

import json
import os
import pathlib
import sys

from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper

directory = pathlib.Path(sys.argv[1])
plan = json.loads((directory / "plan.json").read_text())
api = ComfyApiWrapper(os.environ["CLIENT_URL"], user="key", password=os.environ["CLIENT_KEY"])

assert "system" in api.get_system_stats() and "SaveImage" in api.get_object_info() and api.get_object_info("SaveImage")["SaveImage"]["output_node"]
assert isinstance(api.get_embeddings(), list)

made = ComfyWorkflowWrapper(plan["make"])
made.set_node_param("Save Image", "filename_prefix", "simplified")
pictures = api.queue_and_wait_images(made, "Save Image")
(directory / "made.png").write_bytes(pictures.pop(sorted(pictures)[0]))

uploaded = api.upload_image(directory / "upload.png")
assert uploaded["type"] == "input" and uploaded["subfolder"] == "default_upload_folder", uploaded
turned = ComfyWorkflowWrapper(plan["turn"])
turned.set_node_param("Load Image", "image", f"{uploaded['subfolder']}/{uploaded['name']}")
turned.set_node_param("Save Image", "filename_prefix", "simplified-turned")
pictures = api.queue_and_wait_images(turned, "Save Image")
(directory / "turned.png").write_bytes(pictures.pop(sorted(pictures)[0]))

api.interrupt()
assert api.get_queue() == {"queue_running": [], "queue_pending": []}
