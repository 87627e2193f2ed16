// Draws what the kernel publishes, and sends commands. Moving the slider needs no kernel: all of its previews are here.

const SVG = "http://www.w3.org/2000/svg";
const percent = (share, digits = 0) => (share == null ? "–" : `${(100 * share).toFixed(digits)}%`);
const count = (n) => n.toLocaleString("en-US");

function make(name, attributes = {}, ...children) {
  const node = attributes.svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "svg" || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}
const draw = (name, attributes, ...children) => make(name, { svg: true, ...attributes }, ...children);

function isDark(theme) {
  if (theme !== "auto") return theme === "dark";
  const lab = document.body.dataset.jpThemeLight;
  if (lab !== undefined) return lab === "false";
  const [r, g, b] = (getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g) || [255, 255, 255]).map(Number);
  return 0.299 * r + 0.587 * g + 0.114 * b < 110;
}

// The slider's places are the preview's t, evenly spread on a log scale.
function nearest(grid, t) {
  const at = grid.findIndex((value) => value >= t);
  if (at < 1) return at < 0 ? grid.length - 1 : 0;
  return t / grid[at - 1] < grid[at] / t ? at - 1 : at;
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const send = (command, rest = {}) => model.send({ do: command, ...rest });
  const root = make("section", { class: "smft", "aria-label": "Top-t: teach facts by changing few slots" });
  const limits = get("limits");
  let t = get("settings").top_t;

  // Controls
  const range = make("input", { type: "range", min: 0, step: 1, "aria-label": "Slots each step may change" });
  const box = make("input", { type: "number", min: 1, max: limits.slots, "aria-label": "Slots each step may change, as a number" });
  const said = make("p", { class: "muted preview", role: "status" });
  const options = (names) => names.map((name) => make("option", { value: name }, name));
  const rule = make("select", {}, ...options(limits.rules));
  const optimizer = make("select", {}, ...options(limits.optimizers));
  const rate = make("input", { type: "number", min: 0, step: "any" });
  const passes = make("input", { type: "number", min: 1, max: 100 });
  const facts = make("input", { type: "number", min: 1, max: limits.facts });
  const labelled = (text, control) => make("label", {}, text, control);
  const button = (name, text, title, kind = "") =>
    make("button", { type: "button", class: kind, title, "data-do": name, onclick: () => send(name) }, text);
  const teach = button("teach", "Teach", "Finetune from the base; after Stop, go on", "main");
  const stop = button("stop", "Stop", "Stop asking for steps; the model stays as it is");
  const step = button("step", "Step", "One gradient step");
  const undo = button("undo", "Undo", "As it was before the last run");
  const reset = button("reset", "Reset", "Bring the base back; paths stay");
  const save = button("save", "Save patch", "Write the changed rows to patch.safetensors");
  const progress = make("progress", { max: 1, value: 0, "aria-label": "Steps done" });
  const error = make("p", { class: "error", role: "alert" });
  const note = make("p", { class: "muted note", role: "status" });

  // Charts
  const plane = draw("svg", { viewBox: "0 0 620 360", role: "img" });
  const canvas = make("canvas", { width: limits.side, height: limits.side, role: "img", "aria-label": "The table of slots" });
  const numbers = make("div", { class: "numbers" });
  const spoken = make("p", { class: "spoken", "aria-live": "polite" });
  const twin = make("div");
  const list = `smft-${Math.random().toString(36).slice(2)}`;
  const question = make("input", { type: "text", list, placeholder: "Ask the model any question", "aria-label": "Question" });
  const answers = make("div");
  const form = make("form", { class: "ask", onsubmit: (event) => { event.preventDefault(); send("ask", { question: question.value }); } },
    question, make("datalist", { id: list }, ...limits.questions.map((text) => make("option", { value: text }))),
    make("button", { type: "submit" }, "Ask"));
  for (const name of ["keydown", "keyup", "keypress"]) root.addEventListener(name, (event) => event.stopPropagation()); // not the notebook's

  const key = (color, text) => [make("i", { class: "key", style: `background:${color}` }), make("span", {}, text)];
  const legend = make("p", { class: "muted" });
  root.append(
    make("div", { class: "top" }, make("h3", {}, "Top-t"),
      make("span", { class: "muted" }, `${count(limits.facts)} fact${limits.facts === 1 ? "" : "s"}, one a step · ${count(limits.slots)} slots${limits.tables > 1 ? ` in each of ${limits.tables} tables` : ""}`)),
    make("div", { class: "slide" }, make("label", {}, "Slots each step may change"), range, box), said,
    make("div", { class: "settings" }, labelled("Rule", rule), labelled("Optimizer", optimizer), labelled("Learning rate", rate),
      labelled("Passes", passes), labelled("Facts", facts), make("div", { class: "buttons" }, teach, stop, step, undo, reset, save)),
    make("div", { class: "buttons" }, progress), error, note, numbers,
    make("div", { class: "charts" },
      make("div", {}, make("h4", {}, "Learned, and what was kept"), plane),
      make("div", {}, make("h4", {}, "The table: every cell a slot"), canvas, legend)),
    form, answers, make("details", {}, make("summary", {}, "Show as a table"), twin), spoken);
  el.append(root);

  // Settings
  const number = (input) => (input.value.trim() === "" ? null : Number(input.value));
  const chosen = () => ({ top_t: t, rule: rule.value, optimizer: optimizer.value, lr: number(rate), passes: number(passes) ?? 0, facts: number(facts) ?? 0 });
  const grid = () => get("preview").t ?? [1];
  function moved(value, from) {
    t = value;
    range.max = grid().length - 1;
    if (from !== range) range.value = nearest(grid(), t);
    if (from !== box) box.value = t;
    range.setAttribute("aria-valuetext", `${t} slots`);
    showPreview();
  }
  range.addEventListener("input", () => moved(grid()[range.value], range));
  range.addEventListener("change", () => send("commit", { settings: chosen() }));
  box.addEventListener("input", () => Number(box.value) >= 1 && moved(Math.round(Number(box.value)), box));
  box.addEventListener("change", () => { t = Math.round(Number(box.value)); send("commit", { settings: chosen() }); });
  for (const control of [rule, optimizer, rate, passes, facts]) control.addEventListener("change", () => send("choose", chosen()));

  function showSettings() {
    const settings = get("settings");
    [rule.value, optimizer.value, passes.value, facts.value] = [settings.rule, settings.optimizer, settings.passes, settings.facts];
    rate.value = settings.lr ?? "";
    rate.placeholder = limits.rates[settings.optimizer];
    range.disabled = box.disabled = settings.rule === "all";
    moved(settings.top_t);
  }

  // The preview of one t: the words, and the table
  function showPreview() {
    const { t: places, chosen: slots, of_facts: mine, of_background: background } = get("preview");
    if (!places) return;
    const i = nearest(places, t);
    const rest = `${count(slots[i])} slots over all facts (${percent(slots[i] / (limits.slots * limits.tables), 1)}), which carry ${percent(mine[i])} of the facts' own reading and ${percent(background[i], 1)} of ordinary reading.`;
    said.textContent = rule.value === "all" ? `Every slot the facts read: ${rest}` : `t = ${count(t)} chooses ${rest}`;
    paintTable();
  }
  function colours() {
    const css = getComputedStyle(root);
    return Object.fromEntries(["new", "muted", "line"].map((name) => [name, css.getPropertyValue(`--${name}`).trim()]));
  }
  function rgb(colour) {
    const context = document.createElement("canvas").getContext("2d");
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data;
  }
  const bytes = (view) => (view instanceof DataView ? view : new DataView(view.buffer ?? view));
  function paintTable() {
    const context = canvas.getContext("2d"), side = limits.side, image = context.createImageData(side, side);
    const heat = bytes(get("background")), dark = root.classList.contains("dark"), palette = colours();
    for (let i = 0; i < heat.byteLength; i++) {
      const shade = heat.getUint8(i) / 255, level = dark ? 26 + 74 * shade : 252 - 84 * shade;
      image.data.set([level, level, level + (dark ? 6 : 2), 255], 4 * i);
    }
    const pairs = bytes(get("slots")), now = rgb(palette.new), later = rgb(dark ? "#8a6a3a" : "#eec48f");
    const all = rule.value === "all";
    for (let i = pairs.byteLength - 8; i >= 0; i -= 8) {
      const rank = pairs.getUint32(i + 4, true);
      image.data.set(all || rank <= t ? now : later, 4 * pairs.getUint32(i, true));
    }
    context.putImageData(image, 0, 0);
    legend.replaceChildren(...key(palette.new, "may change"), ...key(dark ? "#8a6a3a" : "#eec48f", "read by the facts, too low a score"),
      ...key(dark ? "#64646a" : "#a8a8aa", "read by ordinary text"));
    canvas.setAttribute("aria-label", `The table of slots. ${said.textContent}`);
  }

  // The plane
  function paintPlane() {
    const live = get("live"), paths = [...get("runs"), ...(live ? [live] : [])], palette = colours();
    const kept = paths.flatMap((path) => path.points.map((point) => point[2] ?? 1));
    const low = Math.max(0, Math.floor(10 * Math.min(0.9, ...kept) - 0.2) / 10), L = 62, R = 600, T = 16, B = 316;
    const x = (v) => L + v * (R - L), y = (v) => B - ((v - low) / (1.01 - low)) * (B - T);
    const parts = [];
    for (let v = 0; v <= 1.001; v += 0.2) {
      parts.push(draw("line", { x1: x(v), x2: x(v), y1: T, y2: B, stroke: palette.line }),
        draw("text", { x: x(v), y: B + 18, "text-anchor": "middle" }, percent(v)));
    }
    const gap = 1 - low > 0.35 ? 0.2 : 1 - low > 0.15 ? 0.1 : 0.02;
    for (let v = 1; v >= low - 1e-9; v -= gap) {
      parts.push(draw("line", { x1: L, x2: R, y1: y(v), y2: y(v), stroke: palette.line }),
        draw("text", { x: L - 8, y: y(v) + 4, "text-anchor": "end" }, percent(v)));
    }
    parts.push(draw("text", { x: (L + R) / 2, y: B + 38, "text-anchor": "middle" }, "New facts learned (exact match)"),
      draw("text", { x: 10, y: (T + B) / 2, "text-anchor": "middle", transform: `rotate(-90 10 ${(T + B) / 2})` }, "Old facts kept (exact match)"));
    const names = [];
    paths.forEach((path, i) => {
      const last = i === paths.length - 1, points = path.points.filter((point) => point[2] != null);
      if (!points.length) return;
      const colour = last ? palette.new : palette.muted, opacity = last ? 1 : 0.6;
      parts.push(draw("polyline", { points: points.map(([, a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "), fill: "none",
        stroke: colour, "stroke-width": last ? 3 : 1.6, "stroke-opacity": opacity, "stroke-linejoin": "round", "stroke-dasharray": path.settings.rule === "tfidf" ? "none" : "5 4" }));
      for (const [at, a, b] of points) {
        parts.push(draw("circle", { cx: x(a), cy: y(b), r: last ? 4 : 2.5, fill: colour, "fill-opacity": opacity },
          draw("title", {}, `${path.name}, step ${at}: learned ${percent(a)}, kept ${percent(b, 1)}`)));
      }
      const [, a, b] = points.at(-1);
      names.push({ name: path.name, x: x(a), y: y(b), colour, last, anchor: a > 0.7 ? "end" : "start" });
    });
    names.sort((one, other) => one.y - other.y);
    names.forEach((one, i) => { one.at = Math.max(one.y + (one.anchor === "end" ? 18 : 4), i ? names[i - 1].at + 15 : 0); });
    for (const { name, x: at, at: down, colour, last, anchor } of names) {
      const beside = anchor === "end" ? at : at + 10;
      parts.push(draw("text", { class: last ? "name" : "", x: beside, y: down, "text-anchor": anchor, style: last ? `fill:${colour}` : "" }, name));
    }
    if (!paths.length) parts.push(draw("text", { x: (L + R) / 2, y: (T + B) / 2, "text-anchor": "middle" }, "Let the slider go, or press Teach. Up and to the right is better."));
    plane.replaceChildren(...parts);
    showNumbers(paths.at(-1));
    showTable(paths);
  }
  function showNumbers(path) {
    const [, learned, kept] = path?.points.at(-1) ?? [0, null, null];
    const cell = (kind, value, text) => make("span", { class: kind }, make("b", {}, value), make("span", { class: "muted" }, text));
    numbers.replaceChildren(cell("", path?.name ?? "base", "run shown"), cell("new", percent(learned), "new facts learned"),
      ...(limits.old ? [cell("old", percent(kept, 1), `of ${count(limits.old)} old facts kept`)] : []),
      cell("", path ? `${path.step} / ${path.total}` : "–", "gradient steps"),
      cell("", path?.loss == null ? "–" : path.loss.toFixed(2), "loss, nats per token"),
      cell("", path?.ms == null ? "–" : path.ms.toFixed(0), "ms per step"));
    progress.value = path ? path.step / Math.max(1, path.total) : 0;
    const words = path ? `${path.name}: after step ${path.step} of ${path.total}, ${percent(learned)} of the new facts learned, ${percent(kept, 1)} of the old ones kept.` : "";
    plane.setAttribute("aria-label", words || "Nothing taught yet.");
    if (get("state") !== "running") spoken.textContent = words;
  }
  function showTable(paths) {
    const head = [["Run"], ["Steps", "n"], ["Learned", "n"], ["Old facts kept", "n"], ["Loss", "n"]];
    const rows = paths.map((path) => {
      const [, learned, kept] = path.points.at(-1) ?? [0, null, null];
      return [[path.name], [`${path.step} of ${path.total}`, "n"], [percent(learned, 1), "n"], [percent(kept, 1), "n"], [path.loss?.toFixed(3) ?? "–", "n"]];
    });
    const line = (tag, cells) => make("tr", {}, ...cells.map(([text, kind]) => make(tag, { class: kind }, text)));
    twin.replaceChildren(make("table", {}, make("thead", {}, line("th", head)), make("tbody", {}, ...rows.map((row) => line("td", row)))));
  }
  function showAnswers() {
    const asked = get("answers");
    const row = (one) => make("tr", {}, make("td", {}, one.question), make("td", {}, one.base), make("td", {}, one.now));
    answers.replaceChildren(...(asked.length ? [make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "Question"), make("th", {}, "Base"), make("th", {}, "Now"))),
      make("tbody", {}, ...asked.map(row)))] : []));
  }

  // State
  let timer = null;
  function showState() {
    const state = get("state"), runs = get("runs").length;
    root.dataset.state = state;
    teach.textContent = state === "paused" ? "Go on" : "Teach";
    teach.disabled = state === "running";
    stop.disabled = state !== "running";
    undo.disabled = !runs && state === "idle";
    save.disabled = !runs && state === "idle";
    clearInterval(timer);
    if (state === "running" && get("ticks")) timer = setInterval(() => send("tick"), 300);
    paintPlane();
  }
  function showTheme() {
    const theme = get("theme"), dark = isDark(theme);
    root.classList.toggle("dark", dark);
    root.classList.toggle("light", !dark);
    root.classList.toggle("fixed", theme !== "auto");
    showPreview();
    paintPlane();
  }
  const watched = {
    "change:settings": showSettings, "change:preview": () => moved(t), "change:slots": paintTable, "change:runs": showState, "change:live": paintPlane,
    "change:state": showState, "change:answers": showAnswers, "change:theme": showTheme,
    "change:error": () => { error.textContent = get("error"); }, "change:note": () => { note.textContent = get("note"); },
  };
  for (const [name, then] of Object.entries(watched)) model.on(name, then);
  const themes = new MutationObserver(showTheme);
  themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  error.textContent = get("error");
  note.textContent = get("note");
  showSettings();
  showTheme();
  showState();
  showAnswers();
  return () => {
    clearInterval(timer);
    themes.disconnect();
    for (const [name, then] of Object.entries(watched)) model.off(name, then);
  };
}
export default { render };
