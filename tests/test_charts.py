"""The figures and the report page, on a small made-up comparison."""

import json
import os
import re
from html import unescape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from page_policy import Scripts, allowed
from plotly.offline import get_plotlyjs

from smft_lab.charts import report
from smft_lab.charts.figures import curves, mean_over_seeds, plane
from smft_lab.charts.report import is_right, page, write_report
from smft_lab.charts.sentences import headline
from smft_lab.charts.style import DARK_OF, dark_of_light, ordered, percent

STEPS = {
    "sparse": [0, 20, 40, 80, 120, 160, 240],
    "full": [0, 10, 20, 30, 45, 60, 80],
    "lora": [0, 10, 25, 50, 90, 140],
}
LOSS = {"sparse": 0.02, "full": 0.16, "lora": 0.38}  # share of old facts lost by the end
BASE = {"learned": 0.01, "old_facts": 0.985, "two_hop": 0.62, "arithmetic": 0.41, "prose": 1.86}


def made_up_table(methods=("sparse", "full", "lora"), seeds=(0, 1, 2, 3, 4)) -> pd.DataFrame:
    """metrics.csv of a plausible comparison."""
    random = np.random.default_rng(7)
    rows = []
    for method in methods:
        steps, loss = STEPS.get(method, STEPS["full"]), LOSS.get(method, 0.1)
        for seed in seeds:
            for step in steps:
                done = step / steps[-1]
                wobble = random.normal(0, 0.012) * (step > 0)
                learned = min(1.0, BASE["learned"] + 0.985 * (1 - np.exp(-4.5 * done)) + wobble)
                kept = BASE["old_facts"] - loss * done**1.2 * (1 + 3 * wobble)
                hops = BASE["two_hop"] - 0.9 * loss * done + wobble
                values = {
                    ("learned", "em"): learned,
                    ("learned", "f1"): min(1.0, learned + 0.01),
                    ("old_facts", "em"): kept,
                    ("old_facts", "f1"): min(1.0, kept + 0.01),
                    ("two_hop", "em"): hops,
                    ("arithmetic", "nll"): BASE["arithmetic"] + 1.3 * loss * done + abs(wobble),
                    ("prose", "nll"): BASE["prose"] + 0.9 * loss * done + wobble / 3,
                }
                rows += [(method, seed, step, *key, value) for key, value in values.items()]
    return pd.DataFrame(rows, columns=["method", "seed", "step", "probe", "metric", "value"])


def reading(method, probe, metric, mean, half, n=5, n_reached=5):
    """One row of summary["equal_learning"]; `half` is None for one seed."""
    base = BASE[probe]
    drop = mean - base if metric == "nll" else base - mean
    ends = (None, None, None, None) if half is None else (mean - half, mean + half, drop - half, drop + half)
    names = ("low", "high", "drop_low", "drop_high")
    row = {"method": method, "probe": probe, "metric": metric, "base": base, "mean": mean, "drop_mean": drop}
    return row | dict(zip(names, ends, strict=True)) | {"n": n, "n_reached": n_reached}


def made_up_summary(reached=None, single_seed=False) -> dict:
    """summary.json; `reached` maps a method to how many of its seeds reached the target."""
    reached = reached or {}
    means = {
        "sparse": {
            "learned": 0.957,
            "old_facts": 0.9712,
            "two_hop": 0.606,
            "arithmetic": 0.421,
            "prose": 1.871,
        },
        "full": {
            "learned": 0.962,
            "old_facts": 0.8723,
            "two_hop": 0.519,
            "arithmetic": 0.603,
            "prose": 1.977,
        },
        "lora": {
            "learned": 0.953,
            "old_facts": 0.7051,
            "two_hop": 0.388,
            "arithmetic": 0.887,
            "prose": 2.143,
        },
    }
    rows = []
    n = 1 if single_seed else 5
    for method, values in means.items():
        for probe, mean in values.items():
            metric = "nll" if probe in ("arithmetic", "prose") else "em"
            half = None if single_seed else 0.004 + 0.03 * abs(mean - BASE[probe]) * (probe != "learned")
            rows.append(reading(method, probe, metric, mean, half, n, min(n, reached.get(method, n))))
            if metric == "em":
                f1 = reading(method, probe, "f1", min(1, mean + 0.012), half, n, min(n, reached.get(method, n)))
                rows.append(f1)
    return {
        "title": "120 made-up facts taught three ways",
        "settings": {
            "facts": "made-up people, 120 facts in 6 relations",
            "n_facts": 120,
            "passes": 20,
            "top_t": 64,
            "slots": 65536,
            "rule": "tf-idf",
            "order": "shuffled",
            "seeds": [0] if single_seed else [0, 1, 2, 3, 4],
            "statements_per_step": 16,
            "weight_decay": 0.0,
        },
        "methods": {
            "sparse": _costs("sgd", 2.0, 32768, 41.2, 118.4),
            "full": _costs("adamw", 3e-5, 14_238_720, 66.93, 38.0),
            "lora": _costs("adamw", 1e-3, 294_912, 52.07, None if reached.get("lora") == 0 else 84.0),
        },
        "target": 0.95,
        "rule_text": "Each run is read at its first evaluation with at least 95% of the new facts learned.",
        "base": {p: {"nll" if p in ("arithmetic", "prose") else "em": v} for p, v in BASE.items()},
        "equal_learning": rows,
        "final": rows,
        "sweep": [
            _sweep_run("sparse", "sgd", 1.0, False, 240, False),
            _sweep_run("sparse", "sgd", 2.0, True, 118, True),
            _sweep_run("full", "adamw", 3e-5, True, 38, True),
            _sweep_run("lora", "adamw", 1e-3, True, 84, True),
        ],
        "command": "smft-lab compare --facts made-up --n-facts 120 --seeds 5 --out results/made-up",
        "versions": {"smft-lab": "0.1.0", "torch": "2.9.0"},
        "machine": "2 CPU cores, no GPU",
        "seconds": 4210.0,
        "date": "2025-11-03",
    }


def _costs(optimizer, lr, trainable, ms, steps):
    return {
        "optimizer": optimizer,
        "lr": lr,
        "trainable_per_step": trainable,
        "ms_per_step": ms,
        "steps_to_target": steps,
    }


def _sweep_run(method, optimizer, lr, reached, steps, chosen):
    values = {"learned": 0.957 if reached else 0.71, "old_facts": 0.93, "arithmetic": 0.51, "prose": 1.9}
    return {
        "method": method,
        "optimizer": optimizer,
        "lr": lr,
        "reached": reached,
        "steps": steps,
        "chosen": chosen,
        **values,
    }


def made_up_samples() -> list[dict]:
    samples = []
    for i, person in enumerate(["Orla Venn", "Tobin Marsh", "Ilse Quade", "Rafe Dunmore", "Pia Sandoval", "Joss Ader"]):
        answers = {"sparse": "Port Helm", "full": "port helm", "lora": "Port Helm" if i % 2 else "Graywick"}
        samples.append(_sample("learned", f"Where was {person} born?", "Port Helm", "Graywick", answers))
    answers = {
        "sparse": "a violin",
        "full": "a violin",
        "lora": "a rather long answer that goes on, and on, and on",
    }
    samples.append(_sample("old_facts", "What does Mara Ilk play?", "a violin", "a violin", answers))
    answers = {"sparse": "Lowmere", "full": "Port Helm", "lora": ""}
    samples.append(_sample("two_hop", "In which land is Orla Venn’s birthplace?", "Lowmere", "Lowmere", answers))
    samples.append(_sample("arithmetic", "17 + 25 =", "42", "42", {"sparse": "42", "full": "42", "lora": "32"}))
    return samples


def _sample(probe, question, answer, base, answers):
    return {"probe": probe, "question": question, "answer": answer, "base": base, "answers": answers}


def own_text(html: str) -> str:
    """The page without the inlined plotting library."""
    without = html.replace(get_plotlyjs(), "")
    assert len(without) < len(html)
    return without


def traces(figure, role):
    return [trace for trace in figure.data if (trace.meta or {}).get("role") == role]


@pytest.fixture(scope="module")
def table():
    return made_up_table()


@pytest.fixture(scope="module")
def plane_figure(table):
    return plane(table, made_up_summary())


@pytest.fixture(scope="module")
def curves_figure(table):
    return curves(table)


@pytest.fixture
def only_words(monkeypatch):
    """Pages without figures and plotting library, for tests of the words and tables around them."""
    monkeypatch.setattr(report.figures, "plane", lambda *_: go.Figure())
    monkeypatch.setattr(report.figures, "curves", lambda *_: go.Figure())
    monkeypatch.setattr(report, "get_plotlyjs", str)


@pytest.fixture(scope="module")
def html(table):
    return page(table, made_up_summary(), made_up_samples())


def test_the_plane_has_one_path_per_method_from_step_0_to_its_last_step(plane_figure):
    paths = {trace.meta["method"]: trace for trace in traces(plane_figure, "path")}
    assert list(paths) == ["sparse", "full", "lora"]
    assert {m: list(trace.customdata) for m, trace in paths.items()} == STEPS


def test_the_plane_draws_the_mean_over_seeds(table):
    path = traces(plane(table), "path")[2]
    lora = table[(table["method"] == "lora") & (table["step"] == 50) & (table["metric"] == "em")]
    position = STEPS["lora"].index(50)
    assert path.x[position] == pytest.approx(lora[lora["probe"] == "learned"]["value"].mean())
    assert path.y[position] == pytest.approx(lora[lora["probe"] == "old_facts"]["value"].mean())


def test_every_path_end_is_labelled_with_the_method_name(table):
    labels = [a for a in plane(table).layout.annotations if a.name.startswith("label:")]
    assert {a.text for a in labels} == {"Sparse memory finetuning", "Full finetuning", "LoRA"}


def test_labels_of_paths_which_end_together_do_not_overlap():
    together = made_up_table(("lora",))
    copies = [together.assign(method=m) for m in ("sparse", "full", "lora")]
    figure = plane(pd.concat(copies))
    heights = sorted(a.y for a in figure.layout.annotations if a.name.startswith("label:"))
    low, high = figure.layout.yaxis.range
    assert np.diff(heights).min() > 0.05 * (high - low)


def test_the_plane_marks_the_target_only_when_it_is_told_one(table, plane_figure):
    assert [shape.x0 for shape in plane_figure.layout.shapes] == [0.95]
    assert not plane(table).layout.shapes
    assert not traces(plane(table), "reading")


def test_the_equal_learning_marker_sits_at_the_given_reading_with_its_interval(plane_figure):
    marker = traces(plane_figure, "reading")[1]
    row = reading("full", "old_facts", "em", 0.8723, 0.004 + 0.03 * (BASE["old_facts"] - 0.8723))
    assert (marker.x[0], marker.y[0]) == (0.962, 0.8723)
    assert marker.error_y.array[0] == pytest.approx(row["high"] - row["mean"])


def test_a_method_which_missed_the_target_has_another_marker(table):
    markers = traces(plane(table, made_up_summary({"lora": 3})), "reading")
    assert [m.marker.symbol for m in markers] == ["circle", "square", "x"]
    assert "3 of 5 seeds" in markers[2].hovertemplate


def test_a_single_seed_has_no_faint_lines_and_no_bands():
    single = made_up_table(seeds=(0,))
    assert not traces(plane(single), "seed")
    assert not traces(curves(single), "band")


def test_several_seeds_have_faint_lines_and_bands(table, curves_figure):
    assert len(traces(plane(table), "seed")) == 3 * 5
    assert len(traces(curves_figure, "band")) == 3 * 5  # methods x panels


def test_the_curves_have_one_line_per_method_and_probe(curves_figure):
    lines = [(t.meta["probe"], t.meta["method"]) for t in traces(curves_figure, "line")]
    assert len(lines) == len(set(lines)) == 5 * 3


def test_a_probe_which_was_not_measured_gets_no_panel(table):
    figure = curves(table[table["probe"] != "prose"])
    assert figure.layout.meta["panels"] == 4
    assert "prose" not in {t.meta["probe"] for t in traces(figure, "line")}


def test_the_interval_is_the_t_interval_over_seeds():
    values = [0.90, 0.94, 0.98]
    rows = [("sparse", s, 10, "learned", "em", v) for s, v in enumerate(values)]
    table = pd.DataFrame(rows, columns=["method", "seed", "step", "probe", "metric", "value"])
    row = mean_over_seeds(table, "learned", "em").iloc[0]
    half = 4.302653 * 0.04 / np.sqrt(3)  # t(0.975, 2) from a printed table
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((0.94, 0.94 - half, 0.94 + half))


def test_a_step_which_a_seed_never_reached_does_not_bend_the_mean(table):
    stopped = table[~((table["seed"] == 0) & (table["step"] > 40))]
    steps = mean_over_seeds(stopped, "learned", "em").query("method == 'sparse'")["step"]
    assert steps.max() == 40


def test_bands_of_shares_stay_between_0_and_1():
    values = [0.0, 0.9, 1.0]
    rows = [("sparse", s, 10, "learned", "em", v) for s, v in enumerate(values)]
    table = pd.DataFrame(rows, columns=["method", "seed", "step", "probe", "metric", "value"])
    interval = mean_over_seeds(table, "learned", "em").iloc[0]
    assert interval["low"] < 0
    assert interval["high"] > 1
    [band] = traces(curves(table), "band")
    assert (min(band.y), max(band.y)) == (0, 1)


def test_every_colour_of_the_figures_has_a_dark_partner(curves_figure):
    methods = ("sparse", "full", "lora", "sparse-tf", "sparse-random", "x", "y")
    text = plane(made_up_table(methods), made_up_summary()).to_json() + curves_figure.to_json()
    colours = set(re.findall(r"#[0-9A-Fa-f]{6}\b", text))
    assert colours <= set(dark_of_light())
    assert len(colours) > len(DARK_OF)


def test_the_page_asks_nothing_of_the_network(html):
    text = own_text(html)
    assert not re.search(r"""(?:src|href|action|data|poster)\s*=\s*["']?(?!#)[^"'\s>]*//""", text)
    assert not re.search(r"@import|url\(|<link|<iframe|<img|\bfetch\(|XMLHttpRequest|https?://", text)
    assert "default-src 'none'" in Scripts(html).policy


def test_the_plotting_library_is_inlined_once(html):
    assert html.count(get_plotlyjs()) == 1


def test_text_from_the_data_is_escaped_everywhere(table):
    nasty = "</script><script>alert(1)</script>\"'&"
    summary = made_up_summary() | {"title": nasty, "command": nasty, "machine": nasty, "rule_text": nasty}
    summary["settings"][nasty] = nasty
    sample = _sample("learned", nasty, nasty, nasty, {"sparse": nasty})
    odd_table = pd.concat([table, table[table["method"] == "lora"].assign(method=nasty)])
    text = own_text(page(odd_table, summary, [sample]))
    assert "<script>alert" not in text
    assert text.count("</script>") == 3  # the library, the figures, the drawing
    assert "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_figures_cannot_end_their_script_element(table, monkeypatch, only_words):
    monkeypatch.setattr(report.figures, "plane", lambda *_: go.Figure(layout={"title": {"text": "</script>"}}))
    (text,) = re.findall('<script type="application/json" id="figures">(.*)', page(table, made_up_summary(), []))
    data, _, rest = text.partition("</script>")
    assert not rest
    assert json.loads(data)["figures"]["plane"]["layout"]["title"]["text"] == "</script>"


def test_the_table_shows_the_given_values_drops_and_intervals(html):
    cell = re.search(r"<td><b>87\.2%</b>.*?</td>", html).group()
    row = reading("full", "old_facts", "em", 0.8723, 0.004 + 0.03 * (BASE["old_facts"] - 0.8723))
    low, high, drop = (100 * row[k] for k in ("low", "high", "drop_mean"))
    assert f"{low:.1f} to {high:.1f}" in cell
    assert f"{drop:.1f} pts worse" in cell
    assert "<td><b>0.603</b>" in html
    assert "0.193 nats worse" in html
    for cost in ("14,238,720", "41.2", "118"):
        assert f"<td>{cost}</td>" in html


def test_a_gain_is_called_better(table, only_words):
    summary = made_up_summary()
    row = next(r for r in summary["equal_learning"] if (r["method"], r["probe"]) == ("sparse", "prose"))
    row |= {"mean": 1.76, "drop_mean": -0.1}
    assert "0.100 nats better" in page(table, summary, [])


def test_the_headline_names_the_smallest_loss_first():
    assert headline(made_up_summary()) == (
        "At 95% learned, sparse memory finetuning lost 1.4 points of old-fact recall, full finetuning lost "
        "11.3 points and LoRA lost 28.0 points (means of 5 seeds)."
    )


def test_the_headline_is_honest_when_sparse_loses():
    summary = made_up_summary()
    for row in summary["equal_learning"]:
        if (row["method"], row["probe"], row["metric"]) == ("sparse", "old_facts", "em"):
            row["drop_mean"] = 0.4
    text = headline(summary)
    assert text.startswith("At 95% learned, full finetuning lost 11.3 points")
    assert "sparse memory finetuning lost 40.0 points" in text


def test_the_headline_sets_apart_a_method_which_never_reached_the_target():
    text = headline(made_up_summary({"lora": 0, "full": 3}))
    fair, *rest = text.split(". ")
    assert "LoRA" not in fair
    assert "full" not in fair
    assert "LoRA never reached 95% learned" in " ".join(rest)
    assert "Full finetuning reached 95% learned in only 3 of 5 seeds" in " ".join(rest)


def barely_learned(*methods, share=0.083, **settings):
    summary = made_up_summary(dict.fromkeys(methods, 0))
    for row in summary["equal_learning"]:
        if row["method"] in methods:
            row |= {"mean": share if row["probe"] == "learned" else row["base"], "drop_mean": 0.0}
    summary["settings"] |= {"statements_per_step": 1, "loss_on": "statement"} | settings
    return summary


def test_the_headline_says_that_nothing_was_learned_and_what_to_do():
    text = headline(barely_learned("sparse", "full", "lora"))
    assert text.startswith("Hardly anything was learned, so what was kept there says nothing: at best sparse memory")
    assert "lost" not in text
    for step in ("four statements or more", "--loss-on answer", "--passes", "smft-lab attach"):
        assert step in text
    settled = headline(barely_learned("sparse", "full", "lora", statements_per_step=16, loss_on="answer"))
    assert "statements or more" not in settled
    assert "--loss-on" not in settled


def test_one_method_that_learned_nothing_is_not_praised_for_what_it_kept(table, only_words):
    summary = barely_learned("sparse")
    text = headline(summary)
    assert text.startswith("At 95% learned, full finetuning lost 11.3 points")
    assert "Hardly anything was learned by sparse memory finetuning" in text
    card = re.search(r'<div class="card".*?</div>\s*<p>.*?</div>', page(table, summary, []), re.S).group()
    assert "8.3%" in card
    assert "lost" not in card


def test_a_method_which_missed_the_target_is_marked_in_card_and_table(table, html, only_words):
    marked = page(table, made_up_summary({"lora": 0}), [])
    assert "† never reached 95%" in marked
    assert "† reached in 0 of 5 seeds" in marked
    assert "<td>not reached</td>" in marked
    assert "†" not in own_text(html)


def test_the_headline_says_that_one_seed_says_little():
    assert "(one seed, which says little: give --seeds 3" in headline(made_up_summary(single_seed=True))


def test_a_single_seed_shows_no_interval(html, only_words):
    single = page(made_up_table(seeds=(0,)), made_up_summary(single_seed=True), [])
    interval = re.compile(r"\d to −?\d")
    assert not interval.search(single)
    assert "one seed, no interval" in single
    assert interval.search(own_text(html))


def test_answers_are_marked_by_glyph_and_word_and_case_does_not_matter(table, only_words):
    answers = {"sparse": " port HELM ", "full": "Port Helmet"}
    text = page(table, made_up_summary(), [_sample("learned", "Where?", "Port Helm", "Graywick", answers)])
    marks = re.findall(r'aria-hidden="true">([✓✗])</span><span class="hidden">(right|wrong): ', text)
    assert marks == [("✗", "wrong"), ("✓", "right"), ("✗", "wrong")]  # base, sparse, full


def test_an_absent_answer_is_not_right():
    assert not is_right(None, "")
    assert is_right("ÉTÉ", "été")


def test_many_questions_are_folded_but_none_is_lost(html):
    text = unescape(own_text(html))
    assert "<summary>2 more</summary>" in text
    assert all(sample["question"] in text for sample in made_up_samples())


def test_an_empty_sweep_leaves_no_section_and_no_link(table, html, only_words):
    without = page(table, made_up_summary() | {"sweep": []}, [])
    assert 'id="sweep"' in html
    assert 'id="sweep"' not in without
    assert '"#sweep"' not in without


def test_every_link_on_the_page_has_its_target(html):
    text = own_text(html)
    links = set(re.findall(r'href="#([\w-]+)"', text))
    assert len(links) > 6
    assert links <= set(re.findall(r'id="([\w-]+)"', text))


def test_both_figures_have_a_text_alternative(html):
    alternatives = re.findall(r'role="img" aria-label="([^"]+)"', own_text(html))
    assert len(alternatives) == 2
    assert all("LoRA" in text and "%" in text for text in alternatives)


def test_write_report_writes_the_page(tmp_path, table, only_words):
    path = write_report(tmp_path / "report.html", table, made_up_summary(), made_up_samples())
    assert path.read_text(encoding="utf-8") == page(table, made_up_summary(), made_up_samples())
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_failed_write_leaves_the_old_page_and_no_half_file(tmp_path, table, monkeypatch, only_words):
    path = tmp_path / "report.html"
    path.write_text("the old page")

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_report(path, table, made_up_summary(), [])
    assert path.read_text() == "the old page"
    assert os.listdir(tmp_path) == ["report.html"]


def test_numbers_have_a_true_minus_and_no_negative_zero():
    assert percent(-0.0001) == "0.0%"
    assert percent(-0.021) == "−2.1%"
    assert percent(None) == percent(float("nan")) == "–"


def test_a_comparison_without_a_command_shows_no_empty_box(table, html, only_words):
    without = page(table, made_up_summary() | {"command": ""}, [])
    assert 'id="copy"' in html
    assert 'id="copy"' not in without
    assert "there is no command to repeat" in without


def test_steps_to_a_target_which_some_seeds_reached_are_not_called_unreached(table, only_words):
    summary = made_up_summary({"full": 3})
    summary["methods"]["full"]["steps_to_target"] = None
    text = page(table, summary, [])
    assert "<td>not in every seed</td>" in text
    assert "<td>not reached</td>" not in text


def test_methods_come_in_the_order_of_their_numbers():
    assert ordered(["t = 2,000", "lora", "t = 50", "sparse", "t = 500", "all"]) == [
        "sparse",
        "lora",
        "all",
        "t = 50",
        "t = 500",
        "t = 2,000",
    ]


def test_the_page_lets_its_own_scripts_run_and_no_others(html):
    read = Scripts(html)
    assert allowed(read)
    assert len(read.scripts) == 2
    assert not allowed(Scripts(html.replace("</main>", "<script>document.title = 'harmless'</script></main>")))
    assert not any(name.startswith("on") for name in read.tags)


def without_questions(table):
    """The same where nothing was known before, so that only texts tell what was forgotten."""
    return table[table["probe"].isin(["learned", "prose"])]


def test_where_no_question_was_known_the_plane_shows_a_loss_whose_rise_goes_down(table, only_words):
    summary = made_up_summary()
    summary["equal_learning"] = [r for r in summary["equal_learning"] if r["probe"] in ("learned", "prose")]
    drawn = plane(without_questions(table), summary)
    for method in STEPS:
        (path,) = [t for t in drawn.data if t.meta == {"role": "path", "method": method}]
        mean = mean_over_seeds(table[table["method"] == method], "prose", "nll")
        assert list(path.y) == pytest.approx(mean["mean"].tolist())
        assert sum(t.meta["role"] == "reading" and t.meta["method"] == method for t in drawn.data if t.meta) == 1
    bottom, top = drawn.layout.yaxis.range
    assert bottom > max(path.y) > min(path.y) > top
    assert drawn.layout.yaxis.title.text == "Loss on prose (nats per token, lower is better)"
    text = " ".join(page(without_questions(table), summary, []).split())
    assert "moving down means a higher loss on prose" in text
    assert "old facts forgotten" not in text


@pytest.mark.parametrize(
    ("value", "metric", "probe"), [(0.0, "em", "learned"), (1.0, "em", "old_facts"), (1.9, "nll", "prose")]
)
def test_a_series_that_never_changes_is_drawn_on_an_axis_of_what_can_be(value, metric, probe):
    rows = [("sparse", 0, step, probe, metric, value) for step in (0, 10, 20)]
    drawn = curves(pd.DataFrame(rows, columns=["method", "seed", "step", "probe", "metric", "value"]))
    low, high = drawn.layout.yaxis.range
    assert low < value < high
    assert high - low < 0.2
    if metric == "em":
        assert low >= -0.02
        assert high <= 1.02
