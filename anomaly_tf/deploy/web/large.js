// The large view of one picture: the picture, its map, its reconstruction. All of it is computed
// again from the file, so that thousands of pictures take no memory.

import { drawHeat, drawPixels, strengths } from "anomaly_tf/heat.js";
import { resize } from "anomaly_tf/resize.js";
import { element, percent, shortScore, verdictOf } from "anomaly_tf/words.js";

const MAX_PIXELS = 2_000_000; // that are drawn of a picture

export class LargeView {
  // `grid`: for the pictures before and after.
  constructor(dialog, detector, grid) {
    Object.assign(this, { dialog, detector, grid });
    [this.title, this.text, this.figures] = ["h2", ".verdict", ".figures"].map((name) => dialog.querySelector(name));
    [this.before, this.after] = dialog.querySelectorAll("[data-step]");
    for (const button of [this.before, this.after]) button.addEventListener("click", () => this.go(Number(button.dataset.step)));
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) this.go(step);
    });
    dialog.addEventListener("close", () => {
      this.figures.replaceChildren();
      this.grid.cards.find((card) => card.item === this.item)?.button.focus();
    });
  }

  async open(item) {
    this.item = item;
    this.title.textContent = item.name;
    const isAnomaly = item.score >= this.grid.settings.threshold;
    this.text.textContent =
      `${verdictOf(isAnomaly)}: score ${shortScore(item.score)}; ${percent(item.rank)} of normal pictures score as high.`;
    this.text.className = `verdict ${isAnomaly ? "anomaly" : "normal"}`;
    this.figures.replaceChildren();
    [this.before.disabled, this.after.disabled] = [-1, 1].map((step) => !this.grid.beside(item, step));
    if (!this.dialog.open) this.dialog.showModal();
    let figures;
    try {
      figures = await this.draw(item);
    } catch (error) {
      figures = [element("p", { textContent: `The file ${error.message}` })]; // it was changed since it was scored
    }
    if (this.item === item && this.dialog.open) this.figures.replaceChildren(...figures);
  }

  go(step) {
    const card = this.grid.beside(this.item, step);
    if (card) this.open(card.item);
  }

  async draw(item) {
    const { detector } = this;
    const { info, shape } = detector;
    const channels = shape[2];
    const { pixels, size, original } = await detector.read(item.file);
    const answer = await detector.judge(pixels);
    const picture = element("canvas");
    const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (size[0] * size[1])));
    const drawn = size.map((side) => Math.max(1, Math.round(side * scale)));
    drawPixels(picture, resize(original, size, drawn, channels), drawn, channels);
    const figures = [figure(picture, "Picture", `The picture ${item.name}`)];
    if (answer.error_map && info.heat_scale) {
      const map = element("canvas", { width: picture.width, height: picture.height });
      const heat = element("canvas", { width: picture.width, height: picture.height });
      drawHeat(heat, strengths(answer.error_map, info.heat_scale), shape.slice(0, 2));
      map.getContext("2d").drawImage(picture, 0, 0);
      map.getContext("2d").drawImage(heat, 0, 0);
      figures.push(figure(map, "Heat map", "The picture; yellow to red where it is unusual"));
    }
    if (answer.reconstruction) {
      const grey = Uint8ClampedArray.from(answer.reconstruction, (value) => (value + 1) * 127.5);
      const canvas = element("canvas");
      drawPixels(canvas, grey, shape.slice(0, 2), channels);
      canvas.style.aspectRatio = `${size[1]} / ${size[0]}`; // that of the picture
      figures.push(figure(canvas, "Reconstruction", "The picture as the detector reconstructs it"));
    }
    if (answer.probabilities) figures.push(classes(answer.probabilities, info.class_names));
    return figures;
  }
}

function figure(canvas, caption, description) {
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", description);
  if (Math.max(canvas.width, canvas.height) < 128) canvas.className = "pixels";
  return element("figure", {}, canvas, element("figcaption", { textContent: caption }));
}

// The most probable classes of a classifier.
function classes(probabilities, names) {
  const sorted = [...probabilities].map((share, number) => [share, names?.[number] ?? `class ${number}`]).sort((a, b) => b[0] - a[0]);
  const rows = sorted.slice(0, 3).map(([share, name]) => element("li", { textContent: `${name}: ${percent(share)}` }));
  return element("div", {}, element("h3", { textContent: "Most probable classes" }), element("ul", {}, ...rows));
}
