// Converts image files to what the server accepts: PNG and JPEG. File types are recognized by the first bytes, because
// browsers guess them from the file's name.

const ACCEPTED = { "image/png": /^\x89PNG\r\n\x1a\n/, "image/jpeg": /^\xff\xd8\xff/ };
const LOSSLESS = /^(BM|GIF8|RIFF[^]{4}WEBPVP8L)/;

// Returns a file as PNG or JPEG; what the browser can decode otherwise becomes PNG. Gray values of a format that may be
// lossy are refused, because they may be class ids that are no longer exact; a model that takes photos reads them as one.
export async function toAcceptedImage(file, { photo, limits }) {
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 16).arrayBuffer()));
  const type = Object.keys(ACCEPTED).find((one) => ACCEPTED[one].test(head));
  if (type) return file.slice(0, file.size, type);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error(`${file.name} is not a project, and not an image that this browser can read; save it as PNG.`);
  }
  if (bitmap.width * bitmap.height > limits.pixels) throw new Error(`${file.name} has more than ${limits.pixels} pixels; make it smaller.`);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  if (!photo && !LOSSLESS.test(head) && isGray(context.getImageData(0, 0, bitmap.width, bitmap.height))) {
    throw new Error(`${file.name} is gray and may be compressed with loss, which does not keep ids exact; save it as PNG.`);
  }
  return canvas.convertToBlob({ type: "image/png" });
}

function isGray({ data }) {
  for (let i = 0; i < data.length; i += 4) if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) return false;
  return true;
}
