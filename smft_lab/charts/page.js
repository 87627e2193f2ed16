"use strict";
// The figures come in light colours; drawing replaces them in dark, and refits the layout to the window.
const page = JSON.parse(document.getElementById("figures").textContent);
const darkScheme = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)");

function inScheme(figure) {
  const text = JSON.stringify(figure);
  if (!darkScheme.matches) return JSON.parse(text);
  return JSON.parse(text.replace(/#[0-9A-F]{6}/g, (colour) => page.dark[colour] || colour));
}

function fitPlane(figure, width) {
  if (width >= 640) return;
  const layout = figure.layout;
  const short = layout.meta.short;
  let longest = 0;
  for (const note of layout.annotations) {
    if (note.name === "hint") note.visible = false;
    if (!note.name.startsWith("label:")) continue;
    note.text = short[note.name.slice("label:".length)];
    note.font.size = 13;
    note.xshift = 9;
    longest = Math.max(longest, note.text.length);
  }
  layout.margin = { l: 58, r: 16 + 9 * longest, t: 34, b: 56 };
  layout.height = 430;
  Object.assign(layout.xaxis, { dtick: 0.25, tickangle: 0 });
  for (const axis of [layout.xaxis, layout.yaxis]) axis.title.font = { size: 13 };
}

function legendLines(names, width) {
  let lines = 1,
    used = 0;
  for (const name of names) {
    const needed = 9 * name.length + 50; // a generous guess at the drawn width
    if (used > 0 && used + needed > width) {
      lines += 1;
      used = 0;
    }
    used += needed;
  }
  return lines;
}

function fitCurves(figure, width) {
  const layout = figure.layout;
  const panels = layout.meta.panels;
  const columns = width >= 900 ? Math.min(3, panels) : width >= 600 ? Math.min(2, panels) : 1;
  const rows = Math.ceil(panels / columns);
  const panelHeight = columns === 1 ? 190 : 215,
    gapY = 100,
    gapX = 78;
  const names = figure.data.filter((trace) => trace.showlegend).map((trace) => trace.name);
  const margin = { l: 62, r: 10, t: 54 + 24 * legendLines(names, width), b: 52 };
  const inner = rows * panelHeight + (rows - 1) * gapY;
  const innerWidth = width - margin.l - margin.r;
  const panelWidth = (innerWidth - (columns - 1) * gapX) / columns;
  for (let i = 0; i < panels; i += 1) {
    const id = i === 0 ? "" : String(i + 1);
    const left = ((i % columns) * (panelWidth + gapX)) / innerWidth;
    const top = 1 - (Math.floor(i / columns) * (panelHeight + gapY)) / inner;
    layout["xaxis" + id].domain = [left, Math.min(1, left + panelWidth / innerWidth)];
    layout["yaxis" + id].domain = [Math.max(0, top - panelHeight / inner), top];
  }
  layout.margin = margin;
  layout.height = inner + margin.t + margin.b;
}

const fits = { plane: fitPlane, curves: fitCurves };
const config = {
  displaylogo: false,
  displayModeBar: false,
  plotlyServerURL: "",
  scrollZoom: false,
  doubleClick: "reset",
};

function drawAll() {
  for (const [kind, source] of Object.entries(page.figures)) {
    const place = document.getElementById(kind + "-plot");
    const figure = inScheme(source);
    figure.layout.width = place.clientWidth;
    fits[kind](figure, place.clientWidth);
    figure.layout.dragmode = touch.matches ? false : "zoom"; // a finger must scroll the page
    Plotly.react(place, figure.data, figure.layout, config);
  }
}

let waiting = 0;
function drawSoon() {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(drawAll);
}

const copy = document.getElementById("copy");
copy?.addEventListener("click", () => {
  // Selecting works on file:// pages too, where the clipboard interface may be refused.
  const range = document.createRange();
  range.selectNodeContents(document.getElementById("command"));
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  copy.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
  setTimeout(() => {
    copy.textContent = "Copy";
  }, 1800);
});

drawAll();
addEventListener("resize", drawSoon);
darkScheme.addEventListener("change", drawSoon);
