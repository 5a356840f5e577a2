// Numbers as text, copies, downloads.

export const short = (value, digits = 4) =>
  value === null || value === undefined
    ? "–"
    : String(Number(value.toPrecision(digits))).replace("-", "\u2212").replace("Infinity", "∞");

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list" && name !== "for") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    announce(`Copied ${what}.`);
  } catch {
    announce(`The browser does not let the page copy; select the text of ${what} instead.`);
  }
}

let cleared;
export function announce(sentence) {
  const place = document.getElementById("said");
  place.textContent = sentence;
  clearTimeout(cleared);
  cleared = setTimeout(() => (place.textContent = ""), 6000);
}

export function download(name, content, type) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

const cell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

export const csv = (names, rows) => [names, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";

/** A table element; row number `best` stands out. */
export function table(caption, names, rows, { best = -1 } = {}) {
  const isNumber = (value) => typeof value === "number" || value === null;
  const holdsNumbers = names.map((_, j) => j > 0 && rows.some((row) => isNumber(row[j])));
  return element(
    "table",
    {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...names.map((name, j) => element("th", { scope: "col", class: holdsNumbers[j] ? "number" : "" }, name)))),
    element(
      "tbody",
      {},
      ...rows.map((row, i) =>
        element(
          "tr",
          { class: i === best ? "best" : "" },
          ...row.map((value, j) => {
            const content = value instanceof Node ? value : isNumber(value) ? short(value, 5) : value;
            return j === 0
              ? element("th", { scope: "row" }, content)
              : element("td", { class: holdsNumbers[j] ? "number" : "" }, content);
          }),
        ),
      ),
    ),
  );
}
