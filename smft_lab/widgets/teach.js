// A form to teach from, and what the lesson does: the answer, the slots, and everything that should stay as it was.

function render({ model, el }) {
  const limits = model.get("limits");
  const { root, error, note, stale, get, send, settled, typed, heed, fill, button, labelled, watch } = shell(
    model,
    el,
    "Teach: one sentence at a time",
    "Teach",
    `each ${limits.mixed ? "fact" : "step"} may change ${count(limits.top_t)} of ${count(limits.slots * limits.tables)} slots`,
  );
  const sentence = make("input", {
    type: "text",
    "aria-label": "Sentence",
    placeholder: "Mira's dog is called Biscuit",
  });
  const question = make("input", {
    type: "text",
    "aria-label": "Question that tests it",
    placeholder: "What is the name of Mira's dog?",
  });
  const answer = make("input", { type: "text", "aria-label": "Its answer", placeholder: "Biscuit" });
  const statements = make("textarea", {
    rows: 10,
    "aria-label": "Statements to learn from, one a line",
    spellcheck: "false",
  });
  const wordings = make("textarea", {
    rows: 3,
    "aria-label": "Other ways to ask it, which are taught, one a line",
    spellcheck: "false",
  });
  if (limits.mixed) statements.rows = 3;
  const passes = make("input", { type: "number", min: 1, max: 200, value: limits.passes });
  const topT = make("input", { type: "number", min: 1, max: limits.slots, value: limits.top_t });
  const lines = (field) => field.value.split("\n");
  const whole = (input) => (input.value.trim() === "" ? 0 : Math.round(Number(input.value)));

  // What follows by rule from the sentence and its question is proposed anew whenever one of them changes, but for what a person gave.
  // A lesson waits until what stands in the fields has been proposed or taken over: what is seen is what is taught.
  const fields = { sentence, question, answer, statements, wordings },
    byRule = ["answer", "statements", "wordings"];
  const text = () =>
    Object.values(fields)
      .map((field) => field.value)
      .join("\0");
  const content = (name) => (name === "answer" ? answer.value : lines(fields[name]));
  let held = false,
    proposed = null; // whether a lesson waits, and the text that was last proposed from
  function propose(anew = false) {
    const draft = get("draft"),
      next = draft.taught && sentence.value !== draft.sentence; // what was given for the last fact is not for this one
    const given = anew
      ? []
      : byRule.filter((name) => typed.has(fields[name]) || (!next && draft.edited.includes(name)));
    proposed = text();
    send("propose", {
      sentence: sentence.value,
      question: question.value,
      ...Object.fromEntries(given.map((name) => [name, content(name)])),
    });
  }
  const drafted = () =>
    Object.entries(fields).every(
      ([name, field]) =>
        field.value === (Array.isArray(get("draft")[name]) ? get("draft")[name].join("\n") : get("draft")[name]),
    );
  const begin = () =>
    send("teach", {
      statements: lines(statements),
      wordings: lines(wordings),
      question: question.value,
      answer: answer.value,
      passes: whole(passes),
      top_t: whole(topT),
    });
  heed(...Object.values(fields));
  for (const field of Object.values(fields)) field.addEventListener("change", () => propose());
  question.addEventListener("input", () => showStale());
  const anew = make(
    "button",
    {
      type: "button",
      "data-do": "anew",
      title: "Drop what was edited, and propose by rule",
      onclick: () => {
        for (const name of byRule) typed.delete(fields[name]);
        propose(true);
      },
    },
    "Propose anew",
  );
  const whose = make("span");
  const teach = make(
    "button",
    {
      type: "button",
      class: "main",
      "data-do": "teach",
      title: "Learn the statements, on top of all that was taught before",
      onclick: () => {
        if (drafted()) return begin();
        if (settled() || proposed !== text()) propose();
        held = true;
      },
    },
    "Teach",
  );
  const stop = button("stop", "Stop", "End the lesson here");
  const undo = button("undo", "Undo", "The model is as it was before the last lesson");
  const reset = button("reset", "Reset", "Bring the base back; all lessons are gone");
  const save = button("save", "Save patch", "Write the changed rows to a file; an older one stays");
  const bar = make("progress", { max: 1, value: 0, "aria-label": "Steps done" });
  const doing = make("span", { class: "muted", role: "status" });
  const numbers = make("div", { class: "numbers", "aria-live": "polite" });
  const canvas = make("canvas", { width: limits.side, height: limits.side, role: "img" });
  const legend = make("p", { class: "muted" });
  const lessons = make("div", { class: "below" }),
    probes = make("div", { class: "below" }),
    answers = make("div");
  const asked = make("input", {
    type: "text",
    placeholder: "Ask the model anything",
    "aria-label": "Question to the model",
  });
  const form = make(
    "form",
    {
      class: "ask",
      onsubmit: (event) => {
        event.preventDefault();
        send("ask", { question: asked.value });
      },
    },
    asked,
    make("button", { type: "submit" }, "Ask"),
  );
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
        make("div", { class: "drafted" }, whose, anew),
        statements,
        ...(limits.mixed
          ? [
              make("h4", { class: "next" }, "Other ways to ask it, also taught; the question above is only asked"),
              wordings,
            ]
          : []),
        make(
          "div",
          { class: "settings" },
          labelled("Passes", passes),
          labelled("Top t", topT),
          make("div", { class: "buttons" }, teach, stop, undo, reset, save),
        ),
        make("div", { class: "buttons" }, bar, doing),
        error,
        note,
        stale,
        numbers,
      ),
      make("div", {}, make("h4", {}, "The table: slots changed since the base"), canvas, legend),
    ),
    lessons,
    probes,
    form,
    familiarTo(limits.familiar, asked, (question) => send("ask", { question })),
    answers,
  );

  function showDraft() {
    const draft = {
      ...get("draft"),
      statements: get("draft").statements.join("\n"),
      wordings: get("draft").wordings.join("\n"),
    };
    for (const [name, field] of Object.entries(fields)) fill(field, draft[name]);
    const edited = draft.edited.map(
      (name) => ({ answer: "the answer", statements: "the statements", wordings: "the wordings" })[name],
    );
    whose.textContent = edited.length ? `As edited: ${edited.join(" and ")}.` : "Proposed by rule.";
    anew.hidden = !edited.length;
    showStale();
  }
  function showHandled() {
    if (!settled()) return;
    showDraft();
    if (held && drafted() && !get("error")) begin();
    held = false;
  }
  function showStale() {
    const about = get("live").question;
    stale.textContent =
      about && about !== question.value.trim() ? `The figures below are of the lesson on “${about}”.` : "";
  }
  function showLive() {
    const live = get("live"),
      cell = (kind, value, text) =>
        make("span", { class: kind }, make("b", {}, value), make("span", { class: "muted" }, text));
    bar.value = live.total ? live.step / live.total : 0;
    showStale();
    doing.textContent = live.doing && get("state") === "running" ? `${live.doing} …` : "";
    numbers.replaceChildren(
      ...(live.total
        ? [
            cell(live.right ? "good" : "", spokenAs(live.answer), "the model's answer now"),
            cell("", `${live.step} / ${live.total}`, "gradient steps"),
            cell("", live.loss == null ? "–" : live.loss.toFixed(2), "loss, nats per token"),
            cell("", count(live.slots), "slots trained"),
            ...(limits.kept.count
              ? [cell("old", percent(live.kept, 1), `of ${count(limits.kept.count)} ${limits.kept.facts} kept`)]
              : []),
          ]
        : []),
    );
  }
  function paintTable() {
    const cells = floats(get("heat")),
      max = cells.reduce((a, b) => Math.max(a, b), 0),
      changed = cells.reduce((a, b) => a + (b > 0), 0);
    drawCells(canvas, cells, (value) => (max ? Math.sqrt(value / max) : 0), root.classList.contains("dark"));
    legend.textContent = max
      ? `${count(changed)} cells changed; the row that moved most moved by a norm of ${max.toFixed(2)}.`
      : "Nothing has changed yet.";
    canvas.setAttribute("aria-label", `The table of slots. ${legend.textContent}`);
  }
  const inOthers = (others) => {
    const wrong = others.filter((one) => !one.right).map((one) => `“${one.question}” → ${spokenAs(one.now)}`);
    return `${others.length - wrong.length} of ${others.length} right${wrong.length ? `. Wrong: ${wrong.join("; ")}` : ""}`;
  };
  function showLessons() {
    const taught = get("lessons");
    const rows = taught.map((one) => [
      [one.question],
      [spokenAs(one.before)],
      [spokenAs(one.now), one.right ? "right" : "wrong"],
      [one.answer],
      [inOthers(one.others)],
      [count(one.slots), "n"],
      [one.shared.length ? one.shared.map((two) => `${count(two.slots)} with “${two.question}”`).join("; ") : "none"],
    ]);
    lessons.replaceChildren(
      ...(taught.length
        ? [
            make("h4", {}, "Taught so far"),
            grid(
              [
                ["Question"],
                ["Before"],
                ["Now"],
                ["Taught"],
                ["In wordings that nobody taught"],
                ["Slots changed so far", "n"],
                ["Shared by other lessons"],
              ],
              rows,
            ),
          ]
        : []),
    );
    undo.disabled = save.disabled = !taught.length;
  }
  function showProbes() {
    const rows = get("probes").map((one) => {
      const text = (v) => (one.metric === "nll" ? `${v.toFixed(3)} nats` : percent(v, 1));
      return [[one.title], [text(one.base), "n"], [text(one.now), "n"]];
    });
    const gone = get("lost").map((one) => [[one.question], [one.answer], [spokenAs(one.now), "wrong"]]);
    probes.replaceChildren(
      ...(rows.length
        ? [make("h4", {}, "What should stay"), grid([["Held-out probe"], ["Base", "n"], ["Now", "n"]], rows)]
        : []),
      ...(gone.length
        ? [
            make("h4", {}, `Forgotten: ${gone.length} of ${limits.kept.count}`),
            grid([["Question"], ["Right"], ["Now"]], gone),
          ]
        : []),
    );
  }
  function showAnswers() {
    const rows = get("answers").map((one) => [[one.question], [spokenAs(one.now)]]);
    answers.replaceChildren(...(rows.length ? [grid([["Question"], ["Answer now"]], rows)] : []));
  }
  function showState() {
    const running = get("state") === "running";
    root.dataset.state = get("state");
    teach.disabled = running;
    stop.disabled = !running;
    showLive();
  }
  showDraft();
  return watch(
    {
      draft: showDraft,
      handled: showHandled,
      live: showLive,
      heat: paintTable,
      lessons: showLessons,
      probes: showProbes,
      lost: showProbes,
      answers: showAnswers,
      state: showState,
    },
    () => {
      showLive();
      paintTable();
      showLessons();
      showProbes();
      showAnswers();
      showState();
    },
  );
}
export default { render };
