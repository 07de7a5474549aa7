// The page loads this from /extensions/gate_pack/gate_pack.js; it listens for the pack's event and asks the pack's route.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

app.registerExtension({
  name: "gate_pack",
  async setup() {
    api.addEventListener("gate_pack.total", (event) => {
      window.gatePackTotal = event.detail.total;
    });
    const answer = await api.fetchApi("/gate_pack/kept/page");
    window.gatePackKept = (await answer.json()).kept;
  },
});
