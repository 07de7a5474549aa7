"""What a visitor does in the stock page, by its own buttons, and what the visitor then sees."""

import contextlib
import dataclasses
import json
import struct
import zlib

from playwright.sync_api import TimeoutError

from house import DEADLINE, Failure, eventually, expect

APP = "(window.app ?? window.comfyAPI?.app?.app)"
API = "(window.comfyAPI?.api?.api ?? window.app?.api)"
NODES = f"({APP}.graph.nodes ?? {APP}.graph._nodes)"
# Of the page's versions 1.35 and 1.58.
RUN = "button[data-testid=queue-button], [data-testid=queue-button] button"
FIT = "button[aria-label^='Fit View']"
PICTURE = "img[src*='/api/view']"
# Panels: the button that opens and shuts one, and the pictures in it.
ASSETS = ("button[aria-label^=Assets]", f".side-bar-panel {PICTURE}")
QUEUE = ("[data-testid=queue-overlay-toggle], [aria-label='Expand job queue']", f"[data-testid=job-assets-list] {PICTURE}, .overflow-y-auto {PICTURE}:not(.side-bar-panel *)")


@dataclasses.dataclass(frozen=True)
class Watched:
    """A workflow that takes a while, the class of its node that reports progress and sends previews, and a change that makes its next run a new one."""

    workflow: dict
    previews: str
    varied: tuple


# Text to picture by the stand-in's sampler; models by the names that it lists.
SAMPLED = Watched(
    {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                **{"model": ["4", 0], "positive": ["6", 0], "negative": ["6", 0], "latent_image": ["5", 0], "seed": 5, "steps": 80},
                **{"cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 256, "height": 192, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "page"}},
    },
    "KSampler",
    ("KSampler", "seed", 11),
)
# The same where there is no model: a real ComfyUI with the probe nodes.
PROBED = Watched(
    {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 256, "height": 192, "batch_size": 1, "color": 1193046}},
        "3": {"class_type": "GateProbeSleep", "inputs": {"image": ["1", 0], "steps": 80, "tick_ms": 100, "preview": True}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "page"}},
    },
    "GateProbeSleep",
    ("GateProbeSleep", "tick_ms", 101),
)
# An uploaded picture with its colours turned round. No number is another workflow's: the page puts back what a node of a number showed before.
INVERTED = {
    "11": {"class_type": "LoadImage", "inputs": {"image": "none.png"}},
    "12": {"class_type": "ImageInvert", "inputs": {"image": ["11", 0]}},
    "19": {"class_type": "SaveImage", "inputs": {"images": ["12", 0], "filename_prefix": "inverted"}},
}


def node(kind):
    return f"{NODES}.find((node) => node.type === '{kind}')"


def png(width, height, colour):
    """A picture of one colour, (red, green, blue)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(colour) * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def is_loaded(tab):
    """Until the page knows the nodes, has its socket and asks for nothing any more: templates, subgraphs and jobs come after it shows."""
    for ready in (
        f"{APP}?.graph && {APP}.vueAppReady !== false",
        "Boolean(window.LiteGraph?.registered_node_types?.SaveImage)",
        f"typeof {APP}.loadApiJson === 'function' && {API}?.socket?.readyState === 1",
    ):
        tab.page.wait_for_function(ready, polling=100)
    tab.quiet()


def draw(tab, workflow):
    """Puts a workflow on the page, as when its file is dropped there."""
    kinds = sorted(part["class_type"] for part in workflow.values())
    links = sum(isinstance(value, list) for part in workflow.values() for value in part["inputs"].values())
    here = f"() => [{NODES}.map((node) => node.type).sort(), {NODES}.flatMap((node) => node.inputs ?? []).filter((input) => input.link != null).length]"

    def is_drawn():
        # While it starts the page puts a graph of its own over ours, and knows no classes yet.
        tab.page.evaluate(f"async (graph) => {{ await {APP}.loadApiJson(graph, 'page.json'); }}", workflow)
        tab.page.wait_for_timeout(500)
        return tab.page.evaluate(here) == [kinds, links]

    eventually("the workflow is on the page", is_drawn)
    # The page loads a node's pictures when it paints the node.
    tab.press(FIT)


def vary(tab, kind, widget, value):
    """As if another value were typed there: a run with the same ones is in the cache, and shows nothing of its progress."""
    tab.page.evaluate(f"([name, value]) => {{ {node(kind)}.widgets.find((widget) => widget.name === name).value = value; }}", [widget, value])


def picture_of(tab, kind):
    """Of what a node shows once it ran: width, source and the colour of its middle."""
    seen = f"""() => {{
      const image = {node(kind)}?.imgs?.[0];
      if (!image?.naturalWidth || !image.src.includes('/api/view')) return null;
      const canvas = document.createElement('canvas');
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      const brush = canvas.getContext('2d');
      brush.drawImage(image, 0, 0);
      return {{ width: image.naturalWidth, source: image.src, colour: [...brush.getImageData(image.naturalWidth / 2, image.naturalHeight / 2, 1, 1).data] }};
    }}"""
    return tab.page.evaluate(seen)


def made_picture(tab):
    """What SaveImage shows, once that is a picture by the name it has now: the page puts back what a node of this number showed before, in whatever workflow."""

    def made():
        found = picture_of(tab, "SaveImage")
        name = tab.page.evaluate(f"() => {node('SaveImage')}.widgets.find((widget) => widget.name === 'filename_prefix').value")
        return found if found and f"filename={name}_" in found["source"] else None

    return eventually("the picture shows", made)


def run(tab):
    """Presses Run and waits for the picture. What the saving node then shows, as in `picture_of`."""
    tab.press(RUN)
    return made_picture(tab)


def run_and_watch(tab, watched, during):
    """Presses Run; progress and a preview have to show before the picture does. `during` is called while they show."""
    tab.press(RUN)
    try:
        tab.page.wait_for_function(r"/\[\d+%\]/.test(document.title)", polling=50)
        preview = f"(({node(watched.previews)}?.imgs?.[0]?.src ?? {APP}.nodePreviewImages?.[{node(watched.previews)}?.id]?.[0]) ?? '').startsWith('blob:')"
        tab.page.wait_for_function(preview, polling=50)
    except Exception as error:
        kinds = sorted({json.loads(frame)["type"] if frame != "binary" else frame for frame in tab.heard()})
        raise Failure(f"no progress or no preview: the socket heard {kinds}; {error}") from error
    during()
    return made_picture(tab)


@contextlib.contextmanager
def opened(tab, panel):
    """A panel, opened by its button and shut again."""
    tab.press(panel[0])
    yield
    tab.press(panel[0])


def shown_in(tab, panel):
    """Sources of the pictures in an open panel, once there are any."""
    loaded = "(selector) => [...document.querySelectorAll(selector)].filter((image) => image.offsetParent && image.naturalWidth).map((image) => image.src)"
    return eventually("the panel shows a picture", lambda: tab.page.evaluate(loaded, panel[1]))


def choose_file(tab, name, data):
    """The upload button of the node LoadImage, which the page paints on its canvas: pressed where it is painted."""
    tab.page.evaluate(f"() => {{ {APP}.canvas.ds.scale = 1; {APP}.canvas.centerOnNode({node('LoadImage')}); {APP}.canvas.setDirty(true, true); }}")
    place = f"""() => {{
      const [node, canvas] = [{node('LoadImage')}, {APP}.canvas];
      const button = node.widgets.find((widget) => widget.type === 'button');
      const box = canvas.canvas.getBoundingClientRect();
      const at = (axis, inside) => (node.pos[axis] + inside + canvas.ds.offset[axis]) * canvas.ds.scale;
      return button?.last_y ? [box.x + at(0, node.size[0] / 2), box.y + at(1, button.last_y + 10)] : null;
    }}"""

    def opens():
        # What was not painted at its new place yet can't be pressed there.
        at = tab.page.evaluate(place)
        tab.page.wait_for_timeout(500)
        if at is None or at != tab.page.evaluate(place):
            return None
        try:
            with tab.page.expect_file_chooser(timeout=5000) as chooser:
                tab.press_at(*at)
        except TimeoutError:
            return None
        return chooser.value

    chooser = eventually("the file dialog opens", opens)
    chooser.set_files({"name": name, "mimeType": "image/png", "buffer": data})
    value = f"{node('LoadImage')}.widgets.find((widget) => widget.name === 'image').value"
    tab.page.wait_for_function(f"{value} !== 'none.png'", polling=100)
    return tab.page.evaluate(f"() => {value}")


def marked(tab):
    """Classes of the nodes that the page marks as faulty."""
    return tab.page.evaluate(f"() => {NODES}.filter((node) => node.has_errors || {APP}.lastNodeErrors?.[node.id]).map((node) => node.type)")
