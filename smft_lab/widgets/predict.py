"""A question before a result: guess first, then see."""

from __future__ import annotations

import math
from collections.abc import Sequence

import anywidget
import traitlets

from smft_lab.widgets.panel import STYLE, page

UNGUESSED = "It has come out. Guess above first: it is then told there, or press Show."


class Predict(anywidget.AnyWidget):
    """Ask what will come out; the answer is given by `reveal`, in the cell that has computed it.

    Args:
        question: What to guess.
        choices: What to choose from: texts, or numbers in ascending order.
        unit: Of numbers, shown behind them.

    Attributes:
        guess: The choice made, None before that.

    Raises:
        ValueError: fewer than two choices.
    """

    _esm = page("predict.js")
    _css = STYLE
    question = traitlets.Unicode("").tag(sync=True)
    choices = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)
    right = traitlets.Int(-1).tag(sync=True)
    outcome = traitlets.Unicode("").tag(sync=True)
    theme = traitlets.Unicode("auto").tag(sync=True)

    def __init__(self, question: str, choices: Sequence[str] | Sequence[float], unit: str = "", theme: str = "auto"):
        if len(choices) < 2:
            raise ValueError("give at least two choices to guess from")
        self._values = list(choices)
        written = [_written(choice, unit) for choice in choices]
        super().__init__(question=question, choices=written, theme=theme)

    @property
    def guess(self) -> str | float | None:
        return None if self.chosen < 0 else self._values[self.chosen]

    def reveal(self, truth: str | float, outcome: str) -> None:
        """Say what came out, here and in the question above; to whoever hasn't guessed, only there and when asked to.

        Args:
            truth: One of the choices; where they are numbers any number, the nearest choice is then right.
            outcome: What came out, in a sentence.

        Raises:
            ValueError: `truth` is none of the choices.
        """
        self.right, self.outcome = self._nearest(truth), outcome
        if self.chosen < 0:
            print(UNGUESSED)
            return
        verdict = "right" if self.chosen == self.right else f"the nearest is {self.choices[self.right]}"
        print(f"Your guess: {self.choices[self.chosen]} ({verdict}). {outcome}")

    def _nearest(self, truth: str | float) -> int:
        if isinstance(truth, str):
            if truth not in self._values:
                raise ValueError(f"{truth!r} is none of the choices: {', '.join(self.choices)}")
            return self._values.index(truth)
        # Choices such as 10, 100, 1,000 are told apart by their ratio.
        values = [float(value) for value in self._values]
        scale = math.log if min(*values, truth) > 0 else float
        return min(range(len(values)), key=lambda i: abs(scale(values[i]) - scale(truth)))

    def __repr__(self) -> str:
        return f"Predict: {self.question} {' / '.join(self.choices)}"


def _written(choice: str | float, unit: str) -> str:
    return choice if isinstance(choice, str) else f"{choice:,g}{unit if unit == '%' else f' {unit}' if unit else ''}"
