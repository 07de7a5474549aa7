"""comfy-cli: `upload`, `run --wait`, `jobs status` and `download`, as commands. It sends a key (X-API-Key) only to what it takes for its cloud: everything under /api, history as
/api/history_v2/ID, the end seen by asking again and again. Against a plain host it sends none."""

import json
import os
import pathlib
import subprocess
import sys

directory = pathlib.Path(sys.argv[1])
plan = json.loads((directory / "plan.json").read_text())
environment = os.environ | {
    "HOME": str(directory / "home"),
    "XDG_CONFIG_HOME": str(directory / "home/config"),
    "COMFY_WHERE": "cloud",
    "COMFY_CLOUD_BASE_URL": os.environ["CLIENT_URL"],
    "COMFY_CLOUD_API_KEY": os.environ["CLIENT_KEY"],
    "DO_NOT_TRACK": "1",
    "NO_COLOR": "1",
}
(directory / "home/config").mkdir(parents=True)


def comfy(*arguments):
    """The last line of JSON that the command prints."""
    command = [pathlib.Path(sys.executable).parent / "comfy", "--skip-prompt", "--no-enable-telemetry", "--json", *arguments]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=240)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0 and told, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert told[-1].get("ok", True), told[-1]
    return told[-1]


def run(workflow, name, prefix):
    workflow[max(workflow)]["inputs"]["filename_prefix"] = prefix
    path = directory / f"{prefix}.json"
    path.write_text(json.dumps(workflow))
    told = comfy("run", "--workflow", str(path), "--wait")
    prompt = told["data"]["prompt_id"]
    out = directory / prefix
    comfy("download", prompt, "--out-dir", str(out))
    (picture,) = out.rglob("*.png")
    (directory / name).write_bytes(picture.read_bytes())
    return prompt


prompt = run(plan["make"], "made.png", "cli")
assert prompt in json.dumps(comfy("jobs", "status", prompt))
uploaded = comfy("upload", str(directory / "upload.png"))
(file,) = uploaded["data"]["uploads"]
assert file["type"] == "input", file
plan["turn"]["1"]["inputs"]["image"] = f"{file['subfolder']}/{file['cloud_name']}".lstrip("/")
run(plan["turn"], "turned.png", "cli-turned")
