// Colours what the kernel publishes; a click on a token, a cell or a bar asks for the card of a slot, which is then marked in all three.

const SCALES = {
  // value and largest value to a share in [0, 1]
  count: (v, max) => Math.log1p(v) / Math.log1p(max),
  df: (v, max) => v / max,
  tfidf: (v, max) => Math.sqrt(v / max),
  change: (v, max) => v / max,
  core: (v) => v / 2,
};
const SCALE_NAMES = {
  count: "log scale",
  df: "linear scale",
  tfidf: "square-root scale",
  change: "linear scale",
  core: "",
};
const short = (v) => (v === 0 ? "0" : Number.isInteger(v) ? count(v) : v >= 0.01 ? v.toFixed(3) : v.toExponential(1));

const POINT = "Point at a cell; click it for its card.";

function render({ model, el }) {
  const limits = model.get("limits"),
    side = limits.side;
  const { root, error, note, stale, get, send, typed, heed, fill, labelled, watch } = shell(
    model,
    el,
    "Slots: what a text reads",
    "Slots",
    `${count(limits.slots)} slots${limits.tables > 1 ? ` in each of ${limits.tables} tables` : ""}, as the square of product keys`,
  );

  // Controls
  const text = make("input", { type: "text", placeholder: "Type any text", "aria-label": "Text" });
  const pick = make(
    "select",
    { "aria-label": "Fact" },
    make("option", { value: "" }, "or pick a fact"),
    ...limits.facts.map((question, i) => make("option", { value: i }, question)),
  );
  const form = make(
    "form",
    {
      class: "ask",
      onsubmit: (event) => {
        event.preventDefault();
        send("read", { text: text.value });
      },
    },
    text,
    make("button", { type: "submit" }, "Read"),
    ...(limits.facts.length ? [pick] : []),
  );
  pick.addEventListener("change", () => {
    typed.delete(text); // another text is asked for
    if (pick.value !== "") send("pick", { fact: Number(pick.value) });
  });
  const views = Object.entries(limits.maps).map(([view, { name }]) =>
    make("button", { type: "button", "data-view": view, onclick: () => send("look", { view }) }, name),
  );
  const table = make(
    "select",
    {},
    ...Array.from({ length: limits.tables }, (_, i) => make("option", { value: i }, String(i))),
  );
  table.addEventListener("change", () => send("look", { table: Number(table.value) }));
  const topT = make("input", { type: "number", min: 1, max: limits.slots });
  topT.addEventListener("change", () => send("look", { top_t: asNumber(topT) ?? 0 }));
  const wanted = make("input", { type: "number", min: 0, max: limits.slots - 1, placeholder: "0" });
  wanted.addEventListener("change", () => wanted.value !== "" && card(Math.round(Number(wanted.value))));
  const card = (slot) => send("describe", { slot });
  heed(text, pick, table, topT);
  text.addEventListener("input", showStale);
  function showStale() {
    const subject = get("subject");
    stale.textContent =
      text.value === subject.text
        ? ""
        : `What is shown are the reads of “${subject.text}”; press Read for what is typed.`;
  }

  // What is drawn
  const strips = make("div", { class: "strips", role: "img" });
  const about = make("p", { class: "muted" });
  const canvas = make("canvas", { class: "wide", width: side, height: side, role: "img" });
  const under = make("p", { class: "muted under" }, POINT);
  const legend = make("div", { class: "legend" });
  const core = make("p", { class: "muted" });
  const bars = make("div", { class: "bars" });
  const facts = make("div", { class: "card", "aria-live": "polite" });
  const ring = make("i", { class: "ring", hidden: true });
  root.append(
    form,
    error,
    note,
    stale,
    strips,
    about,
    make(
      "div",
      { class: "settings" },
      make("div", { class: "buttons views", role: "group", "aria-label": "Colour by" }, ...views),
      ...(limits.tables > 1 ? [labelled("Table", table)] : []),
      make("div", { class: "settings" }, labelled("Top t", topT), labelled("Slot", wanted)),
    ),
    make(
      "div",
      { class: "charts even" },
      make(
        "div",
        {},
        make("h4", {}, "The table: every cell a slot"),
        make("div", { class: "over" }, canvas, ring),
        legend,
        under,
      ),
      make("div", {}, facts, make("h4", {}, "Top slots of this text, by TF-IDF"), bars, core),
    ),
  );

  let cells = new Float32Array(0),
    max = 1,
    pointed = null, // the cell that was pointed at last
    looked = null; // the token that was clicked last
  const isDark_ = () => root.classList.contains("dark");
  const colour = (value) => css(shade(SCALES[get("settings").view](value, max), isDark_()));

  function paintTable() {
    const { view } = get("settings"),
      { unit } = limits.maps[view],
      dark = isDark_();
    cells = floats(get("heat"));
    max = view === "core" ? 2 : cells.reduce((a, b) => Math.max(a, b), 0) || 1;
    drawCells(canvas, cells, (value) => SCALES[view](value, max), dark);
    canvas.setAttribute(
      "aria-label",
      `The table of slots, coloured by ${limits.maps[view].name}; the largest value is ${short(max)} ${unit}.`,
    );
    const steps = Array.from({ length: 9 }, (_, i) => css(shade((i + 0.5) / 9, dark)));
    const words =
      view === "core"
        ? ["in the core, outside the top t", "in the core and the top t"]
        : ["0", `${short(max)} ${unit}, ${SCALE_NAMES[view]}`];
    legend.replaceChildren(
      make("span", {}, words[0]),
      make("i", { style: `background:linear-gradient(90deg,${steps.join(",")})` }),
      make("span", {}, words[1]),
    );
    for (const button of views) {
      button.setAttribute("aria-pressed", String(button.dataset.view === view));
      button.disabled = button.dataset.view === "core" && !get("core");
    }
    fill(table, get("settings").table);
    fill(topT, get("settings").top_t);
    paintStrips();
    showPointed(); // it may have another value now
  }

  function paintStrips() {
    const { view } = get("settings"),
      subject = get("subject");
    strips.replaceChildren(
      ...get("tokens").map((token, place, all) => {
        const order = token.slots.map((_, i) => i).sort((a, b) => token.values[b] - token.values[a]),
          step = 100 / order.length;
        const parts = order.map(
          (i, at) => `${colour(token.values[i])} ${(at * step).toFixed(2)}% ${((at + 1) * step).toFixed(2)}%`,
        );
        const strip = make("i", { style: `background:linear-gradient(90deg,${parts.join(",")})` });
        const word =
          token.text.trim() ||
          (token.text.includes("\n") ? "⏎" : "") ||
          (place ? (place === all.length - 1 ? "end" : "␣") : "start");
        const best = order[0],
          tip = `“${word}” reads ${order.length} slots. Highest: slot ${token.slots[best]}, ${short(token.values[best])} ${limits.maps[view].unit}. Click for its card, again for the next`;
        const sorted = order.map((i) => token.slots[i]);
        const button = make(
          "button",
          {
            type: "button",
            class: `token${token.text ? "" : " mark"}`,
            title: tip,
            "aria-label": tip,
            onclick: () => {
              const next = looked === place ? (sorted.indexOf(get("slot")?.slot) + 1) % sorted.length : 0;
              looked = place;
              card(sorted[next]);
            },
          },
          make("span", {}, word),
          strip,
        );
        button.sorted = sorted;
        return button;
      }),
    );
    markSlot();
    strips.setAttribute("aria-label", `${get("tokens").length} tokens, coloured by ${limits.maps[view].name}`);
    about.textContent =
      subject.fact == null
        ? "Under each token its reads, highest first. Click one for its slot."
        : `The first of ${subject.statements} ${limits.grouped ? "texts that teach it" : "paraphrases"}; reads are counted over all of them, as ${limits.grouped ? "the choice of slots" : "one gradient step"} does. Under each token its reads, highest first; click one for its slot.`;
    fill(text, subject.text);
    fill(pick, subject.fact);
    showStale();
  }

  function paintRanking() {
    const rows = get("ranking"),
      top = rows[0]?.tfidf || 1,
      cut = get("settings").top_t;
    const head = make(
      "tr",
      {},
      ...["", "Slot", "Score", "", "TF", "IDF", "df"].map((name, i) =>
        make("th", { class: i === 1 || i > 3 || i === 2 ? "n" : "" }, name),
      ),
    );
    bars.replaceChildren(
      make(
        "table",
        {},
        make("thead", {}, head),
        make(
          "tbody",
          {},
          ...rows.map((row, i) =>
            make(
              "tr",
              {
                class: `pick${i < cut ? "" : " out"}`,
                tabindex: 0,
                "data-slot": row.slot,
                "aria-label": `slot ${row.slot}, rank ${i + 1}`,
                onclick: () => card(row.slot),
                onkeydown: (event) => event.key === "Enter" && card(row.slot),
              },
              make("td", { class: "muted n" }, String(i + 1)),
              make("td", { class: "n" }, String(row.slot)),
              make("td", { class: "n" }, row.tfidf.toFixed(4)),
              make("td", { class: "bar" }, make("i", { style: `width:${((100 * row.tfidf) / top).toFixed(1)}%` })),
              make("td", { class: "n" }, percent(row.tf, 2)),
              make("td", { class: "n" }, row.idf.toFixed(2)),
              make("td", { class: "n" }, count(row.df)),
            ),
          ),
        ),
      ),
    );
    markSlot();
    const set = get("core");
    core.textContent = set
      ? `Core set: ${count(set.size)} slots are read by every paraphrase and by the question. The top ${count(cut)} of the ${count(set.read)} slots read hold ${count(set.covered)} of them; ` +
        `${count(set.common)} are read in over half of all background batches, so TF-IDF scores them low.`
      : "";
  }

  // The chosen slot, where it is in the table, in the ranking and among the reads of each token.
  function markSlot() {
    const slot = get("slot")?.slot,
      keys = Math.round(Math.sqrt(limits.slots));
    const cell = (at) => Math.floor((at * side) / keys);
    ring.hidden = slot == null;
    if (slot != null) {
      ring.style.left = `${(100 * (cell(slot % keys) + 0.5)) / side}%`;
      ring.style.top = `${(100 * (cell(Math.floor(slot / keys)) + 0.5)) / side}%`;
    }
    for (const row of bars.querySelectorAll("tr.pick"))
      row.toggleAttribute("aria-current", Number(row.dataset.slot) === slot);
    for (const button of strips.children) {
      const at = button.sorted.indexOf(slot);
      button.classList.toggle("reads", at >= 0);
      button.lastElementChild.style.setProperty("--at", `${(100 * (at + 0.5)) / button.sorted.length}%`);
    }
  }

  function paintCard() {
    const one = get("slot");
    markSlot();
    if (!one)
      return facts.replaceChildren(
        make("p", { class: "muted" }, "Click a token, a cell or a bar for the card of its slot."),
      );
    const line = (name, value) => [[name], [value, "n"]];
    const list = (items, empty) =>
      items.length
        ? items.map(([name, value]) =>
            line(name, typeof value === "number" && !Number.isInteger(value) ? value.toFixed(2) : count(value)),
          )
        : [[[empty], [""]]];
    facts.replaceChildren(
      make(
        "h4",
        {},
        `Slot ${one.slot}: row ${Math.floor(one.slot / Math.sqrt(limits.slots))}, column ${one.slot % Math.sqrt(limits.slots)}`,
      ),
      make(
        "div",
        { class: "three" },
        grid(
          [["Score"], ["", "n"]],
          [
            line("rank", one.rank ? `${count(one.rank)} of ${count(one.of)}` : "not read"),
            line("TF-IDF", one.tfidf.toFixed(5)),
            line("reads of this text (TF)", `${count(one.count)} (${percent(one.tf, 2)})`),
            line(
              "df, of background batches (IDF)",
              `${count(one.df)} of ${count(limits.batches)} (${one.idf.toFixed(2)})`,
            ),
            line("background reads", count(one.background)),
            line("row norm, base", one.norms[0].toFixed(3)),
            line("row norm, now", one.norms[1].toFixed(3)),
            line("norm of the change", one.moved.toFixed(3)),
          ],
        ),
        grid([["Tokens that read it most"], ["weight", "n"]], list(one.tokens, "none in this text")),
        grid(
          [["Facts that read it most"], ["reads", "n"]],
          list(one.facts, limits.facts.length ? "none of those listed" : "no facts given"),
        ),
      ),
    );
  }

  // Pointing at the table
  const at = (event) => {
    const box = canvas.getBoundingClientRect(),
      pos = (v, size) => Math.min(side - 1, Math.max(0, Math.floor((v / size) * side)));
    return pos(event.clientY - box.top - 1, box.height - 2) * side + pos(event.clientX - box.left - 1, box.width - 2);
  };
  let soon = null;
  function showPointed() {
    if (pointed == null) return;
    const { unit } = limits.maps[get("settings").view];
    if (!limits.aggregated)
      under.textContent = `Slot ${pointed}: ${short(cells[pointed])} ${unit}. Click it for its card.`;
    else if (get("under")?.cell === pointed) showUnder();
    else {
      under.textContent = "…";
      clearTimeout(soon);
      soon = setTimeout(() => send("peek", { cell: pointed }), 60);
    }
  }
  canvas.addEventListener("mousemove", (event) => {
    const cell = at(event);
    if (cell === pointed) return;
    pointed = cell;
    showPointed();
  });
  canvas.addEventListener("click", (event) =>
    limits.aggregated ? get("under")?.cell === at(event) && card(get("under").slots[0][0]) : card(at(event)),
  );
  const showUnder = () => {
    const peeked = get("under");
    if (peeked && peeked.cell === pointed)
      under.textContent = `${peeked.of} slots; ${peeked.slots.map(([slot, value]) => `slot ${slot}: ${short(value)}`).join(" · ")}, ${limits.maps[get("settings").view].unit}. Click for the first's card.`;
  };
  const all = () => {
    paintTable();
    paintRanking();
    paintCard();
  };
  return watch(
    {
      heat: paintTable,
      settings: all,
      tokens: paintStrips,
      ranking: paintRanking,
      core: paintRanking,
      slot: paintCard,
      subject: paintStrips,
      under: showUnder,
    },
    all,
  );
}
export default { render };
