// Networks that compute in workers, and the rule that only the newest request counts.

/** A network in a worker. Requests are answered in their order. */
export class Model {
  constructor(file) {
    this.waiting = [];
    this.worker = new Worker("worker.js", { type: "module" });
    this.worker.addEventListener("message", ({ data }) => {
      const { resolve, reject } = this.waiting.shift();
      if (data.error) reject(new Error(data.error));
      else resolve(data.values);
    });
    this.worker.addEventListener("error", (event) => {
      const error = new Error(event.message || `${file} cannot be computed in this browser`);
      for (const { reject } of this.waiting.splice(0)) reject(error);
    });
    this.ready = this.ask({ file: new URL(file, document.baseURI).href });
  }

  ask(message) {
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.worker.postMessage(message);
    });
  }

  /** Output of one row, as a flat array. */
  run(values, ...shape) {
    return this.ask({ values: Float32Array.from(values), shape: [1, ...shape] });
  }
}

/**
 * Calls an asynchronous function one call at a time. Of the calls that come meanwhile only the
 * newest is made: a slider never leaves a queue behind.
 */
export function newest(work) {
  let busy = false;
  let next = null;
  return async function ask(...question) {
    next = question;
    if (busy) return;
    busy = true;
    try {
      while (next) {
        const current = next;
        next = null;
        await work(...current);
      }
    } finally {
      busy = false;
    }
  };
}
