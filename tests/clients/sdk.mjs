// @saintno/comfyui-sdk: its own headers replace those of the caller, so that JSON goes out as text/plain; a bearer token; `/ws` through `ws`, with headers; asks for /manager/version, crystools and
// the terminal's log while it connects; sends `clientId` first and takes its name from the first `status`.
import { readFileSync, writeFileSync } from "node:fs";
import { CallWrapper, ComfyApi, PromptBuilder } from "@saintno/comfyui-sdk";

const directory = process.argv[2];
const plan = JSON.parse(readFileSync(`${directory}/plan.json`));
const api = new ComfyApi(process.env.CLIENT_URL, undefined, {
    credentials: { type: "bearer_token", token: process.env.CLIENT_KEY },
});
const opened = new Promise((resolve) => api.on("connected", resolve));
await api.init(3, 200).waitForReady();
await opened;

const check = (condition, text) => {
    if (!condition) throw new Error(text);
};

async function run(workflow, name) {
    const builder = new PromptBuilder(workflow, [], ["images"]).setOutputNode("images", "9");
    const heard = [];
    api.on("all", (event) => heard.push(event.detail.type));
    const output = await new Promise((resolve, reject) => {
        new CallWrapper(api, builder).onFinished(resolve).onFailed(reject).run();
    });
    check(heard.includes("executed"), `no event but ${heard}`);
    const blob = await api.getImage(output.images.images[0]);
    writeFileSync(`${directory}/${name}`, Buffer.from(await blob.arrayBuffer()));
}

check("os" in (await api.getSystemStats()).system, "no system_stats");
check((await api.getNodeDefs("SaveImage")).SaveImage, "no object_info");
check(Array.isArray(await api.getCheckpoints()) && Array.isArray(await api.getEmbeddings()), "no lists of models");
await run(plan.make, "made.png");
const uploaded = await api.uploadImage(readFileSync(`${directory}/upload.png`), "sdk.png", { subfolder: "sdk", override: true });
check(uploaded && uploaded.info.filename === "sdk.png", "the upload was refused");
plan.turn["1"].inputs.image = `${uploaded.info.subfolder}/${uploaded.info.filename}`;
await run(plan.turn, "turned.png");
check(Object.keys(await api.getHistories(1)).length === 1, "no history");
await api.storeUserData("workflows/sdk.json", plan.make);
check((await api.listUserData("workflows", true, false)).includes("sdk.json"), "userdata was not kept");
await api.storeSetting("sdk.test", 5);
check((await api.getSetting("sdk.test")) === 5, "a setting was not kept");
check(await api.freeMemory(true, true), "/free was refused");
await api.interrupt();
api.destroy();
process.exit(0);
