// Large pictures in tiles, as anomaly_tf/detection/tiling.py: each tile is scored, and the answers
// are joined, cross-faded where tiles overlap.

// First row or column of each tile along a side.
export function starts(side, { tile, overlap }) {
  const found = [];
  for (let start = 0; start < side - tile; start += tile - overlap) found.push(start);
  return [...found, side - tile];
}

// Weights of the tiles along a side, which rise and fall over the overlap and add up to 1.
export function fading(side, tiling) {
  const { tile } = tiling;
  const places = starts(side, tiling);
  const weights = places.map(() => new Float64Array(tile).fill(1));
  for (let number = 1; number < places.length; number++) {
    const shared = places[number - 1] + tile - places[number];
    for (let i = 0; i < shared; i++) {
      weights[number][i] *= (i + 1) / (shared + 1);
      weights[number - 1][tile - 1 - i] *= (i + 1) / (shared + 1);
    }
  }
  const total = new Float64Array(side);
  places.forEach((start, number) => weights[number].forEach((weight, i) => (total[start + i] += weight)));
  return places.map((start, number) => weights[number].map((weight, i) => weight / total[start + i]));
}

// The part `(tile, tile, channels)` of values `(height, width, channels)`.
export function cut(values, width, channels, tile, top, left) {
  const part = new values.constructor(tile * tile * channels);
  for (let row = 0; row < tile; row++) {
    const from = ((top + row) * width + left) * channels;
    part.set(values.subarray(from, from + tile * channels), row * tile * channels);
  }
  return part;
}

// Computes the answer of a picture from those of its tiles.
// `infer(pixels, inside)`: the answer of a tile, with the outputs of the model.
export async function inTiles(infer, pixels, [height, width, channels], tiling, inside) {
  const { tile } = tiling;
  const [down, across] = [fading(height, tiling), fading(width, tiling)];
  const [tops, lefts] = [starts(height, tiling), starts(width, tiling)];
  const joined = { score: -Infinity };
  for (const [row, top] of tops.entries()) {
    for (const [column, left] of lefts.entries()) {
      const counted = inside && cut(inside, width, 1, tile, top, left);
      if (counted && !counted.includes(1)) continue;
      const answer = await infer(cut(pixels, width, channels, tile, top, left), counted);
      joined.score = Math.max(joined.score, answer.score);
      for (const [name, depth] of [["error_map", 1], ["reconstruction", channels]]) {
        if (!answer[name]) continue;
        joined[name] ??= new Float32Array(height * width * depth);
        for (let i = 0; i < tile; i++) {
          for (let j = 0; j < tile * depth; j++) {
            const weight = down[row][i] * across[column][Math.floor(j / depth)];
            joined[name][((top + i) * width + left) * depth + j] += weight * answer[name][i * tile * depth + j];
          }
        }
      }
    }
  }
  return joined;
}
