// The table tab: a fit, its study, and a new group.

import { ask, upload, Work } from "./ask.js";
import { Chart } from "./chart.js";
import { announce, copy, element, short, table } from "./share.js";

const byId = (id) => document.getElementById(id);
const MOST_ROWS = 60;
const LOOKS = [
  { colour: 1 }, { colour: 2, marker: "square" }, { colour: 3, marker: "triangle" }, { colour: 6, dash: "6 3" },
  { colour: 4, dash: "2 3", marker: "square" }, { colour: 7, dash: "8 3 2 3" }, { colour: 5, dash: "4 4", marker: "triangle" },
];
const look = (i) => LOOKS[i % LOOKS.length];

/** The cells of the first line of a table, by the delimiter that it has most. */
export function header(text) {
  const line = text.replace(/^\uFEFF/, "").split(/\r\n|\n|\r/, 1)[0];
  const bare = line.replace(/"[^"]*"/g, "");
  const count = (delimiter) => bare.split(delimiter).length;
  const delimiter = [",", "\t", ";", "|"].reduce((best, other) => (count(other) > count(best) ? other : best));
  return split(line, delimiter);
}

function split(line, delimiter) {
  const cells = [];
  let cell = "";
  let quoted = false;
  for (const sign of line) {
    if (sign === '"') quoted = !quoted;
    else if (sign === delimiter && !quoted) {
      cells.push(cell.trim());
      cell = "";
    } else cell += sign;
  }
  return [...cells, cell.trim()];
}

export class TableTab {
  constructor(given) {
    this.charts = Object.fromEntries(
      ["learning", "slice-inner", "slice-adapt", "caterpillar", "steps", "along"].map((name) => [name, new Chart(byId(`chart-${name}`), `table-${name}`)]),
    );
    this.fitting = new Work();
    this.rows = [];
    byId("file").addEventListener("change", () => this.#choose(byId("file").files[0]));
    const drop = byId("drop");
    drop.addEventListener("dragover", (event) => event.preventDefault());
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      this.#choose(event.dataTransfer.files[0]);
    });
    byId("fit").addEventListener("click", () => this.#fit());
    byId("fit-stop").addEventListener("click", () => this.#endFit("Stopped."));
    byId("coefficient").addEventListener("change", () => this.#drawCaterpillar());
    byId("new-add").addEventListener("click", () => this.#addRow(true));
    byId("new-clear").addEventListener("click", () => this.#setRows([]));
    for (const id of ["new-level", "new-along"]) byId(id).addEventListener("input", () => this.#ask());
    byId("copy-table-python").addEventListener("click", () => copy(byId("table-python").textContent, "the Python"));
    byId("copy-table-command").addEventListener("click", () => copy(byId("table-command").textContent, "the command"));
    if (given) this.#open(given);
  }

  async #choose(file) {
    if (!file) return;
    try {
      const names = header(await file.slice(0, 2 ** 16).text());
      this.file = file;
      for (const id of ["fit-group", "fit-target"]) {
        byId(id).replaceChildren(...names.map((name) => element("option", {}, name)));
        byId(id).disabled = false;
      }
      byId("fit-target").selectedIndex = names.length - 1;
      byId("fit").disabled = false;
      byId("fit-says").textContent = `${file.name}: ${names.length} columns. Say which names the group and which is the target.`;
    } catch (error) {
      byId("fit-says").textContent = error.message;
    }
  }

  async #fit() {
    const [group, target] = [byId("fit-group").value, byId("fit-target").value];
    byId("fit").hidden = true;
    byId("fit-stop").hidden = byId("fit-bar").hidden = false;
    byId("fit-bar").value = 0;
    byId("fit-says").textContent = "Reading the table …";
    let name;
    try {
      const { table: uploaded } = await upload(this.file);
      name = uploaded;
      const question = { kind: "fit", upload: uploaded, name: this.file.name, group, target };
      const state = await this.fitting.run(question, (state) => {
        byId("fit-bar").value = state.done;
        if (state.what) byId("fit-says").textContent = `${state.what} …`;
      });
      if (!state) return;
      this.#endFit("Fitted.");
      await this.#open(name);
    } catch (error) {
      this.#endFit(error.message);
    }
  }

  #endFit(sentence) {
    this.fitting.stop();
    byId("fit").hidden = false;
    byId("fit-stop").hidden = byId("fit-bar").hidden = true;
    byId("fit-says").textContent = sentence;
  }

  async #open(name) {
    let shown;
    try {
      shown = await ask("/table", { table: name });
    } catch (error) {
      byId("fit-says").textContent = error.message;
      return;
    }
    [this.name, this.table] = [name, shown];
    byId("table-shown").hidden = false;
    byId("table-name").textContent = `${shown.name}: ${shown.target} of a ${shown.group}`;
    byId("table-command").textContent = shown.command;
    const study = shown.study;
    byId("table-verdict").textContent = study?.verdict ?? "This model was saved without its study: `innerloop fit … --out` writes both.";
    const size = study ? `${study.n_tasks} groups, ${study.n_rows} rows. ${study.tested}` : `${shown.n_groups} groups.`;
    byId("table-notes").replaceChildren(element("p", {}, size), ...shown.notes.map((note) => element("p", { class: "note" }, note)));
    this.#drawStudy(study);
    byId("coefficient").replaceChildren(...shown.coefficients.map((coefficient) => element("option", {}, coefficient)));
    this.#drawCaterpillar();
    byId("new-along").replaceChildren(...shown.numeric.map((input) => element("option", {}, input)));
    byId("new-rows")
      .querySelector("thead")
      .replaceChildren(element("tr", {}, ...[...shown.inputs, shown.target, ""].map((column) => element("th", { scope: "col" }, column))));
    this.#setRows([]);
  }

  #drawStudy(study) {
    const { charts } = this;
    for (const id of ["table-methods", "table-worst"]) byId(id).replaceChildren();
    for (const name of ["learning", "slice-inner", "slice-adapt"]) byId(`chart-${name}`).hidden = !study;
    if (!study) return;
    const names = ["on unseen groups", "inner_lr", "adapt_lr", "MSE", "± s.e.", "excess", "± s.e."];
    const rows = study.methods.map((m, i) => [m.label, m.inner_lr ?? "", m.adapt_lr ?? "", m.mse, m.mse_se, i ? m.excess : "", i ? m.excess_se : ""]);
    byId("table-methods").replaceChildren(table(`Errors after ${study.n_support} rows`, names, rows, { best: 0 }));
    const top = 1.3 * Math.max(...study.curves[0].mse);
    const low = Math.min(...study.curves.flatMap((curve) => curve.mse));
    const counts = [...new Set(study.curves.flatMap((curve) => curve.n_rows))].sort((a, b) => a - b);
    charts.learning.show({
      title: "Learning curves",
      label: "Error on unseen groups against the rows that they adapt on, for all methods.",
      x: { label: "rows a new group adapts on", domain: [0, counts.at(-1)] },
      y: { label: "MSE on unseen groups, ± 1 s.e.", domain: [Math.max(0, low - 0.1 * (top - low)), top] },
      series: study.curves.flatMap((curve, i) => [
        { ...look(i), name: curve.label, kind: "line", quiet: true, x: curve.n_rows, y: curve.mse },
        { ...look(i), name: curve.label, kind: "dots", x: curve.n_rows, y: curve.mse, low: curve.mse.map((m, k) => m - curve.mse_se[k]), high: curve.mse.map((m, k) => m + curve.mse_se[k]) },
      ]),
    });
    for (const slice of study.slices) this.#drawSlice(slice);
    if (study.worst.length) {
      const worst = study.worst.map((group) => [String(group.id), group.rows, group.rmse]);
      byId("table-worst").replaceChildren(table("Groups that are predicted worst", [this.table.group, "rows", "root mean squared error"], worst));
    } else byId("table-worst").replaceChildren(element("p", { class: "note" }, "The model was saved without its groups, or other groups were scored."));
  }

  #drawSlice(slice) {
    const isInner = slice.name === "inner_lr";
    const { rates, mse, difference_se: error } = slice;
    const low = Math.min(...mse);
    const atZero = mse[rates.reduce((best, rate, i) => (Math.abs(rate) < Math.abs(rates[best]) ? i : best), 0)];
    const high = low + Math.max(3 * (Math.max(atZero, slice.at_mark) - low), 0.1 * low);
    this.charts[isInner ? "slice-inner" : "slice-adapt"].show({
      title: `Held-out error against ${slice.name}`,
      x: { label: isInner ? "inner_lr (meta-training)" : "adapt_lr (new group)", kind: isInner && rates.length > 2 ? "asinh" : "linear", domain: [rates[0], rates.at(-1)] },
      y: { label: "MSE on unseen groups", domain: [low - 0.08 * (high - low), high] },
      series: [
        { name: "± 1 s.e. of the difference to the mark", kind: "band", colour: 1, x: rates, low: mse.map((m, i) => (error[i] === null ? null : m - error[i])), high: mse.map((m, i) => (error[i] === null ? null : m + error[i])) },
        { name: "cross-validated", kind: "line", colour: 1, x: rates, y: mse },
        { name: `${slice.mark}: ${short(slice.marked, 3)}`, kind: "dots", colour: 2, x: [slice.marked], y: [slice.at_mark] },
        { name: "zero", kind: "upright", colour: 4, quiet: true, at: 0 },
      ],
    });
  }

  async #drawCaterpillar() {
    const chart = this.charts.caterpillar;
    byId("caterpillar-says").textContent = "";
    if (!this.table.coefficients.length) {
      chart.refuse("The model knows no groups.");
      return;
    }
    const coefficient = byId("coefficient").value;
    try {
      const found = await ask("/table/caterpillar", { table: this.name, coefficient });
      const places = found.estimate.map((_, i) => i);
      const few = places.length <= 25;
      chart.show({
        title: `${coefficient} of the groups`,
        x: { label: `${coefficient}, ± 2 s.e.` },
        y: { label: few ? this.table.group : `${this.table.group}, in order`, domain: [-0.8, places.length - 0.2], names: few ? found.groups.map(String) : undefined },
        series: [
          { name: "group", kind: "dots", sideways: true, colour: 1, x: found.estimate, y: places, low: found.estimate.map((v, i) => v - 2 * found.standard_error[i]), high: found.estimate.map((v, i) => v + 2 * found.standard_error[i]) },
          { name: `population: ${short(found.population)}`, kind: "upright", colour: 2, at: found.population },
        ],
      });
      chart.found = found;
      if (found.left_out) byId("caterpillar-says").textContent = `${found.left_out} groups are left out, evenly.`;
    } catch (error) {
      chart.refuse(error.message);
    }
  }

  // --- a new group ---

  #setRows(rows) {
    byId("new-rows").querySelector("tbody").replaceChildren();
    this.rows = [];
    for (const row of rows) this.#addRow(false, row);
    if (!rows.length) this.#addRow(false);
    this.#ask();
  }

  #addRow(focus, cells = []) {
    if (this.rows.length >= MOST_ROWS) return announce(`A new group has at most ${MOST_ROWS} rows here.`);
    const columns = [...this.table.inputs, this.table.target];
    const number = this.rows.length + 1;
    const fields = columns.map((column, j) =>
      element("input", {
        type: "text", value: cells[j] ?? "", size: 8, autocomplete: "off", "aria-label": `${column}, row ${number}`,
        oninput: () => this.#ask(),
        onpaste: (event) => this.#paste(event, row, j),
        onkeydown: (event) => event.key === "Enter" && this.#addRow(true),
      }),
    );
    const remove = element("button", { type: "button", "aria-label": `Remove row ${number}`, onclick: () => this.#setRows(this.#cells(false).filter((_, i) => i !== this.rows.indexOf(row))) }, "×");
    const row = { fields, line: element("tr", {}, ...fields.map((field) => element("td", {}, field)), element("td", {}, remove)) };
    this.rows.push(row);
    byId("new-rows").querySelector("tbody").append(row.line);
    if (focus) fields[0].focus();
  }

  #cells(known = true) {
    const cells = this.rows.map((row) => row.fields.map((field) => field.value));
    return known ? cells.filter((row) => row.some((cell) => cell.trim())) : cells;
  }

  /** A block of cells goes where it is pasted, over as many rows as it has. */
  #paste(event, row, column) {
    const text = event.clipboardData.getData("text").replace(/\s+$/, "");
    if (!/[\n\t]|,.*,/.test(text)) return;
    event.preventDefault();
    const lines = text.split(/\r\n|\n|\r/).map((line) => split(line, line.includes("\t") ? "\t" : line.includes(";") ? ";" : ","));
    const columns = [...this.table.inputs, this.table.target];
    let order = columns.map((_, j) => j - column);
    if (lines[0].filter((name) => columns.includes(name)).length > 1) {
      const names = lines.shift();
      order = columns.map((name) => names.indexOf(name));
    }
    const cells = this.#cells(false);
    const first = this.rows.indexOf(row);
    lines.forEach((line, i) => {
      const there = cells[first + i] ?? columns.map(() => "");
      cells[first + i] = columns.map((_, j) => (order[j] >= 0 && order[j] < line.length ? line[order[j]] : there[j]));
    });
    this.#setRows(cells.slice(0, MOST_ROWS));
  }

  /** Ask for the rows as they are now; one question at a time, and never those between. */
  async #ask() {
    if (!byId("new-level").validity.valid) return;
    this.wanted = JSON.stringify({ table: this.name, rows: this.#cells(), level: byId("new-level").valueAsNumber, along: byId("new-along").value || null });
    byId("panel-table").dataset.settled = "false";
    if (this.isBusy) return;
    this.isBusy = true;
    while (this.asked !== this.wanted) {
      this.asked = this.wanted;
      try {
        this.#drawNew(await ask("/table/new", JSON.parse(this.asked)));
        byId("new-refusal").textContent = "";
      } catch (error) {
        byId("new-refusal").textContent = error.message;
      }
    }
    this.isBusy = false;
    byId("panel-table").dataset.settled = "true";
  }

  #drawNew(found) {
    byId("table-python").textContent = found.python;
    const { charts } = this;
    const place = byId("new-predictions");
    if (!found.prediction) {
      place.replaceChildren();
      charts.steps.refuse("Leave the target of a row empty to see its prediction change with each row that has one.");
    } else {
      const last = found.prediction.at(-1).map((_, i) => [String(found.rows[i]), found.prediction.at(-1)[i], found.low.at(-1)[i], found.high.at(-1)[i], found.population[i], ...found.nearest.map((near) => near.prediction[i])]);
      const nearest = found.nearest.map((near) => `like ${near.id}`);
      place.replaceChildren(table(`Predictions after ${found.n_known} rows`, ["row", "new group", "low", "high", "population", ...nearest], last));
      const steps = found.prediction.map((_, k) => k);
      const at = (values, i) => values.map((step) => step[i]);
      charts.steps.show({
        title: `Prediction of row ${found.rows[0]} after each row`,
        x: { label: "rows that the group has adapted on", domain: [0, Math.max(1, found.n_known)], ticks: found.n_known < 13 ? steps : undefined },
        y: { label: this.table.target },
        series: [
          { name: `${100 * found.level} % interval`, kind: "band", colour: 1, x: steps, low: at(found.low, 0), high: at(found.high, 0) },
          { name: "new group", kind: "line", colour: 1, x: steps, y: at(found.prediction, 0) },
          { name: "steps", kind: "dots", colour: 1, quiet: true, x: steps, y: at(found.prediction, 0), low: at(found.low, 0), high: at(found.high, 0) },
          { name: "population", kind: "level", colour: 4, dash: "6 4", at: found.population[0] },
        ],
      });
    }
    const curve = found.curve;
    if (!curve) return charts.along.refuse("Type a row to see the curve.");
    charts.along.show({
      title: `Along ${curve.along}, the rest as in the last row`,
      x: { label: curve.along, domain: [curve.x[0], curve.x.at(-1)] },
      y: { label: this.table.target },
      series: [
        { name: `${100 * found.level} % interval`, kind: "band", colour: 1, x: curve.x, low: curve.low, high: curve.high },
        { name: "new group", kind: "line", colour: 1, x: curve.x, y: curve.prediction },
        { name: "population", kind: "line", colour: 4, dash: "6 4", x: curve.x, y: curve.population },
        ...curve.nearest.map((near, i) => ({ ...look(i + 1), thin: true, dash: "2 3", name: `like ${near.id}`, kind: "line", x: curve.x, y: near.prediction })),
        { name: "its rows", kind: "dots", colour: 5, x: curve.rows.x, y: curve.rows.y },
      ],
    });
  }
}
