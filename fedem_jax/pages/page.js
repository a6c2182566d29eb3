"use strict";

// Tables: a click on a title sorts the rows by this column, a second click the other way.
const UNITS = { us: 1e-6, ms: 1e-3, s: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };

function numberIn(text) {
  const found = text.replace(/,/g, "").match(/^\s*([-+]?[\d.]+(?:e[-+]?\d+)?)(?:\s*([a-zA-Z%]+))?/);
  return found ? parseFloat(found[1]) * (UNITS[found[2]] ?? 1) : NaN;
}

function compare(one, other) {
  const [a, b] = [numberIn(one), numberIn(other)];
  if (!isNaN(a) && !isNaN(b)) return a - b;
  return isNaN(a) - isNaN(b) || one.localeCompare(other, "en", { numeric: true });
}

function sortBy(title) {
  const table = title.closest("table"), column = title.cellIndex;
  const turn = title.ariaSort === "ascending" ? -1 : 1;
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  title.setAttribute("aria-sort", turn === 1 ? "ascending" : "descending");
  const text = (row) => row.cells[column].textContent.trim();
  const rows = [...table.tBodies[0].rows].sort((a, b) => turn * compare(text(a), text(b)));
  table.tBodies[0].append(...rows);
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

// Figures: letters and lines take the colours of the page, which may be light or dark.
function paint() {
  const colours = getComputedStyle(document.documentElement);
  const colour = (name) => colours.getPropertyValue(name).trim();
  for (const figure of document.querySelectorAll(".plotly-graph-div")) {
    const look = {
      "font.color": colour("--ink"), "hoverlabel.bgcolor": colour("--band"),
      "hoverlabel.font.color": colour("--ink"), "hoverlabel.bordercolor": colour("--line"),
    };
    for (const axis of Object.keys(figure.layout).filter((name) => /^[xy]axis/.test(name))) {
      look[`${axis}.gridcolor`] = look[`${axis}.linecolor`] = colour("--line");
    }
    Plotly.relayout(figure, look);
    Plotly.Plots.resize(figure);
  }
}

paint();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
