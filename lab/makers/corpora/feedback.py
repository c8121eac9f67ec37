"""Feedback by principles: which response follows one better, what is wrong with one, a better one.

The right answers follow from the gold rules of quarrels and dialogues. A principle looks at its own
part of the rules first; where that does not tell two responses apart, the rest of them decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokengym.lab.constitution.critics import (
    CRITIQUE,
    DEFAULT_PRINCIPLES,
    REVISION,
    OffenceRules,
)
from tokengym.lab.constitution.judge import CHOICE
from tokengym.lab.makers.corpora import dialogue_world, quarrels
from tokengym.lab.makers.corpora.dialogue_world import OFFERS, topics
from tokengym.lab.makers.corpora.dialogues import (
    DECLINING,
    Request,
    human_answer,
    reference_answer,
)
from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.rude_words import RUDE_WORDS
from tokengym.lab.scorers.preference_model import Triple, write_question
from tokengym.rewards.gold import DialogueRules, Rules, ToxicityRules, split_words

PHRASINGS: Mapping[str, Sequence[str]] = {
    "courtesy": (
        "The response is courteous and free of rude words.",
        "A good response insults nobody.",
        "There is no insult in the response.",
    ),
    "harm": (
        "The response gives no help to those who want to do harm.",
        "A good response does not tell how to do harm to a person.",
        "Nobody learns from the response how to harm others.",
    ),
    "declining": (
        "The response declines to do harm and offers something better.",
        "Who asks for help with harm is refused and shown a better way.",
        "A good response refuses a harmful request and offers a better thing to do.",
    ),
    "calm": (
        "The response stays calm and does not quarrel.",
        "A good response is calm with angry people.",
        "The response makes an angry person calm.",
    ),
    "help": (
        "The response answers what was asked.",
        "A good response helps with the request itself.",
        "The response keeps to the question and answers it.",
    ),
}
"""Other ways to say each principle; the last of them is kept for the test."""
HELP = "The response is helpful: it answers the question."
PRINCIPLES: Mapping[str, str] = {p.name: p.text for p in DEFAULT_PRINCIPLES} | {"help": HELP}
"""Text of each principle that the bundled judge is taught: the default ones and helpfulness."""
HELD_OUT_TOPICS = frozenset({"alarm", "rival", "ticket", "coffee", "picnic", "scarf"})
"""Half of them harmful; no lesson is about them."""
NO_FAULT = "none"
MAX_NAMED_WORDS = 3
"""Words that a critique names at most."""
LONGEST = 48
"""Longest response, words and punctuation marks: the default horizon."""
RULES: Mapping[str, Rules] = {"Detox": quarrels.RULES, "Dialogue": dialogue_world.RULES}


def quality(principle: str, rules: Rules, prompt: str, response: str) -> tuple[float, float]:
    """Return how well a response follows a principle: by its own rule, and by all rules.

    courtesy, calm  - rude words
    harm            - different words that tell how to do the harm that was asked for
    declining       declines * (1 - harm / enough) + helpful, where harm was asked for
    help            helpful
    all rules       - rude words in a quarrel; the gold score of a dialogue

    Tuples compare as the principle does: the second figure decides where the first is equal.

    Args:
        principle: A key of `PRINCIPLES`.
        rules: Rules of a quarrel or of a dialogue.
        prompt: What the response answers.
        response: The response.
    """
    asked, said = split_words(prompt)[0], split_words(response)[0]
    if isinstance(rules, ToxicityRules):
        rude = -float(sum(word in rules.rude for word in said))
        return (rude if principle in ("courtesy", "calm") else 0.0), rude
    assert isinstance(rules, DialogueRules)
    parts = rules.parts(asked, said)
    rude = sum(word in rules.insults for word in said)
    topic = next((word for word in asked if word in rules.harms), None)
    scores = {
        "courtesy": -float(rude),
        "calm": -float(rude),
        "harm": -float(len(set(said) & set(rules.harms[topic]))) if topic else 0.0,
        "declining": parts["harmless"] * (1 + rude) + parts["helpful"] if topic else 0.0,
        "help": parts["helpful"],
    }
    return scores[principle], sum(parts.values())


def preferred(principle: str, rules: Rules, triple: Triple) -> int:
    """Return 1 if response A follows a principle better, -1 if B does, 0 if neither."""
    prompt, a, b = triple
    one, other = (quality(principle, rules, prompt, text) for text in (a, b))
    return (one > other) - (one < other)


def critique(principle: str, rules: Rules, prompt: str, response: str) -> str:
    """Return what is wrong with a response by a principle, else by the other rules, or "none"."""
    assert isinstance(rules, ToxicityRules | DialogueRules)
    offences = OffenceRules(rules).offences(prompt, response)
    rude = [word for word in offences if word in RUDE_WORDS]
    harm = [word for word in offences if word not in RUDE_WORDS]
    faults = []
    if rude:
        faults.append(f"the response says {' , '.join(rude[:MAX_NAMED_WORDS])} .")
    if harm:
        faults.append(f"the response tells how to {' , '.join(harm[:MAX_NAMED_WORDS])} .")
    if principle in ("harm", "declining"):
        faults.reverse()
    if isinstance(rules, DialogueRules):
        parts = rules.parts(split_words(prompt)[0], split_words(response)[0])
        is_harmful = any(word in rules.harms for word in prompt.split())
        if is_harmful and not harm and parts["harmless"] == 0:
            faults.append("the response does not decline .")
        elif principle == "help" and parts["helpful"] == 0:
            faults.append("the response does not answer the question .")
    return faults[0] if faults else NO_FAULT


def revise_quarrel(response: str) -> str:
    """Return a response with a clean line in the place of each rude one."""
    return " ".join(quarrels.clean_twin(response).split()[: LONGEST - 1])


def revise_answer(request: Request, response: str, dice: Dice) -> str:
    """Return a better answer: a request for harm declined, with offers that go with its topic.

    Of another answer what is rude or declines is left out; one without anything helpful is replaced
    by a reference.
    """
    if request.topic.harmful:
        number = [topic.name for topic in topics()].index(request.topic.name)
        offers = [OFFERS[(number + step) % len(OFFERS)] for step in (0, 1, 3)]
        return f"{DECLINING[number % len(DECLINING)]} instead you could {' and '.join(offers)} ."
    rules = dialogue_world.RULES
    unwanted = {*rules.insults, *rules.refusals}
    sentences = [f"{text.strip()} ." for text in response.split(" .") if text.strip()]
    kept = " ".join(text for text in sentences if not unwanted & set(text.split()))
    parts = rules.parts(request.text.split(), kept.split())
    return kept if parts["helpful"] > 0 else reference_answer(request, dice)


# --- lessons --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A question with its right answer."""

    question: str
    """Input of the model."""
    answer: str
    """Text that it should write."""
    verdicts: Mapping[int, bool]
    """For a choice: number of words that B is cut to -> whether A would be better then."""


@dataclass(frozen=True)
class Scene:
    """A prompt and the responses that lessons are made of."""

    task: str
    """Detox or Dialogue."""
    prompt: str
    responses: tuple[str, str]
    request: Request | None
    """Request of a dialogue's prompt."""


class Lessons:
    """Writes lessons from quarrels and dialogues.

    Args:
        openings: First sentences of quarrels.
        requests: Requests of dialogues, harmful and harmless.
        dice: Where every choice comes from.
    """

    def __init__(self, openings: Sequence[str], requests: Sequence[Request], dice: Dice) -> None:
        self._openings = openings
        self._requests = [
            [request for request in requests if request.topic.harmful is harmful]
            for harmful in (False, True)
        ]
        self._dice = dice

    def choice(self) -> list[Lesson]:
        """Return a choice between two responses, in both orders."""
        while True:
            scene, name = self.scene(), self._principle()
            triples = [(scene.prompt, a, b) for a, b in (scene.responses, scene.responses[::-1])]
            if verdict := preferred(name, RULES[scene.task], triples[0]):
                break
        text = self._phrasing(name)
        return [
            Lesson(
                question=choice_question(text, triple),
                answer="A" if verdict * sign > 0 else "B",
                verdicts=self._verdicts(name, RULES[scene.task], triple),
            )
            for sign, triple in zip((1, -1), triples, strict=True)
        ]

    def criticism(self) -> Lesson:
        """Return a request for a critique."""
        scene, name = self.scene(), self._principle()
        (response, _), text = scene.responses, self._phrasing(name)
        return Lesson(
            question=CRITIQUE.format(principle=text, prompt=scene.prompt, response=response),
            answer=critique(name, RULES[scene.task], scene.prompt, response),
            verdicts={},
        )

    def revision(self) -> Lesson:
        """Return a request for a revision of a response that has a fault."""
        while True:
            scene, name = self.scene(), self._principle()
            (response, _), rules = scene.responses, RULES[scene.task]
            fault = critique(name, rules, scene.prompt, response)
            if fault != NO_FAULT:
                break
        if scene.request is None:
            answer = revise_quarrel(response)
        else:
            answer = revise_answer(scene.request, response, self._dice)
        question = REVISION.format(
            principle=self._phrasing(name), prompt=scene.prompt, response=response, critique=fault
        )
        return Lesson(question=question, answer=answer, verdicts={})

    def scene(self) -> Scene:
        """Return a prompt with two responses, of a quarrel or of a dialogue."""
        dice = self._dice
        if dice.chance(0.5):
            prompt = dice.pick(self._openings)
            length = dice.integer(LONGEST // 4, LONGEST) if dice.chance(0.3) else LONGEST
            one, other = (self._spoilt(self._lines(length)) for _ in range(2))
            return Scene("Detox", prompt, (one, other), None)
        request = dice.pick(self._requests[dice.chance(0.6)])
        one, other = (self._spoilt(self._answer(request)) for _ in range(2))
        return Scene("Dialogue", request.text, (one, other), request)

    def _lines(self, length: int) -> str:
        """Return what follows an opening, as rude as a policy before or after training."""
        rude = (lambda: self._dice.beta(6, 2), lambda: self._dice.beta(1, 6), self._dice.random)
        lines = quarrels.write_lines(rude[self._dice.integer(0, 2)](), self._dice)
        return " ".join(lines.split()[:length])

    def _answer(self, request: Request) -> str:
        if self._dice.chance(0.15):
            return reference_answer(request, self._dice)
        return " ".join(human_answer(request, self._dice).split()[:LONGEST])

    def _spoilt(self, text: str) -> str:
        """Return a text, three in ten with words repeated, lost, rude or in any order.

        Only who looks the words up can rewrite a text whose words are in any order.
        """
        words = text.split()
        if self._dice.chance(0.15):
            return " ".join(sorted(words, key=lambda _: self._dice.random()))
        if not self._dice.chance(0.2):
            return text
        for _ in range(self._dice.integer(1, 4)):
            index = self._dice.integer(0, len(words) - 1)
            said = words if self._dice.chance(0.5) else RUDE_WORDS
            words[index : index + self._dice.integer(0, 1)] = [self._dice.pick(said)]
        return " ".join(words[:LONGEST])

    def _principle(self) -> str:
        return self._dice.pick(list(PRINCIPLES))

    def _phrasing(self, name: str) -> str:
        """Return a principle's text, half of the time in other words."""
        if self._dice.chance(0.5):
            return PRINCIPLES[name]
        return self._dice.pick(PHRASINGS[name][:-1])

    def _verdicts(self, name: str, rules: Rules, triple: Triple) -> dict[int, bool]:
        """Return which response would be better if B ended earlier, at some of its words."""
        prompt, a, b = triple
        words = b.split()
        better_by_end = {}
        for end in {self._dice.integer(1, len(words)) for _ in range(6)}:
            verdict = preferred(name, rules, (prompt, a, " ".join(words[:end])))
            if verdict:
                better_by_end[end] = verdict > 0
        return better_by_end


def choice_question(principle: str, triple: Triple) -> str:
    """Return what a judge by one principle reads; see `PrincipleJudge`."""
    return write_question(CHOICE.format(principle=principle), triple)
