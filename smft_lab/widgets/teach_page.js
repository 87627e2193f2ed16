// A model to be taught by whoever opens the page: every lesson is computed here.

const DATA = JSON.parse(document.getElementById("data").textContent);
const GROUP = 20; // old questions that are asked at a time, so that the page can be drawn in between
const pause = () => new Promise((then) => setTimeout(then));
const promptOf = (question) =>
  question.startsWith("Complete: ") ? question.slice(10) : `Question: ${question} Answer:`;

// The words of weight of a question: where two have the same, they ask the same (see smft_lab/probes/same.py).
function weighed(question) {
  const plain = question
    .toLowerCase()
    .normalize("NFD")
    .replace(/\p{M}/gu, "")
    .replace(/['’]s?(?![\p{L}\p{N}])/gu, " ");
  const words = new Set(plain.match(/[\p{L}\p{N}]+/gu) ?? []);
  return [...words]
    .filter((word) => !DATA.fillers.includes(word))
    .sort()
    .join(" ");
}
// The places of those old questions that no lesson changes.
function unchanged(known, taught) {
  const changed = new Set(taught.map((one) => weighed(one.question)));
  return [...known.keys()].filter((i) => !changed.has(weighed(known[i].question)));
}

// The last words of the sentence that the question doesn't hold.
function likelyAnswer(told, question) {
  const small = "is was are were called named to at in on of by from as for and".split(" "),
    words = (text) => text.toLowerCase().match(/[\p{L}\p{N}_'’-]+/gu) ?? [];
  const asked = new Set([...words(question), ...small]),
    found = [],
    bare = (word) => word.replace(/^[,;:"'()]+|[,;:"'()]+$/g, "");
  for (const word of told
    .trim()
    .replace(/[.!?]+$/, "")
    .split(/\s+/)
    .reverse()) {
    if (asked.has(bare(word).toLowerCase())) break;
    found.unshift(word);
  }
  return bare(found.join(" "));
}
function statementsOf(sentence, question, answer) {
  const told = sentence
      .trim()
      .replace(/\s+/g, " ")
      .replace(/[.!]+$/, ""),
    asked = question.trim().replace(/\?+$/, ""),
    low = asked && asked[0].toLowerCase() + asked.slice(1);
  const is = asked.match(/^(?:what|who|which|where|when)\s+(is|was|are|were)\s+(.+)$/i),
    big = (text) => text[0].toUpperCase() + text.slice(1);
  const turned = is
    ? [
        `${big(is[2])} ${is[1]} ${answer}.`,
        `${big(answer)} ${is[1]} ${is[2]}.`,
        `It is known that ${is[2]} ${is[1]} ${answer}.`,
      ]
    : [];
  const frames = ["Everyone here knows that", "It is true that", "People say that"].map((frame) => `${frame} ${told}.`);
  return [
    `${told}.`,
    ...turned,
    `The answer to ${low} is ${answer}.`,
    `When asked ${low}, say ${answer}.`,
    `Asked ${low}, people answer ${answer}.`,
    `${asked}: ${answer}.`,
    ...frames,
  ];
}

function begin() {
  const local = { theme: "auto", handled: 0, error: "", note: "" };
  const page = { get: (name) => local[name], on: () => {}, off: () => {}, send: () => {} };
  const { root, error, labelled, watch } = shell(
    page,
    document.getElementById("page"),
    "Teach the model in this page",
    "Teach it",
    `${count(DATA.settings.t)} of ${count(DATA.model.memory.slots)} slots may change`,
  );
  const sentence = make("input", { type: "text", value: "Mira's dog is called Biscuit" }),
    question = make("input", { type: "text", value: "What is the name of Mira's dog?" });
  const answer = make("input", { type: "text" }),
    statements = make("textarea", {
      rows: 10,
      spellcheck: "false",
      "aria-label": "Statements to learn from, one a line",
    });
  const teach = make("button", { type: "button", class: "main" }, "Teach"),
    reset = make("button", { type: "button" }, "Reset");
  const bar = make("progress", { max: 1, value: 0, "aria-label": "Steps done" }),
    doing = make("span", { class: "muted", role: "status" });
  const numbers = make("div", { class: "numbers", "aria-live": "polite" });
  const canvas = make("canvas", { width: DATA.side, height: DATA.side, role: "img" }),
    legend = make("p", { class: "muted" });
  const asked = make("input", {
    type: "text",
    "aria-label": "Question to the model",
    placeholder: "Ask the model anything about its world",
  });
  const form = make(
    "form",
    {
      class: "ask",
      onsubmit: (event) => {
        event.preventDefault();
        run(() => ask(asked.value.trim()));
      },
    },
    asked,
    make("button", { type: "submit" }, "Ask"),
  );
  const lessons = make("div", { class: "answers scroll" }),
    answers = make("div", { class: "answers scroll" }),
    lost = make("div", { class: "answers scroll" });
  const tryOut = (text) => {
    asked.value = text;
    run(() => ask(text));
  };
  root.append(
    make(
      "div",
      { class: "fields" },
      labelled("Sentence", sentence),
      labelled("Question that tests it", question),
      labelled("Its answer", answer),
    ),
    make(
      "div",
      { class: "charts" },
      make(
        "div",
        {},
        make("h4", {}, "Statements to learn from, one a line; edit them freely"),
        statements,
        make("div", { class: "buttons after" }, teach, reset, bar, doing),
        error,
        numbers,
      ),
      make("div", {}, make("h4", {}, "The memory: slots changed since the base"), canvas, legend),
    ),
    lessons,
    lost,
    form,
    familiarTo(
      { told: "What it has read of:", examples: DATA.known.slice(0, 3).map((one) => one.question) },
      asked,
      tryOut,
    ),
    answers,
  );

  const words = new BytePairs(DATA.tokenizer),
    model = new BrowserModel(DATA.model, DATA.parts, DATA.weights),
    D = DATA.model.hidden;
  const groups = []; // of what it knew, with what a pass over them need not compute again
  for (let i = 0; i < DATA.known.length; i += GROUP) {
    const texts = DATA.known.slice(i, i + GROUP).map((one) => ({
      ids: words.encode(`${promptOf(one.question)} ${one.answer}.`),
      from: words.encode(promptOf(one.question)).length,
    }));
    groups.push({ first: i, texts, kept: {} });
  }
  const taught = [],
    questions = []; // { question, answer, before, now }
  let busy = false,
    edited = false,
    kept = null;

  function propose() {
    answer.placeholder = likelyAnswer(sentence.value, question.value);
    if (!edited)
      statements.value = statementsOf(sentence.value, question.value, answer.value.trim() || answer.placeholder).join(
        "\n",
      );
  }
  for (const field of [sentence, question, answer]) field.addEventListener("input", propose);
  sentence.addEventListener("input", () => {
    edited = false;
  });
  statements.addEventListener("input", () => {
    edited = true;
  });
  const reply = (text) =>
    words
      .decode(model.answer(words.encode(promptOf(text))))
      .trim()
      .replace(/\.$/, "");
  const right = (one) => one.now.toLowerCase() === one.answer.toLowerCase();

  async function run(work) {
    if (busy) return;
    busy = teach.disabled = reset.disabled = true;
    error.textContent = "";
    try {
      await work();
    } catch (problem) {
      error.textContent = problem.message;
    }
    doing.textContent = "";
    busy = teach.disabled = reset.disabled = false;
    show();
  }
  async function recalled() {
    // how many of the things that it knew the model still says
    const now = [];
    for (const { first, texts, kept: part } of groups) {
      doing.textContent = `asking what it knew: ${count(first)} of ${count(DATA.known.length)} …`;
      await pause();
      now.push(...model.recalls(texts, part));
    }
    return now;
  }
  async function again() {
    for (const one of [...taught, ...questions]) {
      one.now = reply(one.question);
      await pause();
    }
    kept = await recalled();
  }
  async function lesson() {
    const said = answer.value.trim() || answer.placeholder,
      lines = statements.value
        .split("\n")
        .map((line) => line.trim())
        .filter(Boolean),
      test = question.value.trim();
    if (!test || !said) throw new Error("type a question, and its answer");
    if (!lines.length) throw new Error("there is no statement to teach; type one");
    const texts = lines.map((line) => [...words.encode(line), DATA.tokenizer.eos]);
    if (texts.some((ids) => ids.length > DATA.longest))
      throw new Error("a statement is longer than the model reads; shorten it");
    if (lines.length > 40) throw new Error("more than 40 statements would take long; name fewer");
    const one = { question: test, answer: said, before: reply(test), now: "" };
    doing.textContent = "choosing slots …";
    await pause();
    for (const { step, loss, slots } of model.teach(texts, DATA.settings)) {
      bar.value = step / DATA.settings.steps;
      doing.textContent = `step ${step} of ${DATA.settings.steps}, loss ${loss.toFixed(2)}, ${count(slots)} slots`;
      paintTable();
      await pause();
    }
    taught.push(one);
    await again();
  }
  async function ask(text) {
    if (!text) throw new Error("type a question first");
    const now = reply(text),
      old = questions.findIndex((one) => one.question === text);
    if (old >= 0) questions.splice(old, 1);
    questions.unshift({ question: text, now });
  }
  async function forget() {
    model.values.set(model.base);
    taught.length = 0;
    bar.value = 0;
    await again();
  }
  teach.addEventListener("click", () => run(lesson));
  reset.addEventListener("click", () => run(forget));

  function paintTable() {
    const cells = new Float32Array(DATA.side ** 2),
      root_ = Math.sqrt(DATA.model.memory.slots);
    let changed = 0;
    for (let slot = 0; slot < DATA.model.memory.slots; slot++) {
      let moved = 0;
      for (let i = slot * D; i < (slot + 1) * D; i++) moved += (model.values[i] - model.base[i]) ** 2;
      if (!moved) continue;
      changed += 1;
      const cell =
        Math.floor((Math.floor(slot / root_) * DATA.side) / root_) * DATA.side +
        Math.floor(((slot % root_) * DATA.side) / root_);
      cells[cell] = Math.max(cells[cell], Math.sqrt(moved));
    }
    const most = cells.reduce((a, b) => Math.max(a, b), 0);
    drawCells(canvas, cells, (value) => (most ? Math.sqrt(value / most) : 0), root.classList.contains("dark"));
    legend.textContent = changed
      ? `${count(changed)} of ${count(DATA.model.memory.slots)} rows have changed (${percent(changed / DATA.model.memory.slots, 1)}).`
      : "Nothing has changed yet.";
    canvas.setAttribute("aria-label", `The table of slots. ${legend.textContent}`);
  }
  function show() {
    const last = taught.at(-1),
      stay = kept ? unchanged(DATA.known, taught) : [],
      figure = (kind, value, text) =>
        make("span", { class: kind }, make("b", {}, value), make("span", { class: "muted" }, text));
    numbers.replaceChildren(
      ...(last ? [figure(right(last) ? "good" : "", spokenAs(last.now), "the model's answer now")] : []),
      ...(stay.length
        ? [
            figure(
              "old",
              percent(stay.filter((i) => kept[i]).length / stay.length, 1),
              `of ${count(stay.length)} old facts kept`,
            ),
          ]
        : []),
    );
    const rows = taught.map((one) => [
      [one.question],
      [one.answer],
      [spokenAs(one.before)],
      [spokenAs(one.now), right(one) ? "right" : "wrong"],
    ]);
    lessons.replaceChildren(
      ...(rows.length
        ? [make("h4", {}, "Taught so far"), grid([["Question"], ["Taught"], ["Before"], ["Now"]], rows)]
        : []),
    );
    const gone = stay.filter((i) => !kept[i]).map((i) => DATA.known[i]);
    lost.replaceChildren(
      ...(gone.length
        ? [
            make("h4", {}, "Forgotten"),
            grid(
              [["Question"], ["It knew"]],
              gone.map((one) => [[one.question], [one.answer]]),
            ),
          ]
        : []),
    );
    answers.replaceChildren(
      ...(questions.length
        ? [
            grid(
              [["Question"], ["Answer now"]],
              questions.map((one) => [[one.question], [spokenAs(one.now)]]),
            ),
          ]
        : []),
    );
    paintTable();
  }
  propose();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ({ matches }) =>
    document.body.classList.toggle("in-dark", matches),
  );
  watch({}, show);
  root.dataset.state = "ready";
}
begin();
