"""How a question is put to a model, and where the answer ends.

The built-in world has a form of its own, which its model was pretrained on. A model from elsewhere is asked in plain
lines, with a few answered questions before (few-shot), or through its chat template.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, cast, overload

from smft_lab.facts.fact import COMPLETE
from smft_lab.facts.world.grammar import ask
from smft_lab.model.tokenizer import Templated, text_ids, typed_special

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = "{question}"  # in a template, where the question stands
MARK = "Aaaa"  # stands for an answer where only what is around it is looked at
OTHER_FORM = "use a form with chat=False, such as PromptForm.PLAIN, or set tokenizer.chat_template"


@dataclass(frozen=True)
class PromptForm:
    r"""The form of a question and of its answer.

    Attributes:
        template: What is asked, with `{question}` in it; a blank that ends it goes to `before`.
        before: What stands between the template and an answer.
        end: What ends an answer. With a line break in it, an answer is one line and generation stops at the line's
            end; otherwise it is written before the end-of-text token, and that token ends the answer.
        shots: Questions with answers that are shown before every question (few-shot).
        chat: Whether the question goes through the tokenizer's chat template, as what the user says; the answer is
            then what the assistant says, and shots are earlier turns.

    Raises:
        ValueError: the template has no `{question}`, or a shot is not a question with its answer.

    Examples:
        >>> form = smft.PromptForm("Q: {question}\nA:", shots=[("What gas do plants take in?", "Carbon dioxide")])
        >>> print(form.prompt("Who wrote Hamlet?"))
        Q: What gas do plants take in?
        A: Carbon dioxide
        Q: Who wrote Hamlet?
        A:
    """

    template: str = "Question: {question}\nAnswer:"
    before: str = " "
    end: str = "\n"
    shots: tuple[tuple[str, str], ...] = ()
    chat: bool = False

    BUILT_IN: ClassVar[PromptForm]
    PLAIN: ClassVar[PromptForm]
    CHAT: ClassVar[PromptForm]

    def __post_init__(self) -> None:
        for name in ("template", "before", "end"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be text, not {getattr(self, name)!r}")
        if QUESTION not in self.template:
            raise ValueError(
                f"the template {self.template!r} has no place for the question; write {QUESTION} where it goes"
            )
        if not isinstance(self.chat, bool):
            raise ValueError(f"chat is true or false, not {self.chat!r}")
        object.__setattr__(self, "shots", _pairs(self.shots))
        if not self.chat and (shorter := self.template.rstrip(" ")) != self.template:
            # Tokenizers join a blank with the word behind it, so in a whole text it is the answer's.
            object.__setattr__(self, "before", self.template[len(shorter) :] + self.before)
            object.__setattr__(self, "template", shorter)

    @property
    def one_line(self) -> bool:
        """Whether an answer ends with its line."""
        return "\n" in self.end

    def prompt(self, question: str, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
        """All that the model reads before it answers.

        In a form whose answers end with the text, what is to be completed (see `ask`) stands without the template.

        Args:
            tokenizer: Needed for a chat, whose template it has.

        Raises:
            ValueError: the form is a chat, and there is no tokenizer, or it has no chat template, or that one can't put
                the question.
        """
        if self.chat:
            return self._asked(question, tokenizer)
        if question.startswith(COMPLETE) and not self.one_line:
            return self._shown() + ask(question)
        return self._shown() + self.template.replace(QUESTION, question)

    def answered(self, question: str, answer: str, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
        """The question with its answer, ended: what a text to learn from says, but for an end-of-text token.

        Raises:
            ValueError: see `prompt`.
        """
        prompt = self.prompt(question, tokenizer)
        if not self.chat:
            return f"{prompt}{self.before}{answer}{self.end}"
        whole = _chat(tokenizer, [*self._turns(question), _said(answer)], False)
        before, _, end = whole.rpartition(answer) if answer else (prompt, "", self.end)
        # Some templates write an earlier turn otherwise than they ask for it; what ends it is the same.
        blanks = before[len(prompt) :] if before.rstrip(" ") == prompt else self.before
        return Templated(f"{prompt}{blanks}{answer}{end.lstrip(' ')}".removesuffix("\n"))

    def reply(self, question: str, answer: str, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
        """What the model says if it says this answer: all that follows the prompt, up to what ends the answer.

        Raises:
            ValueError: see `prompt`.
        """
        if not self.chat:
            return f"{self.before}{answer}{'' if self.one_line else self.end}"
        rest = self.answered(question, answer, tokenizer)[len(self.prompt(question, tokenizer)) :]
        return rest[: len(rest) - len(rest.lstrip(" "))] + answer

    def joins(self, tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> bool:
        """Whether the prompt's last token and the answer's first become another one where a text has both."""
        asked, whole = (
            self.ids(tokenizer, text)
            for text in (self.prompt(question, tokenizer), self.answered(question, answer, tokenizer))
        )
        return whole[: len(asked)] != asked

    def question_in(self, prompt: str) -> str:
        """The question that `prompt` asks: what `prompt()` put into the template, which is not a chat."""
        first, _, last = self.template.partition(QUESTION)
        return prompt.removeprefix(self._shown()).removeprefix(first).removesuffix(last)

    @overload
    def ids(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]: ...

    @overload
    def ids(self, tokenizer: PreTrainedTokenizerBase, text: Sequence[str]) -> list[list[int]]: ...

    def ids(self, tokenizer: PreTrainedTokenizerBase, text):
        """The token ids of a text of this form, or of each of several; nothing ends them but what they say.

        A chat template writes the special tokens itself. Others are special only where the form has them: what a
        question or an answer says is always text.
        """
        return text_ids(tokenizer, text, special=not self.chat, split=not self.writes_special(tokenizer))

    def writes_special(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether special tokens of the tokenizer are written out in a text of this form."""
        parts = (self.template, self.before, self.end, *(part for shot in self.shots for part in shot))
        return self.chat or any(typed_special(tokenizer, part) for part in parts)

    def check_plain(self, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> None:
        """Raise ValueError if a question or an answer has a special token written out, where those are special."""
        if not self.writes_special(tokenizer):
            return
        for text in texts:
            if token := typed_special(tokenizer, text):
                raise ValueError(
                    f"{text[:60]!r} has {token!r} in it, a special token of the model, which in this form "
                    "would end or begin something; write it otherwise"
                )

    def with_shots(self, shots: Iterable[tuple[str, str]]) -> PromptForm:
        """The same form with these questions and answers before every question, in place of those it has."""
        return replace(self, shots=tuple(shots))

    def to_json(self) -> dict:
        """The form as JSON values; `from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> PromptForm:
        """
        Raises:
            ValueError: these are not the values of a form.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or not set(values) <= names:
            raise ValueError(f"not a prompt form: {str(values)[:80]}; its fields are {', '.join(sorted(names))}")
        return cls(**values)

    def _shown(self) -> str:
        """The shots as text."""
        sep = "" if self.one_line else " "
        return "".join(f"{self.template.replace(QUESTION, q)}{self.before}{a}{self.end}{sep}" for q, a in self.shots)

    def _asked(self, question: str, tokenizer: PreTrainedTokenizerBase | None) -> Templated:
        """A chat up to where the assistant answers."""
        turns = self._turns(question)
        prompt = _chat(tokenizer, turns, True)
        if prompt == _chat(tokenizer, turns, False):  # it begins no turn for an answer to be written in
            prompt = _chat(tokenizer, [*turns, _said(MARK)], False).partition(MARK)[0]
        if turns[-1]["content"].strip() not in prompt:
            problem = f"the tokenizer's chat template doesn't write the question {question[:40]!r} as it is"
            raise ValueError(f"{problem}; {OTHER_FORM}")
        return Templated(prompt.rstrip(" "))  # tokenizers join a blank with the word behind it

    def _turns(self, question: str) -> list[dict]:
        turns = []
        for asked, reply in self.shots:
            turns.append({"role": "user", "content": self.template.replace(QUESTION, asked)})
            turns.append(_said(reply))
        return [*turns, {"role": "user", "content": self.template.replace(QUESTION, question)}]


def _said(text: str) -> dict:
    return {"role": "assistant", "content": text}


def _chat(tokenizer: PreTrainedTokenizerBase | None, turns: list[dict], ask: bool) -> str:
    if tokenizer is None:
        raise ValueError("a chat form needs the tokenizer, whose chat template it is put through; give tokenizer=")
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"this tokenizer has no chat template; {OTHER_FORM}")
    try:
        # An answer is asked for, and no thoughts before it; templates that know of none pass over that.
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask, enable_thinking=False)
        return cast(str, text)
    except Exception as problem:  # a template is a program of anybody's
        reason = f"{type(problem).__name__}: {problem}"
        raise ValueError(f"the tokenizer's chat template can't put a question ({reason}); {OTHER_FORM}") from None


def _pairs(shots) -> tuple[tuple[str, str], ...]:
    if isinstance(shots, str) or not isinstance(shots, Iterable):
        raise ValueError(f"shots must be pairs of a question and its answer, not {shots!r}")
    pairs: tuple = tuple(tuple(shot) if isinstance(shot, list | tuple) else (shot,) for shot in shots)
    for shot in pairs:
        if len(shot) != 2 or not all(isinstance(part, str) and part.strip() for part in shot):
            raise ValueError(f"a shot is a question and its answer, two texts, not {shot!r}")
    return pairs


BUILT_IN = PromptForm.BUILT_IN = PromptForm(ask(QUESTION), " ", ".")
"""The built-in world's: `Question: ... Answer:`, then the answer, a full stop and the end-of-text token."""
PLAIN = PromptForm.PLAIN = PromptForm()
"""Of a model from elsewhere: two lines, `Question: ...` and `Answer: ...`."""
CHAT = PromptForm.CHAT = PromptForm(QUESTION, "", "\n", chat=True)
"""Through the tokenizer's chat template."""

NEUTRAL_SHOTS = (("How many days are there in a week?", "Seven"), ("What colour is fresh snow?", "White"))
"""Two questions that have nothing to do with what is taught, to stand before one that has."""
