"""The seven checks, and the decisions that each is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tokengym.lab.audit.decisions import REPLY, Decisions, Path, decisions


@dataclass(frozen=True, kw_only=True)
class Case:
    """A decision, and what it asks."""

    name: str
    when: str
    """Its situation, after "when"."""
    prompts: tuple[tuple[Path, ...], ...]
    """Per prompt, every response."""
    chances: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Probability of tokens where there is a choice; even otherwise."""
    meanings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What a token stands for in a sentence: "the longer response"."""
    sizes: tuple[int, ...] = (1,)
    """Rows of each prompt, in groups."""
    gamma: float = 1.0
    per_token: bool = False
    """Whether it tells a discount per token from one per turn, or one that counts replies."""

    @property
    def non_negative(self) -> bool:
        """Whether no token costs anything."""
        return all(reward >= 0 for some in self.prompts for path in some for _, reward in path)

    def build(self, *, pays: str = "tokens", turns: bool = False) -> Decisions:
        """Return its tensors.

        Args:
            pays: What the estimator is shown as token rewards: see `PAYS`.
            turns: Make each token a turn of its own, with a reply of one token between, so that a
                discount per turn and one per token are the same.
        """
        prompts = self.prompts
        if turns:
            prompts = tuple(tuple(_as_turns(path) for path in some) for some in prompts)
        return decisions(prompts, self.chances, gamma=self.gamma, pays=pays)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question about an estimator."""

    name: str
    question: str
    needs: tuple[tuple[str, ...], ...]
    """What an estimator must read for the question to apply: one of each tuple; see `Batch`."""
    cases: tuple[Case, ...]


LENGTHS = MappingProxyType(
    {"stop": "the shorter response", "on": "the longer response", "more": "the longer response",
     "far": "the longer response", "halt": "the shorter response"}
)  # fmt: skip
TIMES = MappingProxyType({"now": "the earlier reward", "wait": "the later reward"})
TURNS = MappingProxyType(
    {"now": "the reward of the earlier turn", "wait": "the reward of the later turn",
     "stop": "ending the conversation", "on": "one turn more"}
)  # fmt: skip


def _as_turns(path: Path) -> Path:
    """Return a response with a reply after each token but the last."""
    apart = [(token, (f"{REPLY}{token[0]}", 0.0)) for token in path[:-1]]
    return (*(token for pair in apart for token in pair), path[-1])


def _one(*paths: Path) -> tuple[tuple[Path, ...], ...]:
    return (paths,)


TOKEN_REWARDS = Check(
    name="token rewards",
    question="Is a token credited with the rewards that follow from it?",
    needs=(("token_rewards",),),
    cases=(
        Case(
            name="a late cost",
            when="a later token costs more than an earlier one pays",
            prompts=_one((("now", 0.5), ("x", -0.75)), (("wait", 0.0), ("y", 0.0))),
            meanings={"now": "the early reward", "wait": "the token without it"},
        ),
        Case(
            name="a late reward",
            when="a later token pays more than an earlier one",
            prompts=_one((("now", 0.5), ("x", 0.0)), (("wait", 0.0), ("y", 0.75))),
            meanings=TIMES,
        ),
        Case(
            name="early or late",
            when="an early and a late reward are equal",
            prompts=_one((("now", 0.5), ("x", 0.0)), (("wait", 0.0), ("y", 0.5))),
            meanings=TIMES,
        ),
        Case(
            name="two decisions",
            when="two tokens decide",
            prompts=_one(
                (("a", 0.25), ("x", 0.5)),
                (("a", 0.25), ("y", 0.0)),
                (("b", 0.0), ("z", 1.0)),
                (("b", 0.0), ("w", 0.25)),
            ),
            chances={"a": 0.5, "x": 0.3, "z": 0.6},
        ),
        Case(
            name="three tokens",
            when="one of three tokens pays first and costs later",
            prompts=_one(
                (("a", 0.0), ("x", 0.6)), (("b", 0.5), ("y", 0.0)), (("c", 1.0), ("z", -0.75))
            ),
        ),
    ),
)
TURN_REWARDS = Check(
    name="turns",
    question="Is a turn credited with the turns that follow from it, and with no others?",
    needs=(("turn_ids",),),
    cases=(
        Case(
            name="a later turn costs",
            when="a later turn costs more than an earlier one pays",
            prompts=_one(
                (("now", 0.5), (">l", 0.0), ("x", -0.75)), (("wait", 0.0), (">r", 0.0), ("y", 0.0))
            ),
            meanings={"now": "the turn that pays at once", "wait": "the turn that does not"},
        ),
        Case(
            name="a later turn pays",
            when="a later turn pays more than an earlier one",
            prompts=_one(
                (("now", 0.5), (">l", 0.0), ("x", 0.0)), (("wait", 0.0), (">r", 0.0), ("y", 0.75))
            ),
            meanings=TURNS,
        ),
        Case(
            name="earlier or later turn",
            when="an earlier and a later turn pay the same",
            prompts=_one(
                (("now", 0.5), (">l", 0.0), ("x", 0.0)), (("wait", 0.0), (">r", 0.0), ("y", 0.5))
            ),
            meanings=TURNS,
        ),
        Case(
            name="another turn pays",
            when="one turn more earns more than it costs",
            prompts=_one((("stop", 1.0),), (("on", 0.5), (">l", 0.0), ("end", 0.75))),
            meanings=TURNS,
        ),
        Case(
            name="another turn earns nothing",
            when="one turn more earns as much as it costs",
            prompts=_one((("stop", 1.0),), (("on", 0.5), (">l", 0.0), ("end", 0.5))),
            meanings=TURNS,
        ),
        Case(
            name="each turn decides",
            when="each turn decides",
            prompts=_one(
                (("a", 0.0), (">l", 0.0), ("x", 1.0)),
                (("a", 0.0), (">l", 0.0), ("y", 0.0)),
                (("b", 0.5), (">r", 0.0), ("z", 0.0)),
                (("b", 0.5), (">r", 0.0), ("w", 0.25)),
            ),
        ),
    ),
)
LENGTH = Check(
    name="length",
    question="Does it pay for length where length earns nothing?",
    needs=(),
    cases=(
        Case(
            name="longer earns more",
            when="the longer response earns more",
            prompts=_one((("stop", 1.0),), (("on", 0.5), ("end", 0.75))),
            meanings=LENGTHS,
        ),
        Case(
            name="longer earns the same",
            when="a short and a long response earn the same",
            prompts=_one((("stop", 1.0),), (("on", 0.5), ("end", 0.5))),
            meanings=LENGTHS,
        ),
        Case(
            name="longer earns less",
            when="the longer response earns less",
            prompts=_one((("stop", 1.0),), (("on", 0.5), ("end", 0.25))),
            meanings=LENGTHS,
        ),
        Case(
            name="longer costs the same",
            when="a short and a long response cost the same",
            prompts=_one((("stop", -1.0),), (("on", 0.0), ("end", -1.0))),
            meanings=LENGTHS,
        ),
        Case(
            name="longer costs less",
            when="every response costs something, the longer one less",
            prompts=_one((("stop", -1.0),), (("on", -0.5), ("end", -0.25))),
            meanings=LENGTHS,
        ),
        Case(
            name="length beside success",
            when="success and length have nothing to do with each other",
            prompts=_one(
                (("right", 0.0), ("stop", 1.0)),
                (("right", 0.0), ("more", 0.0), ("so", 0.0), ("end", 1.0)),
                (("wrong", 0.0), ("halt", 0.0)),
                (("wrong", 0.0), ("far", 0.0), ("off", 0.0), ("over", 0.0)),
            ),
            chances={"right": 0.4},
            meanings=LENGTHS,
        ),
    ),
)
GROUPS = Check(
    name="groups",
    question="Are groups of unlike size, unlike difficulty or equal scores kept apart?",
    needs=(("group_ids", "group_size"),),
    cases=(
        Case(
            name="an easy and a hard prompt",
            when="an easy and a hard prompt share a batch",
            prompts=(
                ((("good", 2.0),), (("bad", 1.5),)),
                ((("better", 0.5),), (("worse", 0.0),)),
            ),
            chances={"good": 0.8, "better": 0.2},
            sizes=(1, 1),
        ),
        Case(
            name="groups of unlike size",
            when="a prompt has twice as many responses as another",
            prompts=(
                ((("good", 2.0),), (("bad", 1.5),)),
                ((("better", 0.5),), (("worse", 0.0),)),
            ),
            chances={"good": 0.8, "better": 0.2},
            sizes=(1, 2),
        ),
        Case(
            name="equal scores",
            when="all responses to a prompt score the same",
            prompts=(
                ((("one", 1.0),), (("other", 1.0),)),
                ((("better", 1.0),), (("worse", 0.0),)),
            ),
            chances={"one": 0.3},
            sizes=(1, 1),
        ),
    ),
)
MASKS = Check(
    name="masks and replies",
    question="Do padding and tokens that the policy did not write stay out of it?",
    needs=(("response_mask", "turn_ids", "response_ids"),),
    cases=(
        Case(
            name="replies of unlike length",
            when="a long and a short reply lead to the same score",
            prompts=_one(
                (("ask", 0.5), (">l", 0.0), (">l", 0.0), (">l", 0.0), ("x", 0.0)),
                (("tell", 0.0), (">r", 0.0), ("y", 0.5)),
            ),
            meanings={"ask": "the longer reply", "tell": "the shorter reply"},
        ),
        Case(
            name="a reward past a long reply",
            when="a reward lies past a long reply",
            prompts=_one(
                (("ask", 0.0), (">l", 0.0), (">l", 0.0), (">l", 0.0), ("x", 0.75)),
                (("tell", 0.5), (">r", 0.0), ("y", 0.0)),
            ),
            meanings={"ask": "the longer reply", "tell": "the shorter reply"},
        ),
        Case(
            name="a cost past a reply",
            when="what follows a reply costs more than was paid before it",
            prompts=_one(
                (("ask", 0.5), (">l", 0.0), (">l", 0.0), ("x", -0.75)),
                (("tell", 0.0), (">r", 0.0), ("y", 0.0)),
            ),
            meanings={"ask": "the token that pays at once", "tell": "the token that does not"},
        ),
        Case(
            name="a reply at the end",
            when="a response ends with a reply",
            prompts=_one((("a", 0.5), (">l", 0.0)), (("b", 0.0), ("c", 0.75), (">r", 0.0))),
        ),
    ),
)
DISCOUNT = Check(
    name="discount",
    question="Does a discount weigh later rewards down?",
    needs=(("gamma",),),
    cases=(
        Case(
            name="discounted below",
            when="a discount makes a later reward worth less than an earlier one",
            prompts=_one((("now", 0.5), ("x", 0.0)), (("wait", 0.0), ("y", 0.75))),
            meanings=TIMES,
            gamma=0.5,
        ),
        Case(
            name="still worth more",
            when="a later reward is worth more even with a discount",
            prompts=_one((("now", 0.5), ("x", 0.0)), (("wait", 0.0), ("y", 3.0))),
            meanings=TIMES,
            gamma=0.5,
        ),
        Case(
            name="discounted to the same",
            when="a discount makes a later reward worth as much as an earlier one",
            prompts=_one((("now", 0.5), ("x", 0.0)), (("wait", 0.0), ("y", 1.0))),
            meanings=TIMES,
            gamma=0.5,
            per_token=True,
        ),
    ),
)
PREFIX = Check(
    name="shared prefix",
    question="Is what responses share left out of what tells them apart?",
    needs=(),
    cases=(
        Case(
            name="the same beginning",
            when="responses share a beginning that pays",
            prompts=_one(
                (("p", 1.0), ("q", 0.0), ("good", 0.5)), (("p", 1.0), ("q", 0.0), ("bad", 0.0))
            ),
        ),
        Case(
            name="two beginnings of one worth",
            when="two beginnings are worth the same and want unlike continuations",
            prompts=_one(
                (("u", 1.0), ("x", 0.5)),
                (("u", 1.0), ("y", 0.0)),
                (("v", 0.5), ("z", 0.5)),
                (("v", 0.5), ("w", 1.0)),
            ),
            meanings={"u": "the beginning that pays at once", "v": "the beginning that pays later"},
        ),
        Case(
            name="a beginning that costs later",
            when="a beginning that pays leads to a cost",
            prompts=_one(
                (("u", 1.0), ("x", -1.0)),
                (("u", 1.0), ("y", -0.5)),
                (("v", 0.0), ("z", 0.0)),
                (("v", 0.0), ("w", 0.5)),
            ),
            meanings={"u": "the beginning that pays at once", "v": "the beginning that pays later"},
        ),
    ),
)
CHECKS = (TOKEN_REWARDS, TURN_REWARDS, LENGTH, GROUPS, MASKS, DISCOUNT, PREFIX)
"""All, in the order of the report."""
