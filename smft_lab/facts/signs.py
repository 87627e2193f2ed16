"""Signs at the ends of questions, sentences and words, in all scripts."""

from __future__ import annotations

QUESTION_MARKS = "?？؟\u037e፧⸮"
"""Question marks; Greek also has its semicolon."""
QUESTION_ENDS = tuple(QUESTION_MARKS)
STOPS = ".。।۔။።។．"
"""Full stops: the first is that of most scripts."""
OPENING = "\"'“‘«„(["
CLOSING = ",;:!…！\"'”’»)]" + STOPS + QUESTION_MARKS
"""What may stand before a word, and after it, and is no part of it."""
