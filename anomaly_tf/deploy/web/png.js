// Decodes PNG files. Browsers change some of them on the way to a canvas (16 bits per channel,
// transparency, long sides) and show what is left of damaged ones.
// Source: Portable Network Graphics Specification, W3C, sections 9 (filters) and 8 (Adam7).

import { UnreadablePicture, inflated, joined, viewOf } from "anomaly_tf/bytes.js";

const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const PALETTE = 3;
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
// First column and row, and steps, of the seven passes of an interlaced image.
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

// Samples as they are stored: { samples, channels }, a Uint8Array or Uint16Array of
// `(height, width, channels)`; numbers of colours if there is a palette.
export async function pngSamples(png) {
  const { width, height, depth, colourType } = png;
  const channels = CHANNELS[colourType];
  if (!DEPTHS[colourType]?.includes(depth)) throw new UnreadablePicture("is damaged (an unknown kind of PNG)");
  const samples = new (depth === 16 ? Uint16Array : Uint8Array)(width * height * channels);
  const passes = (png.interlaced ? PASSES : [[0, 0, 1, 1]])
    .map(([left, top, across, down]) => ({
      left, top, across, down,
      columns: Math.ceil((width - left) / across), rows: Math.ceil((height - top) / down),
    }))
    .filter(({ columns, rows }) => columns > 0 && rows > 0);
  const bitsPerPixel = channels * depth;
  const lineOf = (columns) => Math.ceil((columns * bitsPerPixel) / 8);
  const size = passes.reduce((sum, { columns, rows }) => sum + (lineOf(columns) + 1) * rows, 0);
  const data = await inflated(joined(png.data), "deflate", size).catch(() => new Uint8Array(0));
  if (data.length < size) throw new UnreadablePicture("is damaged (too few pixels); save or copy it again");
  let at = 0;
  for (const pass of passes) {
    const line = lineOf(pass.columns);
    let above = new Uint8Array(line);
    for (let row = 0; row < pass.rows; row++, at += line + 1) {
      const bytes = data.subarray(at + 1, at + 1 + line);
      unfilter(data[at], bytes, above, Math.max(1, bitsPerPixel >> 3));
      above = bytes;
      const first = ((pass.top + row * pass.down) * width + pass.left) * channels;
      if (depth === 8 && pass.across === 1) {
        samples.set(bytes, first);
        continue;
      }
      const read = sampleReader(bytes, depth);
      for (let column = 0, from = 0; column < pass.columns; column++) {
        const to = first + column * pass.across * channels;
        for (let channel = 0; channel < channels; channel++) samples[to + channel] = read(from++);
      }
    }
  }
  return { samples, channels };
}

function unfilter(kind, line, above, step) {
  if (kind > 4) throw new UnreadablePicture("is damaged (an unknown filter); save or copy it again");
  for (let i = 0; i < line.length && kind; i++) {
    const left = i < step ? 0 : line[i - step];
    const corner = i < step ? 0 : above[i - step];
    if (kind === 1) line[i] += left;
    else if (kind === 2) line[i] += above[i];
    else if (kind === 3) line[i] += (left + above[i]) >> 1;
    else line[i] += paeth(left, above[i], corner);
  }
}

function paeth(left, above, corner) {
  const a = Math.abs(above - corner);
  const b = Math.abs(left - corner);
  const c = Math.abs(left + above - 2 * corner);
  if (a <= b && a <= c) return left;
  return b <= c ? above : corner;
}

function sampleReader(bytes, depth) {
  if (depth === 8) return (place) => bytes[place];
  if (depth === 16) {
    const view = viewOf(bytes);
    return (place) => view.getUint16(2 * place);
  }
  const perByte = 8 / depth;
  return (place) => (bytes[Math.floor(place / perByte)] >> (8 - depth * ((place % perByte) + 1))) & (2 ** depth - 1);
}

// Samples of an opaque image as grey or RGB, 8 bits.
function opaque({ samples, channels }, { colourType, depth, palette }) {
  if (colourType === PALETTE) {
    const colours = new Uint8Array(3 * samples.length);
    samples.forEach((number, i) => colours.set(palette.subarray(3 * number, 3 * number + 3), 3 * i));
    return { samples: colours, channels: 3 };
  }
  if (depth === 8) return { samples, channels };
  const scale = 255 / (2 ** depth - 1);
  return { samples: samples.map((level) => level * scale), channels };
}

function requireColours(samples, palette) {
  const count = Math.floor((palette?.length ?? 0) / 3);
  if (samples.some((number) => number >= count)) {
    throw new UnreadablePicture("is damaged (a colour that its palette does not have); save or copy it again");
  }
}

// Samples of a transparent image as RGBA, 8 bits.
function rgba({ samples, channels }, png) {
  const { colourType, depth, palette, transparency } = png;
  const key = transparency && (colourType === 0 || colourType === 2) ? viewOf(transparency) : undefined;
  if (key && (depth !== 8)) {
    throw new UnreadablePicture(`is a PNG of ${depth} bits with a transparent colour; save it with an alpha channel`);
  }
  const keys = key && Array.from({ length: channels }, (_, channel) => key.getUint16(2 * channel));
  const count = samples.length / channels;
  const output = new Uint8ClampedArray(4 * count);
  for (let i = 0; i < count; i++) {
    const own = samples.subarray(i * channels, (i + 1) * channels);
    let [colour, opacity] = [own, 255];
    if (colourType === PALETTE) {
      colour = palette.subarray(3 * own[0], 3 * own[0] + 3);
      opacity = transparency?.[own[0]] ?? 255;
    } else if (channels === 2 || channels === 4) opacity = own[channels - 1];
    else if (keys?.every((level, channel) => level === own[channel])) opacity = 0;
    const grey = colour.length < 3;
    output.set([colour[0], colour[grey ? 0 : 1], colour[grey ? 0 : 2], opacity], 4 * i);
  }
  return output;
}

const BIT_DEPTHS = [8, 10, 12, 14, 16];

// 16 bits to 8, with the rules of anomaly_tf/data/bit_depth.py: levels of grey by the bit depth of
// the training images, of colours the upper 8 bits. Dark images are refused if the depth is unknown.
function eightBits({ samples, channels }, bitDepth) {
  const bands = channels < 3 ? 1 : 3; // not the opacity
  let high = 0;
  for (let i = 0; i < samples.length; i++) if (i % channels < bands && samples[i] > high) high = samples[i];
  if (channels > 1) high |= 255;
  const fewer = BIT_DEPTHS.find((depth) => high < 2 ** depth);
  if (!bitDepth && fewer < 16 && high > 0) {
    throw new UnreadablePicture(`has 16 bits and no value above ${high}, so that its white level is unknown; save it with 8 bits`);
  }
  if (channels > 1) {
    if (bitDepth && bitDepth !== 16) {
      throw new UnreadablePicture(`has ${bitDepth}-bit colours stored in 16 bits; save it with 8 bits per colour`);
    }
    return { samples: Uint8Array.from(samples, (value) => value >> 8), channels };
  }
  if (bitDepth && high >= 2 ** bitDepth) {
    throw new UnreadablePicture(`holds values up to ${high}, more than the ${bitDepth} bits of the training images`);
  }
  const white = 2 ** (bitDepth ?? 16) - 1;
  return { samples: Uint8Array.from(samples, (value) => Math.floor((value * 255) / white)), channels };
}

// { rgba } or, if it is opaque, { samples, channels }, with 8 bits.
export async function decodePng(png, bitDepth) {
  let decoded = await pngSamples(png);
  if (png.depth === 16) {
    if (png.transparency && decoded.channels === 3) {
      throw new UnreadablePicture("is a PNG of 16 bits with a transparent colour; save it with an alpha channel");
    }
    decoded = eightBits(decoded, bitDepth);
    if (decoded.channels === 1 || decoded.channels === 3) return decoded;
    return { rgba: rgba(decoded, { ...png, depth: 8 }) };
  }
  if (png.colourType === PALETTE) requireColours(decoded.samples, png.palette);
  const isTransparent = decoded.channels === 2 || decoded.channels === 4 || png.transparency !== undefined;
  return isTransparent ? { rgba: rgba(decoded, png) } : opaque(decoded, png);
}

// The mask of a region, a PNG with one bit per pixel: Uint8Array `(height, width)` of 0 and 1.
export async function decodeMask(png) {
  if (png.depth !== 1 || png.colourType !== 0) throw new UnreadablePicture("is not a mask of one bit per pixel");
  return (await pngSamples(png)).samples;
}
