"""Hostile models and adapters: nothing of theirs runs, waits, shows a private file or takes the machine."""

from __future__ import annotations

import functools
import json
import pickle
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engram.models import adapters, tokenizer
from engram.models.model import resolve
from engram.support.errors import EngramError
from engram.support.files import BUNDLED
from tools.torture import Note, Tally

MESSAGES = [{"role": "user", "content": "Hello"}]
BOUND = 30.0  # seconds for one template, on a machine that does other work too
TEMPLATES = {
    "macros without end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch MARK').read() }}",
    "attributes by a filter": "{{ ''|attr('__class__') }}",
    "attributes by a format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "a giant range": "{{ range(10**9)|list }}",
    "a long text": "{{ 'x' * 2000000 }}",
    "a file": "{% include 'MARK' %}",
    "no template": "{% for %}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a long source": "x" * (tokenizer.SOURCE + 1),
    "a control character": "{{ raise_exception('\x1b[2J') }}",
}


class Payload:
    """Leaves the mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def evil_model(folder: Path, mark: Path, draw: random.Random | None = None) -> Path:
    """The bundled model, with files that some loaders run or unpickle; with `draw`, a choice of them."""
    shutil.copytree(BUNDLED / "tiny", folder)
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    names = ["evil", "modeling_evil", "tokenization_evil", "configuration_evil", "__init__", "sitecustomize", "jinja2"]
    pickles = ["pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "model.pkl", "rng.pth"]
    parts: list[Callable[[], object]] = [
        lambda: change(folder / "config.json", auto_map=dict.fromkeys(AUTO, "evil.Evil"), custom_pipelines={"x": {}}),
        lambda: change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}),
        lambda: [(folder / f"{name}.py").write_text(code) for name in names],
        lambda: [(folder / name).write_bytes(pickle.dumps(Payload(mark))) for name in pickles],
        lambda: change(folder / "generation_config.json", custom_generate="evil.py"),
    ]
    for part in parts if draw is None else draw.sample(parts, draw.randint(1, len(parts))):
        part()
    return folder


AUTO = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")


def change(path: Path, **more: Any) -> None:
    old = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**old, **more}), "utf-8")


def weights_elsewhere(folder: Path, secret: Path) -> None:
    names = {"model.embed_tokens.weight": f"../{secret.name}"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def link(name: str) -> Callable[[Path, Path], None]:
    def make(folder: Path, secret: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(secret)

    return make


# each must be refused, by name
FOLDERS: dict[str, Callable[[Path, Path], None]] = {
    "an index that leads out": weights_elsewhere,
    "a template that is a link": link("chat_template.jinja"),
    "weights that are a link": link("model.safetensors"),
    "a linked file next to it": link("notes.txt"),
    "code for mlx-lm": lambda folder, _: change(folder / "config.json", model_file="evil.py"),
    "an unknown architecture": lambda folder, _: change(folder / "config.json", model_type="../../evil"),
    "an adapter inside": lambda folder, _: change(folder / "adapter_config.json", base_model_name_or_path="../x"),
    "pickled weights alone": lambda folder, _: (folder / "model.safetensors").rename(folder / "model.bin") and None,
    "weights next to the index": lambda folder, _: (folder / "model-2.safetensors").touch(),
}


def campaign(seed: int, scale: float, note: Note) -> list[Tally]:
    """Every template and folder; each round draws other conversations and other dangerous files."""
    rounds, draw = max(1, round(10 * scale)), random.Random(seed)
    started, losses, kinds = time.monotonic(), [], Counter[str]()
    for number in range(rounds):
        note(f"hostile {number + 1}/{rounds}")
        for name in sorted(TEMPLATES):
            kinds["template"] += 1
            losses += [f"seed {seed}, template, {name}: {problem}" for problem in template(TEMPLATES[name], draw)]
        for name in sorted(FOLDERS):
            kinds["folder"] += 1
            losses += [f"seed {seed}, folder, {name}: {problem}" for problem in folder(name, draw)]
    what = "a model or template that wants to run code, take everything or lead elsewhere"
    return [Tally("hostile", what, dict(kinds), losses, time.monotonic() - started)]


@functools.cache
def tokenizer_with(template: str) -> Any:
    """The bundled model's tokenizer with another chat template."""
    changed = tokenizer.load_tokenizer(resolve("tiny"))
    changed.chat_template = template
    return changed


def template(source: str, draw: random.Random) -> list[str]:
    """What one template did that it may not."""
    began, turns = time.monotonic(), [*MESSAGES] * draw.randint(1, 9)
    try:
        text = tokenizer.render(tokenizer_with(source), turns, draw.random() < 0.5)
        hidden = source == TEMPLATES["attributes by a filter"] and not text  # the sandbox gives a filter nothing
        problems = [] if hidden else [f"gave {text[:60]!r}"]
    except EngramError as error:
        problems = [f"a control character in {error}"] if "\x1b" in str(error) else []
    seconds = time.monotonic() - began
    return problems + ([f"took {seconds:.0f} s"] if seconds > BOUND else [])


def folder(name: str, draw: random.Random) -> list[str]:
    """What one model's folder did that it may not."""
    with tempfile.TemporaryDirectory() as root:
        mark, secret = Path(root) / "mark", Path(root) / "secret"
        secret.write_text("a private text")
        place = evil_model(Path(root) / "model", mark, draw)
        FOLDERS[name](place, secret)
        problems = []
        try:
            tokenizer.load_encoder(resolve(str(place)))
            if name != "an unknown architecture":  # which is refused where the model itself is loaded
                problems.append("was taken")
        except EngramError as error:
            problems = ["a private text was shown"] if "a private text" in str(error) else []
        return problems + (["code of the model was run"] if mark.exists() else [])


def evil_adapter(folder: Path, secret: Path) -> Path:
    """An adapter's configuration whose names lead elsewhere."""
    folder.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": f"../{secret.name}", "r": 4, "auto_mapping": {"x": "y"}}
    (folder / adapters.CONFIG).write_text(json.dumps(settings))
    (folder / adapters.PEFT_WEIGHTS).symlink_to(secret)
    return folder
