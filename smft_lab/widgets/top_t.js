// Draws what the kernel publishes, and sends commands. Moving the slider needs no kernel: all of its previews are here.

const FACTS_FILES = ".jsonl,.json,.csv,.tsv,.txt,.md,.parquet";

// The slider's places are the preview's t, evenly spread on a log scale.
function nearest(grid, t) {
  const at = grid.findIndex((value) => value >= t);
  if (at < 1) return at < 0 ? grid.length - 1 : 0;
  return t / grid[at - 1] < grid[at] / t ? at - 1 : at;
}

function render({ model, el }) {
  let limits = model.get("limits"); // other ones with other facts
  const about = make("span");
  const { root, error, note, stale, get, send, typed, heed, fill, button, labelled, opened, opener, colours, watch } =
    shell(model, el, "Top-t: teach facts by changing few slots", "Top-t", about);
  let t = get("settings").top_t;
  const slider = `Slots each ${limits.grouped ? "fact" : "step"} may change`;

  // Controls
  const range = make("input", { type: "range", min: 0, step: 1, "aria-label": slider });
  const box = make("input", { type: "number", min: 1, max: limits.slots, "aria-label": `${slider}, as a number` });
  const said = make("p", { class: "muted preview", role: "status" });
  const options = (names) => names.map((name) => make("option", { value: name }, name));
  const rule = make("select", {}, ...options(limits.rules));
  const optimizer = make("select", {}, ...options(limits.optimizers));
  const rate = make("input", { type: "number", min: 0, step: "any" });
  const passes = make("input", { type: "number", min: 1, max: 100 });
  const facts = make("input", { type: "number", min: 1 });
  const factsFile = opener(
    "Open a file of facts",
    FACTS_FILES,
    "Statements, questions and answers of your own (JSONL, CSV or text), to be taught in place of these",
    (file) => opened(file, "take_facts", `panel.open_facts("${file?.name}")`),
  );
  const taught = (name, text, tip, kind) =>
    make(
      "button",
      { type: "button", class: kind, title: tip, "data-do": name, onclick: () => send(name, { settings: chosen() }) },
      text,
    );
  const teach = taught("teach", "Teach", "Finetune from the base; after Stop, go on", "main");
  const stop = button("stop", "Stop", "Stop asking for steps; the model stays as it is");
  const step = taught("step", "Step", "One gradient step", "");
  const undo = button("undo", "Undo", "As it was before the last run");
  const reset = button("reset", "Reset", "Bring the base back; paths stay");
  const save = button("save", "Save patch", "Write the changed rows to a file; an older one stays");
  const doing = make("span", { class: "muted", role: "status" });
  const progress = make("progress", { max: 1, value: 0, "aria-label": "Steps done" });

  // Charts
  const plane = draw("svg", { viewBox: "0 0 620 360", role: "img" });
  const canvas = make("canvas", {
    width: limits.side,
    height: limits.side,
    role: "img",
    "aria-label": "The table of slots",
  });
  const numbers = make("div", { class: "numbers" });
  const spoken = make("p", { class: "spoken", "aria-live": "polite" });
  const twin = make("div");
  const list = `smft-${Math.random().toString(36).slice(2)}`;
  const suggested = make("datalist", { id: list });
  const question = make("input", {
    type: "text",
    list,
    placeholder: "Ask the model any question",
    "aria-label": "Question",
  });
  const answers = make("div");
  const form = make(
    "form",
    {
      class: "ask",
      onsubmit: (event) => {
        event.preventDefault();
        send("ask", { question: question.value });
      },
    },
    question,
    suggested,
    make("button", { type: "submit" }, "Ask"),
  );

  const legend = make("p", { class: "muted" });
  const under = make(
    "p",
    { class: "muted under" },
    "Point at a cell for its slot; each dot on the left is a measurement.",
  );
  let pointed = null; // row and column of the cell that was pointed at last
  function showPointed() {
    if (!pointed) return;
    const [row, column] = pointed,
      side = limits.side,
      pairs = bytes(get("slots")),
      cell = row * side + column;
    let rank = Infinity; // the best of the slots that share the cell
    for (let i = 0; i < pairs.byteLength; i += 8)
      if (pairs.getUint32(i, true) === cell) rank = Math.min(rank, pairs.getUint32(i + 4, true));
    const where = limits.slots === side * side ? `Slot ${cell}` : `Row ${row}, column ${column} as drawn`;
    under.textContent =
      rank === Infinity
        ? `${where}: not read by the facts.`
        : `${where}: rank ${count(rank)} by ${rule.value} for one of the facts, so it ${rule.value === "all" || rank <= t ? "may change" : `may not change below t = ${count(rank)}`}.`;
  }
  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect(),
      side = limits.side,
      at = (v, size) => Math.min(side - 1, Math.max(0, Math.floor((v / size) * side)));
    pointed = [at(event.clientY - box.top, box.height), at(event.clientX - box.left, box.width)];
    showPointed();
  });
  root.append(
    make("div", { class: "slide" }, make("label", {}, slider), range, box),
    said,
    make(
      "div",
      { class: "settings" },
      labelled("Rule", rule),
      labelled("Optimizer", optimizer),
      labelled("Learning rate", rate),
      labelled("Passes", passes),
      labelled("Facts", facts),
      factsFile,
      make("div", { class: "buttons" }, teach, stop, step, undo, reset, save),
    ),
    make("div", { class: "buttons" }, progress, doing),
    error,
    note,
    stale,
    numbers,
    make(
      "div",
      { class: "charts" },
      make("div", {}, make("h4", {}, "Learned, and what was kept"), plane),
      make("div", {}, make("h4", {}, "The table: every cell a slot"), canvas, legend, under),
    ),
    form,
    familiarTo(limits.familiar, question, (question) => send("ask", { question })),
    answers,
    make("details", {}, make("summary", {}, "Show as a table"), twin),
    spoken,
  );

  // Settings
  const chosen = () => ({
    top_t: t,
    rule: rule.value,
    optimizer: optimizer.value,
    lr: asNumber(rate),
    passes: asNumber(passes) ?? 0,
    facts: asNumber(facts) ?? 0,
  });
  heed(range, box, rule, optimizer, rate, passes, facts);
  const places = () => get("preview").t ?? [1];
  function moved(value, from) {
    t = value;
    range.max = places().length - 1;
    if (from !== range) range.value = nearest(places(), t);
    if (from !== box) box.value = t;
    range.setAttribute("aria-valuetext", `${t} slots`);
    showPreview();
    showStale();
  }
  range.addEventListener("input", () => moved(places()[range.value], range));
  range.addEventListener("change", () => send("commit", { settings: chosen() }));
  box.addEventListener("input", () => Number(box.value) >= 1 && moved(Math.round(Number(box.value)), box));
  box.addEventListener("change", () => {
    t = Math.round(Number(box.value));
    send("commit", { settings: chosen() });
  });
  for (const control of [rule, optimizer, rate, passes, facts]) {
    control.addEventListener("input", showStale);
    control.addEventListener("change", () => send("choose", chosen()));
  }

  function showLimits() {
    limits = get("limits");
    about.textContent = `${count(limits.facts)} fact${limits.facts === 1 ? "" : "s"}, ${limits.mixed ? "taught together" : "one a step"} · ${count(limits.slots)} slots${limits.tables > 1 ? ` in each of ${limits.tables} tables` : ""}`;
    facts.max = limits.facts;
    suggested.replaceChildren(...limits.questions.map((text) => make("option", { value: text })));
  }
  function showSettings() {
    const settings = get("settings");
    for (const [name, field] of Object.entries({ rule, optimizer, lr: rate, passes, facts }))
      fill(field, settings[name]);
    rate.placeholder = limits.rates[settings.optimizer];
    range.disabled = box.disabled = settings.rule === "all";
    if (settings.top_t === t || !(typed.has(range) || typed.has(box))) {
      typed.delete(range);
      typed.delete(box);
      moved(settings.top_t);
    }
    showStale();
  }
  function showStale() {
    const path = get("live") ?? get("runs").at(-1),
      now = chosen();
    const same =
      !path ||
      Object.entries(now).every(
        ([name, value]) => path.settings[name] === value || (name === "top_t" && now.rule === "all"),
      );
    stale.textContent = same ? "" : `The figures are of the run “${path.name}”; other settings stand above.`;
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
  function paintTable() {
    const all = rule.value === "all";
    legend.replaceChildren(
      ...paintSlots(
        canvas,
        bytes(get("background")),
        bytes(get("slots")),
        (rank) => all || rank <= t,
        root.classList.contains("dark"),
        colours("new").new,
      ),
    );
    canvas.setAttribute("aria-label", `The table of slots. ${said.textContent}`);
    showPointed();
  }

  // The plane
  function paintPlane() {
    const live = get("live"),
      paths = [...get("runs"), ...(live ? [live] : [])],
      palette = colours("new", "muted", "line");
    const drawn = paths.map((path, i) => {
      const last = i === paths.length - 1;
      return { ...path, last, colour: last ? palette.new : palette.muted, dashed: path.settings.rule !== "tfidf" };
    });
    drawPlane(
      plane,
      drawn,
      palette.line,
      "Let the slider go, or press Teach. Up and to the right is better.",
      limits.kept.title,
    );
    showNumbers(paths.at(-1));
    showTable(paths);
    showStale();
  }
  function showNumbers(path) {
    const [, learned, kept] = path?.points.at(-1) ?? [0, null, null];
    const cell = (kind, value, text) =>
      make("span", { class: kind }, make("b", {}, value), make("span", { class: "muted" }, text));
    numbers.replaceChildren(
      cell("", path?.name ?? "base", "run shown"),
      cell("new", percent(learned), "new facts learned"),
      ...(limits.kept.count
        ? [cell("old", percent(kept, 1), `of ${count(limits.kept.count)} ${limits.kept.facts} kept`)]
        : []),
      cell(
        "",
        path ? `${path.step} / ${path.total}` : "–",
        path?.ms == null ? "steps" : `steps of ${path.ms.toFixed(0)} ms (median)`,
      ),
      cell("", path ? count(path.rows) : "–", get("live") ? "rows trained" : "rows changed"),
      cell("", path?.loss == null ? "–" : path.loss.toFixed(2), "loss, nats per token"),
    );
    doing.textContent = path?.doing && get("state") === "running" ? `${path.doing} …` : "";
    progress.value = path ? path.step / Math.max(1, path.total) : 0;
    const words = path
      ? `${path.name}: after step ${path.step} of ${path.total}, ${percent(learned)} of the new facts learned, ${percent(kept, 1)} of the ${limits.kept.facts} kept.`
      : "";
    plane.setAttribute("aria-label", words || "Nothing taught yet.");
    if (get("state") !== "running") spoken.textContent = words;
  }
  function showTable(paths) {
    const head = [
      ["Run"],
      ["Steps", "n"],
      ["Learned", "n"],
      [limits.kept.title, "n"],
      ["Rows changed", "n"],
      ["Loss", "n"],
    ];
    const rows = paths.map((path) => {
      const [, learned, kept] = path.points.at(-1) ?? [0, null, null];
      return [
        [path.name],
        [`${path.step} of ${path.total}`, "n"],
        [percent(learned, 1), "n"],
        [percent(kept, 1), "n"],
        [count(path.rows), "n"],
        [path.loss?.toFixed(3) ?? "–", "n"],
      ];
    });
    twin.replaceChildren(grid(head, rows));
  }
  function showAnswers() {
    const asked = get("answers");
    const rows = asked.map((one) => [[one.question], [spokenAs(one.base)], [spokenAs(one.now)]]);
    answers.replaceChildren(...(asked.length ? [grid([["Question"], ["Base"], ["Now"]], rows)] : []));
  }

  // State
  function showState() {
    const state = get("state"),
      runs = get("runs").length;
    root.dataset.state = state;
    teach.textContent = state === "paused" ? "Go on" : "Teach";
    teach.disabled = state === "running";
    stop.disabled = state !== "running";
    undo.disabled = !runs && state === "idle";
    save.disabled = !runs && state === "idle";
    paintPlane();
  }
  showLimits();
  showSettings();
  showAnswers();
  const handlers = {
    limits: showLimits,
    settings: showSettings,
    preview: () => moved(t),
    slots: paintTable,
    runs: showState,
    live: paintPlane,
    state: showState,
    answers: showAnswers,
  };
  return watch(handlers, () => {
    showPreview();
    showState();
  });
}
export default { render };
