// Draws what the kernel publishes: the plane, the numbers per method, which fact is known when, and answers.

function render({ model, el }) {
  const limits = model.get("limits"),
    methods = Object.keys(limits.methods);
  const { root, error, note, stale, get, send, heed, fill, button, labelled, colours, watch } = shell(
    model,
    el,
    "Compare: the same facts by several methods",
    "Compare",
    `${count(limits.facts)} fact${limits.facts === 1 ? "" : "s"} · ${methods.map((name) => limits.methods[name].name).join(", ")}, each from the same base with the same budget`,
  );
  const number = (attributes) => make("input", { type: "number", min: 1, ...attributes });
  const inputs = {
    count: number({ max: limits.facts }),
    passes: number({ max: 100 }),
    seeds: number({ max: 20 }),
    top_t: number({ max: limits.slots, placeholder: "tuned" }),
  };
  const chosen = () =>
    Object.fromEntries(
      Object.entries(inputs).map(([name, input]) => [
        name,
        name === "top_t" ? asNumber(input) : (asNumber(input) ?? 0),
      ]),
    );
  heed(...Object.values(inputs));
  for (const [name, input] of Object.entries(inputs)) {
    input.addEventListener("input", showStale);
    input.addEventListener("change", () => send("choose", { [name]: chosen()[name] }));
  }
  const start = make(
    "button",
    {
      type: "button",
      class: "main",
      "data-do": "start",
      title: "Teach by one method after the other; after Stop, go on",
      onclick: () => send("start", get("state") === "idle" ? { settings: chosen() } : {}),
    },
    "Start",
  );
  const stop = button("stop", "Stop", "Stop asking for steps");
  const reset = button("reset", "Reset", "Drop the comparison; the base is back");
  const bar = make("progress", { max: 1, value: 0, "aria-label": "Steps done" });
  const where = make("span", { class: "muted", role: "status" });
  const plane = draw("svg", { viewBox: "0 0 620 360", role: "img" });
  const known = make("div", { class: "known" });
  const which = make(
    "p",
    { class: "muted which" },
    "Point at a stripe for its fact; each dot on the left is a measurement.",
  );
  const table = make("div", { class: "measures" });
  const verdict = make("div", { class: "verdict" });
  const list = `smft-${Math.random().toString(36).slice(2)}`;
  const question = make("input", {
    type: "text",
    list,
    placeholder: "Ask the base and every method the same question",
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
    make("datalist", { id: list }, ...limits.questions.map((text) => make("option", { value: text }))),
    make("button", { type: "submit" }, "Ask"),
  );
  root.append(
    make(
      "div",
      { class: "settings" },
      labelled("Facts", inputs.count),
      labelled("Passes", inputs.passes),
      labelled("Seeds", inputs.seeds),
      labelled("Top t of sparse", inputs.top_t),
      make("div", { class: "buttons" }, start, stop, reset),
    ),
    make("div", { class: "buttons" }, bar, where),
    error,
    note,
    stale,
    make(
      "div",
      { class: "charts" },
      make("div", {}, make("h4", {}, "Learned, and what was kept"), plane),
      make("div", {}, make("h4", {}, "Which new facts are known, and when"), known, which),
    ),
    verdict,
    table,
    form,
    familiarTo(limits.familiar, question, (question) => send("ask", { question })),
    answers,
  );

  const colour = (name) => limits.methods[name][root.classList.contains("dark") ? "dark" : "light"];
  const label = (name) => (name === "base" ? "Base" : limits.methods[name].name);
  const tag = (name) =>
    name === "base"
      ? [make("span", {}, "Base")]
      : [make("i", { class: "key", style: `background:${colour(name)}` }), make("span", {}, label(name))];

  function paintPlane() {
    const paths = get("paths"),
      several = paths.some((path) => path.seed === null);
    const drawn = paths.map((path) => {
      const main = several
        ? path.seed === null || !paths.some((one) => one.method === path.method && one.seed === null)
        : true;
      return {
        points: path.points,
        name: main ? label(path.method) : "",
        last: main,
        colour: colour(path.method),
        dashed: path.method.includes(":"),
      };
    });
    drawPlane(plane, drawn, colours("line").line, "Press Start. Up and to the right is better.", limits.kept.title);
    plane.setAttribute(
      "aria-label",
      get("numbers")
        .map(
          (row) =>
            `${label(row.method)}: ${percent(row.learned)} learned, ${percent(row[limits.kept.name], 1)} of the ${limits.kept.facts} kept`,
        )
        .join("; ") || "Nothing taught yet.",
    );
  }

  // One square per method: a row per fact in the order taught, a column per measurement.
  function paintKnown() {
    const retention = get("retention");
    known.replaceChildren(
      ...methods.map((name) => {
        const { steps, recalled, questions } = retention[name] ?? { steps: [], recalled: [], questions: [] },
          facts = recalled[0]?.length ?? 0;
        const canvas = make("canvas", {
          width: Math.max(1, steps.length),
          height: Math.max(1, facts),
          role: "img",
          "aria-label": facts
            ? `${label(name)}: ${recalled.at(-1).reduce((a, b) => a + b, 0)} of ${facts} facts known after step ${steps.at(-1)}`
            : `${label(name)}: nothing measured yet`,
        });
        const context = canvas.getContext("2d");
        steps.forEach((_, x) =>
          recalled[x].forEach((right, y) => {
            if (!right) return;
            context.fillStyle = colour(name);
            context.fillRect(x, y, 1, 1);
          }),
        );
        canvas.addEventListener("mousemove", (event) => {
          const box = canvas.getBoundingClientRect(),
            at = (v, size, n) => Math.min(n - 1, Math.max(0, Math.floor((v / size) * n)));
          const x = at(event.clientX - box.left, box.width, steps.length),
            y = at(event.clientY - box.top, box.height, facts);
          if (facts)
            which.textContent = `${label(name)}, step ${count(steps[x])}: “${questions[y]}” is ${recalled[x][y] ? "known" : "not known"}.`;
        });
        return make(
          "figure",
          {},
          make("figcaption", {}, ...tag(name)),
          canvas,
          make(
            "p",
            { class: "muted" },
            steps.length ? `${count(facts)} facts down, step 0 to ${count(steps.at(-1))} across` : "not yet",
          ),
        );
      }),
    );
  }

  function paintNumbers() {
    const base = get("numbers")[0],
      nats = (v) => (v == null ? "–" : v.toFixed(3));
    const head = [
      ["Method"],
      ...limits.measures.map(({ title, share }) => [share ? title : `${title}, nats`, "n"]),
      ["Numbers a step may change", "n"],
      ["ms per step, median", "n"],
    ];
    const asked = limits.measures.filter((one) => one.learned).length; // in how many ways what was taught is asked
    const ways =
      asked > 1
        ? [
            ["", 1],
            ["Learned, asked", asked],
            ["What should stay", limits.measures.length - asked],
            ["", 2],
          ]
        : [];
    const rows = get("numbers").map((row) => [
      [make("span", { class: "whole" }, ...tag(row.method))],
      ...limits.measures.map(({ name, share }) => [share ? percent(row[name], 1) : nats(row[name]), "n"]),
      [row.trainable_per_step == null ? "–" : count(Math.round(row.trainable_per_step)), "n"],
      [row.ms_per_step == null ? "–" : row.ms_per_step.toFixed(0), "n"],
    ]);
    table.replaceChildren(...(base ? [grid(head, rows, ways)] : []));
    paintPlane();
  }

  function paintVerdict() {
    const lines = get("verdict"),
      points = (v) => (100 * v).toFixed(1);
    verdict.replaceChildren(
      ...(lines.length
        ? [
            make(
              "h4",
              {},
              `${sentence(limits.kept.facts)} forgotten where ${percent(limits.target)} of the new ones were learned`,
            ),
            make(
              "div",
              { class: "numbers" },
              ...lines.map((line) => {
                const [drop, low, high] = line.drop,
                  [reached, of] = line.reached;
                if (line.little) {
                  return make(
                    "span",
                    {},
                    make("b", { style: `color:${colour(line.method)}` }, `${percent(line.learned)} learned`),
                    make(
                      "span",
                      { class: "muted" },
                      `${label(line.method)}: too few to tell what it forgets. Take more passes, or more statements for each fact`,
                    ),
                  );
                }
                const interval = low == null ? "" : ` [${points(low)}, ${points(high)}]`;
                return make(
                  "span",
                  {},
                  make("b", { style: `color:${colour(line.method)}` }, `${points(drop)} points`),
                  make(
                    "span",
                    { class: "muted" },
                    `${label(line.method)}${interval}${reached < of ? `; only ${reached} of ${of} runs got there, read at the best (${percent(line.learned)} learned)` : ""}`,
                  ),
                );
              }),
            ),
          ]
        : []),
    );
  }

  function paintAnswers() {
    const asked = get("answers"),
      names = ["base", ...methods];
    const head = [["Question"], ...names.map((name) => [label(name)])];
    answers.replaceChildren(
      ...(asked.length
        ? [
            grid(
              head,
              asked.map((one) => [[one.question], ...names.map((name) => [spokenAs(one[name])])]),
            ),
          ]
        : []),
    );
  }

  const time = (seconds) => (seconds >= 90 ? `${Math.round(seconds / 60)} min` : `${Math.ceil(seconds)} s`);
  function showProgress() {
    const now = get("progress");
    bar.value = now.total ? now.done / now.total : 0;
    where.textContent = now.total
      ? `${label(now.method)}, seed ${now.seed}: step ${count(now.done)} of ${count(now.total)}${now.left != null && now.done < now.total ? `, about ${time(now.left)} left` : ""}`
      : "";
  }
  function showState() {
    const state = get("state");
    root.dataset.state = state;
    start.textContent = state === "paused" ? "Go on" : "Start";
    start.disabled = state === "running";
    stop.disabled = state !== "running";
    for (const input of Object.values(inputs)) input.disabled = state !== "idle";
  }
  function showSettings() {
    const settings = get("settings");
    for (const [name, input] of Object.entries(inputs)) fill(input, settings[name]);
    showStale();
  }
  function showStale() {
    const shown = get("shown"),
      now = chosen(),
      many = (n, one) => `${count(n)} ${one}${n === 1 ? "" : one === "pass" ? "es" : "s"}`;
    const same = Object.entries(now).every(([name, value]) => shown[name] === value);
    stale.textContent =
      shown.count == null || same
        ? ""
        : `These results are of ${many(shown.count, "fact")}, ${many(shown.passes, "pass")}, ${many(shown.seeds, "seed")} and ${shown.top_t == null ? "the tuned top t" : `a top t of ${count(shown.top_t)}`}; other settings stand above.`;
  }
  showSettings();
  return watch(
    {
      settings: showSettings,
      shown: showStale,
      paths: paintPlane,
      numbers: paintNumbers,
      retention: paintKnown,
      progress: showProgress,
      verdict: paintVerdict,
      answers: paintAnswers,
      state: showState,
    },
    () => {
      paintNumbers();
      paintKnown();
      paintVerdict();
      paintAnswers();
      showProgress();
      showState();
    },
  );
}
export default { render };
