// Two meters: whether a fact's question reads the slots of its wordings, and how loud the memory is.

function render({ model, el }) {
  const limits = model.get("limits"),
    where = limits.blocks;
  const { root, error, note, get, button, colours, watch } = shell(
    model,
    el,
    "Addresses: will a fact be found, and is it heard?",
    "Addresses",
    `${count(limits.facts)} facts · memory at block${where.length === 1 ? "" : "s"} ${where.join(", ")}`,
  );
  const found = draw("svg", { viewBox: "0 0 620 60", role: "img" });
  const gauge = draw("svg", { viewBox: "0 0 460 132", role: "img" });
  const verdict = make("p"),
    message = make("p", { role: "status" }),
    tables = make("p", { class: "muted" }),
    list = make("div", { class: "bars" });
  const again = button("measure", "Measure again", "Both meters, of the model as it is now");
  root.append(
    error,
    note,
    make(
      "div",
      { class: "charts" },
      make(
        "div",
        {},
        make("h4", {}, "Will a fact be found?"),
        verdict,
        ...(get("blocks").length ? [found] : []),
        tables,
      ),
      make("div", {}, make("h4", {}, "Is it heard?"), message, gauge, make("div", { class: "buttons after" }, again)),
    ),
    make("div", { class: "below" }, make("h4", {}, "Fact by fact, the hardest to find first"), list),
  );

  const two = (value) => value.toFixed(2);

  // A row per block: from how alike two facts are to how alike a fact's own wordings are.
  function paintBlocks() {
    const rows = get("blocks"),
      palette = colours("new", "muted", "line", "ink"),
      L = 84,
      R = 604,
      step = 26,
      T = 8,
      B = T + step * rows.length;
    if (!rows.length) return;
    const top = Math.max(0.1, Math.ceil(10 * Math.max(...rows.map((row) => row.same)) + 0.2) / 10),
      x = (v) => L + (v / top) * (R - L);
    found.setAttribute("viewBox", `0 0 620 ${B + 42}`);
    const parts = [];
    for (let v = 0; v <= top + 1e-9; v += top > 0.5 ? 0.2 : 0.1) {
      parts.push(
        draw("line", { x1: x(v), x2: x(v), y1: T, y2: B, stroke: palette.line }),
        draw("text", { x: x(v), y: B + 17, "text-anchor": "middle" }, v.toFixed(1)),
      );
    }
    rows.forEach((row, i) => {
      const y = T + step * (i + 0.5),
        tip = `block ${row.block}: same fact ${two(row.same)}, two facts ${two(row.different)}`;
      parts.push(
        draw(
          "text",
          { class: row.here ? "name" : "", x: L - 10, y: y + 4, "text-anchor": "end" },
          row.here ? `block ${row.block} ▸` : `block ${row.block}`,
        ),
        draw("line", {
          x1: x(row.different),
          x2: x(row.same),
          y1: y,
          y2: y,
          stroke: palette.new,
          "stroke-width": row.here ? 7 : 4,
          "stroke-opacity": row.here ? 0.5 : 0.25,
        }),
        draw("circle", { cx: x(row.different), cy: y, r: 4.5, fill: palette.muted }, draw("title", {}, tip)),
        draw("circle", { cx: x(row.same), cy: y, r: row.here ? 6 : 4.5, fill: palette.new }, draw("title", {}, tip)),
      );
    });
    parts.push(
      draw("circle", { cx: L + 6, cy: B + 33, r: 4.5, fill: palette.muted }),
      draw("text", { x: L + 15, y: B + 37 }, "two facts"),
      draw("circle", { cx: L + 96, cy: B + 33, r: 4.5, fill: palette.new }),
      draw("text", { x: L + 105, y: B + 37 }, "same fact, other wording"),
      draw("text", { x: R, y: B + 37, "text-anchor": "end" }, "how alike their addresses are"),
    );
    found.replaceChildren(...parts);
    found.setAttribute(
      "aria-label",
      rows
        .map(
          (row) =>
            `block ${row.block}${row.here ? ", where the memory is" : ""}: same fact ${two(row.same)}, two facts ${two(row.different)}`,
        )
        .join("; "),
    );
  }

  function paintFacts() {
    const facts = get("facts"),
      weak = facts.filter((fact) => fact.weak).length,
      top = Math.max(0.1, ...facts.map((fact) => Math.max(fact.same, fact.different)));
    verdict.className = weak ? "wrong" : "right";
    verdict.textContent = weak
      ? `${weak} of ${facts.length} facts are hard to find: their questions read other slots than their wordings.`
      : `Yes: each of ${facts.length} questions reads the slots of its own fact's wordings.`;
    tables.textContent = `${get("tables")
      .map(
        (one, i) =>
          `${get("tables").length > 1 ? `Table ${i}: ` : "This memory, these facts: "}${two(one.same)} same fact, ${two(one.different)} two facts`,
      )
      .join(" · ")}. A wide gap is good.`;
    const bar = (fact) =>
      make(
        "td",
        {
          class: "bar span",
          title: `${two(fact.same)} like its own wordings, ${two(fact.different)} like another fact's`,
        },
        make("i", { class: fact.weak ? "low" : "", style: `width:${((100 * fact.same) / top).toFixed(1)}%` }),
        make("u", { style: `left:${((100 * fact.different) / top).toFixed(1)}%` }),
      );
    const head = make(
      "tr",
      {},
      ...[["Question"], ["Its own wordings", "n"], ["(line: another fact's)"], ["What to do"]].map(([text, kind]) =>
        make("th", { class: kind }, text),
      ),
    );
    list.replaceChildren(
      make(
        "table",
        {},
        make("thead", {}, head),
        make(
          "tbody",
          {},
          ...facts.map((fact) =>
            make(
              "tr",
              {},
              make("td", {}, fact.question),
              make("td", { class: "n" }, two(fact.same)),
              bar(fact),
              make(
                "td",
                { class: fact.weak ? "wrong" : "muted" },
                fact.weak ? sentence(fact.advice.replaceAll("`", "")) : "nothing",
              ),
            ),
          ),
        ),
      ),
    );
  }

  // The gauge, on a log scale from a hundredth to ten times the stream.
  function paintGauge() {
    const heard = get("loudness"),
      palette = colours("new", "muted", "line", "ink", "good", "bad", "old"),
      L = 14,
      R = 446,
      T = 38,
      B = 66,
      low = 0.005,
      high = 20;
    const x = (v) => L + (Math.log(Math.min(high, Math.max(low, v)) / low) / Math.log(high / low)) * (R - L),
      parts = [];
    const bands = [
      [low, limits.quiet, palette.old, "quiet"],
      [limits.quiet, limits.loud, palette.good, "good"],
      [limits.loud, high, palette.bad, "loud"],
    ];
    for (const [from, to, fill, name] of bands) {
      parts.push(
        draw("rect", {
          x: x(from) + 1,
          width: x(to) - x(from) - 2,
          y: T,
          height: B - T,
          fill,
          "fill-opacity": name === heard.state ? 0.55 : 0.2,
          rx: 3,
        }),
        draw(
          "text",
          { class: name === heard.state ? "name" : "", x: (x(from) + x(to)) / 2, y: B + 38, "text-anchor": "middle" },
          name,
        ),
      );
    }
    for (const v of [0.01, limits.quiet, 0.2, limits.loud, 5])
      parts.push(draw("text", { x: x(v), y: B + 18, "text-anchor": "middle" }, String(v)));
    for (const v of heard.trail)
      parts.push(draw("circle", { cx: x(v), cy: (T + B) / 2, r: 2.5, fill: palette.ink, "fill-opacity": 0.35 }));
    if (heard.median) {
      parts.push(
        draw("line", {
          x1: x(heard.low),
          x2: x(heard.high),
          y1: (T + B) / 2,
          y2: (T + B) / 2,
          stroke: palette.ink,
          "stroke-width": 2,
        }),
        draw("path", { d: `M${x(heard.median)} ${T - 3} l-7 -11 h14 z`, fill: palette.ink }),
        draw("line", {
          x1: x(heard.median),
          x2: x(heard.median),
          y1: T - 3,
          y2: B + 2,
          stroke: palette.ink,
          "stroke-width": 2.5,
        }),
        draw(
          "text",
          { class: "name", x: Math.min(R - 20, Math.max(L + 20, x(heard.median))), y: T - 19, "text-anchor": "middle" },
          heard.median < 0.01 ? heard.median.toFixed(4) : two(heard.median),
        ),
      );
    }
    parts.push(
      draw(
        "text",
        { x: (L + R) / 2, y: B + 60, "text-anchor": "middle" },
        "what the memory adds, over what it is added to",
      ),
    );
    gauge.replaceChildren(...parts);
    gauge.style.display = heard.state === "part" ? "none" : "";
    message.textContent = heard.message;
    message.className = { good: "right", quiet: "wrong", loud: "wrong" }[heard.state] ?? "muted";
    gauge.setAttribute("aria-label", heard.message);
  }
  return watch({ blocks: paintBlocks, facts: paintFacts, tables: paintFacts, loudness: paintGauge }, () => {
    paintBlocks();
    paintFacts();
    paintGauge();
  });
}
export default { render };
