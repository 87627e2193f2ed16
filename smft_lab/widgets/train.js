// Curves of a training that runs, and the table as it fills.

function render({ model, el }) {
  const limits = model.get("limits"),
    side = limits.side;
  const { root, error, note, get, send, button, colours, watch } = shell(
    model,
    el,
    "Train: a small memory model from nothing",
    "Train",
    `${count(limits.parameters)} parameters, ${count(limits.slots)} slots, ${limits.reads} reads per token · a world of ${limits.people} people`,
  );
  const start = button("start", "Start", "Train from nothing; after Pause, go on", "main");
  const pause = button("pause", "Pause", "Stop asking for steps");
  const step = button("step", "Step", "One gradient step");
  const finish = button("finish", "Finish", "End here, and make a Lab of what has been learned");
  const reset = button("reset", "Reset", "Throw the model away and begin again");
  const bar = make("progress", { max: 1, value: 0, "aria-label": "Steps done" });
  const where = make("span", { class: "muted", role: "status" });
  const CURVES = [
    { title: "Loss, nats per token", lines: [["loss", "new", ""]] },
    { title: "Old facts recalled", share: true, lines: [["old_facts", "old", ""]] },
    { title: "Arithmetic, nats per token", lines: [["arithmetic", "new", ""]] },
    {
      title: "Use of the slots",
      share: true,
      lines: [
        ["slots_read", "new", "read"],
        ["top_1_percent", "old", "on the top 1%"],
      ],
    },
  ];
  const charts = CURVES.map(() => draw("svg", { viewBox: "0 0 360 204", role: "img" }));
  const canvas = make("canvas", { width: side, height: side, role: "img" });
  const legend = make("p", { class: "muted" });
  root.append(
    make("div", { class: "buttons" }, start, pause, step, finish, reset, bar, where),
    error,
    note,
    make(
      "div",
      { class: "charts" },
      make(
        "div",
        { class: "four" },
        ...CURVES.map((curve, i) => make("div", {}, make("h4", {}, curve.title), charts[i])),
      ),
      make("div", {}, make("h4", {}, "The table: reads of ordinary text"), canvas, legend),
    ),
  );

  function curve(svg, { title, share, lines }) {
    const points = get("points"),
      palette = colours("new", "old", "line"),
      total = get("live").total || 1,
      L = 44,
      R = 350,
      T = 8,
      B = 160;
    const top = share ? 1 : Math.max(1e-9, ...points.flatMap((point) => lines.map(([name]) => point[name])));
    const x = (v) => L + (v / total) * (R - L),
      y = (v) => B - (v / top) * (B - T),
      parts = [];
    for (const part of [0, 0.5, 1]) {
      parts.push(
        draw("line", { x1: L, x2: R, y1: y(part * top), y2: y(part * top), stroke: palette.line }),
        draw(
          "text",
          { x: L - 6, y: y(part * top) + 4, "text-anchor": "end" },
          share ? percent(part) : points.length ? (part * top).toFixed(1) : "",
        ),
      );
    }
    for (const part of [0, 0.5, 1])
      parts.push(
        draw(
          "text",
          { x: x(part * total), y: B + 18, "text-anchor": part === 1 ? "end" : "middle" },
          total > 1 ? count(Math.round(part * total)) : "",
        ),
      );
    parts.push(draw("text", { x: (L + R) / 2, y: B + 36, "text-anchor": "middle" }, "gradient steps"));
    for (const [name, kind, label] of lines) {
      if (!points.length) continue;
      parts.push(
        draw("polyline", {
          points: points.map((point) => `${x(point.step).toFixed(1)},${y(point[name]).toFixed(1)}`).join(" "),
          fill: "none",
          stroke: palette[kind],
          "stroke-width": 2,
          "stroke-linejoin": "round",
        }),
      );
      const last = points.at(-1),
        text = share ? percent(last[name]) : last[name].toFixed(2);
      parts.push(
        draw("circle", { cx: x(last.step), cy: y(last[name]), r: 3.5, fill: palette[kind] }),
        draw(
          "text",
          {
            class: "name",
            x: Math.min(R, x(last.step)),
            y: y(last[name]) + (y(last[name]) < T + 20 ? 18 : -8), // below the line where there is no room above
            "text-anchor": last.step > total / 2 ? "end" : "start",
            style: `fill:${palette[kind]}`,
          },
          label ? `${text} ${label}` : text,
        ),
      );
    }
    svg.replaceChildren(...parts);
    const last = points.at(-1);
    svg.setAttribute(
      "aria-label",
      last
        ? `${title}: ${lines.map(([name]) => last[name].toFixed(3)).join(", ")} after step ${last.step}`
        : `${title}: nothing yet`,
    );
  }
  const paintCurves = () => CURVES.forEach((one, i) => curve(charts[i], one));
  function paintTable() {
    const cells = get("heat") ? floats(get("heat")) : [],
      max = cells.length ? cells.reduce((a, b) => Math.max(a, b), 0) : 0;
    drawCells(
      canvas,
      cells.length ? cells : new Float32Array(side * side),
      (value) => (max ? Math.log1p(value) / Math.log1p(max) : 0),
      root.classList.contains("dark"),
    );
    legend.textContent = max
      ? `Every cell a slot; log scale up to ${count(Math.round(max))} reads.`
      : "Nothing has been read yet.";
    canvas.setAttribute("aria-label", `The table of slots. ${legend.textContent}`);
  }
  const time = (seconds) => (seconds >= 90 ? `${Math.round(seconds / 60)} min` : `${Math.ceil(seconds)} s`);
  function showLive() {
    const live = get("live");
    bar.value = live.total ? live.step / live.total : 0;
    where.textContent = live.total
      ? `step ${count(live.step)} of ${count(live.total)}${live.step < live.total && get("state") !== "done" ? `, about ${time(live.left)} left` : ""}`
      : "";
  }
  function showState() {
    const state = get("state");
    root.dataset.state = state;
    const ended = state === "finishing" || state === "done";
    start.textContent = state === "paused" ? "Go on" : "Start";
    start.disabled = state === "running" || ended;
    pause.disabled = state !== "running";
    step.disabled = ended;
    finish.disabled = state === "idle" || ended;
    reset.disabled = state === "finishing";
    showLive();
  }
  return watch({ points: paintCurves, live: showLive, heat: paintTable, state: showState }, () => {
    paintCurves();
    paintTable();
    showState();
  });
}
export default { render };
