// What the page asks of the server.

const TOKEN = [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => (byte % 36).toString(36)).join("");

// What went wrong, as a sentence for people. `status` is 0 where there was no answer; `wait` in seconds is set where
// asking again later may help.
export class ServerError extends Error {
  constructor(sentence, status, wait = null) {
    super(sentence);
    this.status = status;
    this.wait = wait;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The painter's server cannot be reached. Your drawing is safe; is the command still running?", 0, 2);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  const later = response.status === 429 || response.status === 503;
  const wait = later ? Number(response.headers.get("retry-after")) || 1 : null;
  const sentence = typeof answer.error === "string" ? answer.error.replace(/\.?$/, ".") : "Something went wrong; try again.";
  throw new ServerError(sentence, response.status, wait);
}

export const fetchModel = async () => (await ask("api/model")).json();

export const fetchExamples = async () => (await ask("api/examples")).json();

export const exampleAddress = (token) => `api/examples/${token}.png`;

// The following return a label map as a PNG of ids.

export const fetchExample = async (token) => (await ask(`${exampleAddress(token)}?form=ids`)).blob();

export const fetchRandom = async (seed) => (await ask(`api/random?seed=${seed}&form=ids`, { method: "POST" })).blob();

export const readLabels = async (file, kind) =>
  (await ask("api/labels?form=ids", { method: "POST", body: file, headers: { "content-type": kind } })).blob();

// Returns a label map as files of them are, from a PNG of ids.
export const writeLabels = async (png) =>
  (await ask("api/labels?given=ids", { method: "POST", body: png, headers: { "content-type": png.type } })).blob();

// Returns {picture, milliseconds}. A newer request of the same `purpose` takes the place of one that still waits.
export async function synthesize(png, { seed, blend }, { purpose, signal }) {
  const query = new URLSearchParams({ seed, form: "ids", request: TOKEN + purpose });
  if (blend) {
    query.set("seed_b", blend.seed);
    query.set("mix", blend.mix);
  }
  const headers = { "content-type": "image/png" };
  const response = await ask(`api/synthesize?${query}`, { method: "POST", body: png, headers, signal });
  return { picture: await response.blob(), milliseconds: Number(response.headers.get("x-lab2pix-milliseconds")) || 0 };
}
