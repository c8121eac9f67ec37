"""Hub names, asked of a hub on this machine: found, unknown, and with nobody answering."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tokengym.base.errors import DatasetError, PretrainedError
from tokengym.base.pretrained import from_pretrained, load_whole
from tokengym.envs.prompts.loading import load_prompts

COMMIT = "1" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for one model, "me/tiny", of the files in a folder."""

    folder: Path

    def do_HEAD(self) -> IO[bytes] | None:
        """Send the headers of a file, those of the hub with them."""
        # Later requests of one loading may name the commit that the first was answered with.
        path = self.path.removeprefix("/").replace(f"/resolve/{COMMIT}/", "/resolve/main/")
        repository, _, name = path.partition("/resolve/main/")
        file = self.folder / name
        is_known, is_there = repository == "me/tiny", bool(name) and file.is_file()
        self.send_response(200 if is_known and is_there else 404)
        if not (is_known and is_there):
            self.send_header("X-Error-Code", "EntryNotFound" if is_known else "RepoNotFound")
        self.send_header("ETag", f'"{name}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(file.stat().st_size if is_there else 0))
        self.end_headers()
        return file.open("rb") if is_known and is_there else None

    def do_GET(self) -> None:
        """Send a file."""
        if file := self.do_HEAD():
            with file:
                self.wfile.write(file.read())

    def log_message(self, format: str, *args: object) -> None:
        """Keep the output clean."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """Serve a tiny model."""
    Hub.folder = tmp_path / "served"
    config = GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=11)
    GPT2LMHeadModel(config).save_pretrained(Hub.folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def go_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes an address the hub's; its cache is empty."""

    def change(endpoint: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("the same is asked again"))
    monkeypatch.chdir(tmp_path)
    return change


def test_adapters_on_the_hub_are_read_with_their_base(hub, go_to, tmp_path):
    base: Any = GPT2LMHeadModel.from_pretrained(Hub.folder)
    base.save_pretrained(tmp_path / "base")
    lora = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    adapted: Any = get_peft_model(base, lora)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.add_(0.5)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    for file in Hub.folder.iterdir():
        file.unlink()
    adapted.save_pretrained(str(Hub.folder))
    ids = torch.tensor([[3, 4, 5]])
    for address in (hub, "http://127.0.0.1:9"):  # then from the copy that is stored here
        go_to(address)
        loaded = load_whole(AutoModelForCausalLM, "me/tiny")
        with torch.no_grad():
            torch.testing.assert_close(loaded(ids).logits, adapted.eval()(ids).logits)


def test_a_hub_is_asked_once(hub, go_to):
    go_to(hub)
    assert isinstance(from_pretrained(AutoModelForCausalLM, "me/tiny"), GPT2LMHeadModel)
    message = rf"^cannot load serve as .* \(no such folder here, .* on {hub}; did you mean served\?"
    with pytest.raises(PretrainedError, match=message):
        from_pretrained(AutoModelForCausalLM, "serve")
    go_to("http://127.0.0.1:9")  # the port of "discard", where nothing listens
    assert isinstance(from_pretrained(AutoModelForCausalLM, "me/tiny"), GPT2LMHeadModel)
    message = r"^cannot load gpt3 as .* \(no such folder here, and no answer from http://127.*:9: "
    with pytest.raises(PretrainedError, match=message):
        from_pretrained(AutoModelForCausalLM, "gpt3")
    with pytest.raises(PretrainedError, match="no name"):
        from_pretrained(AutoModelForCausalLM, "a b")
    for name, reason in (("me/rows", "no answer from http://127.*:9: "), ("a b", "no name")):
        with pytest.raises(DatasetError, match=rf"^dataset '{name}' .*{reason}"):
            load_prompts(name)
    go_to(hub)
    with pytest.raises(DatasetError, match=rf"no such dataset on {hub}\)"):
        load_prompts("me/rows")
