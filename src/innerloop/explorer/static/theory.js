// The theory tab.

import { ask, Refusal, Work } from "./ask.js";
import { Chart } from "./chart.js";
import { Rate, Slider } from "./controls.js";
import { announce, copy, element, short, table } from "./share.js";

const REFERENCES = {
  ridge_adaptation: "the best, then a ridge on new tasks",
  pooled: "least squares on all rows",
  weighted: "weighted least squares on all rows",
  bayes: "Bayes-optimal, centre unknown",
  bayes_known_centre: "Bayes-optimal, centre known",
  floor: "noise of a new row",
};
const MAP_TOP = 30; // percent above the lowest that the map tells apart
const REST = 400; // milliseconds without a change before slow work starts

const byId = (id) => document.getElementById(id);
const percent = (part) => `${(100 * part).toFixed(part < 0.0995 ? 1 : 0)} %`;

export class TheoryTab {
  /** `remember` is called with the settings whenever the page shows them. */
  constructor(start, settings, remember) {
    this.defaults = start.settings;
    this.settings = { ...start.settings, ...settings };
    this.remember = remember;
    this.charts = Object.fromEntries(
      ["inner", "adapt", "map", "law"].map((name) => [name, new Chart(byId(`chart-${name}`), `theory-${name}`)]),
    );
    this.chance = new Work();
    this.plans = new Work();
    this.simulation = new Work();
    this.#buildControls(start);
    byId("simulate").addEventListener("click", () => this.#simulate());
    byId("simulate-stop").addEventListener("click", () => this.#stopSimulation("Stopped."));
    byId("copy-link").addEventListener("click", () => copy(location.href, "the link"));
    byId("copy-python").addEventListener("click", () => copy(byId("python").textContent, "the Python"));
    byId("copy-command").addEventListener("click", () => copy(byId("command").textContent, "the command"));
    this.#show();
    this.changed();
  }

  #buildControls(start) {
    const place = byId("controls");
    const preset = byId("preset");
    for (const name of Object.keys(start.presets)) preset.append(element("option", { value: name }, name));
    preset.addEventListener("change", () => {
      if (start.presets[preset.value]) this.replace(start.presets[preset.value]);
    });
    this.controls = {};
    const add = (name, control) => {
      this.controls[name] = control;
      place.append(control.element);
    };
    const set = (name) => (value) => {
      this.settings[name] = value;
      preset.value = "";
      this.changed();
    };
    for (const control of start.controls) add(control.name, new Slider(control, set(control.name)));
    const protocol = byId("set-protocol");
    for (const name of start.protocols) protocol.append(element("option", {}, name));
    protocol.addEventListener("change", () => set("protocol")(protocol.value));
    for (const [name, label] of [["inner_lr", "inner_lr shown"], ["adapt_lr", "adapt_lr shown"]]) add(name, new Rate(name, label, set(name)));
    for (const name of ["n_runs", "budget"]) {
      const field = byId(`set-${name}`);
      field.addEventListener("input", () => {
        if (field.validity.valid) set(name)(field.value === "" ? null : field.valueAsNumber);
      });
    }
  }

  replace(settings) {
    this.settings = { ...this.defaults, ...settings };
    this.#show();
    this.changed();
  }

  #show() {
    for (const [name, control] of Object.entries(this.controls)) control.set(this.settings[name]);
    byId("set-protocol").value = this.settings.protocol;
    byId("set-n_runs").value = this.settings.n_runs;
    byId("set-budget").value = this.settings.budget ?? "";
  }

  /** One question at a time; when its answer is there, the settings of that moment are asked for, never those between. */
  async changed() {
    this.wanted = JSON.stringify(this.settings);
    document.documentElement.dataset.settled = "false";
    this.#stopSlow();
    if (this.isBusy) return;
    this.isBusy = true;
    while (this.shown !== this.wanted) {
      const asked = this.wanted;
      try {
        const answer = await ask("/theory", JSON.parse(asked));
        this.answer = answer;
        this.#render(answer);
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        this.#refuse(error.message);
      } finally {
        this.shown = asked;
      }
      if (this.answer) this.charts.law.figure.classList.add("stale");
      document.documentElement.dataset.updates = Number(document.documentElement.dataset.updates ?? 0) + 1;
      // The browser paints, and takes what was done meanwhile, before the next question.
      await new Promise((resolve) => setTimeout(resolve));
      if (this.shown === this.wanted && this.answer) await this.#law(JSON.parse(asked));
    }
    this.isBusy = false;
    document.documentElement.dataset.settled = "true";
    this.resting = setTimeout(() => this.#rest(), REST);
  }

  #stopSlow() {
    clearTimeout(this.resting);
    this.chance.stop();
    this.plans.stop();
    this.dots = null;
    this.#stopSimulation("");
    byId("chance").textContent = "";
    byId("plans").classList.add("stale");
  }

  #refuse(sentence) {
    this.answer = null;
    byId("theory-refusal").textContent = sentence;
    byId("theory-says").replaceChildren();
    byId("references").replaceChildren();
    byId("law-says").textContent = byId("plans-says").textContent = "";
    for (const chart of Object.values(this.charts)) chart.refuse("Nothing to show for these settings.");
    byId("plans").replaceChildren();
    byId("simulate").disabled = true;
    byId("python").textContent = "";
    byId("command").textContent = "";
  }

  #render(answer) {
    const { best, chosen, inner, adapt } = answer;
    byId("theory-refusal").textContent = "";
    byId("simulate").disabled = chosen.inner_lr === null;
    byId("theory-says").replaceChildren(
      element(
        "p",
        { class: "rates" },
        element("span", {}, "best inner_lr ", element("b", { id: "best-inner" }, best.inner_lr === null ? "far from zero" : short(best.inner_lr))),
        element("span", {}, "best adapt_lr ", element("b", { id: "best-adapt" }, short(best.adapt_lr))),
        element("span", {}, "loss ", element("b", { id: "best-loss" }, short(best.loss, 5))),
        element("span", {}, "against no inner loop ", element("b", { id: "gain" }, percentChange(best.loss, best.loss_no_inner))),
        element("span", {}, "N/p ", element("b", {}, short(answer.ratio, 3))),
      ),
      ...answer.sentences.map((sentence) => element("p", {}, sentence)),
    );
    this.controls.inner_lr.show(chosen.inner_lr, inner.rates[0], inner.rates.at(-1));
    this.controls.adapt_lr.show(chosen.adapt_lr, adapt.rates[0], adapt.rates.at(-1));
    byId("set-budget").placeholder = answer.rows;
    byId("python").textContent = answer.python;
    byId("command").textContent = answer.command;
    this.#drawCurves();
    this.#drawMap(answer);
    this.#fillReferences(answer);
  }

  #drawCurves() {
    const { best, references, chosen, inner, adapt } = this.answer;
    const loss = "expected test loss (half MSE)";
    const bayes = references?.bayes ?? references?.bayes_known_centre ?? null;
    const domain = focus(inner.loss, [best.loss, best.loss_no_inner, best.loss_untrained, best.loss_tied], bayes !== null && bayes < best.loss ? bayes : null);
    const bayesName = `Bayes-optimal${references?.bayes === null ? ", centre known" : ""}${bayes > domain[1] ? " (above)" : ""}`;
    const marks = [
      { name: "minimum", kind: "dots", colour: 2, x: [best.inner_lr], y: [best.loss] },
      { name: "no inner loop", kind: "level", colour: 4, dash: "6 4", at: best.loss_no_inner },
      { name: "zero", kind: "dots", colour: 4, marker: "square", x: [0], y: [best.loss_no_inner] },
      { name: "tied rates", kind: "dots", colour: 6, marker: "triangle", x: [best.lr_tied], y: [best.loss_tied] },
      { name: "no meta-training", kind: "level", colour: 3, dash: "2 3", at: best.loss_untrained },
      ...(bayes === null ? [] : [{ name: bayesName, kind: "level", colour: 7, dash: "8 3 2 3", at: bayes }]),
    ];
    const dots = (side) =>
      this.dots ? [{ name: `simulated, ${this.dots.n_runs} runs, ± 2 s.e.`, kind: "dots", colour: 5, x: side.rates, y: side.loss, low: side.loss.map((v, i) => v - 2 * side.stderr[i]), high: side.loss.map((v, i) => v + 2 * side.stderr[i]) }] : [];
    this.charts.inner.show({
      title: `Loss against inner_lr (meta-training), at adapt_lr ${short(chosen.adapt_lr, 3)}`,
      label: `Expected loss against inner_lr. The minimum is ${short(best.loss)} at ${short(best.inner_lr)}.`,
      x: { label: "inner_lr (meta-training)", domain: [inner.rates[0], inner.rates.at(-1)] },
      y: { label: loss, domain },
      series: [
        { name: "loss", kind: "line", colour: 1, x: inner.rates, y: inner.loss },
        ...marks,
        ...(this.settings.inner_lr === null ? [] : [{ name: "chosen", kind: "upright", colour: 1, at: chosen.inner_lr }]),
        ...dots(this.dots?.inner),
      ],
      pick: (rate) => this.#choose("inner_lr", rate),
    });
    this.charts.adapt.show({
      title: `Loss against adapt_lr (new task), at inner_lr ${chosen.inner_lr === null ? "far from zero" : short(chosen.inner_lr, 3)}`,
      label: `Expected loss against adapt_lr. The minimum is ${short(best.loss)} at ${short(best.adapt_lr)}.`,
      x: { label: "adapt_lr (new task)", domain: [adapt.rates[0], adapt.rates.at(-1)] },
      y: { label: loss, domain: focus(adapt.loss, [best.loss, best.loss_untrained, best.loss_no_inner]) },
      series: [
        { name: "loss", kind: "line", colour: 1, x: adapt.rates, y: adapt.loss },
        { name: "minimum", kind: "dots", colour: 2, x: [best.adapt_lr], y: [best.loss] },
        { name: "no inner loop", kind: "dots", colour: 4, marker: "square", x: [best.adapt_lr_no_inner], y: [best.loss_no_inner] },
        { name: "no meta-training", kind: "dots", colour: 3, marker: "triangle", x: [best.adapt_lr_untrained], y: [best.loss_untrained] },
        ...(this.settings.adapt_lr === null ? [] : [{ name: "chosen", kind: "upright", colour: 1, at: chosen.adapt_lr }]),
        ...dots(this.dots?.adapt),
      ],
      pick: (rate) => this.#choose("adapt_lr", rate),
    });
  }

  #drawMap({ best, chosen, map }) {
    const [inner, adapt] = [map.inner_lr, map.adapt_lr];
    const tied = inner.filter((rate) => rate >= adapt[0] && rate <= adapt.at(-1));
    this.charts.map.show({
      title: "Loss over both rates",
      label: "Expected loss over both rates, as percent above the lowest.",
      x: { label: "inner_lr (meta-training)", domain: [inner[0], inner.at(-1)] },
      y: { label: "adapt_lr (new task)", domain: [adapt[0], adapt.at(-1)] },
      map: { x: inner, y: adapt, top: MAP_TOP, label: "% above the lowest", z: map.loss.map((row) => row.map((loss) => (loss === null ? null : 100 * (loss / best.loss - 1)))) },
      series: [
        { name: "tied rates", kind: "line", colour: 8, dash: "2 4", x: tied, y: tied, unread: true },
        { name: "minimum", kind: "dots", colour: 2, x: [best.inner_lr], y: [best.adapt_lr] },
        ...(this.settings.inner_lr === null && this.settings.adapt_lr === null ? [] : [{ name: "shown", kind: "dots", colour: 8, marker: "cross", x: [chosen.inner_lr], y: [chosen.adapt_lr] }]),
      ],
      pick: (innerRate, adaptRate) => {
        this.#choose("adapt_lr", adaptRate, false);
        this.#choose("inner_lr", innerRate);
      },
    });
  }

  async #law(settings) {
    byId("law-says").textContent = "";
    this.law = null;
    try {
      this.law = await ask("/law", settings);
      this.#drawLaw(this.law, this.answer.chosen);
    } catch (error) {
      this.charts.law.refuse(error.message);
    }
  }

  #drawLaw(law, chosen) {
    byId("law-says").textContent = `On one training set: loss ${short(law.low, 5)} to ${short(law.high, 5)} with probability ${100 * law.level} %.`;
    const inside = law.loss.map((loss) => loss >= law.low && loss <= law.high);
    this.charts.law.show({
      title: "Law of the loss over training sets, at the rates shown",
      label: byId("law-says").textContent,
      x: { label: "test loss of one training set" },
      y: { label: "density", domain: [0, 1.08 * Math.max(...law.density)] },
      series: [
        { name: `${100 * law.level} %`, kind: "band", colour: 1, x: law.loss, low: law.loss.map((_, i) => (inside[i] ? 0 : null)), high: law.density.map((d, i) => (inside[i] ? d : null)) },
        { name: "density", kind: "line", colour: 1, x: law.loss, y: law.density },
        { name: "mean", kind: "upright", colour: 2, at: chosen.loss },
      ],
    });
  }

  #fillReferences({ best, references }) {
    const rows = [
      ["both free", best.inner_lr, best.adapt_lr, best.loss],
      ["no inner loop in training", 0, best.adapt_lr_no_inner, best.loss_no_inner],
      ["tied rates (usual MAML)", best.lr_tied, best.lr_tied, best.loss_tied],
      ["no meta-training", "", best.adapt_lr_untrained, best.loss_untrained],
      ...Object.entries(REFERENCES).map(([name, label]) => [label, "", "", references?.[name] ?? null]),
    ].filter((row) => row[3] !== null);
    byId("references").replaceChildren(
      table("Losses, and what other estimators reach", ["", "inner_lr", "adapt_lr", "loss", "above the best"], rows.map((row, i) => [...row, i ? percentAbove(row[3], best.loss) : ""]), { best: 0 }),
    );
  }

  #choose(name, rate, ask = true) {
    this.settings[name] = Number(rate.toPrecision(3));
    this.controls[name].set(this.settings[name]);
    byId("preset").value = "";
    if (ask) this.changed();
  }

  /** What the page does when nobody moves anything: remember, and start what takes longer. */
  async #rest() {
    this.remember(this.settings);
    if (!this.answer) return;
    const settings = { ...this.settings };
    const rate = this.answer.chosen.inner_lr;
    if (!this.law || rate === 0 || rate === null) byId("chance").textContent = "";
    else {
      byId("chance").textContent = "Computing how often this rate beats inner_lr = 0 …";
      try {
        const state = await this.chance.run({ kind: "chance", settings });
        if (!state) return;
        byId("chance").textContent = `inner_lr ${short(rate, 3)} beats inner_lr = 0 on ${percent(state.chance)} of training sets.`;
        byId("chance").dataset.value = state.chance;
      } catch (error) {
        byId("chance").textContent = error.message;
        delete byId("chance").dataset.value;
      }
    }
    await this.#split(settings);
  }

  async #split(settings) {
    const place = byId("plans");
    place.setAttribute("aria-busy", "true");
    byId("plans-says").textContent = `Looking for the best split of ${settings.budget ?? this.answer.rows} labelled rows …`;
    try {
      const state = await this.plans.run({ kind: "plans", settings });
      if (!state) return;
      place.replaceChildren(this.#plansTable(state.plans));
      place.classList.remove("stale");
      place.plans = state.plans;
      byId("plans-says").textContent = state.plans.length ? "" : "No split of so many rows has an expected loss.";
    } catch (error) {
      place.replaceChildren();
      byId("plans-says").textContent = error.message;
    } finally {
      place.removeAttribute("aria-busy");
    }
  }

  #plansTable(plans) {
    const names = ["n_tasks", "n_support", "n_query", "inner_lr", "adapt_lr", "loss", "no meta-training", ""];
    const rows = plans.map((plan) => {
      const take = () => {
        Object.assign(this.settings, { n_tasks: plan.n_tasks, n_support: plan.n_support, n_query: plan.n_query });
        this.#show();
        this.changed();
        announce("The sliders show this split.");
      };
      const button = element("button", { type: "button", onclick: take, "aria-label": `Use ${plan.n_tasks} tasks of ${plan.n_support} + ${plan.n_query} rows` }, "use");
      return [String(plan.n_tasks), plan.n_support, plan.n_query, plan.inner_lr, plan.adapt_lr, plan.loss, plan.loss_untrained, button];
    });
    return table("Best splits of the labelled rows", names, rows, { best: 0 });
  }

  async #simulate() {
    const [button, stop, bar, says] = ["simulate", "simulate-stop", "simulate-bar", "simulate-says"].map(byId);
    button.hidden = true;
    stop.hidden = bar.hidden = false;
    bar.value = 0;
    says.textContent = "Simulating …";
    try {
      const state = await this.simulation.run({ kind: "simulate", settings: { ...this.settings } }, (state) => {
        bar.value = state.done;
        if (state.inner && state.n_runs !== this.dots?.n_runs) {
          this.dots = state;
          this.#drawCurves();
          says.textContent = `${state.n_runs} runs.`;
        }
      });
      if (!state) return;
      this.#stopSimulation([`${state.n_runs} runs are done.`, ...state.notes].join(" "));
    } catch (error) {
      this.#stopSimulation(error.message);
    }
  }

  #stopSimulation(sentence) {
    this.simulation.stop();
    byId("simulate").hidden = false;
    byId("simulate-stop").hidden = byId("simulate-bar").hidden = true;
    byId("simulate-says").textContent = sentence;
  }
}

const percentChange = (loss, other) => {
  const part = 100 * (loss / other - 1);
  return `${short(part, 3)} %`;
};
const percentAbove = (loss, best) => `${(100 * (loss / best - 1)).toFixed(2).replace("-", "\u2212")} %`;

/** The part of a curve that matters: from below the lowest, a bound included, to past the levels beside it. */
export function focus(curve, levels, bound = null) {
  const known = [...curve, ...levels].filter((value) => value !== null && Number.isFinite(value));
  const low = bound === null ? Math.min(...known) : Math.min(bound, ...known);
  const beside = levels.filter((value) => value !== null && Number.isFinite(value));
  const top = Math.max(...known);
  const high = Math.min(top, low + 2.2 * Math.max(Math.max(...beside, low) - low, 0.02 * Math.abs(low)));
  const gap = 0.06 * (high - low || 1);
  return [low - gap, high + gap];
}
