// The page without a kernel: each place of the slider is a run that was computed before; all of them are in the page.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RULES = {
  tfidf: "TF-IDF",
  tf: "most read (tf)",
  idf: "rarest elsewhere (idf)",
  kl: "KL",
  random: "at random",
  all: "all that are read",
};
const BEAT = 220; // milliseconds that a place of the slider stays, when it is played

// Which state an address names: #t=100&rule=tf&seed=1&methods=sparse,full&fact=3. What it doesn't name is as at first.
function stateOf(fragment) {
  const asked = new URLSearchParams(fragment.replace(/^#/, "")),
    names = DATA.methods.map(({ key }) => key);
  const t = Number(asked.get("t")),
    seed = asked.has("seed") ? DATA.seeds.indexOf(Number(asked.get("seed"))) : 0;
  const methods = asked.has("methods") ? names.filter((name) => asked.get("methods").split(",").includes(name)) : names;
  const fact = Math.round(Number(asked.get("fact") ?? 1)) - 1;
  return {
    at: t >= 1 ? placeOf(t) : DATA.t.indexOf(DATA.usual),
    rule: DATA.rules.includes(asked.get("rule")) ? asked.get("rule") : DATA.rules[0],
    seed: Math.max(0, seed),
    methods: methods.length ? methods : names,
    fact: fact >= 0 && fact < DATA.strips.length ? fact : 0,
  };
}
function placeOf(t) {
  // the nearest place, on the slider's log scale
  const far = (value) => Math.abs(Math.log(value / t));
  return DATA.t.reduce((best, value, i) => (far(value) < far(DATA.t[best]) ? i : best), 0);
}
const decoded = (text) => new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);

function begin() {
  const local = { theme: "auto", handled: 0, error: "", note: "" };
  const model = { get: (name) => local[name], on: () => {}, off: () => {}, send: () => {} };
  const facts = DATA.asked.facts,
    sparse = DATA.methods.some(({ key }) => key === "sparse");
  const { root, note, labelled, colours, watch } = shell(
    model,
    document.getElementById("page"),
    "Top-t, over runs that were computed before",
    "How many slots may change?",
    `${count(facts)} fact${facts === 1 ? "" : "s"}, ${DATA.mixed ? "taught together" : "one a step"} · ${count(DATA.slots)} slots${DATA.tables > 1 ? ` in each of ${DATA.tables} tables` : ""}`,
  );
  const heat = decoded(DATA.background),
    pairs = Object.fromEntries(DATA.rules.map((rule) => [rule, decoded(DATA.previews[rule].slots)]));
  let state = stateOf(location.hash);

  // Controls
  const slider = `t: slots each ${DATA.grouped ? "fact" : "step"} may change`;
  const range = make("input", { type: "range", min: 0, max: DATA.t.length - 1, step: 1, id: "t" });
  const shown = make("output", { for: "t", class: "whole" });
  const rule = make("select", {}, ...DATA.rules.map((name) => make("option", { value: name }, RULES[name] ?? name)));
  const seed = make("select", {}, ...DATA.seeds.map((name, i) => make("option", { value: i }, String(name))));
  const boxes = DATA.methods.map(({ key, name }) => [key, make("input", { type: "checkbox", value: key }), name]);
  const play = make(
    "button",
    { type: "button", class: "main", title: "Move the slider through all its places" },
    "Play",
  );
  const link = make(
    "button",
    { type: "button", title: "The address of this page with the settings that stand here" },
    "Copy link",
  );
  const code = make(
    "button",
    { type: "button", title: "Python that repeats the run of sparse with the settings that stand here" },
    "Copy as code",
  );
  const said = make("p", { class: "muted preview" });
  const spoken = make("p", { class: "spoken", role: "status" });

  // Charts
  const numbers = make("div", { class: "numbers" });
  const plane = draw("svg", { viewBox: "0 0 620 360", role: "img" });
  const canvas = make("canvas", { width: DATA.side, height: DATA.side, role: "img" });
  const legend = make("p", { class: "muted" });
  const pick = make(
    "select",
    { "aria-label": "Fact" },
    ...DATA.strips.map(({ question }, i) => make("option", { value: i }, question)),
  );
  const strips = make("div", { class: "strips", role: "img" });
  const about = make("p", { class: "muted" });
  const answers = make("div", { class: "answers scroll" });
  const twin = make("div", { class: "scroll" });
  root.append(
    ...(sparse ? [make("div", { class: "slide" }, make("label", { for: "t" }, slider), range, shown), said] : []),
    make(
      "div",
      { class: "settings" },
      ...(sparse ? [labelled("Rule that chooses slots", rule)] : []),
      labelled("Seed", seed),
      make(
        "fieldset",
        { class: "methods" },
        make("legend", {}, "Show"),
        ...boxes.map(([, box, name]) => make("label", {}, box, name)),
      ),
      make("div", { class: "buttons" }, ...(sparse ? [play] : []), link, ...(sparse ? [code] : [])),
    ),
    note,
    numbers,
    make(
      "div",
      { class: "charts" },
      make("div", {}, make("h4", {}, "Learned, and what was kept: up and to the right is better"), plane),
      make("div", {}, make("h4", {}, "The memory: every cell a slot"), canvas, legend),
    ),
    make("div", { class: "facts" }, make("h4", {}, "What a fact reads, token by token"), pick),
    strips,
    about,
    answers,
    make("details", {}, make("summary", {}, "Every t as a table"), twin),
    spoken,
  );

  // What stands there now
  const runOf = (method, at = state.at) => {
    const runs = DATA.runs[method];
    if (method !== "sparse") return runs[state.seed];
    const mine = runs[state.rule][state.seed];
    return mine[Math.min(at, mine.length - 1)];
  };
  const isAll = () => state.rule === "all";
  const named = () => (isAll() ? "all read slots" : `t = ${count(DATA.t[state.at])}`);
  const label = ({ key, name }) => (key === "sparse" ? `${name}, ${named()}` : name);
  const chosen = () => DATA.methods.filter(({ key }) => state.methods.includes(key));
  const colour = (one) => (root.classList.contains("dark") ? one.dark : one.light);
  const endOf = (run) => run.points.at(-1);
  const every = DATA.methods
    .flatMap(({ key }) => (key === "sparse" ? Object.values(DATA.runs.sparse).flat(2) : DATA.runs[key]))
    .flatMap((run) => run.points);
  const lowest = Math.min(1, ...every.map((point) => point[2] ?? 1));

  function showPreview() {
    const { chosen: slots, of_facts: mine, of_background: background } = DATA.previews[state.rule],
      i = state.at;
    range.value = i;
    range.disabled = play.disabled = isAll();
    shown.textContent = isAll() ? "all" : `t = ${count(DATA.t[i])}`;
    range.setAttribute("aria-valuetext", `${count(DATA.t[i])} slots`);
    const rest = `${count(slots[i])} slots over all facts (${percent(slots[i] / (DATA.slots * DATA.tables), 1)}), which carry ${percent(mine[i])} of the facts' own reading and ${percent(background[i], 1)} of ordinary reading.`;
    said.textContent = isAll() ? `Every slot the facts read: ${rest}` : `${named()} chooses ${rest}`;
    legend.replaceChildren(
      ...paintSlots(
        canvas,
        heat,
        pairs[state.rule],
        (rank) => isAll() || rank <= DATA.t[i],
        root.classList.contains("dark"),
        colours("new").new,
      ),
    );
    canvas.setAttribute("aria-label", `The table of slots. ${said.textContent}`);
  }
  function showPlane() {
    const { muted, line } = colours("muted", "line");
    const paths = chosen().map((one) => ({
      name: label(one),
      points: runOf(one.key).points,
      colour: colour(one),
      last: one.key === "sparse",
      dashed: one.key !== "sparse",
    }));
    if (state.methods.includes("sparse") && !isAll()) {
      // where each t ends
      const ends = DATA.t.map((t, at) => [t, ...endOf(runOf("sparse", at)).slice(1)]);
      paths.unshift({ name: "", of: "sparse at the end, t = ", points: ends, colour: muted });
    }
    drawPlane(plane, paths, line, "Choose a method.", DATA.kept.title, lowest);
  }
  function showNumbers() {
    numbers.replaceChildren(
      ...chosen().map((one) => {
        const run = runOf(one.key),
          [, learned, kept] = endOf(run);
        const changed = run.rows == null ? "" : `${count(run.rows)} rows changed, `;
        const figure = (value, text) => make("span", {}, make("b", {}, value), make("span", { class: "muted" }, text));
        return make(
          "div",
          { style: `--c:${colour(one)}` },
          make("h4", {}, label(one)),
          make(
            "div",
            { class: "figures" },
            figure(percent(learned), "learned"),
            ...(kept == null ? [] : [figure(percent(kept, 1), `of the ${DATA.kept.facts} kept`)]),
          ),
          make("span", { class: "muted" }, `${changed}${count(run.steps)} steps of ${run.ms.toFixed(0)} ms`),
        );
      }),
    );
    const words = chosen()
      .map((one) => {
        const [, learned, kept] = endOf(runOf(one.key));
        return `${label(one)}: ${percent(learned)} learned${kept == null ? "" : `, ${percent(kept, 1)} of the ${DATA.kept.facts} kept`}`;
      })
      .join(". ");
    plane.setAttribute("aria-label", `Learned against kept. ${words}.`);
    return words;
  }
  function showStrips() {
    const strip = DATA.strips[state.fact],
      { muted, line, new: now } = colours("muted", "line", "new");
    const later = root.classList.contains("dark") ? "#8a6a3a" : "#eec48f",
      within = (rank) => rank > 0 && (isAll() || rank <= DATA.t[state.at]);
    let open = 0,
      all = 0;
    strips.replaceChildren(
      ...strip.tokens.map(({ text, ranks }, place) => {
        const mine = ranks[state.rule],
          mark = (rank) => (within(rank) ? now : rank ? later : line);
        const sorted = [...mine].sort((a, b) => within(b) - within(a)),
          step = 100 / sorted.length;
        const reach = mine.filter(within).length;
        [open, all] = [open + reach, all + mine.length];
        const parts = sorted.map(
          (rank, i) => `${mark(rank)} ${(i * step).toFixed(2)}% ${((i + 1) * step).toFixed(2)}%`,
        );
        const word = text.trim() || (place ? (place === strip.tokens.length - 1 ? "end" : "␣") : "start");
        return make(
          "span",
          { class: `token${text ? "" : " mark"}`, title: `“${word}”: ${reach} of ${mine.length} reads may change` },
          make("span", {}, word),
          make("i", { style: `background:linear-gradient(90deg,${parts.join(",")})` }),
        );
      }),
    );
    pick.value = state.fact;
    about.textContent = `${strip.statements > 1 ? `The first of ${strip.statements} statements. ` : ""}Under each token its reads: blue where the slot may change with the settings above. Here ${count(open)} of ${count(all)} (${percent(open / all)}).`;
    strips.setAttribute("aria-label", `“${strip.text}”, in ${strip.tokens.length} tokens. ${about.textContent}`);
  }
  function showAnswers() {
    const columns = [
      { name: "Before", run: DATA.base },
      ...chosen().map((one) => ({ name: label(one), run: runOf(one.key) })),
    ];
    const cell = (run, i) => [spokenAs(DATA.texts[run.answers[i]]), run.right[i] === "1" ? "right" : "wrong"];
    const block = (title, from, to) => {
      const rows = DATA.asked.questions
        .slice(from, to)
        .map((question, n) => [
          [question],
          [DATA.asked.accepted[from + n]],
          ...columns.map(({ run }) => cell(run, from + n)),
        ]);
      return [make("h4", {}, title), grid([["Question"], ["Answer"], ...columns.map(({ name }) => [name])], rows)];
    };
    const known =
      DATA.asked.questions.length > facts
        ? block(
            `${sentence(DATA.kept.facts)}: ${count(DATA.asked.questions.length - facts)} of ${count(DATA.kept.count)}, evenly drawn`,
            facts,
          )
        : [];
    answers.replaceChildren(...block("New facts, asked before and after", 0, facts), ...known);
  }
  function showTable() {
    if (!sparse) return;
    const runs = DATA.runs.sparse[state.rule][state.seed],
      { chosen: slots } = DATA.previews[state.rule];
    const rows = runs.map((run, i) => {
      const [, learned, kept] = endOf(run);
      return [
        [isAll() ? "all" : count(DATA.t[i]), "n"],
        [percent(learned, 1), "n"],
        [percent(kept, 1), "n"],
        [count(run.rows), "n"],
        [count(slots[i]), "n"],
        [run.loss.toFixed(3), "n"],
      ];
    });
    twin.replaceChildren(
      grid(
        [
          ["t", "n"],
          ["Learned", "n"],
          [DATA.kept.title, "n"],
          ["Rows changed", "n"],
          ["Slots chosen", "n"],
          ["Last loss", "n"],
        ],
        rows,
      ),
    );
  }
  let words = "";
  function show() {
    rule.value = state.rule;
    seed.value = state.seed;
    for (const [key, box] of boxes) box.checked = state.methods.includes(key);
    if (sparse) showPreview();
    showPlane();
    words = showNumbers();
    showStrips();
    showAnswers();
    showTable();
  }

  // What a person changes goes into the address, and an address that comes in is shown.
  const fragment = () => {
    const parts = {
      t: isAll() || !sparse ? null : DATA.t[state.at],
      rule: sparse ? state.rule : null,
      seed: DATA.seeds[state.seed],
      methods: state.methods.length < DATA.methods.length ? state.methods.join(",") : null,
      fact: state.fact ? state.fact + 1 : null,
    };
    return `#${Object.entries(parts)
      .filter(([, value]) => value != null)
      .map(([name, value]) => `${name}=${value}`)
      .join("&")}`;
  };
  let told = 0,
    kept = 0;
  function change(changes) {
    state = { ...state, ...changes };
    show();
    clearTimeout(told);
    clearTimeout(kept);
    told = setTimeout(() => {
      spoken.textContent = words;
    }, 500); // not at every place that is passed
    kept = setTimeout(() => {
      // browsers refuse an address that changes all the time
      try {
        history.replaceState(null, "", fragment());
      } catch {
        /* the address stays */
      }
    }, 150);
  }
  addEventListener("hashchange", () => {
    if (location.hash === "#page") return;
    halt();
    state = stateOf(location.hash);
    show();
  });

  let timer = null;
  function halt() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }
  play.addEventListener("click", () => {
    if (timer) return halt();
    if (state.at === DATA.t.length - 1) change({ at: 0 });
    play.textContent = "Pause";
    timer = setInterval(() => (state.at < DATA.t.length - 1 ? change({ at: state.at + 1 }) : halt()), BEAT);
  });
  range.addEventListener("input", () => {
    halt();
    change({ at: Number(range.value) });
  });
  rule.addEventListener("change", () => {
    halt();
    change({ rule: rule.value });
  });
  seed.addEventListener("change", () => change({ seed: Number(seed.value) }));
  pick.addEventListener("change", () => change({ fact: Number(pick.value) }));
  for (const [key, box] of boxes) {
    box.addEventListener("change", () =>
      change({ methods: boxes.filter(([, one]) => one.checked).map(([name]) => name) }),
    );
  }
  link.addEventListener("click", () => copy(location.href.split("#")[0] + fragment(), link));

  code.addEventListener("click", () => {
    const now = `, top_t=${DATA.t[isAll() ? DATA.t.length - 1 : state.at]}, rule="${state.rule}", seed=${DATA.seeds[state.seed]})`;
    copy([...DATA.code.slice(0, -1), DATA.code.at(-1).slice(0, -1) + now, "print(run.summary)", ""].join("\n"), code);
  });

  // The panel looks at the ground it stands on, and again when the class of the body changes.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ({ matches }) =>
    document.body.classList.toggle("in-dark", matches),
  );
  watch({}, show);
}
begin();
