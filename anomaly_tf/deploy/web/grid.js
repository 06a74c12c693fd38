// All scored pictures, the most anomalous first; and what could not be scored, with the reason.

import { element } from "anomaly_tf/words.js";

export class Grid {
  // `list`: the element of the cards; `failures`: that of the files without a score.
  constructor(list, failures) {
    Object.assign(this, { list, failures, cards: [], failed: 0 });
    this.settings = { threshold: Infinity, onlyAnomalies: false, heat: false };
    this.seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        this.cardOf.get(target)?.show(isIntersecting, this.settings.heat);
      }
    }, { rootMargin: "50%" });
    this.cardOf = new Map();
  }

  add(card) {
    const { cards } = this;
    let [low, high] = [0, cards.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (cards[middle].item.score >= card.item.score) low = middle + 1;
      else high = middle;
    }
    this.list.insertBefore(card.element, cards[low]?.element ?? null);
    cards.splice(low, 0, card);
    this.cardOf.set(card.element, card);
    this.judge(card);
    this.seen.observe(card.element);
  }

  fail(name, reason) {
    this.failed++;
    this.failures.append(element("li", {}, element("b", { textContent: name }), ` ${reason}`));
  }

  set(settings) {
    const heat = settings.heat !== undefined && settings.heat !== this.settings.heat;
    Object.assign(this.settings, settings);
    for (const card of this.cards) this.judge(card);
    if (!heat) return;
    for (const card of this.cards) { // observing again calls the observer
      this.seen.unobserve(card.element);
      this.seen.observe(card.element);
    }
  }

  judge(card) {
    card.judge(card.item.score >= this.settings.threshold);
    card.element.hidden = this.settings.onlyAnomalies && !card.isAnomaly;
  }

  get anomalies() {
    return this.cards.filter((card) => card.isAnomaly).length;
  }

  // The card that is shown before (-1) or after (1) that of an item.
  beside(item, step) {
    const shown = this.cards.filter((card) => !card.element.hidden || card.item === item);
    return shown[shown.findIndex((card) => card.item === item) + step];
  }

  clear() {
    this.seen.disconnect();
    for (const card of this.cards.splice(0)) {
      card.release();
      card.element.remove();
    }
    this.cardOf.clear();
    this.failures.replaceChildren();
    this.failed = 0;
  }
}
