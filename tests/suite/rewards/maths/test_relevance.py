# mypy: no-check-untyped-defs
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from tokengym.rewards.maths import relevance as R3


@pytest.mark.parametrize(
    ("text", "incentive", "penalty"),
    [
        ("", 0.0, 1.0),
        ("Yes", 0.01, 1.0),
        ("Yes it", 0.02, 1.0),
        ("It's 3.5 km!!", 0.08, 1.0),  # It ' s 3 . 5 km !!
        ("a b c a b c", 0.06, 3 / 4),  # abc bca cab abc
        ("no no no no no", 0.05, 1 / 3),
        ("naïve café_2 — “ok”", 0.06, 1.0),  # naïve café_2 — “ ok ”
    ],
)
def test_length_incentive_and_repetition_penalty(text, incentive, penalty):
    assert R3.length_incentive(text) == pytest.approx(incentive)
    assert R3.repetition_penalty(text) == pytest.approx(penalty)


def test_r3_factor_by_hand():
    assert R3.r3_factor(0.4, 0.5, max_len=512, constrained=False) == pytest.approx(0.2)
    # F(r_y) = r_y / 3.5 * 512 / 100: with r_y = 3.5 it is 5.12
    assert 3.5 * R3.r3_factor(0.4, 0.5, max_len=512, constrained=True) == pytest.approx(2.56)
    assert 7.0 * R3.constrained_factor(50) == pytest.approx(1.0)
    # In an encoder where a reference has 2.5 to itself, 2.5 earns the same 5.12.
    full = R3.r3_factor(0.4, 0.5, max_len=512, constrained=True, full_relevance=2.5)
    assert 2.5 * full == pytest.approx(2.56)
    open_ended = R3.r3_factor(0.4, 0.5, max_len=512, constrained=False, full_relevance=2.5)
    assert open_ended == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("An answer.\n\nStill it.", "An answer.\n\nStill it."),
        ("An answer.\n\n\nStill it.", "An answer.\n\n\nStill it."),
        ("An answer.\n\n\n\nNo more.", "An answer."),
        ("An answer.\n \n\t\n\nNo more.", "An answer."),
        ("An answer.\n\n--\nNo more.", "An answer."),
        ("An answer.\n\n_____\nNo more.", "An answer."),
        ("A range: 1 -- 2\n--\n____", "A range: 1 -- 2\n--\n____"),
        ("An answer.\n\nHuman: and now?", "An answer."),
        ("An answer\nUSER: and now?", "An answer"),
        ("An answer\n<|user|>and", "An answer"),
        ("An answer\n### Input:\nand", "An answer"),
        ("An answer\n### User stories\nand", "An answer\n### User stories\nand"),
        ("\n\n\n\nAn answer", "An answer"),
        ("Assistant: at once", ""),
        ("The human said: no", "The human said: no"),
        ("Linux is an Operating System: it runs", "Linux is an Operating System: it runs"),
        ("An answer. Human: and <|user|> are tags", "An answer. Human: and <|user|> are tags"),
    ],
)
def test_cut_at_turn(text, kept):
    assert R3.cut_at_turn(text) == kept


@pytest.mark.parametrize(
    ("prompt", "query"),
    [
        ("Who wrote  Emma?", "Who wrote Emma?"),
        ("Who wrote Emma?\n\nAssistant:", "Who wrote Emma?"),
        ("Human: Who wrote Emma? Assistant:", "Who wrote Emma?"),
        ("Be brief.\n\nUSER: Who wrote Emma? ASSISTANT:", "Who wrote Emma?"),
        ("Human: Hi\n\nAssistant: Hello!\n\nHuman: Who?\n\nAssistant: ", "Hi Who?"),
        ("System: Be brief.\nUser: Who?\nAssistant:", "Who?"),
        ("<|system|>\nBe brief.</s>\n<|user|>\nWho?</s>\n<|assistant|>\n", "Who?"),
        ("[INST] Who wrote Emma? [/INST]", "Who wrote Emma?"),
        ("### Instruction\nSum up.\n### Input\nA text.\n### Response\n", "Sum up. A text."),
        ("Sum up.\n\n### Input:\nA text.", "Sum up. A text."),
        ("Below is a task.\n\n### Instruction:\nSum up.\n\n### Response:", "Sum up."),
        ("Linux is an Operating System: it runs.", "Linux is an Operating System: it runs."),
        ("Ask your Power User: he knows.", "Ask your Power User: he knows."),
        ("Ask your Power User: he knows.\n\nAssistant:", "Ask your Power User: he knows."),
        ("Be brief. USER: Hi ASSISTANT: Hello!</s>USER: Who? ASSISTANT:", "Hi Who?"),
        ("<s>[INST] Who wrote Emma? [/INST]", "Who wrote Emma?"),
        ("Human: Is Human: a tag?\n\nAssistant:", "Is Human: a tag?"),
        ("Sort:\n### User stories\nOne", "Sort:\n### User stories\nOne".replace("\n", " ")),
    ],
)
def test_strip_query(prompt, query):
    assert R3.strip_query(prompt) == query


def query_of_release(prompt, system="\0", user="\0", assistant="\0"):
    """Return the query by the rule of R3's release, whose template says what opens a turn."""
    query = ""
    for turn in prompt.replace(system, "").split(user):
        turn = turn.partition(assistant)[0]
        for found, put in (("### Input:\n", " "), ("</s>", ""), ("\n ", "\n"), (" : ", " ")):
            turn = turn.replace(found, put)
        query += turn.strip("\n: ") + " "
    return re.sub(r"\s+", " ", query).strip()


TASK = "Below is an instruction that describes a task."
TEMPLATES = [
    ("{}", {}),
    (
        f"{TASK}\n\n### Instruction:\n{{}}\n\n### Response:",  # the one that R3 was trained with
        {"system": TASK, "user": "### Instruction", "assistant": "### Response"},
    ),
    ("\n\nHuman: {}\n\nAssistant: ", {"user": "\n\nHuman:", "assistant": "\n\nAssistant:"}),
    ("USER: {}\nASSISTANT:", {"user": "USER", "assistant": "ASSISTANT"}),
    ("<|user|>\n{}</s>\n<|assistant|>\n", {"user": "<|user|>", "assistant": "<|assistant|>"}),
    (
        f"{TASK} USER: {{}} ASSISTANT:",
        {"system": TASK, "user": "USER", "assistant": "ASSISTANT"},
    ),
    ("[INST] {} [/INST]", {"user": "[INST] ", "assistant": " [/INST]"}),
]


@pytest.mark.parametrize(("template", "roles"), TEMPLATES)
def test_queries_are_those_of_the_release(template, roles):
    """TOKENGYM_R3_DATA names the release's alpacafarm_val.json, for all its 2,000 prompts."""
    prompts = [
        "Write a story.\n\n### Input:\nA magic bow",
        "Who wrote Emma?",
        "Rewrite : now",
        "Fix it.\n\n### Input:\nfor x in y:\n    print(x)\n\nprint(y)",
        ": What is 2 : 3?\n",
    ]
    if stored := os.environ.get("TOKENGYM_R3_DATA"):
        prompts += [row["input"] for row in json.loads(Path(stored).read_text("utf-8"))]
    for prompt in map(template.format, prompts):
        assert R3.strip_query(prompt) == query_of_release(prompt, **roles)


def test_relevance_shares_by_hand():
    query, hidden = [1.0, -2.0], [[2.0, 0.0], [0.0, 1.0], [3.0, 2.0]]
    shares = R3.relevance_shares(query, hidden)
    np.testing.assert_allclose(shares, [2 / 3, -2 / 3, -1 / 3])
    assert shares.sum() == pytest.approx(float(np.dot(query, R3.mean_pool(hidden))))
    assert R3.mean_pool(np.zeros((0, 2))).tolist() == [0, 0]
    assert R3.relevance_shares(query, np.zeros((0, 2))).shape == (0,)


SENTENCES = {
    "Chinese": ("这部电影非常好看。", 9),
    "Japanese": ("この映画はとても面白い。", 12),
    "Thai": ("หนังเรื่องนี้ดีมาก ", 12),
    "Lao": ("ຮູບເງົານີ້ດີ ", 7),
    "Khmer": ("រឿងនេះល្អ ", 5),
    "Burmese": ("ဒီရုပ်ရှင်ကောင်းတယ် ", 9),
}


@pytest.mark.parametrize(("sentence", "words"), SENTENCES.values(), ids=SENTENCES)
def test_repetition_is_seen_in_scripts_without_spaces(sentence, words):
    assert R3.repetition_penalty(sentence) == 1.0
    assert R3.length_incentive(sentence * 6) == pytest.approx(6 * words / 100)
    # As many trigrams as words differ, of those of six times the sentence.
    assert R3.repetition_penalty(sentence * 6) == pytest.approx(words / (6 * words - 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: R3.constrained_factor(0), "max_len.*> 0, got 0"),
        (lambda: R3.constrained_factor(5, full_relevance=0), "full_relevance.*> 0, got 0"),
        (lambda: R3.mean_pool([1.0]), r"hidden.*got \(1,\)"),
        (lambda: R3.relevance_shares([1.0], [[1.0, 2.0]]), r"got \(1, 2\) and \(1,\)"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
