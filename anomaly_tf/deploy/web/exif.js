// How a picture is to be turned, as Pillow's exif_transpose finds it: EXIF first, then XMP.

import { latin, startsWith, viewOf } from "anomaly_tf/bytes.js";

const ORIENTATION = 0x0112;
// Of the types whose values are numbers: how one is read, and its bytes. 5 and 10 are fractions.
const TYPES = {
  3: ["getUint16", 2], 4: ["getUint32", 4], 5: ["getUint32", 8], 6: ["getInt8", 1], 8: ["getInt16", 2],
  9: ["getInt32", 4], 10: ["getInt32", 8], 11: ["getFloat32", 4], 12: ["getFloat64", 8], 13: ["getUint32", 4],
};

// From a TIFF header and its first directory; undefined if there is no such entry.
export function exifOrientation(bytes) {
  if (startsWith(bytes, "Exif\0\0")) bytes = bytes.subarray(6);
  const little = startsWith(bytes, "II*\0");
  if (!little && !startsWith(bytes, "MM\0*")) return undefined;
  const view = viewOf(bytes);
  try {
    const start = view.getUint32(4, little);
    for (let entry = 0; entry < view.getUint16(start, little); entry++) {
      const at = start + 2 + 12 * entry;
      const [type, count] = [view.getUint16(at + 2, little), view.getUint32(at + 4, little)];
      if (view.getUint16(at, little) !== ORIENTATION || !TYPES[type] || !count) continue;
      const [read, bytesEach] = TYPES[type];
      // More than four bytes lie elsewhere; of several values the first counts.
      const place = count * bytesEach > 4 ? view.getUint32(at + 8, little) : at + 8;
      const value = view[read](place, little);
      return type === 5 || type === 10 ? value / view[read](place + 4, little) : value;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // a truncated directory has no entry
  }
  return undefined;
}

export function xmpOrientation(bytes) {
  const found = /tiff:Orientation(?:="|>)([0-9])/.exec(latin(bytes));
  return found ? Number(found[1]) : undefined;
}

// The pixels `(height, width, channels)` turned upright; returns them with their new size.
export function upright(pixels, [height, width], channels, orientation) {
  if (!(Number.isInteger(orientation) && orientation >= 2 && orientation <= 8)) return { pixels, size: [height, width] };
  // Of the new first pixel, the steps to the next one along a row, and to the next row.
  const [right, bottom] = [width - 1, height - 1];
  const [start, across, down] = {
    2: [right, -1, width],
    3: [bottom * width + right, -1, -width],
    4: [bottom * width, 1, -width],
    5: [0, width, 1],
    6: [bottom * width, -width, 1],
    7: [bottom * width + right, -width, -1],
    8: [right, width, -1],
  }[orientation];
  const size = orientation >= 5 ? [width, height] : [height, width];
  const output = new Uint8Array(pixels.length);
  let to = 0;
  for (let row = 0; row < size[0]; row++) {
    for (let column = 0; column < size[1]; column++) {
      const from = (start + row * down + column * across) * channels;
      for (let channel = 0; channel < channels; channel++) output[to++] = pixels[from + channel];
    }
  }
  return { pixels: output, size };
}
