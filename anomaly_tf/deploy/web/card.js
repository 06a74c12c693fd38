// One scored picture in the grid: a button with a small picture, its heat map, verdict and name.

import { drawHeat } from "anomaly_tf/heat.js";
import { ANOMALY, NORMAL, element, shortScore } from "anomaly_tf/words.js";

const SIDE = 192; // of a small picture, in pixels
const SMALL_FILE = 2 ** 15; // bytes; shown as it is

// A small picture as a Blob. `original`: pixels `(height, width, channels)`.
async function thumbnail({ file, bytes }, original, [height, width], channels) {
  if (bytes <= SMALL_FILE) return file;
  const step = Math.max(1, Math.ceil(Math.max(height, width) / SIDE));
  const [rows, columns] = [Math.floor((height - 1) / step) + 1, Math.floor((width - 1) / step) + 1];
  const image = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const from = (Math.floor(i / columns) * step * width + (i % columns) * step) * channels;
    for (let channel = 0; channel < 3; channel++) image.data[4 * i + channel] = original[from + (channel % channels)];
    image.data[4 * i + 3] = 255;
  }
  const canvas = new OffscreenCanvas(columns, rows);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.convertToBlob({ type: "image/jpeg" });
}

export class Card {
  // `item`: { file, bytes, name, score, rank, size, heat }.
  static async of(item, original, channels, open) {
    return new Card(item, await thumbnail(item, original, item.size, channels), open);
  }

  // `small`: the small picture, a Blob.
  constructor(item, small, open) {
    Object.assign(this, { item, small });
    this.image = element("img", { alt: "", decoding: "async" });
    if (Math.max(...item.size) < 128) this.image.className = "pixels";
    this.picture = element("span", { className: "picture" }, this.image);
    this.verdict = element("b");
    const score = element("span", { textContent: `score ${shortScore(item.score)}` });
    const rank = element("span", { textContent: `rank ${shortScore(item.rank)}` });
    const name = element("span", { className: "name", textContent: item.name, title: item.name });
    const caption = element("span", { className: "caption" }, this.verdict, score, rank, name);
    if (item.note) caption.append(element("span", { className: "note", textContent: item.note }));
    this.button = element("button", { type: "button" }, this.picture, caption);
    this.button.addEventListener("click", () => open(item));
    this.element = element("li", {}, this.button);
  }

  judge(isAnomaly) {
    if (this.isAnomaly === isAnomaly) return;
    this.isAnomaly = isAnomaly;
    this.element.className = isAnomaly ? "anomaly" : "normal";
    this.verdict.textContent = isAnomaly ? ANOMALY : NORMAL;
  }

  // Of the cards that cannot be seen nothing is drawn.
  show(isSeen, withHeat) {
    if (isSeen && !this.image.src) this.image.src = URL.createObjectURL(this.small);
    if (!isSeen && this.image.src) this.release();
    this.canvas?.remove();
    this.canvas = undefined;
    if (isSeen && withHeat && this.item.heat) this.drawHeat();
  }

  drawHeat() {
    // In the proportions of the picture, so that both lie over each other.
    const [height, width] = this.item.size;
    const scale = SIDE / Math.max(height, width);
    this.canvas = element("canvas", {
      width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)),
    });
    drawHeat(this.canvas, this.item.heat.strength, this.item.heat.size);
    this.picture.append(this.canvas);
  }

  release() {
    URL.revokeObjectURL(this.image.src);
    this.image.removeAttribute("src");
  }
}
