// The region that counts in a detector's pictures, as anomaly_tf/runs/region.py and
// anomaly_tf/detection/regional.py use it.

import { UnreadablePicture, fromBase64 } from "anomaly_tf/bytes.js";
import { inspect } from "anomaly_tf/formats.js";
import { decodeMask } from "anomaly_tf/png.js";
import { BOX, resize } from "anomaly_tf/resize.js";

export const BLANK = 128;

export class Region {
  // `text`: the mask in the metadata, a PNG as base64.
  static async from(text) {
    const { png, width, height } = await inspect(fromBase64(text));
    return new Region(await decodeMask(png), [height, width]);
  }

  // `inside`: 1 where pixels count, `(height, width)`.
  constructor(inside, size) {
    Object.assign(this, { inside, size });
  }

  // At the detector's size: 1 where at least half of the area is.
  at(size) {
    if (size.join() === this.size.join()) return this.inside;
    const white = this.inside.map((value) => 255 * value);
    return resize(white, this.size, size, 1, BOX).map((share) => (share >= 128 ? 1 : 0));
  }

  requireSize([height, width]) {
    const [ownHeight, ownWidth] = this.size;
    if (height !== ownHeight || width !== ownWidth) {
      throw new UnreadablePicture(
        `is ${width}x${height}, and the detector's mask is ${ownWidth}x${ownHeight}; give pictures of that size`);
    }
  }
}

// Sets the pixels outside to mid grey, in place.
export function blank(pixels, inside, channels) {
  inside.forEach((value, i) => {
    if (!value) pixels.fill(BLANK, i * channels, (i + 1) * channels);
  });
  return pixels;
}

// Clears a map outside, in place. If the score contains the map's maximum, returns the score with
// the maximum inside in its place.
export function clear(answer, inside, byMaximum) {
  const map = answer.error_map;
  if (!map) return answer;
  const whole = largest(map);
  inside.forEach((value, i) => {
    if (!value) map[i] = 0;
  });
  if (byMaximum) answer.score = Math.fround(answer.score + Math.fround(largest(map) - whole));
  return answer;
}

const largest = (values) => values.reduce((most, value) => Math.max(most, value), -Infinity);
