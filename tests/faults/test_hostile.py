"""Hostile models, adapters and patterns: the short form of the campaign, and both backends, and a whole small run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packs import refusal

from engram import backends
from engram.models import adapters
from engram.models.model import TEMPLATES, resolve
from engram.models.tokenizer import load_encoder, render
from engram.support.files import BUNDLED, PACKAGE
from tools.torture import hostile as part

CHATML = (BUNDLED / "tiny" / "chat_template.jinja").read_text("utf-8")
FAMILIES = {"ChatML": CHATML, "phi-2": TEMPLATES["phi-2"]}
TALKS = [
    [{"role": "user", "content": " Grüße,\n<b>you</b> & 漢字 \u2028 "}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{{ 7 * 7 }}"}],
    [{"role": r, "content": f"{r} says\n"} for r in ("user", "assistant", "user", "assistant")],
]
BACKENDS = {"mlx": "mlx_lm", "cpu": "unsloth"}


def test_the_short_campaign_loses_nothing() -> None:
    (tally,) = part.campaign(1, 0.05, lambda line: None)
    assert tally.losses == []
    assert tally.kinds == {"template": len(part.TEMPLATES), "folder": len(part.FOLDERS)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("generation", [True, False])
def test_a_template_is_rendered_as_transformers_does(family: str, talk: list[dict[str, str]], generation: bool) -> None:
    tokenizer = load_encoder(resolve("tiny")).tokenizer
    tokenizer.chat_template = FAMILIES[family]
    options = {"tokenize": False, "add_generation_prompt": generation, "enable_thinking": False}
    assert render(tokenizer, talk, generation) == tokenizer.apply_chat_template(talk, **options)


@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_that_lies_beside_a_model_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not importlib.util.find_spec(BACKENDS[name]):
        pytest.skip(f"{BACKENDS[name]} is not installed")
    mark = tmp_path / "mark"
    folder = part.evil_model(tmp_path / "model", mark)
    monkeypatch.chdir(folder)
    model = resolve(str(folder))
    encoder = load_encoder(model)
    backend = backends.get(name)
    session = backend.load(model)
    answers = backend.generate(session, [encoder.prompt("Hello")], encoder.stop_ids, 2)
    assert answers and not mark.exists()


def test_the_mark_would_appear(tmp_path: Path) -> None:
    """The dangerous files are dangerous: whoever runs one leaves the mark."""
    import pickle

    mark = tmp_path / "mark"
    folder = part.evil_model(tmp_path / "model", mark)
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert mark.exists()
    mark.unlink()
    subprocess.run([sys.executable, str(folder / "evil.py")], check=True)
    assert mark.exists()


def test_every_loader_is_told_that_no_code_may_come_along() -> None:
    for path in sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "tools").rglob("*.py")]):
        text = path.read_text("utf-8")
        assert not re.search(r"pickle\.loads?\(|yaml\.(unsafe_|full_)?load\(|trust_remote_code=True", text), path
        for call in re.findall(r"torch\.load\(.*", text):  # the one checkpoint that `make base-model` writes itself
            assert "weights_only=True" in call and path.stem == "pretrain", (path, call)
        if path.stem == "card":  # code that a model card tells its reader to write; nothing here runs it
            continue
        for call in re.findall(r"\bfrom_pretrained\((?:[^()]|\([^()]*\))*\)", text):
            assert "trust_remote_code=False" in call or "**options" in call, (path, call)
    check = (PACKAGE.parent / "tools" / "gpu_check.py").read_text("utf-8")
    assert '"trust_remote_code": False, "use_safetensors": True' in check


def test_an_adapter_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a private text")
    folder = part.evil_adapter(tmp_path / "adapter", tmp_path / "secret")
    error = refusal(adapters.read_adapter, folder)
    assert "links lead out" in str(error) and "private" not in str(error)


ROWS = {
    "ansi": ("Ansi [35;5mviolet\u2028line", "right \u202eleft\u202c"),
    "<b>html</b>": ("The <script>alert(1)</script>", "</script><img src=x onerror=alert(2)>"),
    "[bold]rich[/bold]": ("The [red]colour[/red] [link=https://evil.example]x[/link]", "[bold]white [/]"),
    "a|b`c`": ("Pipes | and `ticks`", "black | `red` & 'x' \"y\""),
    "wide": ("Zero\u200bwidth {{ 7 * 7 }}", "two\u2066lines {% raw %}"),
}
REFUSED = (
    *("Ansi \x1b[35;5mviolet\x1b[0m", "green \x1b]52;c;aGk=\x07", "a\x9bb", "nul\0"),
    "A \x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
)
SECRETS = {
    **{"HF_TOKEN": "hf_plantedtoken", "WANDB_API_KEY": "plantedwandbkey", "AWS_SECRET_ACCESS_KEY": "plantedawskey"},
    **{"USER": "planteduser", "LOGNAME": "planteduser", "HOSTNAME": "plantedhost"},
}


@pytest.mark.slow
def test_a_whole_run_of_hostile_patterns_shows_them_harmless_and_writes_no_secret(tmp_path: Path) -> None:
    examples = [{"input": i, "output": o, "category": c} for c, (i, o) in ROWS.items()]
    more = ((f"[i]Thing[/i] {n} of <u>it</u>", f"a{n} \u2066b") for n in range(9))
    examples += [{"input": i, "output": o, "category": "more"} for i, o in more]
    work = tmp_path / "plantedfolder"
    work.mkdir()
    refused = [{"input": f"{n}", "output": text, "category": "more"} for n, text in enumerate(REFUSED)]
    (work / "refused.yaml").write_text(json.dumps({"name": "pack", "examples": refused}), "utf-8")
    (work / "pack.yaml").write_text(json.dumps({"name": "pack", "examples": examples}), "utf-8")
    stage = ["--backend", "mlx", "--model", "tiny"]
    settings = ["--set", "steps=1", "--set", "consistency_prompts=0", "--set", "max_new_tokens=8"]
    calls = [
        ["validate", "pack.yaml"],
        ["data", "--patterns", "pack.yaml"],
        ["train", *stage, *settings],
        ["eval", "--stage", "baseline", *stage, *settings],
        ["eval", "--stage", "tuned", *stage, *settings],
        ["compare", "--backend", "mlx"],
        ["demo", *stage, "--patterns", "pack.yaml", "--quick"],
        ["report"],
        ["record", "--backend", "mlx", "--patterns", "pack.yaml"],
    ]
    environment = {**os.environ, **SECRETS, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PACKAGE.parent)}
    for call in [["validate", "refused.yaml"], *calls]:
        command = [sys.executable, "-m", "engram.cli", *call]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        if "refused.yaml" in call:
            assert done.returncode == 2
            assert all(f"$.examples[{n}].output" in done.stderr for n in range(len(REFUSED))), done.stderr
        else:
            assert done.returncode == 0, (call, done.stdout[-500:], done.stderr[-2000:])
        for character in "\x1b\x07\u202e\u2066\u200b":
            assert character not in done.stdout + done.stderr, (call, character)
    page = (work / "results" / "report.html").read_text("utf-8")
    assert "<script>alert(1)" not in page and "<img src=x" not in page and "<b>html</b>" not in page
    recorded = (work / "results" / "mlx" / "demo.cast").read_text("utf-8").splitlines()
    shown = "".join(str(value) for line in recorded for value in json.loads(line))
    assert "violet" in shown and not re.search("\x1b\\]|\x1b\\[35;5m|[\x07\u202e\u2066\u200b]", shown)
    for path in work.rglob("*"):
        if path.is_file() and path.suffix != ".yaml":
            content = path.read_bytes()
            found = [s for s in (*SECRETS.values(), "plantedfolder", str(Path.home()) + "/") if s.encode() in content]
            assert found == [], (path, found)
