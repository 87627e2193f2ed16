// What every panel's page shares. It stands before the panel's own page in one module: anywidget serves a single file.

const SVG = "http://www.w3.org/2000/svg";
const percent = (share, digits = 0) => (share == null ? "–" : `${(100 * share).toFixed(digits)}%`);
const count = (n) => n.toLocaleString("en-US");
const LARGEST_FILE = 6e6; // bytes that a kernel's connection takes as one message, written as text
const spokenAs = (text) => (text == null ? "–" : text.trim() || "(nothing)");
const sentence = (words) => words[0].toUpperCase() + words.slice(1);

// The number in a field, whole unless its step is "any"; null where there is none.
function asNumber(field) {
  if (field.value.trim() === "") return null;
  return field.step === "any" ? Number(field.value) : Math.round(Number(field.value));
}

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

// A colour of the stylesheet as [r, g, b, a].
function rgb(colour) {
  const context = document.createElement("canvas").getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data;
}
const bytes = (view) => (view instanceof DataView ? view : new DataView(view.buffer ?? view));

// The parts of every panel: its frame, where errors and notes stand, and the theme of the page around it.
function shell(model, el, label, title, about) {
  const get = (name) => model.get(name);
  let due = 0; // how many commands the kernel will have done when nothing that was asked for here is left
  const send = (command, rest = {}) => {
    model.send({ do: command, ...rest });
    if (command === "tick") return;
    due = Math.max(due, get("handled")) + 1;
    setTimeout(showBusy, 300);
  };
  const settled = () => get("handled") >= due;
  const showBusy = () => root.setAttribute("aria-busy", String(get("handled") < due));
  const root = make("section", { class: "smft", "aria-label": label });
  const error = make("p", { class: "error", role: "alert" });
  const note = make("p", { class: "muted note", role: "status" });
  const stale = make("p", { class: "stale", role: "status" }); // which results are not of what stands in the fields
  for (const name of ["keydown", "keyup", "keypress"]) root.addEventListener(name, (event) => event.stopPropagation()); // not the notebook's
  root.append(make("div", { class: "top" }, make("h3", {}, title), make("span", { class: "muted" }, about)));
  el.append(root);
  const button = (name, text, tip, kind = "") =>
    make("button", { type: "button", class: kind, title: tip, "data-do": name, onclick: () => send(name) }, text);
  const labelled = (text, control) => make("label", {}, text, control);
  // What a person has typed stands until the kernel holds the same: neither what it publishes meanwhile replaces it, nor a refusal.
  const typed = new Set();
  const heed = (...fields) => fields.forEach((field) => field.addEventListener("input", () => typed.add(field)));
  function fill(field, value) {
    const text = String(value ?? ""),
      same = field.type === "number" ? asNumber(field) === (text === "" ? null : Number(text)) : field.value === text;
    if (typed.has(field) && !same) return;
    typed.delete(field);
    if (!same || root.getRootNode().activeElement !== field) field.value = text;
  }
  let colourless = false; // painted outside the page, where JupyterLab keeps what is off the screen, and no colour is known
  const colours = (...names) => {
    colourless ||= !root.isConnected;
    const css = getComputedStyle(root);
    return Object.fromEntries(names.map((name) => [name, css.getPropertyValue(`--${name}`).trim()]));
  };

  // A file that a person chooses goes to the kernel whole, unless it is too large for one message.
  function opened(file, command, instead) {
    if (!file) return;
    if (file.size > LARGEST_FILE) {
      error.textContent = `${file.name} has ${(file.size / 1e6).toFixed(0)} MB, too much to send from here; in a cell: ${instead}`;
      return;
    }
    const reader = new FileReader();
    reader.addEventListener("load", () => send(command, { name: file.name, data: reader.result.split(",")[1] ?? "" }));
    reader.readAsDataURL(file);
  }
  function opener(text, accept, title, open) {
    const file = make("input", {
      type: "file",
      accept,
      class: "spoken",
      onchange: () => {
        open(file.files[0]);
        file.value = ""; // the same one may be opened again
      },
    });
    return make("label", { class: "open", title }, text, file);
  }

  // What goes to somebody else, and a patch that comes from them: at the foot of the panels that have it.
  function share() {
    const shares = get("shares") ?? [];
    if (!shares.length) return [];
    const text = make("textarea", {
      class: "code",
      readonly: true,
      rows: 12,
      spellcheck: "false",
      "aria-label": "The panel as Python",
    });
    const again = make("button", { type: "button", onclick: () => copy(text.value, again) }, "Copy");
    const code = make(
      "details",
      { class: "after", hidden: true },
      make("summary", {}, "The panel as Python"),
      text,
      make("div", { class: "buttons" }, again),
    );
    let asked = false; // whether the code that comes is to be copied
    const ask = make(
      "button",
      {
        type: "button",
        "data-do": "show_code",
        title: "Python that does what stands here",
        onclick: () => {
          asked = true;
          send("show_code");
        },
      },
      "Copy as code",
    );
    const row = make(
      "div",
      { class: "buttons share" },
      ask,
      button("export", "Export", "A new folder with a page, the code, the facts, the figures and the patch"),
    );
    const card = make("div", { class: "patch", "aria-live": "polite" });
    if (shares.includes("take_patch")) {
      const open = (file) => opened(file, "take_patch", `panel.open_patch("${file?.name}")`);
      row.append(
        opener("Open a patch", ".safetensors", "A patch file; it can also be dropped anywhere on the panel", open),
      );
      root.addEventListener(
        "dragover",
        (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault(),
      );
      root.addEventListener("drop", (event) => {
        if (!event.dataTransfer?.files.length) return;
        event.preventDefault();
        event.stopPropagation();
        open(event.dataTransfer.files[0]);
      });
    }
    root.append(row, code, card);
    const showCode = () => {
      if (!asked || !settled()) return;
      asked = false;
      if (get("error")) return;
      text.value = get("code");
      text.rows = Math.min(24, text.value.split("\n").length);
      code.hidden = false;
      code.open = true;
      copy(text.value, ask);
    };
    const brought = () => showCard(card, get("card"));
    brought();
    return [
      ["change:handled", showCode],
      ["change:card", brought],
    ];
  }

  // Listen to the kernel and to the page's theme, draw everything once, and say how to stop.
  function watch(handlers, repaint) {
    let timer = null;
    const tick = () => {
      clearInterval(timer);
      if (get("ticks") && get("state") === "running") timer = setInterval(() => send("tick"), 300);
    };
    const showTheme = () => {
      const theme = get("theme"),
        dark = isDark(theme);
      root.classList.toggle("dark", dark);
      root.classList.toggle("light", !dark);
      root.classList.toggle("fixed", theme !== "auto");
      repaint();
    };
    const watched = Object.entries({ ...handlers, theme: showTheme }).map(([name, then]) => [`change:${name}`, then]);
    watched.push(
      ["change:state", tick],
      ["change:handled", showBusy],
      [
        "change:error",
        () => {
          error.textContent = get("error");
        },
      ],
      [
        "change:note",
        () => {
          note.textContent = get("note");
        },
      ],
    );
    watched.push(...share());
    for (const [name, then] of watched) model.on(name, then);
    const themes = new MutationObserver(showTheme);
    themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
    [error.textContent, note.textContent] = [get("error"), get("note")];
    showTheme();
    tick();
    const sight = new ResizeObserver(() => {
      for (const chart of root.querySelectorAll("svg[viewBox]")) {
        const shown = chart.clientWidth || chart.viewBox.baseVal.width;
        chart.style.setProperty(
          "--text",
          `${(13 * Math.min(1.7, Math.max(1, chart.viewBox.baseVal.width / shown))).toFixed(1)}px`,
        );
      }
      if (colourless && root.isConnected) {
        colourless = false;
        repaint();
      }
    });
    sight.observe(root);
    return () => {
      clearInterval(timer);
      themes.disconnect();
      sight.disconnect();
      for (const [name, then] of watched) model.off(name, then);
    };
  }
  return {
    root,
    error,
    note,
    stale,
    get,
    send,
    settled,
    typed,
    heed,
    fill,
    button,
    labelled,
    opened,
    opener,
    colours,
    watch,
  };
}

// Puts a text into the clipboard, and says so on the button. Selecting works on file:// pages too, where the clipboard may be refused.
function copy(text, button) {
  const field = make("textarea", { readonly: true, class: "spoken" }),
    was = button.textContent;
  field.value = text;
  button.after(field);
  field.select();
  const done = document.execCommand("copy");
  if (!done) navigator.clipboard?.writeText(text).catch(() => {});
  field.remove();
  button.focus();
  button.textContent = "Copied";
  setTimeout(() => {
    button.textContent = was === "Copied" ? button.textContent : was;
  }, 1600);
}

// The card of a patch: what was taught, its cost, and what else reads its rows.
function showCard(place, card) {
  if (!card) return place.replaceChildren();
  const made = Object.entries({ method: "method", rule: "rule", top_t: "t", date: "date" })
    .filter(([name]) => card.made[name] != null)
    .map(([name, word]) => `${word} ${card.made[name]}`);
  const value = (number, metric) => (metric === "nll" ? `${number.toFixed(3)} nats` : percent(number, 1));
  const more =
    card.count > card.taught.length
      ? [make("li", { class: "muted" }, `and ${count(card.count - card.taught.length)} more`)]
      : [];
  place.replaceChildren(
    make(
      "div",
      { class: "card" },
      make("h4", {}, card.name),
      make(
        "p",
        { class: "muted" },
        `${count(card.rows)} of ${count(card.of)} rows${made.length ? ` · ${made.join(" · ")}` : ""}`,
      ),
      make(
        "div",
        { class: "three" },
        make(
          "div",
          {},
          make("h4", { class: "next" }, "What was taught"),
          make(
            "ul",
            {},
            ...(card.count
              ? card.taught.map((text) => make("li", {}, text))
              : [make("li", { class: "muted" }, "It doesn't say.")]),
            ...more,
          ),
        ),
        make(
          "div",
          {},
          make("h4", { class: "next" }, "What it costs"),
          grid(
            [["Held-out probe"], ["Base", "n"], ["With it", "n"]],
            card.cost.map(({ title, metric, base, now }) => [
              [title],
              [value(base, metric), "n"],
              [value(now, metric), "n"],
            ]),
          ),
        ),
        make(
          "div",
          {},
          make("h4", { class: "next" }, "What else reads its rows"),
          make("p", { class: "muted" }, `${percent(card.background, 2)} of all reads of ordinary text.`),
          ...(card.readers.length
            ? [
                grid(
                  [["Question"], ["of its reads", "n"]],
                  card.readers.map(([question, part]) => [[question], [percent(part, 1), "n"]]),
                ),
              ]
            : []),
        ),
      ),
    ),
  );
}

// What a model has read, and questions to try on it, which are put into the field and asked.
function familiarTo({ told, examples }, field, ask) {
  const offer = examples.map((question) =>
    make(
      "button",
      {
        type: "button",
        onclick: () => {
          field.value = question;
          ask(question);
        },
      },
      question,
    ),
  );
  return make("div", { class: "drafted familiar", hidden: !told }, make("span", {}, told), ...offer);
}

// A table of rows; a cell is [text] or [text, class]. Above the heads may stand what several columns share: [text, columns].
function grid(head, rows, shared = []) {
  const line = (tag, cells) => make("tr", {}, ...cells.map(([text, kind]) => make(tag, { class: kind }, text)));
  const above = shared.length
    ? [
        make(
          "tr",
          { class: "shared" },
          ...shared.map(([text, colspan]) => make("th", { colspan, scope: "colgroup" }, text)),
        ),
      ]
    : [];
  return make(
    "table",
    {},
    make("thead", {}, ...above, line("th", head)),
    make("tbody", {}, ...rows.map((row) => line("td", row))),
  );
}

// The plane of learning against forgetting, or, where nothing was known that could be forgotten, of learning over the steps: paths of { name, points: [[step, learned, kept]], colour, last, dashed, of: what the first number of a point is }.
// Of planes that change while one looks on, `lowest` keeps the axis: the least that is kept in any of them.
function drawPlane(svg, paths, line, empty, title = "Old facts kept", lowest = 1) {
  const every = paths.flatMap((path) => path.points),
    kept = [lowest, ...every.map((point) => point[2] ?? 1)];
  const overSteps = every.length > 0 && every.every((point) => point[2] == null),
    most = Math.max(1, ...every.map((point) => point[0]));
  const low = overSteps ? 0 : Math.max(0, Math.floor(20 * Math.min(0.92, ...kept) - 0.2) / 20),
    L = 62,
    R = 600,
    T = 16,
    B = 316;
  const x = (v) => L + v * (R - L),
    y = (v) => B - ((v - low) / (1.01 - low)) * (B - T);
  const parts = [];
  for (let v = 0; v <= 1.001; v += 0.2) {
    parts.push(
      draw("line", { x1: x(v), x2: x(v), y1: T, y2: B, stroke: line }),
      draw(
        "text",
        { x: x(v), y: B + 18, "text-anchor": "middle" },
        overSteps ? count(Math.round(v * most)) : percent(v),
      ),
    );
  }
  const gap = 1 - low > 0.35 ? 0.2 : 1 - low > 0.21 ? 0.1 : 1 - low > 0.11 ? 0.05 : 0.02;
  for (let v = 1; v >= low - 1e-9; v -= gap) {
    parts.push(
      draw("line", { x1: L, x2: R, y1: y(v), y2: y(v), stroke: line }),
      draw("text", { x: L - 8, y: y(v) + 4, "text-anchor": "end" }, percent(v)),
    );
  }
  parts.push(
    draw(
      "text",
      { x: (L + R) / 2, y: B + 38, "text-anchor": "middle" },
      overSteps ? "Gradient steps" : "New facts learned (exact match)",
    ),
    draw(
      "text",
      { x: 10, y: (T + B) / 2, "text-anchor": "middle", transform: `rotate(-90 10 ${(T + B) / 2})` },
      overSteps
        ? "New facts learned (exact match)"
        : `${title} (${title === "Old facts kept" ? "exact match" : "right"})`,
    ),
  );
  const names = [];
  for (const path of paths) {
    const points = overSteps
      ? path.points.map(([at, a]) => [at, at / most, a])
      : path.points.filter((point) => point[2] != null);
    const { colour, last } = path,
      opacity = last ? 1 : 0.6;
    if (!points.length) continue;
    parts.push(
      draw("polyline", {
        points: points.map(([, a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "),
        fill: "none",
        stroke: colour,
        "stroke-width": last ? 3 : 1.6,
        "stroke-opacity": opacity,
        "stroke-linejoin": "round",
        "stroke-dasharray": path.dashed ? "5 4" : "none",
      }),
    );
    for (const [at, a, b] of points) {
      parts.push(
        draw(
          "circle",
          { cx: x(a), cy: y(b), r: last ? 4 : 2.5, fill: colour, "fill-opacity": opacity },
          draw(
            "title",
            {},
            `${path.name}${path.of ?? ", step "}${count(at)}: ${overSteps ? `learned ${percent(b)}` : `learned ${percent(a)}, kept ${percent(b, 1)}`}`,
          ),
        ),
      );
    }
    const [, a, b] = points.at(-1);
    names.push({ name: path.name, x: x(a), y: y(b), colour, last, anchor: a > 0.7 ? "end" : "start" });
  }
  names.sort((one, other) => one.y - other.y);
  names.forEach((one, i) => {
    one.at = Math.max(one.y + 18, i ? names[i - 1].at + 15 : 0);
  });
  for (const { name, x: at, at: down, colour, last, anchor } of names) {
    const beside = anchor === "end" ? at : at + 10;
    parts.push(
      draw(
        "text",
        { class: last ? "name" : "", x: beside, y: down, "text-anchor": anchor, style: last ? `fill:${colour}` : "" },
        name,
      ),
    );
  }
  if (!paths.length) parts.push(draw("text", { x: (L + R) / 2, y: (T + B) / 2, "text-anchor": "middle" }, empty));
  svg.replaceChildren(...parts);
}

// Shades of a heatmap, from hardly to most, on the page's ground.
const SHADES = {
  light: {
    ground: [252, 252, 252],
    stops: [
      [214, 230, 241],
      [86, 160, 206],
      [0, 84, 140],
      [4, 34, 74],
    ],
  },
  dark: {
    ground: [24, 29, 34],
    stops: [
      [30, 58, 82],
      [28, 110, 164],
      [86, 180, 233],
      [222, 243, 255],
    ],
  },
};

function shade(share, dark) {
  const { ground, stops } = SHADES[dark ? "dark" : "light"];
  if (!(share > 0)) return ground;
  const at = Math.min(0.9999, Math.max(share, 0.05)) * (stops.length - 1),
    i = Math.floor(at);
  return stops[i].map((low, c) => Math.round(low + (at - i) * (stops[i + 1][c] - low)));
}
const css = (colour) => `rgb(${colour.join(" ")})`;

// The table of slots: shades of how often ordinary text reads a cell, and those that the facts read, by whether their rank is within reach.
// `pairs` are a cell and its best rank each. Returns the keys of its colours, for the legend.
function paintSlots(canvas, heat, pairs, within, dark, colour) {
  const context = canvas.getContext("2d"),
    image = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < heat.byteLength; i++) {
    const level = dark ? 26 + (74 * heat.getUint8(i)) / 255 : 252 - (84 * heat.getUint8(i)) / 255;
    image.data.set([level, level, level + (dark ? 6 : 2), 255], 4 * i);
  }
  const beyond = dark ? "#8a6a3a" : "#eec48f",
    now = rgb(colour),
    later = rgb(beyond);
  for (let i = pairs.byteLength - 8; i >= 0; i -= 8) {
    image.data.set(within(pairs.getUint32(i + 4, true)) ? now : later, 4 * pairs.getUint32(i, true));
  }
  context.putImageData(image, 0, 0);
  const key = (tint, text) =>
    make("span", { class: "keyed" }, make("i", { class: "key", style: `background:${tint}` }), text);
  return [
    key(colour, "may change"),
    key(beyond, "read by the facts, too low a score"),
    key(dark ? "#64646a" : "#a8a8aa", "read by ordinary text"),
  ];
}

function floats(view) {
  const raw = bytes(view);
  return Float32Array.from({ length: raw.byteLength / 4 }, (_, i) => raw.getFloat32(4 * i, true));
}

function drawCells(canvas, cells, share, dark) {
  const context = canvas.getContext("2d"),
    image = context.createImageData(canvas.width, canvas.height);
  cells.forEach((value, i) => image.data.set([...shade(share(value), dark), 255], 4 * i));
  context.putImageData(image, 0, 0);
}
