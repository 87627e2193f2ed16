"use strict";
for (const [name, figure] of Object.entries(JSON.parse(document.getElementById("figures").textContent))) {
  Plotly.newPlot(name, figure.data, figure.layout, { responsive: true, displaylogo: false });
}
const dark = matchMedia("(prefers-color-scheme: dark)");
function follow() {
  const [ink, line] = dark.matches ? ["#e8e8e8", "#444"] : ["#1f1f1f", "#e4e8ec"];
  for (const chart of document.querySelectorAll(".chart")) {
    const look = { "font.color": ink };
    for (const axis of Object.keys(chart.layout).filter((key) => /^[xy]axis/.test(key))) {
      look[axis + ".gridcolor"] = look[axis + ".zerolinecolor"] = line;
    }
    Plotly.relayout(chart, look);
  }
}
dark.addEventListener("change", follow);
follow();
