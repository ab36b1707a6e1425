// Encodes and decodes PNGs of class ids without a canvas, which may change values by color management or by protection
// against fingerprinting.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const GRAY = 0;
export const RGB = 2;
export const PALETTE = 3;

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  return rest;
});

function crc(bytes) {
  let rest = 0xffffffff;
  for (const byte of bytes) rest = CRC[(rest ^ byte) & 255] ^ (rest >>> 8);
  return (rest ^ 0xffffffff) >>> 0;
}

async function pass(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

function chunk(name, content) {
  const bytes = new Uint8Array(content.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set([...name].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(content, 8);
  view.setUint32(content.length + 8, crc(bytes.subarray(4, content.length + 8)));
  return bytes;
}

// Returns a PNG as a Blob. `bytes` are the samples of all rows; `palette` has three bytes per index.
export async function encodePng(bytes, width, height, { kind = GRAY, depth = 8, palette = [] } = {}) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = depth;
  header[9] = kind;
  const length = bytes.length / height;
  const rows = new Uint8Array((length + 1) * height); // each row starts with its filter type, 0 for none
  for (let y = 0; y < height; y++) rows.set(bytes.subarray(y * length, (y + 1) * length), y * (length + 1) + 1);
  const data = chunk("IDAT", await pass(rows, new CompressionStream("deflate")));
  const colors = kind === PALETTE ? [chunk("PLTE", palette)] : [];
  const parts = [Uint8Array.from(SIGNATURE), chunk("IHDR", header), ...colors, data, chunk("IEND", new Uint8Array())];
  return new Blob(parts, { type: "image/png" });
}

// Returns a PNG as a Blob, whose gray values are the ids.
export const encodeIds = (ids, width, height) => encodePng(ids, width, height);

// Returns {ids, width, height} of a PNG of gray values or palette indices.
export async function decodeIds(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const view = new DataView(bytes.buffer);
  if (bytes.length < 45 || SIGNATURE.some((byte, i) => bytes[i] !== byte)) throw new Error("This is not a PNG.");
  const [width, height, depth, kind] = [view.getUint32(16), view.getUint32(20), bytes[24], bytes[25]];
  if (![GRAY, PALETTE].includes(kind) || depth > 8 || bytes[28]) throw new Error("This PNG does not contain class ids.");
  const data = [];
  for (let at = 8; at + 12 <= bytes.length; at += view.getUint32(at) + 12) {
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (name === "IDAT") data.push(bytes.subarray(at + 8, at + 8 + view.getUint32(at)));
  }
  const packed = await pass(await new Blob(data).arrayBuffer(), new DecompressionStream("deflate"));
  const length = Math.ceil((width * depth) / 8);
  if (packed.length !== (length + 1) * height) throw new Error("This PNG is truncated.");
  return { ids: unpack(unfilter(packed, length, height), width, height, depth), width, height };
}

// Reverses the row filters, which encode differences to the left and upper pixels.
function unfilter(packed, length, height) {
  const rows = new Uint8Array(length * height);
  for (let y = 0; y < height; y++) {
    const filter = packed[y * (length + 1)];
    for (let x = 0; x < length; x++) {
      const at = y * length + x;
      const left = x ? rows[at - 1] : 0;
      const above = y ? rows[at - length] : 0;
      const corner = x && y ? rows[at - length - 1] : 0;
      const guess = [0, left, above, (left + above) >> 1, paeth(left, above, corner)][filter];
      rows[at] = packed[y * (length + 1) + 1 + x] + guess;
    }
  }
  return rows;
}

function paeth(left, above, corner) {
  const [a, b, c] = [Math.abs(above - corner), Math.abs(left - corner), Math.abs(left + above - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

// Unpacks ids with fewer than 8 bits.
function unpack(rows, width, height, depth) {
  if (depth === 8) return rows;
  const length = rows.length / height;
  const ids = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const bit = x * depth;
      ids[y * width + x] = (rows[y * length + (bit >> 3)] >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
    }
  }
  return ids;
}
