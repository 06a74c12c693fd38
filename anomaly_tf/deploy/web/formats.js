// What a picture's file says of itself before it is decoded: format, size, orientation, whether it
// is whole. The rule for what is read: only files that every browser decodes as Pillow does, and
// those that `png.js` decodes here. The others are refused with a reason and a remedy.

import { UnreadablePicture, crc32, inflated, joined, latin, startsWith, viewOf } from "anomaly_tf/bytes.js";
import { exifOrientation, xmpOrientation } from "anomaly_tf/exif.js";

// As in anomaly_tf/data/decoding.py: a progressive JPEG has about ten scans.
const MAX_SCANS = 100;
const MAX_SCANNED_PIXELS = 1e9;
const OTHERS = [
  ["TIFF", 0, ["II*\0", "MM\0*", "II+\0", "MM\0+"]],
  ["HEIC", 4, ["ftyphe", "ftypmif", "ftypmsf", "ftypmiaf"]],
  ["AVIF", 4, ["ftypavif", "ftypavis"]],
  ["JPEG 2000", 0, ["\0\0\0\x0cjP  ", "\xff\x4f\xff\x51"]],
  ["JPEG XL", 0, ["\0\0\0\x0cJXL ", "\xff\x0a"]],
  ["Photoshop", 0, ["8BPS"]],
  ["OpenEXR", 0, ["v/1\x01"]],
  ["PNM", 0, ["P4\n", "P5\n", "P6\n"]],
  ["DICOM", 128, ["DICM"]],
];
// Keywords of texts in a PNG that may say how it is turned, and the kinds of such chunks.
const [PROFILE, XMP] = ["Raw profile type exif\0", "XML:com.adobe.xmp\0"];
const TEXTS = ["tEXt", "zTXt", "iTXt"];
const TRUNCATED = "is truncated; save or copy it again";

// Returns { kind, width, height, orientation, plain }; of a PNG its `png` (see below) instead of
// `plain`, which is the file without what browsers would turn or recolour it by, because Pillow uses the stored
// colours: EXIF, XMP, colour profiles.
export async function inspect(bytes) {
  if (!bytes.length) throw new UnreadablePicture("is empty (0 bytes)");
  try {
    if (startsWith(bytes, "\x89PNG\r\n\x1a\n")) return await inspectPng(bytes);
    if (startsWith(bytes, "\xff\xd8\xff")) return inspectJpeg(bytes);
    if (startsWith(bytes, "GIF87a") || startsWith(bytes, "GIF89a")) return inspectGif(bytes);
    if (startsWith(bytes, "RIFF") && startsWith(bytes, "WEBP", 8)) return inspectWebp(bytes);
    if (startsWith(bytes, "BM")) return inspectBmp(bytes);
  } catch (error) {
    if (error instanceof RangeError) throw new UnreadablePicture(TRUNCATED);
    throw error;
  }
  for (const [name, place, starts] of OTHERS) {
    if (starts.some((start) => startsWith(bytes, start, place))) {
      throw new UnreadablePicture(`is in format ${name}, which this page does not read; convert it to PNG or JPEG`);
    }
  }
  throw new UnreadablePicture("is not a picture (PNG, JPEG, WebP, GIF or BMP)");
}

function part(bytes, start, length) {
  if (start + length > bytes.length) throw new UnreadablePicture(TRUNCATED);
  return bytes.subarray(start, start + length);
}

async function inspectPng(bytes) {
  const view = viewOf(bytes);
  const found = { IDAT: [] };
  let [exif, profile, xmp] = []; // of several, the last one counts
  for (let at = 8, kind = ""; kind !== "IEND"; ) {
    const length = view.getUint32(at);
    const chunk = part(bytes, at, length + 12);
    kind = latin(chunk, 4, 8);
    const content = chunk.subarray(8, 8 + length);
    if (crc32(chunk.subarray(4, 8 + length)) !== viewOf(chunk).getUint32(8 + length)) {
      throw new UnreadablePicture("is damaged (a check sum is wrong); save or copy it again");
    }
    if (kind === "IDAT") found.IDAT.push(content);
    else found[kind] ??= content;
    if (kind === "eXIf") exif = content;
    if (startsWith(content, PROFILE) && TEXTS.includes(kind)) profile = await pngText(kind, content);
    if (startsWith(content, XMP) && kind === "iTXt") xmp = await pngText(kind, content);
    at += length + 12;
  }
  const header = viewOf(found.IHDR ?? new Uint8Array(0));
  const png = {
    width: header.getUint32(0), height: header.getUint32(4), depth: header.getUint8(8),
    colourType: header.getUint8(9), interlaced: header.getUint8(12) === 1,
    palette: found.PLTE, transparency: found.tRNS, data: found.IDAT,
  };
  exif ??= profile && rawProfile(profile);
  const orientation = (exif && exifOrientation(exif)) ?? (xmp && xmpOrientation(xmp));
  return { kind: "PNG", width: png.width, height: png.height, orientation, png };
}

// The text of a chunk, after its keyword.
async function pngText(kind, content) {
  let at = content.indexOf(0) + 1;
  let isCompressed = kind === "zTXt";
  if (kind === "zTXt") at += 1; // the method
  if (kind === "iTXt") {
    isCompressed = content[at] === 1;
    at = content.indexOf(0, content.indexOf(0, at + 2) + 1) + 1; // after language and translation
  }
  const text = content.subarray(at);
  return isCompressed ? inflated(text, "deflate", 2 ** 24).catch(() => new Uint8Array(0)) : text;
}

// ImageMagick's form of EXIF in a PNG: hexadecimal digits after three lines.
function rawProfile(text) {
  const digits = latin(text).split("\n").slice(3).join("").match(/[0-9a-f]{2}/gi) ?? [];
  return Uint8Array.from(digits, (pair) => parseInt(pair, 16));
}

function inspectJpeg(bytes) {
  const view = viewOf(bytes);
  const kept = [bytes.subarray(0, 2)];
  let [orientation, xmp, frame] = [];
  for (let at = 2; ; ) {
    if (view.getUint8(at) !== 0xff) throw new UnreadablePicture("is damaged; save or copy it again");
    const marker = view.getUint8(at + 1);
    if (marker === 0xff || (marker >= 0xd0 && marker <= 0xd8) || marker === 1) {
      at += marker === 0xff ? 1 : 2;
      continue;
    }
    const segment = part(bytes, at, view.getUint16(at + 2) + 2);
    const content = segment.subarray(4);
    if (marker === 0xe1 && startsWith(content, "Exif\0\0")) orientation ??= exifOrientation(content);
    if (marker === 0xe1 && startsWith(content, "http://ns.adobe.com/xap/1.0/\0")) xmp = content;
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) frame ??= viewOf(content);
    // Not EXIF and XMP, nor colour profiles and the list of further pictures.
    if (marker !== 0xe1 && marker !== 0xe2) kept.push(segment);
    at += segment.length;
    if (marker === 0xda) {
      kept.push(bytes.subarray(at));
      requireWholeJpeg(bytes, at);
      break;
    }
  }
  if (!frame) throw new UnreadablePicture("is damaged (no frame); save or copy it again");
  const [height, width, colours] = [frame.getUint16(1), frame.getUint16(3), frame.getUint8(5)];
  if (colours !== 1 && colours !== 3) {
    throw new UnreadablePicture("is a JPEG in CMYK, whose colours each program computes otherwise; save it in RGB");
  }
  let scans = 0;
  for (let at = 2; at + 1 < bytes.length; at++) scans += bytes[at] === 0xff && bytes[at + 1] === 0xda;
  if (scans > MAX_SCANS || scans * width * height > MAX_SCANNED_PIXELS) {
    throw new UnreadablePicture(`is damaged (${scans} scans of ${width * height} pixels); save it again`);
  }
  orientation ??= xmp && xmpOrientation(xmp);
  return { kind: "JPEG", width, height, orientation, plain: joined(kept) };
}

// Browsers show the part of a truncated JPEG that they have.
function requireWholeJpeg(bytes, start) {
  for (let at = start; at + 1 < bytes.length; at++) if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) return;
  throw new UnreadablePicture(TRUNCATED);
}

function inspectGif(bytes) {
  const view = viewOf(bytes);
  const [width, height] = [view.getUint16(6, true), view.getUint16(8, true)];
  const tableOf = (flags) => (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0);
  const afterBlocks = (at) => {
    while (view.getUint8(at)) at += view.getUint8(at) + 1;
    return at + 1;
  };
  let at = 13 + tableOf(view.getUint8(10));
  for (; view.getUint8(at) === 0x21; at = afterBlocks(at + 2));
  if (view.getUint8(at) !== 0x2c) throw new UnreadablePicture("is a GIF without a picture");
  const box = [1, 3, 5, 7].map((offset) => view.getUint16(at + offset, true));
  const hasColours = view.getUint8(10) & 0x80 || view.getUint8(at + 9) & 0x80;
  if (!hasColours) throw new UnreadablePicture("is a GIF without colours; save it as PNG");
  if (box.join() !== [0, 0, width, height].join()) {
    throw new UnreadablePicture("is a GIF whose first picture fills only a part of it; save it as PNG");
  }
  const data = at + 10 + tableOf(view.getUint8(at + 9));
  const end = afterBlocks(data + 1);
  requireWholeGif(bytes, data, width * height);
  // The first picture of an animation only.
  const plain = joined([part(bytes, 0, end), Uint8Array.of(0x3b)]);
  return { kind: "GIF", width, height, plain };
}

// Some browsers show a damaged GIF: its codes (LZW, GIF89a specification, appendix F) must give all
// pixels. `start`: place of the width of the codes, which the blocks follow.
function requireWholeGif(bytes, start, pixels) {
  const width = bytes[start];
  const [clear, lengths] = [2 ** width, new Uint32Array(4096).fill(1)];
  let [next, bits, previous, count] = [clear + 2, width + 1, -1, 0];
  let [at, left, pool, held] = [start + 1, 0, 0, 0];
  for (;;) {
    while (held < bits) {
      if (!left) left = bytes[at++];
      if (!left) break;
      pool |= bytes[at++] << held;
      [held, left] = [held + 8, left - 1];
    }
    const code = pool & (2 ** bits - 1);
    if (held < bits || code === clear + 1) break;
    [pool, held] = [pool >>> bits, held - bits];
    if (code === clear) {
      [next, bits, previous] = [clear + 2, width + 1, -1];
      continue;
    }
    if (code > next || (previous < 0 && code >= clear) || (code === next && next === 4096)) break;
    if (previous >= 0 && next < 4096) {
      lengths[next++] = lengths[previous] + 1;
      if (next === 2 ** bits && bits < 12) bits++;
    }
    count += code < clear ? 1 : lengths[code];
    previous = code;
  }
  if (count < pixels) throw new UnreadablePicture("is damaged (too few pixels); save or copy it again");
}

function inspectWebp(bytes) {
  const view = viewOf(bytes);
  const whole = part(bytes, 0, view.getUint32(4, true) + 8);
  const kept = [];
  let [orientation, xmp, size] = [];
  for (let at = 12; at + 8 <= whole.length; ) {
    const [kind, length] = [latin(whole, at, at + 4), view.getUint32(at + 4, true)];
    const content = part(whole, at + 8, length);
    const read = viewOf(content);
    if (kind === "EXIF") orientation ??= exifOrientation(content);
    if (kind === "XMP ") xmp = content;
    if (kind === "ANIM") throw new UnreadablePicture("is an animated WebP; save one picture of it");
    if (kind === "VP8X") {
      size = [4, 7].map((place) => read.getUint16(place, true) + 65536 * read.getUint8(place + 2) + 1);
    }
    if (kind === "VP8 ") size ??= [6, 8].map((place) => read.getUint16(place, true) & 0x3fff);
    if (kind === "VP8L") size ??= [0, 14].map((shift) => ((read.getUint32(1, true) >>> shift) & 0x3fff) + 1);
    if (!["EXIF", "XMP ", "ICCP"].includes(kind)) kept.push(whole.slice(at, at + 8 + length + (length & 1)));
    if (kind === "VP8X") kept.at(-1)[8] &= ~0x2c; // the flags of these three parts
    at += 8 + length + (length & 1);
  }
  if (!size) throw new UnreadablePicture("is damaged (no picture in it); save or copy it again");
  const head = whole.slice(0, 12);
  viewOf(head).setUint32(4, kept.reduce((sum, chunk) => sum + chunk.length, 4), true);
  orientation ??= xmp && xmpOrientation(xmp);
  return { kind: "WebP", width: size[0], height: size[1], orientation, plain: joined([head, ...kept]) };
}

function inspectBmp(bytes) {
  const view = viewOf(bytes);
  const old = view.getUint32(14, true) === 12;
  const [width, height] = old
    ? [view.getUint16(18, true), view.getUint16(20, true)]
    : [view.getInt32(18, true), Math.abs(view.getInt32(22, true))];
  const bits = view.getUint16(old ? 24 : 28, true);
  if (![1, 4, 8, 24].includes(bits) || (!old && view.getUint32(30, true))) {
    throw new UnreadablePicture(`is a compressed or ${bits}-bit BMP, which browsers read differently; save it as PNG`);
  }
  part(bytes, view.getUint32(10, true), Math.ceil((width * bits) / 32) * 4 * height);
  return { kind: "BMP", width, height, plain: bytes };
}
