// Submits a workflow through Comfygate, shows its progress, and saves its pictures. Node 22.18 or later, which runs TypeScript by itself; no packages.
//
//   COMFYGATE_URL=https://127.0.0.1:8443 COMFYGATE_KEY=cg_... NODE_EXTRA_CA_CERTS=state/tls/ca.crt node client.ts workflow.json [FOLDER]
//
// The workflow is in ComfyUI's API format. NODE_EXTRA_CA_CERTS is needed only where the gateway made its certificate itself. This is a program for a server: a key does not belong into
// a page.

import { randomUUID } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { env, argv, exit } from "node:process";

const TRIES_MAX = 8;
const ANSWER_MILLIS_MAX = 60_000;

type Workflow = Record<string, { class_type: string; inputs: Record<string, unknown> }>;
type ShownFile = { filename: string; subfolder: string; type: string; url: string };
type Entry = {
  outputs: Record<string, Record<string, unknown>>;
  status: { status_str: string; completed: boolean };
};
type NodeErrors = Record<string, { errors?: { message: string; details: string }[] }>;

/** The gateway said no, and would say so again. */
class Refused extends Error {
  readonly status: number;
  readonly code: string;
  readonly nodeErrors: NodeErrors;

  constructor(status: number, answer: any) {
    // POST /prompt answers in ComfyUI's form, everything else as application/problem+json (RFC 9457).
    const code = answer?.code ?? answer?.error?.extra_info?.code ?? answer?.error?.type ?? "";
    super(`${status} ${code}: ${answer?.detail ?? answer?.error?.message ?? ""}`);
    this.status = status;
    this.code = code;
    this.nodeErrors = answer?.node_errors ?? {};
  }
}

const pause = (millis: number) => new Promise((done) => setTimeout(done, millis));

class Comfygate {
  readonly url: string;
  readonly key: string;

  constructor(url: string, key: string) {
    this.url = url.replace(/\/+$/, "");
    this.key = key;
  }

  /** One request. Waits and repeats what may be repeated: 429, 503, and a connection that fails. */
  async call<T>(method: string, path: string, body?: unknown): Promise<T> {
    for (let attempt = 1; ; attempt += 1) {
      let wait = attempt * 1000;
      try {
        const answer = await fetch(`${this.url}/${path}`, {
          method,
          headers: { authorization: `Bearer ${this.key}`, "content-type": "application/json" },
          body: body === undefined ? undefined : JSON.stringify(body),
          signal: AbortSignal.timeout(ANSWER_MILLIS_MAX),
        });
        if (answer.ok) return (await answer.json()) as T;
        const told = await answer.json().catch(() => ({}));
        if (![429, 503].includes(answer.status) || attempt === TRIES_MAX) throw new Refused(answer.status, told);
        wait = Number(answer.headers.get("retry-after") ?? 1) * 1000;
      } catch (error) {
        if (error instanceof Refused || attempt === TRIES_MAX) throw error;
      }
      await pause(wait);
    }
  }

  /** Queues a workflow and gives its id. The id is ours, so a repeated request never makes a second job. */
  async submit(workflow: Workflow, clientId: string): Promise<string> {
    const body = { prompt: workflow, prompt_id: randomUUID(), client_id: clientId };
    return (await this.call<{ prompt_id: string }>("POST", "prompt", body)).prompt_id;
  }

  /** Events of our own jobs, as they come. They are hints: what counts is the history. */
  events(clientId: string, tell: (type: string, data: any) => void): WebSocket {
    const url = `${this.url.replace(/^http/, "ws")}/ws?clientId=${clientId}`;
    // Node's WebSocket takes headers, a browser's does not: there the session's cookie is sent by itself.
    const socket = new WebSocket(url, { headers: { authorization: `Bearer ${this.key}` } } as never);
    socket.addEventListener("message", (message) => {
      if (typeof message.data !== "string") return; // a preview image
      const { type, data } = JSON.parse(message.data);
      tell(type, data);
    });
    socket.addEventListener("error", () => {});
    return socket;
  }

  /** The history entry of a job, once it has ended. Jobs survive a restart of the gateway: go on asking. */
  async finished(promptId: string, everyMillis = 1000): Promise<Entry> {
    for (;;) {
      const entry = (await this.call<Record<string, Entry>>("GET", `history/${promptId}`))[promptId];
      if (entry !== undefined) return entry;
      await pause(everyMillis);
    }
  }

  /** Saves every file of a history entry and gives the paths. Signed URLs need no key, so none is sent. */
  async save(entry: Entry, folder: string): Promise<string[]> {
    const lists = Object.values(entry.outputs).flatMap((output) => Object.values(output)).filter(Array.isArray);
    const files = lists.flat().filter((file): file is ShownFile => typeof file?.url === "string");
    const saved: string[] = [];
    for (const file of files) {
      // A URL is relative where the gateway has no public_url.
      const answer = await fetch(new URL(file.url, `${this.url}/`));
      if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => ({})));
      const path = join(folder, basename(file.filename));
      await writeFile(path, Buffer.from(await answer.arrayBuffer()));
      saved.push(path);
    }
    return saved;
  }
}

async function main(): Promise<number> {
  const [, , file, folder = "."] = argv;
  if (file === undefined || env.COMFYGATE_URL === undefined || env.COMFYGATE_KEY === undefined) {
    console.error("usage: COMFYGATE_URL=… COMFYGATE_KEY=… node client.ts workflow.json [FOLDER]");
    return 2;
  }
  const workflow = JSON.parse(await readFile(file, "utf8")) as Workflow;
  const gate = new Comfygate(env.COMFYGATE_URL, env.COMFYGATE_KEY);
  console.log(`tenant ${(await gate.call<{ tenant: string }>("GET", "gate/me")).tenant}`);
  const clientId = randomUUID();
  const socket = gate.events(clientId, (type, data) => {
    if (type === "progress") console.log(`progress ${data.value} of ${data.max}`);
  });
  // The socket first, so that no event is missed; a failed one costs nothing but the progress.
  await Promise.race([
    new Promise((done) => socket.addEventListener("open", done, { once: true })),
    new Promise((done) => socket.addEventListener("error", done, { once: true })),
  ]);
  try {
    const promptId = await gate.submit(workflow, clientId);
    console.log(`job ${promptId}`);
    const entry = await gate.finished(promptId);
    console.log(`ended: ${entry.status.status_str}`);
    for (const path of await gate.save(entry, folder)) console.log(`saved ${path}`);
    return entry.status.status_str === "success" ? 0 : 1;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    console.error(`refused: ${error.message}`);
    for (const [node, { errors }] of Object.entries(error.nodeErrors)) {
      for (const { message, details } of errors ?? []) console.error(`  node ${node}: ${message}: ${details}`);
    }
    return 1;
  } finally {
    socket.close();
  }
}

exit(await main());
