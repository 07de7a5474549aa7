// @stable-canvas/comfyui-client: `api_base` /api, a socket without headers or key of its own: `fetch` and `WebSocket` are handed in, as its documentation says, and bring the key.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

// Its module for `import` has no extension that Node would read as one.
const { Client, Workflow } = createRequire(import.meta.url)("@stable-canvas/comfyui-client");
const { WebSocket } = createRequire(import.meta.url)("ws");
const directory = process.argv[2];
const plan = JSON.parse(readFileSync(`${directory}/plan.json`));
const key = process.env.CLIENT_KEY;

class KeySocket extends WebSocket {
    constructor(url) {
        super(url, { headers: { "x-api-key": key } });
    }
}

const withKey = (url, options = {}) => fetch(url, { ...options, headers: { ...options.headers, "x-api-key": key } });
const client = new Client({
    api_host: process.env.CLIENT_URL.replace("https://", ""),
    ssl: true,
    clientId: "canvas",
    WebSocket: KeySocket,
    fetch: withKey,
});
await client.connect({ websocket: { enabled: true } });

const check = (condition, text) => {
    if (!condition) throw new Error(text);
};

async function run(prompt, name, options = {}) {
    const heard = [];
    client.on("executed", (data) => heard.push(data));
    const result = await client.enqueue(prompt, options);
    check(heard.length > 0, "nothing was heard");
    const [image] = result.images;
    const answer = await withKey(image.data);
    check(answer.status === 200, `the picture was answered with ${answer.status}`);
    writeFileSync(`${directory}/${name}`, Buffer.from(await answer.arrayBuffer()));
}

check((await client.getNodeDefs()).SaveImage, "no object_info");
check((await client.getSystemStats()).devices, "no system_stats");
const workflow = new Workflow();
const cls = workflow.classes;
const { width, height, color } = plan.make["1"].inputs;
const [picture] = cls.EmptyImage({ width, height, batch_size: 1, color });
cls.SaveImage({ images: picture, filename_prefix: "canvas" });
const drawn = workflow.workflow();
await run(drawn.prompt, "made.png", { workflow: drawn.workflow });

const form = new FormData();
form.append("image", new Blob([readFileSync(`${directory}/upload.png`)]), "canvas.png");
const uploaded = await (await client.fetchApi("/upload/image", { method: "POST", body: form })).json();
plan.turn["1"].inputs.image = uploaded.name;
await run(plan.turn, "turned.png");
check((await client.getHistory(5)).History.length > 0, "no history");
check((await client.getQueue()).Pending.length === 0, "a queue");
await client.interrupt();
client.disconnect();
process.exit(0);
