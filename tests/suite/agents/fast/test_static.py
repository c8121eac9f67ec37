"""A static cache reads what the dynamic one reads, and its steps can be captured and replayed."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.agents.common import make_model
from tests.support.agents.static import (
    FAMILIES,
    LENGTH,
    NOT_STATIC,
    model_of,
    observation,
    played,
    policy_of,
)
from tests.support.tapes import Tape, TapeError, record_tapes
from tokengym.agents.errors import ModelError, NonFiniteError
from tokengym.agents.fast import captured, replayed
from tokengym.agents.fast import static as static_cache
from tokengym.agents.fast.captured import CapturedSampler
from tokengym.agents.fast.static import StaticStream, check_static
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.sampler import CachedSampler, columns_needed, left_padded
from tokengym.agents.policy.sampling import draw
from tokengym.agents.policy.streams import ModelStream
from tokengym.agents.rollouts.given import at_temperature


@torch.no_grad()
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in NOT_STATIC])
def test_a_static_cache_reads_what_the_dynamic_one_reads(family):
    model = model_of(family)
    check_static(model)
    generator = torch.Generator().manual_seed(1)
    ids, mask = torch.randint(2, 64, (4, 8), generator=generator), torch.ones(4, 8).long()
    mask[0, :3], mask[2, :7] = 0, 0
    capacity = 8 + 12
    streams = StaticStream(model, capacity, rows=6), ModelStream(model)
    for _ in range(2):  # the second begins in a used cache
        static, dynamic = (stream.start(ids, mask) for stream in streams)
        for step in range(12):
            torch.testing.assert_close(static, dynamic, atol=1e-5, rtol=1e-5)
            if step == 4:
                for stream in streams:
                    stream.keep(torch.tensor([0, 2, 3]))
            tokens = torch.randint(2, 64, (4 if step < 4 else 3,), generator=generator)
            static, dynamic = (stream.step(tokens) for stream in streams)
        torch.testing.assert_close(static, dynamic, atol=1e-5, rtol=1e-5)
        with pytest.raises(ModelError, match=r"20 tokens.*capacity"):
            streams[0].step(tokens)
        streams = streams[0], ModelStream(model)
        ids, mask = ids.flip(0), mask.flip(0)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_replies_are_appended_to_texts_of_every_family(family):
    """Windows look back over tokens, not over columns that a shorter reply has left empty."""
    model = model_of(family)
    ids, mask = torch.arange(2, 34).view(4, 8), torch.ones(4, 8).long()
    mask[0, :3], mask[2, :7] = 0, 0
    texts = {row: ids[row, mask[row] > 0].tolist() for row in range(4)}
    streams: list[Any] = [ModelStream(model)]
    if family not in NOT_STATIC:
        streams.append(StaticStream(model, 8 + 24, rows=6))
    for stream in streams:
        stream.start(ids, mask)
    has_window = "sliding_attention" in str(getattr(model.model.config, "layer_types", ""))
    assert streams[0].appends is not (has_window or family == "mistral")
    streams = streams[not streams[0].appends :]
    generator = torch.Generator().manual_seed(1)
    for step, most in enumerate((1, 4, 1, 1, 3, 1, 6, 1)):
        if step == 5:
            for stream in streams:
                stream.keep(torch.tensor([0, 2, 3]))
            del texts[1]
        counts = torch.randint(1, most + 1, (len(texts),), generator=generator)
        counts[step % len(texts)] = most
        tokens = torch.randint(2, 64, (int(counts.sum()),), generator=generator)
        for row, given in zip(texts, tokens.split(counts.tolist()), strict=True):
            texts[row] += given.tolist()
        for stream in streams:
            states = appended(stream, tokens, counts, in_two=step == 4)
            for place, text in enumerate(texts.values()):
                whole = model.hidden(torch.tensor([text]))[0, -1]
                torch.testing.assert_close(states[place], whole, atol=1e-5, rtol=1e-5)


def appended(stream: Any, tokens: Tensor, counts: Tensor, *, in_two: bool) -> Tensor:
    """Return the states after more tokens; as a captured player, first the chosen ones, then those
    of replies."""
    if counts.max() == 1:
        return stream.step(tokens)
    if type(stream) is not StaticStream or not in_two:
        return stream.append(tokens, counts)
    is_chosen = torch.zeros(len(tokens), dtype=torch.bool)
    is_chosen[counts.cumsum(0) - counts] = True
    stream.step(tokens[is_chosen])
    return stream.append(tokens[~is_chosen], counts - 1)


@torch.no_grad()
def test_long_prompts_are_read_a_few_rows_at_a_time(monkeypatch):
    model = model_of("qwen2, windows")
    ids, mask = torch.arange(40).view(5, 8), torch.ones(5, 8).long()
    mask[1, :3] = 0
    streams = [StaticStream(model, 12, rows=8) for _ in range(2)]
    for most, stream in zip((10**6, 20), streams, strict=True):
        monkeypatch.setattr(static_cache, "MAX_PREFILLED_TOKENS", most)
        lengths: list[int] = []
        hook = model.model.model.register_forward_pre_hook(
            lambda _module, _args, given, seen=lengths: seen.append(len(given["input_ids"])),
            with_kwargs=True,
        )
        stream.start(ids.flip(0), mask.flip(0))  # which leaves something in the cache
        stream.start(ids, mask)
        hook.remove()
        assert lengths == ([5, 5] if most > 40 else [2, 2, 1] * 2)
    for _ in range(3):
        found = [stream.step(torch.arange(5)) for stream in streams]
        torch.testing.assert_close(*found, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_a_row_that_has_ended_does_not_pass_the_last_position():
    """It stays in the batch while shorter texts, begun earlier, are written on."""
    model = model_of("gpt2")  # 64 positions
    ids, mask = torch.arange(120).view(2, 60) % 64, torch.ones(2, 60).long()
    mask[1, :50] = 0
    both, alone = StaticStream(model, 80, rows=2), ModelStream(model)
    both.start(ids, mask)
    alone.start(ids[1:, 50:], mask[1:, 50:])
    for step in range(20):
        tokens = torch.tensor([1, step])
        found, expected = both.step(tokens)[1:], alone.step(tokens[1:])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("multiple", [1, 4, 32])
def test_there_is_room_for_prompts_padded_to_a_multiple(multiple):
    given = observation(0)
    ids, mask = left_padded(given, torch.device("cpu"), multiple=multiple)
    longest = int(given["attention_mask"].sum(1).max())
    assert ids.shape == mask.shape
    assert ids.shape[1] % multiple == 0
    assert 0 <= ids.shape[1] - longest < multiple
    assert mask.sum(1).tolist() == given["attention_mask"].sum(1).tolist()
    room = columns_needed(given, multiple=multiple)
    assert room >= ids.shape[1] + LENGTH - 8  # prompts end in column 7
    assert room == (LENGTH if 8 % multiple == 0 else LENGTH + multiple - 8)
    begun = {name: values.copy() for name, values in given.items()}
    begun["attention_mask"][3, 8:14] = 1
    width = left_padded(begun, torch.device("cpu"), multiple=multiple)[0].shape[1]
    assert columns_needed(begun, multiple=multiple) >= width + LENGTH - 8


@pytest.mark.parametrize("family", NOT_STATIC)
def test_a_model_without_a_static_cache_says_so_before_the_first_rollout(family):
    with pytest.raises(ModelError, match="decoding='auto'"):
        policy_of(model_of(family).model, decoding="static", num_actions=64)
    assert isinstance(policy_of(model_of(family).model, num_actions=64).sampler(), CachedSampler)


def test_layers_of_an_unknown_kind_are_named():
    model = model_of("qwen3")
    model.model.config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
    model.model.config.attention_chunk_size = 4
    with pytest.raises(ModelError, match="'chunked_attention'"):
        check_static(model)


# --- the player ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_captured", [False, True])
@pytest.mark.parametrize(
    ("shape", "masks", "settings"),
    [
        ("gpt2", "none", {}),
        ("llama", "shared", {"temperature": 0.7}),
        ("gpt2", "rows", {"top_k": 4}),
        ("llama", "rows", {"top_k": 5, "top_p": 0.8}),
        ("gpt2", "shared", {"mask_top_p": 0.7}),
        ("llama", "none", {"value_network": "own"}),
        ("llama", "none", {"has_critic": False, "deterministic": True}),
    ],
)
def test_a_captured_player_plays_as_the_dynamic_one(
    shape, masks, settings, is_captured, monkeypatch
):
    if is_captured:
        record_tapes(monkeypatch)
    settings = dict(settings)
    how: Any = {"masks": masks, "deterministic": settings.pop("deterministic", False)}
    policies = [
        policy_of(make_model(shape, scale=2.0), decoding=decoding, **settings)
        for decoding in ("dynamic", "static")
    ]
    for seed in range(3):
        players = [policy.sampler(torch.Generator().manual_seed(seed)) for policy in policies]
        assert isinstance(players[1], CapturedSampler)
        for dynamic, static in zip(*(played(p, **how, seed=seed) for p in players), strict=True):
            torch.testing.assert_close(static, dynamic, atol=1e-5, rtol=1e-5)
        with torch.no_grad():  # a step of learning, in place
            for policy in policies:
                for parameter in policy.trained_parameters():
                    parameter.mul_(1.1)
    assert len(policies[1].decoders) == 1  # one memory for all rounds


def test_captured_functions_do_not_wait():
    """The tape of this test refuses what a graph refuses."""
    logits = torch.randn(3, 5)
    with pytest.raises(TapeError, match="cannot be captured"):
        Tape(lambda: draw(logits, torch.rand(3)))
    Tape(lambda: draw(logits, torch.rand(3), looks=False))
    with pytest.raises(TapeError, match="index reads"):
        Tape(lambda: logits[logits > 0])


def test_a_tape_complains_of_what_a_graph_would_repeat_wrongly():
    out, memory = torch.zeros(3), torch.ones(3)
    tape = Tape(lambda: out.copy_(2.0 * memory))
    tape.check(lambda: out.copy_(2.0 * memory))
    memory.fill_(3.0)
    tape.replay()
    assert out.tolist() == [6.0] * 3
    for changed in (
        lambda: out.copy_(0.5 * memory),
        lambda: out.copy_(2.0 * memory.clone()),
        lambda: out.copy_(2.0 * torch.ones(3)),
        lambda: out.copy_(memory),
    ):
        with pytest.raises(TapeError, match="stale"):
            tape.check(changed)


def test_a_temperature_that_changes_between_rounds_is_sampled_at(monkeypatch):
    """Candidates and best-of-n set it on a policy that has played already."""
    record_tapes(monkeypatch)
    policies = [
        policy_of(make_model(scale=2.0), decoding=decoding, mask_top_p=0.9)
        for decoding in ("dynamic", "static")
    ]
    for seed, temperature in enumerate((1.0, 0.3, 0.7, 1.0)):
        rounds = []
        for policy in policies:
            with at_temperature(policy, temperature):
                player = policy.sampler(torch.Generator().manual_seed(seed))
                rounds.append(list(played(player, "rows", deterministic=False, seed=seed)))
        for dynamic, static in zip(*rounds, strict=True):
            torch.testing.assert_close(static, dynamic, atol=1e-5, rtol=1e-5)
    assert len(policies[1].decoders) == 1


@pytest.mark.parametrize("moved", ["all weights", "weight", "parameter", "buffer"])
def test_what_has_moved_elsewhere_is_captured_again(moved, monkeypatch):
    record_tapes(monkeypatch)
    policy = policy_of(make_model("llama"), decoding="static")
    how: Any = {"masks": "none", "deterministic": True, "seed": 0}
    before = list(played(policy.sampler(), **how))
    trunk: Any = policy.language_model.model.base_model
    if moved == "all weights":
        for parameter in policy.language_model.parameters():
            parameter.data = 2 * parameter.data
    elif moved == "weight":
        policy.critic.head.weight.data = 2 * policy.critic.head.weight.data
    elif moved == "parameter":
        policy.critic.head.weight = torch.nn.Parameter(2 * policy.critic.head.weight.data)
    else:
        trunk.rotary_emb.inv_freq = 2 * trunk.rotary_emb.inv_freq
    expected = list(played(CachedSampler(policy, torch.Generator()), **how))
    after = list(played(policy.sampler(), **how))
    assert not torch.equal(before[1][2], after[1][2])
    assert len(policy.decoders) == 1
    for one, other in zip(expected, after, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in NOT_STATIC])
def test_a_step_of_every_family_can_be_captured(family):
    model = model_of(family)
    static, dynamic = StaticStream(model, 20, rows=2), ModelStream(model)
    ids, mask = torch.arange(2, 16).view(2, 7), torch.ones(2, 7).long()
    mask[0, :4] = 0
    for stream in (static, dynamic):
        stream.start(ids, mask)
    tape = None
    for step in range(6):
        tokens = torch.tensor([step + 5, 3 * step + 2])
        static.tokens[:, 0] = tokens
        static.advance()
        tape = tape or Tape(static.read)
        tape.replay()
        expected = dynamic.step(tokens)
        torch.testing.assert_close(static.states, expected, atol=1e-5, rtol=1e-5)


def test_players_at_the_same_time_have_memory_of_their_own():
    """A credit by Monte Carlo continues texts while the round that it scores goes on."""
    policy = policy_of(make_model(), decoding="static")
    how: Any = {"masks": "none", "deterministic": False, "seed": 0}
    alone = list(played(policy.sampler(torch.Generator().manual_seed(0)), **how))
    outer = played(policy.sampler(torch.Generator().manual_seed(0)), **how)
    found = [next(outer)]
    list(played(policy.sampler(torch.Generator().manual_seed(1)), **how | {"seed": 1}))
    found += outer
    for one, other in zip(alone, found, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_few_long_texts_and_many_short_ones_share_a_decoder(monkeypatch):
    """Else training and evaluation would build one for the other's anew in every round."""
    built = []
    make = captured.Decoder.__init__

    def counted(decoder: captured.Decoder, policy: Any, rows: int, capacity: int) -> None:
        built.append((rows, capacity))
        make(decoder, policy, rows, capacity)

    monkeypatch.setattr(captured.Decoder, "__init__", counted)
    policy = policy_of(make_model(), decoding="static")
    few_long = observation(0)
    width = few_long["input_ids"].shape[1]
    many_short = {
        name: np.concatenate([values, values])[:, : width - 2] for name, values in few_long.items()
    }
    for _ in range(3):
        for texts in (few_long, many_short):
            policy.sampler().begin(texts)
    num_rows = len(few_long["input_ids"])
    assert [rows for rows, _ in built] == [num_rows, 2 * num_rows]
    assert built[1][1] == built[0][1]  # room for the longer texts
    assert len(policy.decoders) == 1


@pytest.mark.parametrize("decoding", ["dynamic", "static"])
def test_diverged_weights_are_named_by_row_and_token(decoding):
    policy = policy_of(make_model(), decoding=decoding)
    trunk: Any = policy.language_model.model.base_model
    lengths = observation(0)["attention_mask"].sum(1)
    trunk.wpe.weight.data[lengths.max() + 1 :] = torch.nan  # first read with two tokens written
    message = f"row {lengths.argmax()} at response token 2 .*learning_rate"
    with pytest.raises(NonFiniteError, match=message):
        list(played(policy.sampler(), "none", deterministic=False, seed=0))


@pytest.mark.parametrize("decoding", ["auto", "static"])
def test_what_cannot_be_captured_is_an_error_only_where_it_was_asked_for(
    decoding, monkeypatch, caplog
):
    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    record_tapes(monkeypatch)
    monkeypatch.setattr(replayed.Replayed, "_capture", refuse)
    monkeypatch.setattr(CausalLMPolicy, "_decodes_statically", lambda _: True)
    policy = policy_of(make_model(), decoding=decoding)
    assert policy.captured is None
    how: Any = {"masks": "none", "deterministic": False, "seed": 0}
    static = played(policy.sampler(torch.Generator().manual_seed(0)), **how)
    if decoding == "static":
        with pytest.raises(ModelError, match="decoding='auto'"):
            next(static)
        return
    expected = played(CachedSampler(policy, torch.Generator().manual_seed(0)), **how)
    for one, other in zip(expected, static, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    assert "not captured, which is slower" in caplog.text
    assert policy.captured is False


@pytest.mark.parametrize("vocab", [11, 5_000])
def test_a_draw_without_looking_is_the_draw(vocab):
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(400, vocab, generator=generator, dtype=torch.float64)
    logits[:, torch.randperm(vocab, generator=generator)[: vocab // 2]] = -torch.inf
    uniforms = torch.rand(400, generator=generator, dtype=torch.float64)
    uniforms[:2] = torch.tensor([0.0, 1.0], dtype=torch.float64)  # 1: as rounding has it
    for given in (uniforms, None):
        expected, found = draw(logits, given), draw(logits, given, looks=False)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
