#!/usr/bin/env python3
"""Submits a workflow through Comfygate, waits for it, and saves its pictures. Python 3.9 or later, standard library only.

    COMFYGATE_URL=https://127.0.0.1:8443 COMFYGATE_KEY=cg_... COMFYGATE_CA=state/tls/ca.crt python3 client.py workflow.json [FOLDER]

The workflow is in ComfyUI's API format. COMFYGATE_CA is needed only where the gateway made its certificate itself.
"""

import json
import os
import pathlib
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

ANSWER_SECONDS_MAX = 60
TRIES_MAX = 8


class Refused(Exception):
    """The gateway said no, and would say so again: `status`, `code`, and for a workflow `node_errors`."""

    def __init__(self, status, answer):
        error = answer.get("error", {})
        self.status = status
        # POST /prompt answers in ComfyUI's form, everything else as application/problem+json (RFC 9457).
        self.code = answer.get("code") or error.get("extra_info", {}).get("code") or error.get("type", "")
        self.node_errors = answer.get("node_errors") or {}
        super().__init__(f"{status} {self.code}: {answer.get('detail') or error.get('message', '')}")


class Comfygate:
    def __init__(self, url, key, ca_file=None):
        self.url = url.rstrip("/")
        self.key = key
        self.tls = ssl.create_default_context(cafile=ca_file)

    def call(self, method, path, body=None):
        """One request. Waits and repeats what may be repeated: 429, 503, and a connection that fails."""
        url = urllib.parse.urljoin(self.url + "/", path)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(1, TRIES_MAX + 1):
            request = urllib.request.Request(url, data=data, headers=headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=ANSWER_SECONDS_MAX, context=self.tls) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read()
                if error.code not in (429, 503) or attempt == TRIES_MAX:
                    raise Refused(error.code, as_object(text)) from None
                wait = float(error.headers.get("Retry-After", 1))
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                if attempt == TRIES_MAX:
                    raise
                wait = attempt
            time.sleep(wait)

    def submit(self, workflow):
        """Queues a workflow and gives its id. The id is ours, so a repeated request never makes a second job."""
        prompt_id = str(uuid.uuid4())
        return self.call("POST", "prompt", {"prompt": workflow, "prompt_id": prompt_id})["prompt_id"]

    def finished(self, prompt_id, every=1.0):
        """The history entry of a job, once it has ended. Jobs survive a restart of the gateway: go on asking."""
        while True:
            entry = self.call("GET", f"history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return entry
            time.sleep(every)

    def save(self, entry, folder):
        """Saves every file of a history entry and gives the paths. Signed URLs need no key, so none is sent."""
        saved = []
        for output in entry["outputs"].values():
            for files in output.values():
                for file in files if isinstance(files, list) else []:
                    if not isinstance(file, dict) or "url" not in file:
                        continue
                    # A URL is relative where the gateway has no public_url.
                    url = urllib.parse.urljoin(self.url + "/", file["url"])
                    path = pathlib.Path(folder) / pathlib.PurePosixPath(file["filename"]).name
                    with urllib.request.urlopen(url, timeout=ANSWER_SECONDS_MAX, context=self.tls) as answer:
                        path.write_bytes(answer.read())
                    saved.append(path)
        return saved


def as_object(text):
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"detail": text[:200].decode("utf-8", "replace")}


def main(arguments):
    if len(arguments) not in (2, 3):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    workflow = json.loads(pathlib.Path(arguments[1]).read_text(encoding="utf-8"))
    folder = arguments[2] if len(arguments) == 3 else "."
    gate = Comfygate(os.environ["COMFYGATE_URL"], os.environ["COMFYGATE_KEY"], os.environ.get("COMFYGATE_CA"))
    print(f"tenant {gate.call('GET', 'gate/me')['tenant']}")
    try:
        prompt_id = gate.submit(workflow)
    except Refused as refused:
        print(f"refused: {refused}", file=sys.stderr)
        for node, errors in refused.node_errors.items():
            for error in errors.get("errors", []):
                print(f"  node {node}: {error.get('message')}: {error.get('details')}", file=sys.stderr)
        return 1
    print(f"job {prompt_id}")
    entry = gate.finished(prompt_id)
    print(f"ended: {entry['status']['status_str']}")
    for path in gate.save(entry, folder):
        print(f"saved {path}")
    return 0 if entry["status"]["status_str"] == "success" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
