// A picture's file as pixels of a detector: upright, grey or colours, on white where transparent,
// to the byte as `open_image` in anomaly_tf/data/images.py.

import { UnreadablePicture } from "anomaly_tf/bytes.js";
import { upright } from "anomaly_tf/exif.js";
import { inspect } from "anomaly_tf/formats.js";
import { decodePng } from "anomaly_tf/png.js";

const MAX_FILE_BYTES = 2 ** 29;
const ROUNDED = "transparent WebP: the browser rounds its colours, and the score may differ slightly from Python's";

// Returns { pixels, size: [height, width], note }; `pixels` a Uint8Array `(height, width, channels)`,
// `note` what the user should know. Throws UnreadablePicture.
// `size`: the file's, which Chromium asks the disk for each time.
export async function decodeFile(file, { channels, maxPixels, bitDepth, size = file.size }) {
  if (size > MAX_FILE_BYTES) throw new UnreadablePicture("has more than 512 MB; save it smaller");
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch (error) {
    throw new UnreadablePicture(`cannot be read (${error.message}); was it moved or is it a folder?`);
  }
  const header = await inspect(bytes);
  const { width, height, orientation } = header;
  if (!width || !height) throw new UnreadablePicture("is damaged (it has no pixels); save or copy it again");
  if (width * height > maxPixels) {
    throw new UnreadablePicture(
      `has too many pixels (${width} x ${height}); at most ${maxPixels} are read: resize it or cut it into parts`);
  }
  const decoded = header.png ? await decodePng(header.png, bitDepth) : await decodeByBrowser(header);
  const stored = decoded.rgba
    ? channelsOf(decoded.rgba, channels) : inChannels(decoded.samples, decoded.channels, channels);
  return { ...upright(stored, [height, width], channels, orientation), note: decoded.note ?? "" };
}

// { rgba, note }
async function decodeByBrowser({ kind, plain, width, height }) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([plain]), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new UnreadablePicture("is damaged or of a kind that this browser does not read; save it as PNG or JPEG");
  }
  try {
    if (bitmap.width !== width || bitmap.height !== height) {
      throw new UnreadablePicture("is damaged (its size is not the one in its header); save or copy it again");
    }
    const rgba = canvasPixels(bitmap, width, height);
    if (kind !== "WebP" || !hasTransparency(rgba)) return { rgba };
    return await framePixels(bitmap, rgba.length).then((exact) => ({ rgba: exact }), () => ({ rgba, note: ROUNDED }));
  } finally {
    bitmap.close();
  }
}

// RGBA of anything that a canvas draws; of a camera's picture, too.
export function canvasPixels(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new UnreadablePicture("is too large for this browser; resize it");
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height).data;
}

// RGBA that is not multiplied by the opacity, as a canvas does it; older browsers, and pages from
// plain http, have no VideoFrame.
async function framePixels(bitmap, size) {
  const frame = new VideoFrame(bitmap, { timestamp: 0 });
  try {
    const rgba = new Uint8ClampedArray(size);
    await frame.copyTo(rgba, { format: "RGBA" });
    return rgba;
  } finally {
    frame.close();
  }
}

function hasTransparency(rgba) {
  for (let at = 3; at < rgba.length; at += 4) if (rgba[at] < 255) return true;
  return false;
}

// RGBA as RGB or as grey (ITU-R 601-2, in Pillow's integers), composited on white as Pillow does.
export function channelsOf(rgba, channels) {
  const count = rgba.length / 4;
  const result = new Uint8Array(count * channels);
  for (let i = 0; i < count; i++) {
    const opacity = rgba[4 * i + 3];
    let [red, green, blue] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (opacity < 255) [red, green, blue] = [onWhite(red, opacity), onWhite(green, opacity), onWhite(blue, opacity)];
    if (channels === 1) result[i] = grey(red, green, blue);
    else {
      result[3 * i] = red;
      result[3 * i + 1] = green;
      result[3 * i + 2] = blue;
    }
  }
  return result;
}

const grey = (red, green, blue) => (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;

// Source: Pillow, src/libImaging/AlphaComposite.c.
function onWhite(value, opacity) {
  const share = opacity * 128;
  const sum = value * share + 255 * (255 * 128 - share) + (0x80 << 7);
  return (((sum >> 8) + sum) >> 8) >> 7;
}

// Opaque samples, grey or RGB, in the number of channels of a detector.
function inChannels(samples, channels, wanted) {
  if (channels === wanted) return samples;
  const count = samples.length / channels;
  const result = new Uint8Array(count * wanted);
  for (let i = 0; i < count; i++) {
    if (wanted === 1) result[i] = grey(samples[3 * i], samples[3 * i + 1], samples[3 * i + 2]);
    else result.fill(samples[i], 3 * i, 3 * i + 3);
  }
  return result;
}
