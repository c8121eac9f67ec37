"""Names of saved agents as Stable-Baselines3 and its tools spell them: files, folders, streams."""

import io
import zipfile
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import PPO as STOCK
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback

from tokengym.agents import PPO
from tokengym.agents.errors import CheckpointError
from tokengym.agents.sb3 import as_vec_env
from tokengym.base.errors import StorageError
from tokengym.base.packed import MAX_ENTRIES, packing, unpacked


def same(first: PPO, second: PPO) -> bool:
    """Return whether two agents have equal weights."""
    weights = [agent.policy.state_dict() for agent in (first, second)]
    return all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize(
    ("saved", "loaded", "is_file"),
    [
        ("m", "m", False),
        ("m", "m.zip", False),
        ("m.zip", "m.zip", True),
        ("m.zip", "m", True),
        ("best_model", "best_model", True),
        ("best_model", "best_model.zip", True),
    ],
)
def test_names_with_and_without_a_suffix_are_one(make_ppo, tmp_path, saved, loaded, is_file):
    agent = make_ppo()
    agent.save(tmp_path / saved)
    assert same(agent, PPO.load(tmp_path / loaded))
    (made,) = tmp_path.iterdir()
    assert made.is_file() == is_file
    assert made.name == (saved if saved in ("m", "m.zip") else "best_model.zip")


def test_an_agent_in_one_file_continues_number_for_number(make_ppo, make_envs, tmp_path):
    agent = make_ppo()
    agent.learn(24)
    agent.save(tmp_path / "m.zip")
    agent.save(tmp_path / "m")
    of_file, of_folder = (PPO.load(tmp_path / n, env=make_envs()) for n in ("m.zip", "m"))
    assert of_file.num_timesteps == agent.num_timesteps
    for one in (of_file, of_folder):
        one.learn(24, reset_num_timesteps=False)
    assert same(of_file, of_folder)
    assert not same(of_file, agent)


def test_a_name_that_a_foreign_folder_has_gets_a_file(make_ppo, tmp_path, caplog):
    (tmp_path / "ID").mkdir()  # where rl_zoo3 keeps its own args.yml
    (tmp_path / "ID" / "args.yml").write_text("x")
    agent = make_ppo()
    agent.save(tmp_path / "ID")
    assert "ID.zip" in caplog.text
    assert (tmp_path / "ID.zip").is_file()
    assert [path.name for path in (tmp_path / "ID").iterdir()] == ["args.yml"]
    agent.save(tmp_path / "ID")  # again, over its own
    assert same(agent, PPO.load(tmp_path / "ID"))


def test_a_folder_that_an_agent_has_stays_one(make_ppo, tmp_path):
    make_ppo().save(tmp_path / "m")
    (tmp_path / "m").rename(tmp_path / "m.zip")  # as earlier versions wrote it
    make_ppo().save(tmp_path / "m.zip")
    assert (tmp_path / "m.zip" / "checkpoint.json").is_file()


def test_a_stream_holds_an_agent(make_ppo):
    agent, stream = make_ppo(), io.BytesIO()
    agent.save(stream)
    stream.seek(0)
    assert same(agent, PPO.load(stream))


def test_callbacks_of_sb3_write_the_files_that_they_announce(make_ppo, make_envs, tmp_path):
    every = CheckpointCallback(2, str(tmp_path), verbose=0)
    best = EvalCallback(
        as_vec_env(make_envs()), best_model_save_path=str(tmp_path), eval_freq=3, verbose=0
    )
    make_ppo().learn(12, callback=[every, best])
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert "best_model.zip" in names
    assert any(name.startswith("rl_model_") for name in names)
    assert all(PPO.load(tmp_path / name).policy for name in names)


def test_other_files_are_neither_replaced_nor_read(make_ppo, tmp_path):
    agent = make_ppo()
    (tmp_path / "notes.zip").write_text("mine")
    with pytest.raises(StorageError, match=r"notes\.zip is no saved agent.*name another"):
        agent.save(tmp_path / "notes.zip")
    with pytest.raises(CheckpointError, match=r"notes\.zip is no saved agent"):
        PPO.load(tmp_path / "notes.zip")
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(StorageError, match=r"notes is a file"):
        agent.save(tmp_path / "notes")
    STOCK("MlpPolicy", gym.make("CartPole-v1"), device="cpu").save(tmp_path / "stock")
    for name in ("stock", "stock.zip"):
        with pytest.raises(CheckpointError, match=r"stable_baselines3\.PPO\.load"):
            PPO.load(tmp_path / name)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        PPO.load(tmp_path / "nothing")


def test_a_file_is_unpacked_to_no_more_than_its_size(tmp_path):
    for number, compression in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w", compression) as archive:
            archive.writestr("checkpoint.json", "0" * 100_000)
    with unpacked(tmp_path / "0.zip", "checkpoint.json") as folder:
        assert (folder / "checkpoint.json").stat().st_size == 100_000
    assert not folder.exists()
    with (
        pytest.raises(CheckpointError, match="no file that save"),
        unpacked(tmp_path / "1.zip", "checkpoint.json"),
    ):
        pass


@pytest.mark.parametrize("how", ["many", "password", "nameless"])
def test_an_archive_that_no_agent_has_is_refused_before_it_is_unpacked(tmp_path, how):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("checkpoint.json", "{}")
        for number in range(MAX_ENTRIES if how == "many" else 0):
            archive.writestr(f"{number}", "")
    if how == "password":  # its flag, in both headers
        content = path.read_bytes()
        for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            place = content.index(sign) + at
            content = content[:place] + b"\x01" + content[place + 1 :]
        path.write_bytes(content)
    patch = pytest.MonkeyPatch.context()
    with patch as patched:
        if how == "nameless":
            names = zipfile.ZipFile.infolist
            nameless = zipfile.ZipInfo("x")
            nameless.filename = ""
            patched.setattr(zipfile.ZipFile, "infolist", lambda self: [*names(self), nameless])
        with (
            pytest.raises(CheckpointError, match="no file that save"),
            unpacked(path, "checkpoint.json"),
        ):
            pass


def test_a_file_that_could_not_be_filled_leaves_the_old_one(tmp_path):
    file = tmp_path / "m.zip"
    with packing(file) as folder:
        (folder / "checkpoint.json").write_text("1")
    before = file.read_bytes()
    with pytest.raises(KeyError), packing(file) as folder:
        raise KeyError
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.zip"]


def test_a_packed_agent_is_no_word_for_a_model(make_ppo, tmp_path, make_envs):
    make_ppo().save(tmp_path / "m.zip")
    with pytest.raises(ValueError, match=r"one file; unpack it.*zipfile -e"):
        PPO("CausalLMPolicy", make_envs(), policy_kwargs={"model": str(tmp_path / "m.zip")})


def test_schedules_come_from_custom_objects(make_ppo, tmp_path, caplog):
    make_ppo(learning_rate=lambda left: 1e-3 * left).save(Path(tmp_path) / "m")
    given = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    agent = PPO.load(tmp_path / "m", custom_objects=given)  # as rl_zoo3's enjoy loads
    assert agent.lr_schedule(0.5) == 0.0
    assert agent.settings.clip_range == 0.2
    assert "clip_range=..." in caplog.text


def test_versions_are_printed_where_load_is_asked_for_them(make_ppo, tmp_path, capsys):
    make_ppo().save(tmp_path / "m")
    PPO.load(tmp_path / "m", print_system_info=True)
    assert "Stable-Baselines3" in capsys.readouterr().out
