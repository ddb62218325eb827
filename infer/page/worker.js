// Runs the model in the browser, beside the page, which stays responsive meanwhile. A session a canvas, opened when the
// first picture needs it.

import { decode, prepare, rowOf } from "./detect.js";

let model = null; // model.json
let ort = null;
let provider = null; // "webgpu" or "wasm"
const sessions = new Map(); // "HxW" -> session

async function start(provided) {
  provider = provided;
  ort = await import(`./runtime/ort.${provider}.min.mjs`);
  ort.env.wasm.wasmPaths = new URL("runtime/", import.meta.url).href;
  // Threads need memory that is shared, which browsers give to pages of hosts that send COOP and COEP alone.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency) : 1;
}

async function sessionFor(canvas) {
  const key = canvas.join("x");
  if (!sessions.has(key)) {
    const name = model.files[model.canvases.findIndex((each) => each.join("x") === key)];
    const answer = await fetch(new URL(name, import.meta.url));
    if (!answer.ok) throw new Error(`the host has no ${name} (${answer.status}); upload the folder again`);
    const session = await ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()), {
      executionProviders: provider === "webgpu" ? ["webgpu", "wasm"] : ["wasm"],
    });
    await run(session, canvas, [1, 1], new Uint8Array(3 * canvas[0] * canvas[1])); // a blank picture: it sets the session up
    sessions.set(key, session);
  }
  return sessions.get(key);
}

async function run(session, canvas, size, planes) {
  const feeds = {
    images: new ort.Tensor("uint8", planes, [1, 3, ...canvas]),
    image_sizes: new ort.Tensor("int32", Int32Array.from(size), [1, 2]),
  };
  const results = await session.run(feeds);
  const outputs = {};
  for (const [name, tensor] of Object.entries(results)) {
    outputs[name] = tensor.data;
    tensor.dispose();
  }
  return outputs;
}

// Open the smallest canvas, on a GPU where that works and `wanted` does not say otherwise.
async function open({ model: described, wanted }) {
  model = described;
  const gpu = wanted !== "wasm" && (await navigator.gpu?.requestAdapter().catch(() => null));
  if (gpu) {
    try {
      await start("webgpu");
      await sessionFor(model.canvases[0]);
      return { provider, threads: 1 };
    } catch (error) {
      console.info(`WebGPU does not run this model (${error.message}); going on with WebAssembly`);
    }
  }
  await start("wasm");
  await sessionFor(model.canvases[0]);
  return { provider, threads: ort.env.wasm.numThreads };
}

// The row of a picture, and what it took; picture: a file, or a frame as a bitmap.
async function detect({ picture }) {
  const started = performance.now();
  const bitmap = picture instanceof ImageBitmap ? picture : await decode(picture);
  try {
    const { canvas, size, planes } = prepare(bitmap, model);
    const session = await sessionFor(canvas);
    const prepared = performance.now();
    const outputs = await run(session, canvas, size, planes);
    const row = rowOf(outputs, [bitmap.height, bitmap.width], size, model);
    return { row, prepare_ms: prepared - started, run_ms: performance.now() - prepared };
  } finally {
    bitmap.close();
  }
}

// One request after the other: a session runs one picture at a time.
let queue = Promise.resolve();
self.onmessage = ({ data: { id, task, ...content } }) => {
  queue = queue.then(async () => {
    try {
      self.postMessage({ id, answer: await { open, detect }[task](content) });
    } catch (error) {
      self.postMessage({ id, error: error.name === "InvalidStateError" ? "this browser cannot decode it" : error.message });
    }
  });
};
