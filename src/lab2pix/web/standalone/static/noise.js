// Noise of a seed, as PyTorch draws it on a CPU: a Mersenne Twister (MT19937) whose seed is a hash of seed and sample,
// and the Box-Muller transform.

const primes = (count) => {
  const found = [];
  for (let n = 2; found.length < count; n++) if (found.every((prime) => n % prime)) found.push(n);
  return found;
};

const fraction = (root) => (root - Math.floor(root)) * 2 ** 32;
const rotate = (word, by) => (word >>> by) | (word << (32 - by));

// Returns the first 8 bytes of the SHA-256 hash of a text of fewer than 56 bytes (FIPS 180-4), as two words. The
// browser's own function exists on HTTPS pages only.
function sha256(text) {
  const block = new Uint8Array(64);
  block.set(new TextEncoder().encode(text));
  block[text.length] = 128;
  const view = new DataView(block.buffer);
  view.setUint32(60, 8 * text.length);
  const words = new Uint32Array(64).map((_, at) => (at < 16 ? view.getUint32(4 * at) : 0));
  for (let at = 16; at < 64; at++) {
    const [early, late] = [words[at - 15], words[at - 2]];
    const low = rotate(early, 7) ^ rotate(early, 18) ^ (early >>> 3);
    words[at] = words[at - 16] + low + words[at - 7] + (rotate(late, 17) ^ rotate(late, 19) ^ (late >>> 10));
  }
  const start = Uint32Array.from(primes(8), (prime) => fraction(Math.sqrt(prime)));
  const constants = Uint32Array.from(primes(64), (prime) => fraction(Math.cbrt(prime)));
  let [a, b, c, d, e, f, g, h] = start;
  for (let at = 0; at < 64; at++) {
    const one = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + constants[at] + words[at];
    const two = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
  }
  return [(start[0] + a) >>> 0, (start[1] + b) >>> 0];
}

// Returns a function that returns the next 32 random bits.
function mersenneTwister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let at = 1; at < 624; at++) state[at] = Math.imul(1812433253, state[at - 1] ^ (state[at - 1] >>> 30)) + at;
  let next = 624;
  return () => {
    if (next === 624) {
      for (let at = 0; at < 624; at++) {
        const bits = (state[at] & 0x80000000) | (state[(at + 1) % 624] & 0x7fffffff);
        state[at] = state[(at + 397) % 624] ^ (bits >>> 1) ^ (bits & 1 ? 0x9908b0df : 0);
      }
      next = 0;
    }
    let word = state[next++];
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  };
}

// Draws fewer than 16 numbers, in pairs of double precision.
function drawFew(random, count) {
  const uniform = () => (((random() & 0x1fffff) * 2 ** 32 + random()) / 2 ** 53);
  const drawn = [];
  while (drawn.length < count) {
    const [turn, length] = [2 * Math.PI * uniform(), Math.sqrt(-2 * Math.log1p(-uniform()))];
    drawn.push(length * Math.cos(turn), length * Math.sin(turn));
  }
  return Float32Array.from(drawn.slice(0, count));
}

// Draws 16 numbers or more, in blocks of 16; the last block overlaps the one before.
function drawMany(random, count) {
  const uniform = () => (random() & 0xffffff) / 2 ** 24;
  const drawn = new Float32Array(count).map(uniform);
  const transform = (block) => {
    for (let at = 0; at < 8; at++) {
      const [length, turn] = [Math.sqrt(-2 * Math.log(1 - block[at])), 2 * Math.PI * block[at + 8]];
      block[at] = length * Math.cos(turn);
      block[at + 8] = length * Math.sin(turn);
    }
  };
  for (let at = 0; at + 16 <= count; at += 16) transform(drawn.subarray(at, at + 16));
  if (count % 16) {
    drawn.set(Float32Array.from({ length: 16 }, uniform), count - 16);
    transform(drawn.subarray(count - 16));
  }
  return drawn;
}

// Returns `count` normal numbers, those of `Synthesizer.noise(seed)` up to rounding.
export function noiseOf(seed, count) {
  const [high, low] = sha256(`lab2pix noise ${seed} 0`);
  const random = mersenneTwister((high & 1 ? 0x80000000 : 0) | (low >>> 1)); // the hash without its last bit
  return count < 16 ? drawFew(random, count) : drawMany(random, count);
}

// Interpolates between the noise of two seeds on a sphere; `mix` is 0 at the first.
export function blendNoise(first, second, mix) {
  if (mix === 0 || mix === 1) return mix ? second : first;
  const dot = (a, b) => a.reduce((sum, value, at) => sum + value * b[at], 0);
  const cosine = dot(first, second) / Math.sqrt(dot(first, first) * dot(second, second));
  const angle = Math.acos(Math.max(-1, Math.min(1, cosine)));
  if (Math.sin(angle) < 1e-6) return first;
  const [one, two] = [Math.sin((1 - mix) * angle) / Math.sin(angle), Math.sin(mix * angle) / Math.sin(angle)];
  return first.map((value, at) => one * value + two * second[at]);
}
