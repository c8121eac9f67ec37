"""Bundles and tasks, over a folder written here; the shipped ones where they are there."""

import copy
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from tokenizers import normalizers

from tokengym.base.errors import TokenGymError
from tokengym.envs import (
    Bundle,
    BundleError,
    PromptError,
    PromptSet,
    SettingsError,
    TokenGenerationEnv,
    TokenGenerationVectorEnv,
    TokenizerError,
    bundled,
)
from tokengym.envs.tasks import TaskOptions, find_task
from tokengym.envs.tasks.task import task_arguments
from tokengym.scripts.cli import main


def build(task: str, **options: Any) -> Any:
    """Return the arguments of an environment of a task."""
    name = "".join(part.capitalize() for part in task.split("_"))
    split = options.pop("split", "train")
    return task_arguments(find_task(name), TaskOptions(**options), split)


@pytest.fixture
def folder(tokenizer: Any, tmp_path: Path) -> Path:
    """Write a bundle with tokenizer and prompts but no models."""
    path = tmp_path / "bundle"
    tokenizer.save_pretrained(path / "tokenizer")
    (path / "bundle.json").write_text(json.dumps({"task": "movie_review", "format": 1, "x": 2}))
    rows = [
        {"prompt": "a b", "reference": None, "query_type": None, "split": "train"},
        {"prompt": "c", "reference": "d", "query_type": "CONSTRAINED", "split": "train"},
        {"prompt": "e e e", "reference": None, "query_type": None, "split": "test"},
    ]
    (path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def test_reading(folder, tokenizer):
    bundle = Bundle(str(folder))
    assert (bundle.path, bundle.task, bundle.manifest["x"]) == (folder, "movie_review", 2)
    assert bundle == Bundle(folder)
    assert bundle.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert bundle.tokenizer is bundle.tokenizer
    assert bundle.prompts().texts == ("a b", "c")
    assert bundle.prompts()[1].query_type == "CONSTRAINED"
    assert bundle.prompts("test").texts == ("e e e",)
    assert len(bundle.prompts("all")) == 3
    (folder / "policy").mkdir()
    assert bundle.policy == folder / "policy"
    assert [bundle.has(part) for part in ("policy", "encoder", "lexicon")] == [True, False, False]


def test_parts_that_do_not_fit_are_hidden(folder):
    (folder / "policy").mkdir()
    bundle = Bundle(folder).without("policy").without("prompts")
    assert not bundle.has("policy")
    assert Bundle(folder).has("policy")
    assert bundle != Bundle(folder)
    assert bundle == Bundle(folder, hidden=["prompts", "policy"])
    with pytest.raises(BundleError, match=r"policy of bundle.*other settings"):
        _ = bundle.policy


@pytest.mark.parametrize("part", ["policy", "reward_model", "encoder", "lexicon", "gold_model"])
def test_missing_parts_name_the_builder(folder, part):
    with pytest.raises(BundleError, match=rf"has no {part}: {part}.*missing"):
        getattr(Bundle(folder), part)


def test_damaged_bundles(folder):
    with pytest.raises(BundleError, match="'chess' has no bundle"):
        bundled("chess")
    with pytest.raises(BundleError, match=r"no bundle\.json.*python -m"):
        Bundle(folder / "none")
    with pytest.raises(BundleError, match=r"no part 'polcy'.*tokenizer"):
        Bundle(folder).has("polcy")
    with pytest.raises(SettingsError, match=r"split.*got 'dev'"):
        Bundle(folder).prompts("dev")  # type: ignore[arg-type]
    (folder / "prompts.jsonl").write_text('{"prompt": "a", "split": "train"}\n{"prompt": ""}')
    with pytest.raises(BundleError, match=r"prompts\.jsonl' line 2"):
        Bundle(folder).prompts()
    (folder / "prompts.jsonl").write_text('{"prompt": "a", "split": "train"}')
    with pytest.raises(BundleError, match="split 'test'"):
        Bundle(folder).prompts("test")
    for content, message in (
        ("{", r"damaged \(.*\).*build"),
        ('{"task": "x", "format": 9}', r"has format 9, not 1"),
        ('{"task": "x", "format": 1, "models": null}', "entry models of type dict, got None"),
        ('{"task": "x", "format": 1, "training": []}', r"entry training of type dict, got \[\]"),
    ):
        (folder / "bundle.json").write_text(content)
        with pytest.raises(BundleError, match=message):
            Bundle(folder)


def test_prompts_may_hold_any_end_of_line(folder):
    """JSON leaves U+2028 and its like as they are, which only look like ends of lines."""
    texts = ["a\u2028b", "c\x85d", "e\x0bf", "g\r\nh", "i\x1cj"]
    rows = [{"prompt": text, "split": "train"} for text in texts]
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    (folder / "prompts.jsonl").write_text(lines, encoding="utf-8")
    assert Bundle(folder).prompts().texts == tuple(texts)


@pytest.mark.parametrize("task", ["movie_review", "question_answer"])
def test_tasks_build_environments(folder, task):
    arguments = build(task, bundle=folder)
    assert arguments["bundle"] == Bundle(folder)
    env = TokenGenerationEnv(**arguments, max_new_tokens=2)
    assert env.bundle == Bundle(folder)
    assert env.prompts.texts == ("a b", "c")
    envs = TokenGenerationVectorEnv(**build(task, bundle=str(folder), split="test"), num_envs=2)
    assert envs.reset()[1]["prompt"].tolist() == ["e e e"] * 2
    assert build(task, bundle=folder, split="test", prompt_tokens=2)["prompts"].texts == ("e e",)


def test_reviews_of_a_data_set_are_cut_and_questions_are_not(folder):
    table = datasets.Dataset.from_dict({"prompt": [f"{x} b c d e a b c d" for x in "abcde"]})
    review = build("movie_review", bundle=folder, dataset=table, split="all")["prompts"]
    assert all(2 <= len(text.split()) <= 7 for text in review.texts)
    whole = build("question_answer", bundle=folder, dataset=table, split="all")["prompts"]
    assert whole.texts == tuple(table["prompt"])


def test_a_file_of_prompts_is_read_once_until_it_changes(folder, tmp_path, tokenizer):
    file = tmp_path / "own.jsonl"
    options = {"bundle": folder, "dataset": str(file), "split": "all", "prompt_tokens": 2}
    file.write_text('{"prompt": "a b c"}')
    first = build("movie_review", **options)["prompts"]
    assert first.texts == ("a b",)
    assert build("movie_review", **options)["prompts"] is first
    assert build("movie_review", **{**options, "prompt_tokens": [2, 2]})["prompts"] is not first
    assert build("movie_review", **{**options, "prompt_tokens": 1})["prompts"].texts == ("a",)
    file.write_text('{"prompt": "d e"}\n{"prompt": "e d"}')
    assert build("movie_review", **options)["prompts"].texts == ("d e", "e d")
    own = copy.deepcopy(tokenizer)
    before = build("movie_review", **options, tokenizer=own)["prompts"]
    assert build("movie_review", **options, tokenizer=own)["prompts"] is not before


def test_a_tokenizer_of_the_callers_own_leaves_the_bundle_out(tokenizer, folder):
    table = datasets.Dataset.from_dict({"prompt": ["a b c", "b c"]})
    arguments = build("movie_review", tokenizer=tokenizer, dataset=table, split="all")
    assert (arguments["bundle"], arguments["tokenizer"]) == (None, tokenizer)
    kept = build("movie_review", tokenizer=tokenizer, bundle=folder)
    assert kept["bundle"] == Bundle(folder)
    assert kept["tokenizer"] is tokenizer


def test_token_generation_takes_anything(tokenizer, folder):
    arguments = build("token_generation", tokenizer=tokenizer, prompts=["a b", "c"], split="test")
    assert arguments == {"tokenizer": tokenizer, "prompts": PromptSet(["a b", "c"]), "bundle": None}
    cut = build("token_generation", bundle=folder, prompts=["a b c"], prompt_tokens=1)
    assert cut["prompts"].texts == ("a",)
    assert build("token_generation", bundle=folder)["prompts"].texts == ("a b", "c")
    table = datasets.Dataset.from_dict({"prompt": ["a b c"]})
    with pytest.raises(SettingsError, match="prompts or dataset, got both"):
        build("token_generation", tokenizer=tokenizer, prompts=["a"], dataset=table)
    with pytest.raises(PromptError, match=r"no prompts \(None\).*prompts="):
        build("token_generation", tokenizer=tokenizer)


def test_a_model_of_the_callers_own_takes_the_policys_place(tokenizer, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(TokenizerError, match=r"has no tokenizer beside it.*pass tokenizer="):
        build("movie_review", model=model)
    tokenizer.save_pretrained(model)
    arguments = build("movie_review", model=str(model))
    assert arguments["tokenizer"].get_vocab() == tokenizer.get_vocab()
    assert arguments["bundle"].policy == model
    assert arguments["bundle"].has("reward_model")
    assert not arguments["bundle"].has("grammar")  # which knows sentences of other words
    assert arguments["bundle"].without("gold").policy == model
    generic = build("token_generation", model=model, prompts=["a b"])
    assert generic["tokenizer"].get_vocab() == tokenizer.get_vocab()
    assert generic["bundle"].policy == model
    assert not generic["bundle"].has("reward_model")
    table = datasets.Dataset.from_dict({"prompt": ["a b c"]})
    assert build("token_generation", model=model, dataset=table, split="all")["prompts"][0].text
    own = build("movie_review", model=model, tokenizer=tokenizer)
    assert (own["tokenizer"], own["bundle"].policy) == (tokenizer, model)


@pytest.mark.parametrize(
    ("word", "message"),
    [("absent/no/model", "no folder 'absent/no/model'"), ("absent.gguf", "no file 'absent.gguf'")],
)
def test_words_that_are_no_model(word, message):
    with pytest.raises(TokenGymError, match=message):
        build("movie_review", model=word)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("movie_review", ["lexicon"]),
        ("question_answer", ["gold"]),
        ("detox", ["gold"]),
        ("dialogue", ["gold"]),
        ("summarize", ["gold"]),
    ],
)
def test_shipped_bundles(name, parts):
    try:
        bundle = bundled(name)
    except BundleError:
        pytest.skip(f"the bundle {name} is not built here")
    assert bundle.task == name
    parts += ["tokenizer", "prompts", "policy", "reward_model", "encoder"]
    assert all(bundle.has(part) for part in parts)
    assert bundle.tokenizer.pad_token_id != bundle.tokenizer.eos_token_id
    train, test = (set(bundle.prompts(split).texts) for split in ("train", "test"))
    assert not train & test
    env = TokenGenerationEnv(**build(name))
    env.reset(seed=0)
    assert env.step(env.tokenizer.eos_token_id)[2]
    if name == "movie_review":
        assert build("token_generation")["prompts"] == bundle.prompts()


def test_environments_over_a_bundle_share_what_was_read(folder):
    envs = [TokenGenerationEnv(**build("movie_review", bundle=folder)) for _ in range(3)]
    assert len({id(env.tokenizer) for env in envs}) == 1
    assert len({id(env._mdp) for env in envs}) == 1
    assert TokenGenerationVectorEnv(**build("movie_review", bundle=folder))._mdp is envs[0]._mdp
    other = TokenGenerationEnv(**build("movie_review", bundle=folder), max_new_tokens=5)
    assert (other.max_new_tokens, envs[0].max_new_tokens) == (5, 48)
    with pytest.raises(ValueError, match="read-only"):
        envs[0]._mdp.table.rows[0][:] = 0
    first, second = (env.reset(seed=0)[0] for env in envs[:2])
    envs[0].step(3)
    assert first["input_ids"].tolist() == second["input_ids"].tolist()
    assert envs[0].get_state()["response_ids"] != envs[1].get_state()["response_ids"]


def test_what_is_written_anew_is_read_anew(folder, build_tokenizer):
    before = TokenGenerationEnv(**build("movie_review", bundle=folder))
    row = {"prompt": "d d d d", "split": "train"}
    (folder / "prompts.jsonl").write_text(json.dumps(row))
    assert TokenGenerationEnv(**build("movie_review", bundle=folder)).prompts.texts == ("d d d d",)
    build_tokenizer([*before.tokenizer.get_vocab(), "f"]).save_pretrained(folder / "tokenizer")
    after = TokenGenerationEnv(**build("movie_review", bundle=folder))
    assert [len(env.action_masks()) for env in (before, after)] == [8, 9]


def test_a_tokenizer_of_the_callers_is_read_every_time(tokenizer, folder):
    own = copy.deepcopy(tokenizer)
    arguments = {**build("movie_review", bundle=folder), "tokenizer": own}
    before = TokenGenerationEnv(**arguments)
    own.backend_tokenizer.normalizer = normalizers.Replace("a", "e")
    after = TokenGenerationEnv(**arguments)
    shown = [env.reset(options={"prompt_id": 0})[0]["input_ids"][:2] for env in (before, after)]
    assert [ids.tolist() for ids in shown] == [[3, 4], [7, 4]]


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("env", "evil:Oracle-v0", r"evil:Oracle-v0.*imported"),
        ("env", "evil.py:Evil", r"names code.*evil\.py:Evil"),
        ("training", {"advantage": "evil.py:Evil"}, r"names code.*evil\.py:Evil"),
        ("options", {"stop_strings": {"evil.py:Evil": 1, "a": "evil.py:Evil"}}, "names code"),
        ("models", {"policy": "evil.py:Evil"}, "names code"),
        ("env", 3, r"env of type str, got 3"),
        ("training", [1], r"training of type dict, got \[1\]"),
    ],
)
def test_words_of_a_bundle_run_no_code(folder, monkeypatch, entry, value, said):
    for name in ("evil.py", "Evil.py"):
        (folder.parent / name).write_text("open('ran', 'w').close()\nEvil = None\n")
    monkeypatch.chdir(folder.parent)
    monkeypatch.syspath_prepend(str(folder.parent))
    manifest = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**manifest, entry: value}))
    assert main(["train", "--bundle", str(folder)]) == 2
    with pytest.raises(TokenGymError, match=said):
        Bundle(folder)
    assert not (folder.parent / "ran").exists()
