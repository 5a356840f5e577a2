// Charts: lines, bands, dots with error bars, marked lines, and maps, as SVG that can be read by keyboard and saved.

import { csv, download, element, short } from "./share.js";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 62, RIGHT = 14, TOP = 10, BOTTOM = 42, LEGEND_ROW = 18;

function draw(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const finite = (values) => values.filter((value) => value !== null && Number.isFinite(value));

/** Round numbers between two, about `count` of them. */
export function ticks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** Turn numbers into places: linear, logarithmic, or dense around zero. */
function scaleOf({ domain, kind = "linear", from, to }) {
  const bend = Math.max(Math.abs(domain[0]), Math.abs(domain[1])) / 25 || 1;
  const [forth, back] = {
    linear: [(v) => v, (u) => u],
    log: [Math.log10, (u) => 10 ** u],
    asinh: [(v) => Math.asinh(v / bend), (u) => bend * Math.sinh(u)],
  }[kind];
  const [low, high] = domain.map(forth);
  const span = high - low || 1;
  const place = (value) => from + ((forth(value) - low) / span) * (to - from);
  place.invert = (x) => back(low + ((x - from) / (to - from)) * span);
  place.ticks = (count) => {
    if (kind === "linear") return ticks(domain[0], domain[1], count);
    if (kind === "log") {
      const decades = ticks(low, high, count).filter(Number.isInteger).map((u) => 10 ** u);
      return decades.length > 1 ? decades : ticks(domain[0], domain[1], count).filter((tick) => tick > 0);
    }
    const largest = Math.max(...domain.map(Math.abs));
    const parts = [0.12, 0.8].map((part) => Number((part * largest).toPrecision(1)));
    return [...parts.map((t) => -t).reverse(), 0, ...parts].filter((t) => t >= domain[0] && t <= domain[1]);
  };
  return place;
}

// Viridis, light for low.
const VIRIDIS = [
  [253, 231, 37], [181, 222, 43], [110, 206, 88], [53, 183, 121], [31, 158, 137],
  [38, 130, 142], [49, 104, 142], [62, 74, 137], [72, 40, 120], [68, 1, 84],
];
function shade(part) {
  const at = Math.min(Math.max(part, 0), 1) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[i].map((low, k) => Math.round(low + (at - i) * (VIRIDIS[i + 1][k] - low)));
}

/**
 * A chart in a figure element.
 *
 * A spec has `title`, `label` (for screen readers), `x` and `y` ({label, domain, kind}), `series` and maybe `map`. A
 * series has `name`, `kind` (line, band, dots, level, upright), `colour` (1 to 7), numbers, and maybe `dash`, `marker`,
 * `quiet` (not in the legend). `pick` is called with the coordinates of a click.
 */
export class Chart {
  constructor(figure, name) {
    this.figure = figure;
    this.name = name;
    figure.classList.add("chart");
    figure.chart = this;
    this.title = element("figcaption", {});
    this.place = element("div", { class: "plot", tabIndex: 0, role: "img" });
    this.readout = element("output", { class: "readout" });
    this.values = element("details", { class: "values" }, element("summary", {}, "Values"));
    this.values.addEventListener("toggle", () => this.#fillValues());
    const button = (kind, act) => element("button", { type: "button", onclick: act, "aria-label": `Save ${name} as ${kind}` }, kind);
    this.tools = element(
      "div",
      { class: "tools" },
      button("SVG", () => download(`${name}.svg`, this.svgText(), "image/svg+xml")),
      button("PNG", () => this.#savePng()),
      button("CSV", () => download(`${name}.csv`, this.csvText(), "text/csv")),
    );
    figure.append(this.title, this.place, this.readout, this.tools, this.values);
    this.place.addEventListener("pointermove", (event) => this.#read(this.#inside(event)));
    this.place.addEventListener("pointerleave", () => this.#read(null));
    this.place.addEventListener("click", (event) => {
      const at = this.#inside(event);
      if (at && this.spec?.pick) this.spec.pick(...at);
    });
    this.place.addEventListener("keydown", (event) => this.#step(event));
    // Its width is told, not asked for: asking would lay out the page once for each chart.
    this.width = this.place.clientWidth;
    new ResizeObserver(([{ contentRect }]) => {
      if (Math.abs(contentRect.width - this.width) <= 1) return;
      this.width = contentRect.width;
      if (this.spec) this.#draw();
    }).observe(this.place);
  }

  show(spec) {
    this.spec = spec;
    this.title.textContent = spec.title;
    this.place.setAttribute("aria-label", `${spec.label ?? spec.title}. Arrow keys read the values.`);
    this.figure.classList.remove("stale");
    this.#offer(true);
    this.#draw();
    this.#fillValues();
  }

  /** Say why there is nothing to show. */
  refuse(sentence) {
    this.figure.classList.remove("stale");
    this.spec = null;
    this.place.replaceChildren(element("p", { class: "note" }, sentence));
    this.#offer(false);
    this.values.open = false;
  }

  #offer(isShown) {
    for (const part of [this.tools, this.values, this.readout]) part.hidden = !isShown;
    this.place.setAttribute("tabindex", isShown ? 0 : -1);
    if (!isShown) this.place.setAttribute("aria-label", this.place.textContent);
  }

  #draw() {
    const spec = this.spec;
    const width = Math.max(Math.round(this.width) || 480, 220);
    const named = spec.series.filter((series) => !series.quiet);
    const legend = this.#legend(named, width);
    const height = Math.round(Math.min(300, Math.max(210, width * 0.62)));
    const whole = height + legend.height + (spec.map ? 30 : 0);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${whole}`, width, height: whole, "aria-hidden": "true" });
    const x = scaleOf({ ...spec.x, domain: spec.x.domain ?? extent(spec.series, "x"), from: LEFT, to: width - RIGHT });
    const y = scaleOf({ ...spec.y, domain: spec.y.domain ?? extent(spec.series, "y", 0.06), from: height - BOTTOM, to: TOP });
    this.scales = { x, y, width, height };
    const clip = `clip-${this.name}`;
    const area = { x: LEFT, y: TOP, width: width - LEFT - RIGHT, height: height - TOP - BOTTOM };
    const clipping = draw("clipPath", { id: clip });
    clipping.append(draw("rect", area));
    svg.append(draw("rect", { class: "paper", x: 0, y: 0, width, height: whole }), clipping);
    if (spec.map) svg.append(this.#map(spec.map, x, y));
    this.#axes(svg, x, y, width, height);
    const inside = draw("g", { "clip-path": `url(#${clip})` });
    for (const series of spec.series) inside.append(...shapes(series, x, y, area));
    svg.append(inside);
    this.cursor = draw("line", { class: "cursor", y1: TOP, y2: height - BOTTOM, visibility: "hidden" });
    svg.append(this.cursor);
    if (spec.map) svg.append(this.#scale(spec.map, width, height + 2));
    legend.group.setAttribute("transform", `translate(0 ${whole - legend.height})`);
    svg.append(legend.group);
    this.place.replaceChildren(svg);
    this.svg = svg;
  }

  #axes(svg, x, y, width, height) {
    const { spec } = this;
    const count = Math.max(3, Math.floor((width - LEFT) / 75));
    const xTicks = spec.x.ticks ?? x.ticks(count);
    for (const tick of xTicks) {
      svg.append(
        draw("line", { class: "grid", x1: x(tick), x2: x(tick), y1: TOP, y2: height - BOTTOM }),
        draw("text", { class: "tick", x: x(tick), y: height - BOTTOM + 15, "text-anchor": "middle" }, short(tick)),
      );
    }
    const rows = spec.y.names ?? null;
    for (const [i, tick] of (rows ? rows.map((_, k) => k) : y.ticks(5)).entries()) {
      svg.append(
        draw("line", { class: "grid", y1: y(tick), y2: y(tick), x1: LEFT, x2: width - RIGHT }),
        draw("text", { class: "tick", x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, rows ? rows[i] : short(tick)),
      );
    }
    svg.append(
      draw("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: height - BOTTOM, y2: height - BOTTOM }),
      draw("line", { class: "axis", x1: LEFT, x2: LEFT, y1: TOP, y2: height - BOTTOM }),
      draw("text", { class: "label", x: (LEFT + width - RIGHT) / 2, y: height - 8, "text-anchor": "middle" }, spec.x.label),
      draw(
        "text",
        { class: "label", "text-anchor": "middle", transform: `translate(13 ${(TOP + height - BOTTOM) / 2}) rotate(-90)` },
        spec.y.label,
      ),
    );
  }

  #map({ x: xs, y: ys, z, top }, x, y) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [xs.length, ys.length];
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(xs.length, ys.length);
    z.forEach((column, i) =>
      column.forEach((value, j) => {
        const at = 4 * ((ys.length - 1 - j) * xs.length + i);
        const colour = value === null ? [128, 128, 128] : shade(value / top);
        pixels.data.set([...colour, 255], at);
      }),
    );
    context.putImageData(pixels, 0, 0);
    const half = (values) => (values.at(-1) - values[0]) / (values.length - 1) / 2;
    const [dx, dy] = [half(xs), half(ys)];
    const [left, right] = [x(xs[0] - dx), x(xs.at(-1) + dx)];
    const [bottom, up] = [y(ys[0] - dy), y(ys.at(-1) + dy)];
    return draw("image", {
      href: canvas.toDataURL(),
      x: left, y: up, width: right - left, height: bottom - up,
      preserveAspectRatio: "none", class: "map", "clip-path": `url(#clip-${this.name})`,
    });
  }

  #scale({ top, label }, width, y) {
    const group = draw("g", {});
    const wide = Math.min(160, width / 3);
    const n = 40;
    for (let i = 0; i < n; i += 1) {
      const fill = `rgb(${shade(i / (n - 1)).join(" ")})`;
      group.append(draw("rect", { x: LEFT + (i * wide) / n, y, width: wide / n + 0.5, height: 9, fill }));
    }
    group.append(
      draw("text", { class: "tick", x: LEFT - 4, y: y + 9, "text-anchor": "end" }, "0"),
      draw("text", { class: "tick", x: LEFT + wide + 5, y: y + 9 }, `${short(top)}+ ${label}`),
    );
    return group;
  }

  #legend(named, width) {
    const group = draw("g", {});
    let [at, row] = [LEFT, 0];
    for (const series of named) {
      const wide = 30 + 6.4 * series.name.length;
      if (at > LEFT && at + wide > width) [at, row] = [LEFT, row + 1];
      const y = 10 + row * LEGEND_ROW;
      const sample = { colour: series.colour, dash: series.dash };
      if (series.kind === "dots" || series.kind === "bars") group.append(marker(series, at + 9, y - 4));
      else if (series.kind === "band") group.append(draw("rect", { class: `band c${series.colour}`, x: at, y: y - 10, width: 18, height: 11 }));
      else group.append(line(sample, `M${at} ${y - 4}H${at + 18}`));
      group.append(draw("text", { class: "key", x: at + 23, y }, series.name));
      at += wide + 8;
    }
    return { group, height: named.length ? (row + 1) * LEGEND_ROW : 0 };
  }

  #inside(event) {
    if (!this.spec) return null;
    const box = this.svg.getBoundingClientRect();
    const factor = this.scales.width / box.width;
    const [px, py] = [(event.clientX - box.left) * factor, (event.clientY - box.top) * factor];
    const { width, height } = this.scales;
    if (px < LEFT || px > width - RIGHT || py < TOP || py > height - BOTTOM) return null;
    return [this.scales.x.invert(px), this.scales.y.invert(py)];
  }

  #read(at) {
    if (!at || !this.spec) {
      this.cursor?.setAttribute("visibility", "hidden");
      this.readout.textContent = "";
      return;
    }
    const [px, py] = at;
    const { spec } = this;
    const parts = [`${spec.x.label.split(" (")[0]} ${short(px, 3)}`];
    if (spec.map) {
      const nearest = (values, value) => values.reduce((best, v, i) => (Math.abs(v - value) < Math.abs(values[best] - value) ? i : best), 0);
      const value = spec.map.z[nearest(spec.map.x, px)][nearest(spec.map.y, py)];
      parts.push(`${spec.y.label.split(" (")[0]} ${short(py, 3)}`, `${short(value, 3)} ${spec.map.label}`);
    }
    for (const series of spec.series) {
      if (series.kind === "line" && series.x.length > 2 && !series.unread) {
        parts.push(`${series.name} ${short(interpolated(series.x, series.y, px), 5)}`);
      }
    }
    this.readout.textContent = parts.join(" · ");
    this.cursor.setAttribute("x1", this.scales.x(px));
    this.cursor.setAttribute("x2", this.scales.x(px));
    this.cursor.setAttribute("visibility", "visible");
    this.at = at;
  }

  #step(event) {
    const { spec, scales } = this;
    if (!spec || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Enter", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Escape") return this.#read(null);
    const middle = [scales.x.invert((LEFT + scales.width - RIGHT) / 2), scales.y.invert((TOP + scales.height - BOTTOM) / 2)];
    let [x, y] = this.at ?? middle;
    if (event.key === "Enter") return spec.pick?.(x, y);
    const pixels = event.shiftKey ? 40 : 8;
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
    x = scales.x.invert(clamp(scales.x(x) + pixels * move[0], LEFT, scales.width - RIGHT));
    y = scales.y.invert(clamp(scales.y(y) + pixels * move[1], TOP, scales.height - BOTTOM));
    this.#read([x, y]);
  }

  /** All numbers of the chart: series, then coordinates. */
  rows() {
    const { spec } = this;
    const rows = [];
    for (const s of spec.series) {
      if (s.kind === "level") rows.push([s.name, null, s.at, null, null]);
      else if (s.kind === "upright") rows.push([s.name, s.at, null, null, null]);
      else s.x.forEach((x, i) => rows.push([s.name, x, s.y?.[i] ?? null, s.low?.[i] ?? null, s.high?.[i] ?? null]));
    }
    if (spec.map) {
      spec.map.x.forEach((x, i) => spec.map.y.forEach((y, j) => rows.push([spec.map.label, x, y, spec.map.z[i][j], null])));
    }
    return rows;
  }

  csvText() {
    const names = this.spec.map ? ["series", "x", "y", "value", ""] : ["series", "x", "y", "low", "high"];
    return csv(names, this.rows());
  }

  #fillValues() {
    this.values.querySelector("table")?.remove();
    if (!this.values.open || !this.spec) return;
    const names = ["series", this.spec.x.label, this.spec.y.label, "low", "high"];
    const rows = this.rows().slice(0, 600);
    const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
    const body = rows.map((row) => element("tr", {}, ...row.map((v) => element("td", {}, typeof v === "number" ? short(v, 6) : (v ?? "")))));
    this.values.append(element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
  }

  /** The chart as a file of its own, always light. */
  svgText() {
    const copy = this.svg.cloneNode(true);
    copy.classList.add("light");
    copy.setAttribute("xmlns", SVG);
    this.place.append(copy);
    const kept = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size"];
    for (const node of [copy, ...copy.querySelectorAll("*")]) {
      const style = getComputedStyle(node);
      for (const name of kept) {
        const value = style.getPropertyValue(name);
        if (value && value !== "auto") node.setAttribute(name, value);
      }
      node.removeAttribute("class");
    }
    copy.remove();
    copy.prepend(draw("title", {}, this.spec.title));
    return new XMLSerializer().serializeToString(copy);
  }

  async #savePng() {
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(this.svgText())}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    const box = this.svg.viewBox.baseVal;
    [canvas.width, canvas.height] = [2 * box.width, 2 * box.height];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => download(`${this.name}.png`, blob));
  }
}

function extent(series, axis, margin = 0) {
  const all = series.flatMap((s) => {
    if (s.kind === "level") return axis === "y" ? [s.at] : [];
    if (s.kind === "upright") return axis === "x" ? [s.at] : [];
    const ends = [...(s.low ?? []), ...(s.high ?? [])];
    if (axis === "x") return s.sideways ? [...s.x, ...ends] : s.x;
    return s.sideways ? s.y : [...(s.y ?? []), ...ends];
  });
  const values = finite(all);
  if (!values.length) return [0, 1];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const gap = margin * (high - low) || (low === high ? Math.abs(low) * 0.1 || 1 : 0);
  return [low - gap, high + gap];
}

export function interpolated(xs, ys, at) {
  const i = xs.findIndex((x) => x >= at);
  if (i < 0 || (i === 0 && xs[0] > at)) return null;
  if (i === 0 || xs[i] === at) return ys[i];
  if (ys[i] === null || ys[i - 1] === null) return null;
  return ys[i - 1] + ((at - xs[i - 1]) / (xs[i] - xs[i - 1])) * (ys[i] - ys[i - 1]);
}

function line({ colour, dash, thin }, d) {
  return draw("path", { class: `line c${colour}${thin ? " thin" : ""}`, d, "stroke-dasharray": dash });
}

function marker({ colour, marker: kind = "circle" }, x, y) {
  const shapes = {
    circle: `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0`,
    square: `M${x - 3.5} ${y - 3.5}h7v7h-7z`,
    triangle: `M${x} ${y - 5}l4.6 8h-9.2z`,
    cross: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8`,
  };
  return draw("path", { class: `marker c${colour} ${kind === "cross" ? "open" : ""}`, d: shapes[kind] });
}

function shapes(series, x, y, area) {
  const known = (i) => series.x[i] !== null && series.y[i] !== null;
  switch (series.kind) {
    case "level":
      return series.at === null ? [] : [line(series, `M${area.x} ${y(series.at)}h${area.width}`)];
    case "upright":
      return series.at === null ? [] : [line({ ...series, thin: true }, `M${x(series.at)} ${area.y}v${area.height}`)];
    case "band": {
      const usable = series.x.map((_, i) => i).filter((i) => series.low[i] !== null && series.high[i] !== null);
      if (usable.length < 2) return [];
      const up = usable.map((i) => `${x(series.x[i]).toFixed(1)} ${y(series.high[i]).toFixed(1)}`);
      const down = usable.reverse().map((i) => `${x(series.x[i]).toFixed(1)} ${y(series.low[i]).toFixed(1)}`);
      return [draw("path", { class: `band c${series.colour}`, d: `M${[...up, ...down].join("L")}Z` })];
    }
    case "dots": {
      const made = [];
      series.x.forEach((value, i) => {
        if (!known(i)) return;
        const [px, py] = [x(value), y(series.y[i])];
        if (series.low && series.sideways) {
          made.push(line({ ...series, dash: undefined, thin: true }, `M${x(series.low[i])} ${py}H${x(series.high[i])}`));
        } else if (series.low && series.low[i] !== null) {
          const [low, high] = [y(series.low[i]), y(series.high[i])];
          made.push(line({ ...series, dash: undefined, thin: true }, `M${px} ${low}V${high}M${px - 3} ${low}h6M${px - 3} ${high}h6`));
        }
        made.push(marker(series, px, py));
      });
      return made;
    }
    default: {
      let d = "";
      let pen = false;
      series.x.forEach((value, i) => {
        if (!known(i)) pen = false;
        else {
          // Far outside the picture coordinates lose their meaning, and files grow.
          const py = Math.min(Math.max(y(series.y[i]), -5000), 5000);
          d += `${pen ? "L" : "M"}${x(value).toFixed(1)} ${py.toFixed(1)}`;
          pen = true;
        }
      });
      return d ? [line(series, d)] : [];
    }
  }
}
