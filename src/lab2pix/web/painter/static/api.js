// Client of the painter's API.

const TOKEN = [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => (byte % 36).toString(36)).join("");

// A failed request, with a message for people. `status` is 0 if there was no response; `wait` in seconds is set if
// trying again may help. `isPhoto` tells that a photo was sent where a label map is expected.
export class ServerError extends Error {
  constructor(message, status, wait = null) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new ServerError("The painter's server cannot be reached. Your drawing is safe; is the command still running?", 0, 2);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  const later = response.status === 429 || response.status === 503;
  const wait = later ? Number(response.headers.get("retry-after")) || 1 : null;
  const message = typeof answer.error === "string" ? answer.error.replace(/\.?$/, ".") : "Something went wrong; try again.";
  const error = new ServerError(message, response.status, wait);
  error.isPhoto = response.headers.get("x-lab2pix-content") === "photo";
  throw error;
}

const post = (path, image) =>
  request(path, image ? { method: "POST", body: image, headers: { "content-type": image.type } } : { method: "POST" });

export const fetchModel = async () => (await request("api/model")).json();

export const fetchExamples = async () => (await request("api/examples")).json();

export const exampleUrl = (token) => `api/examples/${token}.png`;

// These three return a label map as a PNG of ids.

export const fetchExample = async (token) => (await request(`${exampleUrl(token)}?output_format=ids`)).blob();

export const fetchRandom = async (seed) => (await post(`api/random?seed=${seed}&output_format=ids`)).blob();

export const readLabels = async (image) => (await post("api/labels?output_format=ids", image)).blob();

// Converts a PNG of ids to a label file.
export const writeLabels = async (png) => (await post("api/labels?input_format=ids", png)).blob();

// Of `lab2pix paint --edit`: label map and photo of a pair, and its corrected label map as a PNG of ids.

export const fetchPairLabels = async (token) => (await request(`api/pairs/${token}.png`)).blob();

export const fetchPairPhoto = async (token) => (await request(`api/pairs/${token}.jpg`)).blob();

export const savePair = async (token, png) => (await post(`api/pairs/${token}`, png)).json();

// Sends a style image; returns it at the model's size as {token, url}, where url is a data URL.
export async function sendStyle(image) {
  const response = await post("api/styles", image);
  return { token: response.headers.get("x-lab2pix-style"), url: await toDataUrl(await response.blob()) };
}

// Repeats an action while the server's queue is full; returns null once `isWanted()` is false.
export async function retryWhileBusy(action, isWanted = () => true) {
  for (;;) {
    try {
      return await action();
    } catch (error) {
      if (!isWanted()) return null;
      if (error.status !== 429 && error.status !== 503) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * error.wait));
    }
  }
}

// Returns the image of a PNG of ids, at `scale` times the model's size. A newer request with the same `purpose` replaces one that is still queued. A style
// image that the server no longer has, as after a restart, is sent again.
export async function synthesize(png, { seed, blend, image, regions }, purpose, scale) {
  const query = new URLSearchParams({ seed, scale, input_format: "ids", channel: TOKEN + purpose });
  if (blend) {
    query.set("seed_b", blend.seed);
    query.set("mix", blend.mix);
  }
  if (image) query.set("style", image.token);
  if (regions.length) query.set("regions", regions.map((one) => [one.x, one.y, one.seed].join()).join(";"));
  try {
    return (await post(`api/synthesize?${query}`, png)).blob();
  } catch (error) {
    if (!image || error.status !== 404) throw error;
    image.token = (await sendStyle(fromDataUrl(image.url))).token;
    query.set("style", image.token);
    return (await post(`api/synthesize?${query}`, png)).blob();
  }
}

function toDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

function fromDataUrl(url) {
  const bytes = Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}
