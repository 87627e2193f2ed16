// A question with choices; what came out is marked once the kernel has told it and a guess was made, or Show was pressed.

function render({ model, el }) {
  const { root, note, get, watch } = shell(model, el, `Predict: ${model.get("question")}`, "Predict", "");
  const question = make("p", { class: "question" }, get("question"));
  const name = `guess-${Math.random()}`;
  const radios = get("choices").map((_, i) =>
    make("input", {
      type: "radio",
      name,
      value: i,
      onchange: () => {
        model.set("chosen", i);
        model.save_changes();
      },
    }),
  );
  const lines = get("choices").map((text, i) => make("label", {}, radios[i], text));
  const outcome = make("p", { class: "outcome", role: "status" });
  let asked = false;
  const reveal = make(
    "button",
    {
      type: "button",
      "data-do": "show",
      hidden: true,
      title: "Without a guess",
      onclick: () => {
        asked = true;
        show();
      },
    },
    "Show",
  );
  root.classList.add("predict");
  root.append(
    question,
    make("div", { class: "choices", role: "radiogroup", "aria-label": get("question") }, ...lines),
    make("div", { class: "buttons after" }, outcome, reveal),
    note,
  );

  function show() {
    const chosen = get("chosen"),
      out = get("outcome") !== "",
      open = out && (chosen >= 0 || asked),
      right = open ? get("right") : -1;
    reveal.hidden = !out || open;
    radios.forEach((radio, i) => {
      radio.checked = i === chosen;
    });
    lines.forEach((line, i) => {
      line.classList.toggle("right", i === right);
      line.classList.toggle("wrong", right >= 0 && i === chosen && i !== right);
    });
    outcome.textContent = open
      ? get("outcome")
      : out
        ? "It has come out. Choose first, or"
        : chosen < 0
          ? "Choose, then run the next cell."
          : "Noted. Run the next cell to see.";
  }
  return watch({ chosen: show, right: show, outcome: show }, show);
}
export default { render };
