// The page: its tabs, and the link that holds what it shows.

import { ask } from "./ask.js";
import { NetworksTab } from "./networks.js";
import { TableTab } from "./table.js";
import { TheoryTab } from "./theory.js";

const tabs = [...document.querySelectorAll("[role=tab]")];

function select(tab, focus = false) {
  for (const other of tabs) {
    const isThis = other === tab;
    other.setAttribute("aria-selected", isThis);
    other.tabIndex = isThis ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !isThis;
  }
  if (focus) tab.focus();
}

for (const tab of tabs) {
  tab.addEventListener("click", () => {
    select(tab);
    remember();
  });
  tab.addEventListener("keydown", (event) => {
    const shown = tabs.filter((other) => !other.hidden);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    select(shown[(shown.indexOf(tab) + step + shown.length) % shown.length], true);
    remember();
  });
}

let settings = {};
let defaults = {};

/** Put what differs from the first page into the address. */
function remember(changed = settings) {
  settings = changed;
  const query = new URLSearchParams();
  const tab = tabs.find((other) => other.getAttribute("aria-selected") === "true");
  query.set("tab", tab.dataset.tab);
  for (const [name, value] of Object.entries(settings)) if (value !== defaults[name]) query.set(name, value);
  history.replaceState(null, "", `#${query}`);
}

/** Settings of the address; what it does not know, the server refuses. */
function recalled() {
  const query = new URLSearchParams(location.hash.slice(1));
  const known = {};
  for (const [name, text] of query) {
    if (!(name in defaults)) continue;
    known[name] = name === "protocol" ? text : Number(text);
  }
  return [query.get("tab"), known];
}

/** The tab that shows what the command was given. */
const first = (start) => (start.table ? "table" : start.sweep ? "networks" : "theory");

async function open() {
  const start = await ask("/start");
  defaults = start.settings;
  const [name, known] = recalled();
  settings = { ...defaults, ...known };
  document.getElementById("tab-networks").hidden = !start.sweep;
  select(tabs.find((tab) => tab.dataset.tab === (name ?? first(start)) && !tab.hidden) ?? tabs[0]);
  new TableTab(start.table);
  if (start.sweep) new NetworksTab();
  const theory = new TheoryTab(start, settings, remember);
  window.addEventListener("hashchange", () => {
    const [tab, given] = recalled();
    select(tabs.find((other) => other.dataset.tab === tab && !other.hidden) ?? tabs[0]);
    theory.replace(given);
  });
}

open().catch((error) => {
  document.getElementById("theory-refusal").textContent = error.message;
});
