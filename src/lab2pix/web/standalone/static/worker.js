// Generates images with ONNX Runtime Web: on the graphics card through WebGPU where there is, else with WebAssembly.

import { resized } from "./label_canvas.js";
import { blendNoise, noiseOf } from "./noise.js";
import { encodePng, RGB } from "./png.js";
import { flooded } from "./raster.js";

const MAX_THREADS = 8;

let program = null;
let runtime = null;
let session = null;

async function start() {
  const adapter = program.webgpu && (await navigator.gpu?.requestAdapter().catch(() => null));
  if (adapter && !adapter.info?.isFallbackAdapter) {
    try {
      return await open("webgpu");
    } catch (error) {
      console.warn(`WebGPU: ${error.message}`);
    }
  }
  return open("wasm");
}

async function open(backend) {
  const at = (name) => new URL(`../runtime/${name}`, import.meta.url).href;
  runtime = await import(at(`${backend}.js`));
  runtime.env.wasm.wasmPaths = { mjs: at(`${backend}-loader.js`), wasm: at(`${backend}.wasm`) };
  runtime.env.wasm.numThreads = crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency) : 1;
  const file = new URL(`../model/${program.file}`, import.meta.url).href;
  session = await runtime.InferenceSession.create(file, { executionProviders: [backend] });
}

// Returns where each position of a row that is padded by reflection comes from.
const reflection = (length, padded) => Uint32Array.from({ length: padded }, (_, at) => (at < length ? at : 2 * (length - 1) - at));

function labelTensor({ ids, width, height }, scale, [rows, columns]) {
  const size = [scale * width, scale * height];
  const scaled = scale === 1 ? ids : resized(ids, [width, height], size);
  const [across, down] = [reflection(size[0], columns), reflection(size[1], rows)];
  const padded = new BigInt64Array(rows * columns);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) padded[y * columns + x] = BigInt(scaled[down[y] * size[0] + across[x]]);
  }
  return new runtime.Tensor("int64", padded, [1, rows, columns]);
}

function noiseTensor(seed, blend, shape) {
  const count = shape.reduce((product, side) => product * side, 1);
  const noise = noiseOf(seed, count);
  const drawn = blend ? blendNoise(noise, noiseOf(blend.seed, count), blend.mix) : noise;
  return new runtime.Tensor("float32", drawn, [1, ...shape]);
}

// Returns the pixels of an image: red, green and blue, row by row.
async function draw(label, seed, blend, scale) {
  const { padded, noise } = program.sizes[scale];
  const given = labelTensor(label, scale, padded);
  const inputs = { label: given, instances: given };
  if (noise) inputs.noise = noiseTensor(seed, blend, noise);
  const feeds = Object.fromEntries(session.inputNames.map((name) => [name, inputs[name]]));
  const { picture } = await session.run(feeds);
  const values = await picture.getData();
  const [width, height] = [scale * label.width, scale * label.height];
  const [rows, columns] = padded;
  const pixels = new Uint8ClampedArray(3 * width * height); // rounds
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < height; y++) {
      const row = (channel * rows + y) * columns;
      for (let x = 0; x < width; x++) pixels[3 * (y * width + x) + channel] = (values[row + x] + 1) * 127.5;
    }
  }
  return pixels;
}

// Draws the whole image for each seed; a region takes its pixels from the image of its seed.
async function generate({ label, seed, blend, regions, scale = 1 }) {
  const [width, height] = [scale * label.width, scale * label.height];
  const pixels = await draw(label, seed, blend, scale);
  const drawn = new Map();
  for (const region of regions) {
    if (!drawn.has(region.seed)) drawn.set(region.seed, await draw(label, region.seed, null, scale));
    const others = drawn.get(region.seed);
    const inside = resized(flooded(label, [region.x, region.y]), [label.width, label.height], [width, height]);
    inside.forEach((is, at) => is && pixels.set(others.subarray(3 * at, 3 * at + 3), 3 * at));
  }
  return encodePng(new Uint8Array(pixels.buffer), width, height, { kind: RGB });
}

self.onmessage = async ({ data }) => {
  try {
    if (data.program) {
      program = data.program;
      await start();
      self.postMessage({});
    } else {
      self.postMessage({ image: await generate(data) });
    }
  } catch (error) {
    self.postMessage({ error: `The model does not run in this browser (${error.message}); try another browser.` });
  }
};
