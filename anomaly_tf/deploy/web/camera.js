// The camera: a verdict on each frame, and single pictures for the grid.

import { drawHeat, strengths } from "anomaly_tf/heat.js";
import { shortScore, verdictOf } from "anomaly_tf/words.js";

export class Camera {
  // `section`: holds the video; `detector`; `thresholdOf()`; `say(text)`: a message for the user;
  // `keep(file, name)`: takes a picture into the grid.
  constructor(section, button, { detector, thresholdOf, say, keep }) {
    Object.assign(this, { section, button, detector, thresholdOf, say, keep, kept: 0 });
    [this.video, this.heat, this.verdict] = ["video", "canvas", "output"].map((name) => section.querySelector(name));
    button.addEventListener("click", () => (this.stream ? this.stop() : this.start()));
    section.querySelector("button").addEventListener("click", () => this.snap());
  }

  async start() {
    this.button.disabled = true;
    try {
      // Missing where a page comes by plain http from another machine.
      if (!navigator.mediaDevices) throw new Error("a page from http has none; use https, or open the page as a file");
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      this.video.srcObject = this.stream;
      await this.video.play();
    } catch (error) {
      this.stop();
      this.say(`No camera: ${error.message}. Pictures can be chosen as files.`);
      return;
    } finally {
      this.button.disabled = false;
    }
    this.button.setAttribute("aria-pressed", "true");
    this.section.hidden = false;
    this.watch();
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = undefined;
    this.video.srcObject = null;
    this.section.hidden = true;
    this.button.setAttribute("aria-pressed", "false");
  }

  async watch() {
    const stream = this.stream;
    while (this.stream === stream) {
      try {
        const { pixels, size } = this.detector.readFrame(this.video);
        const answer = await this.detector.judge(pixels);
        this.show(answer, size);
      } catch (error) {
        this.stop();
        this.say(`The camera's picture ${error.message}`);
        return;
      }
      await new Promise(requestAnimationFrame);
    }
  }

  show(answer, [height, width]) {
    const isAnomaly = answer.score >= this.thresholdOf();
    const word = verdictOf(isAnomaly);
    if (this.verdict.textContent !== word) this.verdict.textContent = word; // is read aloud
    this.verdict.className = isAnomaly ? "anomaly" : "normal";
    this.verdict.title = `score ${shortScore(answer.score)}`;
    const { heat_scale: scale, image_shape: shape } = this.detector.info;
    if (!answer.error_map || !scale) return;
    if (this.heat.width !== width || this.heat.height !== height) [this.heat.width, this.heat.height] = [width, height];
    drawHeat(this.heat, strengths(answer.error_map, scale), shape.slice(0, 2));
  }

  async snap() {
    const canvas = new OffscreenCanvas(this.video.videoWidth, this.video.videoHeight);
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    this.kept++;
    this.keep(await canvas.convertToBlob(), `camera-${this.kept}.png`);
  }
}
