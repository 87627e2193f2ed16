// A question with choices; what came out is marked when the kernel tells.

function render({ model, el }) {
  const { root, note, get, watch } = shell(model, el, `Predict: ${model.get("question")}`, "Predict", "");
  const question = make("p", { class: "question" }, get("question"));
  const name = `guess-${Math.random()}`;
  const radios = get("choices").map((_, i) => make("input", { type: "radio", name, value: i, onchange: () => { model.set("chosen", i); model.save_changes(); } }));
  const lines = get("choices").map((text, i) => make("label", {}, radios[i], text));
  const told = make("p", { class: "told", role: "status" });
  root.classList.add("predict");
  root.append(question, make("div", { class: "choices", role: "radiogroup", "aria-label": get("question") }, ...lines), told, note);

  function show() {
    const [chosen, right] = [get("chosen"), get("right")];
    radios.forEach((radio, i) => { radio.checked = i === chosen; });
    lines.forEach((line, i) => {
      line.classList.toggle("right", i === right);
      line.classList.toggle("wrong", right >= 0 && i === chosen && i !== right);
    });
    told.textContent = get("told") || (chosen < 0 ? "Choose, then run the next cell." : "Noted. Run the next cell to see.");
  }
  return watch({ chosen: show, right: show, told: show }, show);
}
export default { render };
