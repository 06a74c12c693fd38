// Resizing as Pillow does it, to the byte: Image.resize with BILINEAR and BOX, in integers.
// Source: Pillow, src/libImaging/Resample.c (8 bits per channel).

const PRECISION_BITS = 22; // of the weights, so that sums stay below 2 ** 31

export const BILINEAR = { support: 1, weigh: (x) => Math.max(0, 1 - Math.abs(x)) };
export const BOX = { support: 0.5, weigh: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) };

// The pixels `(height, width, channels)`, a Uint8Array, at another size. When an image shrinks,
// the filter is widened by the same factor. Both directions round to whole levels, so that their
// order matters: rows come first if more than twice as many of them disappear as columns (Pillow 13).
export function resize(pixels, [height, width], [toHeight, toWidth], channels, filter = BILINEAR) {
  const rowsFirst = height > toHeight && height - toHeight > 2 * (width - toWidth);
  let result = pixels;
  if (rowsFirst) result = vertical(result, height, toHeight, width * channels, filter);
  if (width !== toWidth) result = horizontal(result, width, toWidth, rowsFirst ? toHeight : height, channels, filter);
  if (height !== toHeight && !rowsFirst) result = vertical(result, height, toHeight, toWidth * channels, filter);
  return result;
}

// For each output position its first input position, and integer weights, `count` of them each.
function weights(from, to, { support, weigh }) {
  const scale = from / to;
  const widened = Math.max(scale, 1);
  const reach = support * widened;
  const count = Math.ceil(reach) * 2 + 1;
  const firsts = new Int32Array(to);
  const counts = new Int32Array(to);
  const values = new Int32Array(to * count);
  for (let position = 0; position < to; position++) {
    const centre = (position + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach + 0.5));
    const part = [];
    for (let at = first; at < end; at++) part.push(weigh((at - centre + 0.5) * (1 / widened)));
    const sum = part.reduce((left, right) => left + right, 0);
    part.forEach((weight, number) => {
      const share = sum ? weight / sum : weight;
      values[position * count + number] = Math.trunc(share * 2 ** PRECISION_BITS + 0.5);
    });
    [firsts[position], counts[position]] = [first, part.length];
  }
  return { count, firsts, counts, values };
}

function horizontal(pixels, width, toWidth, height, channels, filter) {
  const { count, firsts, counts, values } = weights(width, toWidth, filter);
  const output = new Uint8Array(height * toWidth * channels);
  let to = 0;
  for (let row = 0; row < height; row++) {
    for (let position = 0; position < toWidth; position++) {
      const from = (row * width + firsts[position]) * channels;
      for (let channel = 0; channel < channels; channel++, to++) {
        let sum = 2 ** (PRECISION_BITS - 1);
        for (let i = 0; i < counts[position]; i++) {
          sum += pixels[from + i * channels + channel] * values[position * count + i];
        }
        output[to] = Math.min(255, sum >> PRECISION_BITS);
      }
    }
  }
  return output;
}

// `line`: values in a row, over which all columns are resized alike.
function vertical(pixels, height, toHeight, line, filter) {
  const { count, firsts, counts, values } = weights(height, toHeight, filter);
  const output = new Uint8Array(toHeight * line);
  const sums = new Float64Array(line);
  for (let position = 0; position < toHeight; position++) {
    sums.fill(2 ** (PRECISION_BITS - 1));
    for (let i = 0; i < counts[position]; i++) {
      const weight = values[position * count + i];
      const from = (firsts[position] + i) * line;
      for (let at = 0; at < line; at++) sums[at] += pixels[from + at] * weight;
    }
    for (let at = 0; at < line; at++) {
      output[position * line + at] = Math.min(255, sums[at] >> PRECISION_BITS);
    }
  }
  return output;
}
