// One network in a thread of its own: the page stays responsive while it computes.
import * as ort from "./onnxruntime-web/ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1; // more would need cross-origin isolation, which plain servers lack
ort.env.logLevel = "error";
let session;

async function answer({ file, values, shape }) {
  if (file) {
    session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
    return null;
  }
  const [input, output] = [session.inputNames[0], session.outputNames[0]];
  const found = await session.run({ [input]: new ort.Tensor("float32", values, shape) });
  return found[output].data.slice(); // a copy: the next run overwrites the network's memory
}

addEventListener("message", async ({ data }) => {
  try {
    postMessage({ values: await answer(data) });
  } catch (error) {
    postMessage({ error: `${data.file ?? "network"}: ${error.message ?? error}` });
  }
});
