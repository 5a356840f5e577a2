// Sliders with a field for the number, and rates that are the best unless they are chosen.

import { element, short } from "./share.js";

const N = 200;

/** The values that a slider can take. */
export function positions({ low, high, scale }) {
  const parts = Array.from({ length: N + 1 }, (_, i) => i / N);
  if (scale === "count") return Array.from({ length: high - low + 1 }, (_, i) => low + i);
  if (scale === "log count") return [...new Set(parts.map((part) => Math.round(low * (high / low) ** part)))];
  if (scale === "log from 0") return [0, ...parts.map((part) => Number((1e-4 * (high / 1e-4) ** part).toPrecision(2)))];
  return parts.map((part) => Number((low + part * (high - low)).toPrecision(6)));
}

const nearest = (values, value) =>
  values.reduce((best, v, i) => (Math.abs(v - value) < Math.abs(values[best] - value) ? i : best), 0);

export class Slider {
  constructor(control, changed) {
    this.values = positions(control);
    const isCount = control.scale.endsWith("count");
    const id = `set-${control.name}`;
    this.slider = element("input", {
      type: "range", id: `${id}-slider`, min: 0, max: this.values.length - 1, step: 1,
      "aria-label": `${control.label}, slider`,
    });
    this.field = element("input", {
      type: "number", id, min: control.low, max: control.high, step: isCount ? 1 : "any", "aria-describedby": `${id}-says`,
    });
    this.slider.addEventListener("input", () => {
      this.set(this.values[this.slider.valueAsNumber], false);
      changed(this.value);
    });
    this.field.addEventListener("input", () => {
      if (this.field.value === "" || !this.field.validity.valid) return;
      this.set(this.field.valueAsNumber, true);
      changed(this.value);
    });
    this.field.addEventListener("change", () => {
      if (this.field.value === "" || !this.field.validity.valid) this.set(this.value);
    });
    this.element = element(
      "div",
      { class: "control" },
      element("label", { for: id }, control.label),
      this.field,
      this.slider,
      element("small", { id: `${id}-says` }, control.explanation),
    );
  }

  set(value, typed = false) {
    this.value = value;
    if (!typed) this.field.value = value;
    this.slider.value = nearest(this.values, value);
    this.slider.setAttribute("aria-valuetext", short(value));
  }
}

/** A rate that is the best (null) until it is chosen, by its slider, its field or a click on a chart. */
export class Rate {
  constructor(name, label, changed) {
    this.low = -1;
    this.high = 1;
    const id = `set-${name}`;
    this.best = element("input", { type: "checkbox", id: `${id}-best`, checked: true });
    this.field = element("input", { type: "number", id, step: "any", min: -1000, max: 1000 });
    this.slider = element("input", { type: "range", min: 0, max: N, step: 1, id: `${id}-slider`, "aria-label": `${label}, slider` });
    this.best.addEventListener("change", () => {
      this.value = this.best.checked ? null : (this.shown ?? 0);
      changed(this.value);
    });
    this.field.addEventListener("input", () => {
      if (this.field.value === "" || !this.field.validity.valid) return;
      this.value = this.field.valueAsNumber;
      this.best.checked = false;
      changed(this.value);
    });
    this.slider.addEventListener("input", () => {
      const value = this.low + (this.slider.valueAsNumber / N) * (this.high - this.low);
      this.set(Number(value.toPrecision(3)));
      changed(this.value);
    });
    this.element = element(
      "div",
      { class: "control" },
      element("label", { for: id }, label),
      this.field,
      this.slider,
      element("label", { class: "check", for: `${id}-best` }, this.best, " the best"),
    );
  }

  set(value) {
    this.value = value;
    this.best.checked = value === null;
    if (value !== null) this.field.value = value;
  }

  /** Show what the rate is, of a curve that reaches so far. */
  show(value, low, high) {
    [this.shown, this.low, this.high] = [value, low, high];
    if (document.activeElement !== this.field) this.field.value = value === null ? "" : Number(value.toPrecision(4));
    if (document.activeElement !== this.slider && value !== null) this.slider.value = Math.round((N * (value - low)) / (high - low));
    this.slider.setAttribute("aria-valuetext", short(value));
  }
}
