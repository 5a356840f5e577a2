// The networks tab: a sweep over inner rates.

import { ask } from "./ask.js";
import { Chart } from "./chart.js";
import { element, short, table } from "./share.js";

const byId = (id) => document.getElementById(id);

export class NetworksTab {
  constructor() {
    this.mean = new Chart(byId("chart-sweep"), "sweep");
    this.difference = new Chart(byId("chart-sweep-difference"), "sweep-difference");
    this.#open();
  }

  async #open() {
    try {
      this.#show(await ask("/sweep"));
    } catch (error) {
      byId("sweep-says").textContent = error.message;
    }
  }

  #show(sweep) {
    const rates = sweep.inner_lr;
    const seeds = `${sweep.n_seeds} seed${sweep.n_seeds > 1 ? "s" : ""}`;
    byId("sweep-name").textContent = sweep.name;
    byId("sweep-says").textContent = `Test ${sweep.score} of networks that were meta-trained at each inner rate, ${seeds} from the same weights on the same tasks${sweep.stderr ? "" : "; too few seeds for standard errors"}.`;
    const zero = rates.indexOf(0);
    const one = (values, gap) => values.map((value) => (gap ? value - values[zero] : value));
    const draw = (chart, title, mean, error, kernel, gap) => {
      const lines = sweep.by_seed.map((values, i) => ({ name: `seed ${i}`, kind: "line", colour: 4, thin: true, quiet: true, x: rates, y: one(values, gap) }));
      const band = error && { name: "± 2 s.e.", kind: "band", colour: gap ? 2 : 1, x: rates, low: mean.map((m, i) => m - 2 * error[i]), high: mean.map((m, i) => m + 2 * error[i]) };
      chart.show({
        title,
        x: { label: "inner_lr (meta-training)" },
        y: { label: gap ? `difference in ${sweep.score}` : `test ${sweep.score}` },
        series: [
          ...lines,
          ...(band ? [band] : []),
          { name: `mean of ${seeds} (thin: each)`, kind: "line", colour: gap ? 2 : 1, x: rates, y: mean },
          ...(kernel ? [{ name: "tangent kernel, without training", kind: "line", colour: 3, dash: "6 4", x: rates, y: kernel }] : []),
          { name: "rates", kind: "dots", colour: gap ? 2 : 1, quiet: true, x: rates, y: mean },
          { name: "zero", kind: "upright", colour: 4, quiet: true, at: 0 },
          ...(gap ? [{ name: "none", kind: "level", colour: 4, quiet: true, at: 0 }] : []),
        ],
      });
    };
    draw(this.mean, `Test ${sweep.score} against inner_lr`, sweep.mean, sweep.stderr, sweep.kernel, false);
    draw(this.difference, "Paired difference to inner_lr = 0", sweep.difference, sweep.difference_stderr, sweep.kernel_difference, true);
    const names = ["inner_lr", "best adapt_lr", sweep.score, "± s.e.", "difference", "± s.e."];
    const four = (value) => (value === null ? null : Number(value.toPrecision(4)));
    const of = (errors, i) => (errors ? four(errors[i]) : "");
    const rows = rates.map((rate, i) => [short(rate), sweep.adapt_lr[i], four(sweep.mean[i]), of(sweep.stderr, i), four(sweep.difference[i]), of(sweep.difference_stderr, i)]);
    byId("sweep-rates").replaceChildren(table("Rates", names, rows), element("p", { class: "note" }, "The adaptation rate of each inner rate is the best on validation tasks. Differences are to inner_lr = 0."));
  }
}
