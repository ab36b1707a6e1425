// Kinds of picture that are taken, told by what a file begins with: what browsers say of one is guessed from its name,
// and of a TIFF often nothing.

const KINDS = {
  "image/png": /^\x89PNG\r\n\x1a\n/,
  "image/jpeg": /^\xff\xd8\xff/,
  "image/webp": /^RIFF[^]{4}WEBP/,
  "image/bmp": /^BM/,
  "image/tiff": /^(II[*+]\0|MM\0\*)/,
};

// Returns a file's content type, or undefined where it is of no kind that is taken.
export async function kindOf(file) {
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  return Object.keys(KINDS).find((kind) => KINDS[kind].test(head));
}
