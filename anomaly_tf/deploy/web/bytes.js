// Reading binary data: numbers, text, check sums, compressed parts.

export class UnreadablePicture extends Error {}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

export function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC_TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

export const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

// Bytes as text, one character each.
export function latin(bytes, start = 0, end = bytes.length) {
  let text = "";
  for (let at = start; at < Math.min(end, bytes.length); at++) text += String.fromCharCode(bytes[at]);
  return text;
}

export const startsWith = (bytes, text, at = 0) => latin(bytes, at, at + text.length) === text;

export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export const fromBase64 = (text) => Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));

// Decompressed bytes, at most `most` of them: `format` is that of DecompressionStream. What a
// damaged stream gave before the damage is lost.
export async function inflated(bytes, format, most = Infinity) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format)).getReader();
  const parts = [];
  for (let size = 0; size < most; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
  }
  await reader.cancel().catch(() => {});
  const whole = joined(parts);
  return whole.length > most ? whole.subarray(0, most) : whole;
}

// SHA-256 in hexadecimal digits (FIPS 180-4). The browser's own is missing where a page comes by
// plain http from another machine.
export function sha256(bytes) {
  const { constants, start } = sha256Numbers();
  const state = Int32Array.from(start);
  const blocks = Math.ceil((bytes.length + 9) / 64);
  const tail = new Uint8Array(blocks * 64 - Math.floor(bytes.length / 64) * 64);
  tail.set(bytes.subarray(bytes.length - (bytes.length % 64)));
  tail[bytes.length % 64] = 0x80;
  const length = viewOf(tail);
  length.setUint32(tail.length - 8, Math.floor(bytes.length / 2 ** 29));
  length.setUint32(tail.length - 4, (bytes.length * 8) >>> 0);
  const words = new Int32Array(64);
  const whole = Math.floor(bytes.length / 64);
  for (let block = 0; block < blocks; block++) {
    const [source, at] = block < whole ? [bytes, block * 64] : [tail, (block - whole) * 64];
    const view = viewOf(source);
    for (let i = 0; i < 16; i++) words[i] = view.getInt32(at + 4 * i);
    digestBlock(state, words, constants);
  }
  return [...state].map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
}

// The first 32 bits of the fractional parts of the cube roots of 64 primes, and of the square
// roots of eight.
function sha256Numbers() {
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime)) primes.push(n);
  const fraction = (x) => Math.floor((x % 1) * 2 ** 32) | 0;
  return { constants: primes.map((p) => fraction(Math.cbrt(p))), start: primes.slice(0, 8).map((p) => fraction(Math.sqrt(p))) };
}

function digestBlock(state, words, constants) {
  const turned = (x, bits) => (x >>> bits) | (x << (32 - bits));
  for (let i = 16; i < 64; i++) {
    const [early, late] = [words[i - 15], words[i - 2]];
    const first = turned(early, 7) ^ turned(early, 18) ^ (early >>> 3);
    const second = turned(late, 17) ^ turned(late, 19) ^ (late >>> 10);
    words[i] = words[i - 16] + first + words[i - 7] + second;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const mixed = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25);
    const first = (h + mixed + ((e & f) ^ (~e & g)) + constants[i] + words[i]) | 0;
    const second = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] = (state[i] + word) | 0));
}
