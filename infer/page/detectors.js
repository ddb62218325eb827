// What detects: a worker of this tab, or a server. Both give {row, took}: the row of a picture, and its time in words.

const ms = (time) => `${Math.round(time)} ms`;

// The model in this tab. ?provider=wasm in the page's address keeps it from a GPU.
export async function inBrowser(model) {
  const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  let last = 0;
  worker.onmessage = ({ data: { id, answer, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) resolve(answer);
    else reject(new Error(error));
  };
  worker.onerror = (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message || "the worker cannot be started"));
    waiting.clear();
  };
  const ask = (task, content, moved = []) =>
    new Promise((resolve, reject) => {
      waiting.set(++last, { resolve, reject });
      worker.postMessage({ id: last, task, ...content }, moved);
    });

  const wanted = new URLSearchParams(location.search).get("provider");
  const { provider, threads } = await ask("open", { model, wanted });
  const unit = provider === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads === 1 ? "" : "s"}`;
  return {
    local: true,
    together: 1,
    about: `Detects in this tab (${unit}).`,
    promise: "Pictures stay in this tab.",
    async detect(picture) {
      const answer = await ask("detect", { picture }, picture instanceof ImageBitmap ? [picture] : []);
      return { row: answer.row, took: `prepared in ${ms(answer.prepare_ms)}, detected in ${ms(answer.run_ms)}` };
    },
  };
}

// The server that the page came from, which puts pictures that arrive together into one batch.
export function onServer(headers) {
  return {
    local: false,
    together: 4,
    about: "Detects on this server.",
    promise: "Pictures go to this server, which keeps none.",
    async detect(picture) {
      const started = performance.now();
      const type = picture.type.startsWith("image/") ? picture.type : "application/octet-stream";
      const asked = { method: "POST", headers: { ...headers, "Content-Type": type }, body: picture };
      const answer = await fetch("detect?edges=1", asked);
      const content = await answer.json().catch(() => null);
      if (!answer.ok) throw new Error(content?.error ?? `the server answered ${answer.status}`);
      const inside = /total;dur=([\d.]+)/.exec(answer.headers.get("Server-Timing") ?? "");
      const took = `answered in ${ms(performance.now() - started)}${inside ? `, ${ms(Number(inside[1]))} of it on the server` : ""}`;
      return { row: content[0], took };
    },
  };
}
