// The page: it opens when the detector gives a known picture its known score, and stays closed
// otherwise. All work is done in the browser.

import { UnreadablePicture } from "anomaly_tf/bytes.js";
import { Camera } from "anomaly_tf/camera.js";
import { Card } from "anomaly_tf/card.js";
import { chosenFiles, transferredFiles } from "anomaly_tf/collect.js";
import { csv } from "anomaly_tf/csv.js";
import { Detector, startRuntime } from "anomaly_tf/detector.js";
import { Grid } from "anomaly_tf/grid.js";
import { reduced, strengths } from "anomaly_tf/heat.js";
import { LargeView } from "anomaly_tf/large.js";
import { addressOf, loadPart, loadText } from "anomaly_tf/parts.js";
import { element, promise, shortScore, thresholdText } from "anomaly_tf/words.js";

// Of work, between which the browser answers; and between which new cards are shown.
const [TURN_MS, SHOW_MS] = [50, 500];
const [AHEAD, SMALL_FILE] = [8, 2 ** 16]; // files that are read in advance, and their bytes
const HEAT_SIDE = 64; // of the heat maps that are kept
const $ = (id) => document.getElementById(id);

class Page {
  constructor(detector) {
    this.detector = detector;
    this.grid = new Grid($("grid"), $("failures"));
    this.large = new LargeView($("large"), detector, this.grid);
    Object.assign(this, { queue: [], ahead: [], unseen: [], leftOut: 0, clearings: 0 });
    this.setUpThreshold();
    this.setUpInputs();
    const { detector: own, grid } = this;
    new Camera($("live"), $("camera"), {
      detector: own, thresholdOf: () => grid.settings.threshold,
      say: (text) => this.say(text), keep: (file, name) => this.add({ pictures: [{ file, name }], leftOut: 0 }),
    });
  }

  setUpThreshold() {
    const { calibration, info } = this.detector;
    const steps = calibration.steps();
    const slider = $("rate");
    slider.max = steps.length - 1;
    const own = () => {
      // Where the slider stands for the detector's own threshold: as many of the normal pictures.
      const alarms = calibration.scores.filter((score) => score >= this.detector.threshold).length;
      slider.value = Math.max(0, steps.findLastIndex((step) => step <= Math.max(1, alarms)));
      this.judge(this.detector.threshold, `the detector's own threshold: ${thresholdText(info.threshold, calibration.size)}`);
      $("own").disabled = true;
    };
    slider.addEventListener("input", () => {
      const alarms = steps[slider.value];
      this.judge(calibration.threshold(alarms), promise(alarms / (calibration.size + 1), calibration.size));
      $("own").disabled = false;
    });
    $("own").addEventListener("click", () => {
      own();
      slider.focus();
    });
    own();
  }

  judge(threshold, text) {
    $("rate-text").textContent = text;
    $("rate").setAttribute("aria-valuetext", text);
    this.grid.set({ threshold });
    this.summarise();
  }

  setUpInputs() {
    for (const id of ["files", "folder"]) {
      $(`choose-${id}`).addEventListener("click", () => $(id).click());
      $(id).addEventListener("change", (event) => {
        this.add(chosenFiles(event.target.files));
        event.target.value = ""; // so that the same files can be chosen again
      });
    }
    $("heat").disabled = !(this.detector.explains && this.detector.info.heat_scale);
    $("heat").addEventListener("change", (event) => this.grid.set({ heat: event.target.checked }));
    $("only-anomalies").addEventListener("change", (event) => this.grid.set({ onlyAnomalies: event.target.checked }));
    $("csv").addEventListener("click", () => this.download());
    $("clear").addEventListener("click", () => this.clear());
    addEventListener("paste", (event) => this.take(event.clipboardData));
    for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
      addEventListener(type, (event) => {
        event.preventDefault();
        $("drop").classList.toggle("over", type === "dragenter" || type === "dragover");
        if (type === "drop") this.take(event.dataTransfer);
      });
    }
  }

  async take(transfer) {
    const files = await transferredFiles(transfer).catch((error) => this.say(`What was dropped cannot be read (${error.message}).`));
    if (files) await this.add(files);
  }

  // Scores files, in small turns. Files that come meanwhile wait.
  async add({ pictures, leftOut }) {
    this.leftOut += leftOut;
    this.say("");
    this.queue.push(...pictures);
    if (!this.working) this.working = this.work();
    await this.working;
  }

  async work() {
    const begun = performance.now();
    let [turn, shown, done] = [begun, begun, 0];
    for (; this.queue.length || this.ahead.length; done++) {
      this.readAhead();
      const next = this.ahead.shift();
      const { clearings } = this;
      const result = await this.score(next).catch((error) => error);
      if (clearings === this.clearings) this.unseen.push([next.name, result]); // else it was cleared
      const left = this.queue.length + this.ahead.length;
      if (performance.now() - turn < TURN_MS && left) continue;
      if (performance.now() - shown > SHOW_MS || !left) {
        this.show();
        shown = performance.now();
      }
      this.progress(done + 1, left);
      await new Promise((resolve) => setTimeout(resolve));
      turn = performance.now();
    }
    this.took = { files: done, milliseconds: performance.now() - begun }; // for make bench-web
    this.working = undefined;
    this.summarise();
  }

  // Brings results into the grid, many at a time, because the browser then arranges all of it.
  show() {
    for (const [name, result] of this.unseen.splice(0)) {
      if (result instanceof Card) this.grid.add(result);
      else {
        if (!(result instanceof UnreadablePicture)) console.error(result);
        this.grid.fail(name, result.message);
      }
    }
    this.summarise();
  }

  // Begins to read the next files, because a browser does so in other processes: several small ones
  // or a single large one.
  readAhead() {
    const { ahead, queue } = this;
    while (queue.length && ahead.length < AHEAD) {
      queue[0].bytes ??= queue[0].file.size;
      if (ahead.length && queue[0].bytes > SMALL_FILE) return;
      const next = queue.shift();
      next.reading = this.detector.read(next.file, next.bytes);
      next.reading.catch(() => {}); // it is reported when its turn comes
      ahead.push(next);
    }
  }

  async score({ file, name, bytes, reading }) {
    const { detector } = this;
    const { pixels, size, original, note } = await reading;
    const answer = await detector.judge(pixels);
    const item = { file, name, bytes, note, size, score: answer.score, rank: detector.calibration.rank(answer.score) };
    const shape = detector.shape.slice(0, 2);
    if (answer.error_map && detector.info.heat_scale) {
      item.heat = reduced(strengths(answer.error_map, detector.info.heat_scale), shape, HEAT_SIDE);
    }
    return Card.of(item, original, detector.shape[2], (opened) => this.large.open(opened));
  }

  progress(done, left) {
    $("progress").hidden = !left;
    $("progress").max = done + left;
    $("progress").value = done;
  }

  summarise() {
    const { grid } = this;
    const [count, threshold] = [grid.cards.length, shortScore(grid.settings.threshold)];
    const parts = count || grid.failed ? [`${grid.anomalies} of ${count} pictures are anomalies, at a threshold of ${threshold}`] : [];
    if (grid.failed) parts.push(`${grid.failed} could not be scored, see below`);
    if (this.leftOut) parts.push(`${this.leftOut} other files left out`);
    $("summary").textContent = parts.length ? `${parts.join("; ")}.` : "";
    $("not-scored").hidden = !grid.failed;
    $("csv").disabled = !count;
    $("clear").disabled = !count && !grid.failed;
  }

  say(text) {
    $("message").textContent = text;
  }

  // In the order of the grid.
  get rows() {
    return this.grid.cards.map(({ item, isAnomaly }) => ({ ...item, isAnomaly }));
  }

  get csv() {
    return csv(this.rows);
  }

  download() {
    const address = URL.createObjectURL(new Blob([this.csv], { type: "text/csv" }));
    element("a", { href: address, download: "scores.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  clear() {
    this.clearings++;
    this.queue.length = this.ahead.length = 0;
    this.unseen.length = 0;
    this.grid.clear();
    this.leftOut = 0;
    this.summarise();
  }
}

function describe({ info, calibration }) {
  const [height, width, channels] = info.image_shape;
  const normal = (info.roles?.normal ?? []).map((number) => info.class_names?.[number]).filter(Boolean);
  const dataset = info.dataset?.split(/[\\/]/).filter(Boolean).at(-1) ?? "unnamed data"; // not the whole path
  $("about").textContent =
    `Approach ${info.approach}, trained on ${dataset}` + (normal.length ? `; normal: ${normal.join(", ")}.` : ".");
  $("details").textContent =
    `Pictures are resized to ${width} x ${height} pixels, ${channels === 1 ? "grey" : "colour"}` +
    `${info.tiling ? `, and scored in tiles of ${info.tiling.tile}` : ""}. Calibrated with ${calibration.size} normal pictures. ` +
    `Model ${info.quantization === "none" ? "float32" : info.quantization}, SHA-256 ${info.model_sha256.slice(0, 16)}.`;
}

async function start() {
  if (typeof DecompressionStream !== "function") throw new Error("this browser is too old (no DecompressionStream); update it");
  const info = JSON.parse(await loadText("detector.json"));
  await startRuntime(await loadPart("litert.wasm"), addressOf("litert.js") ?? "data:text/javascript,//.js");
  const detector = await Detector.load(info, await loadPart("model.tflite"));
  await detector.requireKnownScore();
  describe(detector);
  const page = new Page(detector);
  for (const id of ["inputs", "settings"]) $(id).disabled = false;
  page.say("");
  window.anomalyPage = page; // for scripts
  document.body.dataset.ready = Math.round(performance.now());
}

start().catch((error) => {
  console.error(error);
  $("about").textContent = "The detector is closed: no picture can be scored.";
  $("message").textContent = `The detector cannot be opened: ${error.message}.`;
  $("message").className = "failed";
  document.body.dataset.ready = "failed";
});
