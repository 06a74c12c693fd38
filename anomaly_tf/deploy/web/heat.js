// Heat maps as anomaly_tf/deploy/overlay.py draws them: transparent, yellow, red.

const [WEAK, STRONG, OPACITY] = [[255, 220, 0], [220, 0, 0], 0.8];

// Strengths of a map, from 0 to 255, by the scale in the metadata.
export function strengths(map, { low, high }) {
  return Uint8ClampedArray.from(map, (value) => (255 * (value - low)) / (high - low));
}

// The largest strength of each block, so that a small one stays visible; sides of at most `most`.
export function reduced(strength, [height, width], most) {
  const step = Math.ceil(Math.max(height, width) / most);
  const size = [Math.ceil(height / step), Math.ceil(width / step)];
  const output = new Uint8ClampedArray(size[0] * size[1]);
  strength.forEach((value, i) => {
    const to = Math.floor(Math.floor(i / width) / step) * size[1] + Math.floor((i % width) / step);
    output[to] = Math.max(output[to], value);
  });
  return { strength: output, size };
}

// Draws strengths over the whole of a canvas.
export function drawHeat(canvas, strength, [height, width]) {
  const image = new ImageData(width, height);
  strength.forEach((value, i) => {
    const share = value / 255;
    WEAK.forEach((weak, channel) => (image.data[4 * i + channel] = weak * (1 - share) + STRONG[channel] * share));
    image.data[4 * i + 3] = 255 * OPACITY * share;
  });
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

// Draws values `(height, width, channels)` from 0 to 255.
export function drawPixels(canvas, values, [height, width], channels) {
  const image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let channel = 0; channel < 3; channel++) image.data[4 * i + channel] = values[i * channels + (channel % channels)];
    image.data[4 * i + 3] = 255;
  }
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(image, 0, 0);
}
