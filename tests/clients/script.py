"""comfy-script: makes Python classes from the whole of /object_info, watches one `/ws` for all its tasks, and reads results through /history and /view. Basic, through aiohttp's session."""

import json
import os
import pathlib
import ssl
import sys
import urllib.request
import uuid

import aiohttp
from comfy_script import client
from comfy_script.runtime import load, queue

directory = pathlib.Path(sys.argv[1])
plan = json.loads((directory / "plan.json").read_text())
url, key = os.environ["CLIENT_URL"], os.environ["CLIENT_KEY"]
trust = ssl.create_default_context()


def session():
    return aiohttp.ClientSession(auth=aiohttp.BasicAuth("key", key), connector=aiohttp.TCPConnector(ssl=trust))


def upload(path):
    """It has no call for uploads: its own documentation leaves them to the caller's HTTP library."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="script.png"\r\nContent-Type: image/png\r\n\r\n'
    body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    headers = {"content-type": f"multipart/form-data; boundary={boundary}", "x-api-key": key}
    request = urllib.request.Request(f"{url}/upload/image", body, headers)
    with urllib.request.urlopen(request, context=trust, timeout=60) as answer:
        return json.load(answer)["name"]


def raw(result, name):
    """The bytes of a result's first picture, by the same call by which the library itself opens it."""
    picture = result[0]
    assert picture is not None
    import asyncio

    async def fetched():
        async with session() as opened, opened.get(f"{url}/view", params=result._output["images"][0]) as answer:
            assert answer.status == 200, answer.status
            return await answer.read()

    (directory / name).write_bytes(asyncio.run(fetched()))


uploaded = upload(directory / "upload.png")
load(client.Client(url, session_factory=session))
from comfy_script.runtime.nodes import *  # noqa: E402, F403 - the classes exist only now

made = plan["make"]["1"]["inputs"]
picture = EmptyImage(made["width"], made["height"], 1, made["color"])  # noqa: F405
task = queue.put(SaveImage(picture, "script"))  # noqa: F405
raw(task.wait()[0], "made.png")

picture, _ = LoadImage(uploaded)  # noqa: F405
task = queue.put(SaveImage(ImageInvert(picture), "script-turned"))  # noqa: F405
raw(task.wait()[0], "turned.png")
assert client.get_embeddings() == [] or isinstance(client.get_embeddings(), list)
# Its watcher never ends by itself.
os._exit(0)
