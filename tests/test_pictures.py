"""Still pictures: every chart is drawn, stays small, and says what it shows."""

import io
import operator

import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from smft_lab.charts import pictures
from smft_lab.charts.pictures import picture

TABLE = pd.DataFrame(
    [
        {"method": method, "seed": seed, "step": step, "probe": probe, "metric": "em", "value": value}
        for method, drop in (("sparse", 0.01), ("full", 0.2), ("sparse:tf", 0.1))
        for seed in (0, 1)
        for step in (0, 5, 10)
        for probe, value in (("learned", step / 10), ("old_facts", 1 - drop * step / 10))
    ]
)
CHARTS = {
    "heat": pictures.heat([0, 1, 2, 3], "Reads", "reads"),
    "empty heat": pictures.heat([0, 0, 0, 0], "Change", "norm"),
    "curves": pictures.curves(
        {"a": ([1, 10], [0.1, 1]), "b": ([1, 10], [0, 0.5])}, "t", "share", log="x", share=True, marks={"t = 5": 5}
    ),
    "no curves": pictures.curves({}, "steps", "share"),
    "bars": pictures.bars(["one", "two"], [0.5, 1], "share", share=True, strong=[True, False]),
    "no bars": pictures.bars([], [], "exact match", share=True),
    "tokens": pictures.tokens(["a", " b"], [[0.5, 0.5], [1, 0]], "Reads", "weight"),
    "plane": pictures.plane(TABLE),
    "empty plane": pictures.plane(TABLE.iloc[:0]),
    "grid": pictures.grid([[1, 0.5], [float("nan"), 0.2]], "after", "fact", "Retention", "known", names=("12", "ab")),
}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_drawn_as_a_small_png_with_its_sentence(name):
    shown = picture(CHARTS[name], says="What is seen.")
    data, about = shown._repr_mimebundle_()
    image = Image.open(io.BytesIO(data["image/png"]))
    assert image.width == round(pictures.WIDTH * pictures.DPI)
    assert len(image.convert("RGBA").getcolors()) > 3
    assert len(data["image/png"]) < 100_000
    assert data["text/plain"] == about["image/png"]["alt"] == "What is seen."


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])  # of JupyterLab, light and dark
def test_a_picture_lets_the_page_through_and_is_read_on_a_light_and_on_a_dark_one(page):
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return sum(map(operator.mul, (0.2126, 0.7152, 0.0722), linear))

    def contrast(colour):
        darker, lighter = sorted([luminance(colour), luminance(page)])
        return (lighter + 0.05) / (darker + 0.05)

    image = Image.open(io.BytesIO(picture(CHARTS["plane"], says="").png)).convert("RGBA")
    assert image.getpixel((0, 0))[3] == image.getpixel((image.width // 2, 2))[3] == 0
    assert min(map(contrast, (pictures.INK, pictures.MUTED))) >= 4
    assert min(map(contrast, (pictures.AXIS, *pictures.PATHS))) >= 3


@pytest.mark.parametrize(
    ("name", "said"),
    [("empty heat", "none yet"), ("no bars", "not measured yet"), ("empty plane", "nothing has been taught yet")],
)
def test_a_chart_of_nothing_says_so(name, said):
    figure = Figure()
    CHARTS[name](figure.add_subplot())
    assert said in [text.get_text() for text in figure.findobj(Text)]


def test_the_scale_of_nothing_begins_at_0():
    figure = Figure()
    heat, bars = figure.subplots(2)
    CHARTS["empty heat"](heat)
    CHARTS["no bars"](bars)
    *_, colours = figure.axes
    assert colours.get_ylim() == (0, 1)
    assert bars.get_xlim()[0] == 0


def test_charts_stand_side_by_side(tmp_path):
    both = picture(CHARTS["heat"], CHARTS["bars"], says="Two.")
    both.save(tmp_path / "two.png")
    assert Image.open(tmp_path / "two.png").width == round(2 * pictures.WIDTH * pictures.DPI)


def test_a_full_table_stays_well_below_what_a_notebook_may_hold():
    values = [float(hash((i, 7)) % 1000) for i in range(57_600)]
    assert (
        len(picture(pictures.heat(values, "df", "batches"), pictures.heat(values, "df", "batches"), says="").png)
        < 220_000
    )


def test_a_method_looks_the_same_in_every_plane_that_is_told_of_all():
    def colours(method, among=()):
        axes = Figure().add_subplot()
        rows = TABLE.assign(method=TABLE["method"].replace({"sparse": "one", "full": "two", "sparse:tf": "three"}))
        pictures.plane(rows[rows["method"].isin(method)], among=among)(axes)
        return {line.get_label(): line.get_color() for line in axes.lines if not line.get_label().startswith("_")}

    every = ("one", "two", "three")
    assert colours(["two"]) != {name: c for name, c in colours(every).items() if name == "two"}
    assert colours(["two"], every) == {name: c for name, c in colours(every).items() if name == "two"}


def test_the_first_and_the_last_token_of_no_text_are_named():
    axes = Figure().add_subplot()
    pictures.tokens(["", " Ada", " ", ""], [[1]] * 4, "Reads", "weight")(axes)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["start", "Ada", "␣", "end"]


def test_what_was_not_measured_is_left_blank_in_a_grid():
    axes = Figure().add_subplot()
    pictures.grid([[1, 0.5], [float("nan"), 0.2]], "after", "fact", "Retention", "known")(axes)
    assert [text.get_text() for text in axes.texts] == ["100%", "50%", "20%"]
