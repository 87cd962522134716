"""Adapters between the layouts: against stock PEFT and stock mlx-lm, there and back by bytes, and what is refused."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import stock_peft
from click.testing import CliRunner
from packs import refusal
from small_run import Run

from engram import backends
from engram.backends.mlx import blas
from engram.cli import main
from engram.models import peft_layout, safetensors_file
from engram.models.adapters import CONFIG, MLX_WEIGHTS, PEFT_WEIGHTS, grid, read_adapter
from engram.models.conversion import convert, describe, read, readable
from engram.models.safetensors_file import Tensor
from engram.support.errors import EngramError
from engram.support.files import BUNDLED, sha256

TINY = str(BUNDLED / "tiny")
TOLERANCE = 1e-4  # of logits up to 15, in float32; the largest difference seen is 2.4e-5
STOCK = all(importlib.util.find_spec(name) for name in ("peft", "torch", "mlx_lm"))
needs_stock = pytest.mark.skipif(not STOCK, reason="PEFT or MLX is not installed: make setup BACKEND=cpu")
FILES = {"peft": (CONFIG, PEFT_WEIGHTS), "mlx": (CONFIG, MLX_WEIGHTS)}

MLX_CASES: dict[str, dict[str, Any]] = {
    "default": {"num_layers": -1},
    "last-blocks": {"num_layers": 2, "dropout": 0.2},
    "few-targets": {"num_layers": 3, "keys": ["self_attn.q_proj", "mlp.up_proj"], "rank": 3, "scale": 33.3},
    "whole-names": {"num_layers": 1, "keys": ["model.layers.1.mlp.up_proj", "model.layers.3.self_attn.o_proj"]},
    "bfloat16": {"num_layers": -1, "keys": ["self_attn.v_proj"], "dtype": "bfloat16"},
}


@pytest.fixture(scope="module", autouse=True)
def real_blas() -> None:
    """Before MLX is imported here, as the backend does it: without it the tests after these would crawl on Linux."""
    blas.prepare()


class Stock(NamedTuple):
    """Stock PEFT's adapters with their logits; mlx-lm's, and the same `converted` with PEFT's; LoraConfig's fields."""

    peft: Path
    mlx: Path
    converted: Path
    fields: list[str]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    peft, mlx, converted = (tmp_path_factory.mktemp(name) for name in ("peft", "mlx", "converted"))
    for name, options in MLX_CASES.items():
        write_mlx(mlx / name, **options)
        convert(mlx / name, converted / name)
    arguments = [sys.executable, stock_peft.__file__, TINY, str(peft), str(converted)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return Stock(peft, mlx, converted, done.stdout.split())


def write_mlx(folder: Path, num_layers: int, dtype: str = "float32", **options: Any) -> None:
    """What `mlx_lm.lora` leaves after training, with random factors."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load, save_config

    model, _ = load(TINY)
    model.freeze()
    parameters = {"rank": 8, "scale": 20.0, "dropout": 0.0} | options
    linear_to_lora_layers(model, num_layers, parameters)
    mx.random.seed(0)
    shapes = {name: value.shape for name, value in tree_flatten(model.trainable_parameters())}
    tensors = {name: (mx.random.normal(shape) * 0.03).astype(getattr(mx, dtype)) for name, shape in shapes.items()}
    folder.mkdir()
    mx.save_safetensors(str(folder / MLX_WEIGHTS), tensors)
    settings = {"fine_tune_type": "lora", "num_layers": num_layers, "lora_parameters": parameters, "model": "tiny"}
    save_config({**settings, "seed": 0, "learning_rate": 1e-5, "adapter_path": "adapters"}, folder / CONFIG)


@functools.cache
def base_logits() -> np.ndarray[Any, Any]:
    return mlx_logits(None)


def mlx_logits(adapter: Path | None) -> np.ndarray[Any, Any]:
    """Stock mlx-lm's logits in float32."""
    import mlx.core as mx
    from mlx_lm.utils import load

    model = load(TINY, adapter_path=str(adapter) if adapter else None)[0]
    model.set_dtype(mx.float32)
    model.eval()
    return np.array(model(mx.array([stock_peft.TOKENS]))[0])


def assert_same_files(one: Path, other: Path, layout: str) -> None:
    for name in FILES[layout]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert sorted(path.name for path in other.iterdir()) == sorted(FILES[layout])


@needs_stock
@pytest.mark.parametrize("case", stock_peft.CASES)
def test_stock_mlx_lm_computes_what_stock_peft_does_and_back_by_bytes(stock: Stock, tmp_path: Path, case: str) -> None:
    """Every number is the same too, by MLX's own reader and transpose, which know bfloat16."""
    import mlx.core as mx

    convert(stock.peft / case, tmp_path / "mlx", "mlx")
    theirs, ours = np.load(stock.peft / f"{case}.npy"), mlx_logits(tmp_path / "mlx")
    assert np.abs(theirs - ours).max() < TOLERANCE
    assert np.abs(theirs - base_logits()).max() > 0.1  # the adapter does something
    convert(tmp_path / "mlx", tmp_path / "peft", "peft")
    assert_same_files(stock.peft / case, tmp_path / "peft", "peft")
    before, after = mx.load(str(stock.peft / case / PEFT_WEIGHTS)), mx.load(str(tmp_path / "mlx" / MLX_WEIGHTS))
    assert len(after) == len(before) > 0
    for name, value in before.items():
        layer, part = name.removeprefix("base_model.model.").removesuffix(".weight").rsplit("_", 1)
        mine = after[f"{layer}_{part.lower()}"]
        assert mine.dtype == value.dtype and str(value.dtype).endswith(stock_peft.CASES[case].get("dtype", "float32"))
        assert mx.array_equal(mine, value.T)


@needs_stock
@pytest.mark.parametrize("case", MLX_CASES)
def test_stock_peft_computes_what_stock_mlx_lm_does_and_back_by_bytes(stock: Stock, tmp_path: Path, case: str) -> None:
    theirs, ours = mlx_logits(stock.mlx / case), np.load(stock.converted / f"{case}.npy")
    assert np.abs(theirs - ours).max() < TOLERANCE
    assert np.abs(theirs - base_logits()).max() > 0.1
    convert(stock.converted / case, tmp_path / "mlx")
    assert_same_files(stock.mlx / case, tmp_path / "mlx", "mlx")


@needs_stock
def test_the_configurations_are_as_short_as_the_layers_allow(stock: Stock, tmp_path: Path) -> None:
    keys = {}
    for case in ("few-targets", "irregular-blocks", "excluded"):
        convert(stock.peft / case, tmp_path / case)
        settings = json.loads((tmp_path / case / CONFIG).read_text())
        assert settings["num_layers"] == -1
        keys[case] = settings["lora_parameters"]["keys"]
    assert keys["few-targets"] == ["mlp.down_proj", "self_attn.q_proj"]
    assert keys["irregular-blocks"] == [f"model.layers.{i}.mlp.gate_proj" for i in (0, 3)]
    assert keys["excluded"] == [f"model.layers.{i}.self_attn.o_proj" for i in (0, 2, 3, 4, 5)]
    chosen = {}
    for case in ("default", "last-blocks", "whole-names"):
        settings = json.loads((stock.converted / case / CONFIG).read_text())
        chosen[case] = (settings["target_modules"], settings.get("layers_to_transform"))
    linear = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert chosen["default"] == (linear, None)
    assert chosen["last-blocks"] == (linear, [4, 5])
    assert chosen["whole-names"] == (MLX_CASES["whole-names"]["keys"], None)


@needs_stock
def test_every_known_field_is_one_of_lora_config(stock: Stock) -> None:
    assert set(stock.fields) > peft_layout.KNOWN > peft_layout.PLAIN.keys()


NAMES = [f"model.layers.{block}.self_attn.{name}" for block in (0, 1) for name in ("q_proj", "v_proj")]
PEFT = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
MLX = {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": {"rank": 2, "scale": 3.0, "dropout": 0.0}}
Edit = Callable[[dict[str, Any], dict[str, Tensor]], object]


def tensor(rows: int, columns: int, dtype: str = "F32") -> Tensor:
    size = rows * columns
    data = np.arange(1, size + 1, dtype=np.float32) if dtype == "F32" else np.arange(1, size + 1, dtype=np.float16)
    return Tensor(dtype, (rows, columns), data.tobytes())


def write_by_hand(folder: Path, layout: str, edit: Edit = lambda settings, tensors: None) -> Path:
    """A small adapter of two blocks and two layers each, changed by `edit`."""
    settings = json.loads(json.dumps(PEFT if layout == "peft" else MLX))
    prefix, parts = "", {"lora_a": (5, 2), "lora_b": (2, 3)}
    if layout == "peft":
        prefix, parts = "base_model.model.", {"lora_A.weight": (2, 5), "lora_B.weight": (3, 2)}
    tensors = {f"{prefix}{name}.{part}": tensor(*shape) for name in NAMES for part, shape in parts.items()}
    edit(settings, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(settings))
    header = safetensors_file.new_header(tensors, {"format": "pt"})
    (folder / FILES[layout][1]).write_bytes(safetensors_file.pack(header, tensors))
    return folder


def setting(name: str, value: Any) -> Edit:
    return lambda settings, tensors: settings.update({name: value})


def parameter(name: str, value: Any) -> Edit:
    return lambda settings, tensors: settings["lora_parameters"].update({name: value})


def extra(name: str, made: Tensor) -> Edit:
    return lambda settings, tensors: tensors.update({name: made})


def without(name: str) -> Edit:
    return lambda settings, tensors: tensors.pop(name)


LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
NOT_PEFT: list[tuple[Edit, str]] = [
    (setting("use_dora", True), "use_dora: not known here, and set"),
    (extra(f"{LAYER}.lora_magnitude_vector", tensor(3, 1)), "tensors with unknown names: "),
    (setting("peft_type", "IA3"), "peft_type: 'IA3' is not plain LoRA"),
    (setting("task_type", "SEQ_CLS"), "task_type: 'SEQ_CLS' is not plain LoRA"),
    (setting("modules_to_save", ["lm_head"]), "modules_to_save: "),
    (extra("base_model.model.model.embed_tokens.lora_A.weight", tensor(2, 9)), "LoRA on an embedding: "),
    (extra("base_model.model.lm_head.base_layer.weight", tensor(9, 5)), "tensors with unknown names: "),
    (setting("rank_pattern", {"q_proj": 4}), "rank_pattern: "),
    (setting("bias", "all"), "bias: 'all'"),
    (setting("init_lora_weights", "pissa_niter_4"), "init_lora_weights: 'pissa_niter_4' is not plain LoRA"),
    (setting("from_the_future", 1), "from_the_future: not known here, and set"),
    (extra("base_model.model.something.weight", tensor(2, 2)), "tensors with unknown names: "),
    (extra("../../escape.lora_A.weight", tensor(2, 2)), "tensors with unknown names: ../../escape"),
    (without(f"{LAYER}.lora_B.weight"), "factor A without B: model.layers.0.self_attn.q_proj"),
    (without(f"{LAYER}.lora_A.weight"), "factor B without A: model.layers.0.self_attn.q_proj"),
    (extra(f"{LAYER}.lora_A.weight", tensor(3, 5)), "mixed ranks: 2 in 4 layers, 3 in 1 layers"),
    (setting("r", 4), "the configuration's rank is 4, the tensors' is 2"),
    (setting("r", None), "r: None is not a positive whole number"),
    (setting("lora_alpha", "16"), "lora_alpha: '16' is not a number"),
    (setting("lora_alpha", float("nan")), "not JSON: nan is no number"),
    (setting("lora_dropout", 1.0), "lora_dropout: 1.0 is not a number"),
    (extra(f"{LAYER}.lora_A.weight", Tensor("F64", (2, 5), bytes(80))), "dtype F64"),
    (extra(f"{LAYER}.lora_A.weight", Tensor("F32", (2, 5, 1), bytes(40))), "not a matrix"),
]
NOT_MLX: list[tuple[Edit, str]] = [
    (setting("fine_tune_type", "dora"), "fine_tune_type: 'dora' is not 'lora'"),
    (setting("num_layers", None), "num_layers: None is not a whole number"),
    (setting("lora_parameters", None), "lora_parameters: None is not a mapping"),
    (parameter("rank", 4), "the configuration's rank is 4, the tensors' is 2"),
    (parameter("scale", None), "scale: None is not a number"),
    (parameter("dropout", -1), "dropout: -1 is not a number"),
    (parameter("from_the_future", 1), "lora_parameters.from_the_future: not known here"),
    (extra("model.layers.0.self_attn.q_proj.weight", tensor(3, 5)), "tensors with unknown names: "),
    (extra("model.embed_tokens.lora_a", tensor(9, 2)), "LoRA on an embedding: "),
    (extra("model.layers.0.mlp.experts.lora_a", Tensor("F32", (4, 2, 5), bytes(160))), "not a matrix"),
    (without("model.layers.0.self_attn.q_proj.lora_b"), "factor A without B: "),
    (lambda settings, tensors: tensors.clear(), "no LoRA factors"),
]  # fmt: skip


def refused(folder: Path, tmp_path: Path, said: str) -> EngramError:
    """The refusal, which leaves nothing behind."""
    error = refusal(convert, folder, tmp_path / "out")
    assert said in str(error)
    assert error.fix
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
    return error


REFUSED = [*(("peft", *row) for row in NOT_PEFT), *(("mlx", *row) for row in NOT_MLX)]


@pytest.mark.parametrize(("layout", "edit", "said"), REFUSED, ids=[f"{row[0]}: {row[2]}" for row in REFUSED])
def test_more_than_lora_is_refused(tmp_path: Path, layout: str, edit: Edit, said: str, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:  # the writer knows no F64
        patch.setattr(safetensors_file, "ITEM_BYTES", {**safetensors_file.ITEM_BYTES, "F64": 8})
        folder = write_by_hand(tmp_path / "a", layout, edit)
    refused(folder, tmp_path, said)


@pytest.mark.parametrize("layout", ["peft", "mlx"])
def test_the_adapter_by_hand_is_converted_there_and_back(tmp_path: Path, layout: str) -> None:
    """The refusals above are of their edits, not of the adapter under them."""
    source = write_by_hand(tmp_path / "a", layout)
    convert(source, tmp_path / "b")
    convert(tmp_path / "b", tmp_path / "c")
    assert_same_files(source, tmp_path / "c", layout)
    assert read(source) == read(tmp_path / "b")
    assert read(source).scale == 3.0


def test_all_reasons_are_given_at_once(tmp_path: Path) -> None:
    def edit(settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        settings |= {"use_dora": True, "bias": "all", "rank_pattern": {"x": 1}, "r": 0}
        tensors |= {f"{LAYER}{i}.lora_magnitude_vector": tensor(1, 3) for i in range(5)}

    error = refused(write_by_hand(tmp_path / "a", "peft", edit), tmp_path, "not a plain LoRA adapter")
    assert len(error.problems) == 5
    assert error.problems[-1].endswith("and 2 more")


@pytest.mark.parametrize("value", [None, False, "", [], {}, 0])
def test_an_unknown_field_that_is_not_set_is_harmless(tmp_path: Path, value: object) -> None:
    convert(write_by_hand(tmp_path / "a", "peft", setting("from_the_future", value)), tmp_path / "b")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"LORA"', "\ufeff{}", "[" * 100_000])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_by_hand(tmp_path / "a", "peft")
    (folder / CONFIG).write_text(text, "utf-8")
    refused(folder, tmp_path, CONFIG)


@pytest.mark.parametrize("layout", ["peft", "mlx"])
@pytest.mark.parametrize("length", [0, 5, 8, 100, -1])
def test_weights_that_are_cut_short_are_refused(tmp_path: Path, layout: str, length: int) -> None:
    folder = write_by_hand(tmp_path / "a", layout)
    weights = folder / FILES[layout][1]
    weights.write_bytes(weights.read_bytes()[:length])
    refused(folder, tmp_path, "not a whole safetensors file")


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    folder = write_by_hand(tmp_path / "a", "peft")
    assert "already in PEFT's layout" in str(refusal(convert, folder, tmp_path / "b", "peft"))
    assert "something stands there" in str(refusal(convert, folder, tmp_path / "x" / ".." / "a", "mlx"))
    assert "no adapter here" in str(refusal(convert, tmp_path / "nowhere", tmp_path / "b"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    assert "something stands there" in str(refusal(convert, folder, tmp_path / "full"))
    (tmp_path / "file").touch()
    assert "a file stands where the folder goes" in str(refusal(convert, folder, tmp_path / "file"))
    (folder / CONFIG).unlink()
    assert f"{CONFIG} missing" in str(refusal(convert, folder, tmp_path / "b"))
    assert not (tmp_path / "b").exists()
    assert (tmp_path / "full" / "note").exists()


def test_two_layouts_in_one_folder_are_refused_but_either_is_read(tmp_path: Path) -> None:
    folder = write_by_hand(tmp_path / "a", "mlx")
    write_by_hand(folder, "peft")
    assert "weights in two layouts" in str(refusal(convert, folder, tmp_path / "b"))
    with readable(folder, PEFT_WEIGHTS) as place:
        assert place == folder


def edited(folder: Path, edit: Edit, layout: str = "mlx") -> None:
    """Change a converted adapter and keep its metadata, as a careless tool would."""
    header, tensors = safetensors_file.read(folder / FILES[layout][1])
    settings = json.loads((folder / CONFIG).read_text())
    edit(settings, tensors)
    (folder / CONFIG).write_text(json.dumps(settings))
    new = safetensors_file.new_header(tensors, safetensors_file.metadata(header))
    (folder / FILES[layout][1]).write_bytes(safetensors_file.pack(new, tensors))


def drop_block_1(settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if ".1." in name]:
        del tensors[name]


@pytest.mark.parametrize(
    "edit", [parameter("scale", 7.0), parameter("dropout", 0.5), setting("model", "another"), drop_block_1]
)
def test_a_changed_adapter_is_not_taken_for_what_it_was(tmp_path: Path, edit: Edit) -> None:
    source = write_by_hand(tmp_path / "a", "peft")
    convert(source, tmp_path / "b")
    edited(tmp_path / "b", edit)
    convert(tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "c" / CONFIG).read_bytes() != (source / CONFIG).read_bytes()
    before, after = read(tmp_path / "b"), read(tmp_path / "c")
    for field in ("rank", "scale", "dropout", "base", "layers"):
        assert getattr(before, field) == getattr(after, field)


def test_new_numbers_in_the_same_places_keep_the_configuration(tmp_path: Path) -> None:
    source = write_by_hand(tmp_path / "a", "peft")
    convert(source, tmp_path / "b")
    other = tensor(5, 2)._replace(data=bytes(40))
    edited(tmp_path / "b", extra("model.layers.0.self_attn.q_proj.lora_a", other))
    convert(tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "c" / CONFIG).read_bytes() == (source / CONFIG).read_bytes()
    assert read(tmp_path / "c").layers["model.layers.0.self_attn.q_proj"][0].data == bytes(40)


@pytest.mark.parametrize(
    "origin",
    ["", "[]", "{}", "null", '{"config": 1, "header": 2}', '{"config": "{}", "header": "{}"}',
     '{"config": "[]", "header": "[]"}', '{"config": "\\ud800", "header": "{"}', "[" * 100_000],
)  # fmt: skip
def test_an_origin_that_makes_no_sense_is_not_used(tmp_path: Path, origin: str) -> None:
    folder = write_by_hand(tmp_path / "a", "mlx")
    _, tensors = safetensors_file.read(folder / MLX_WEIGHTS)
    new = safetensors_file.new_header(tensors, {"format": "mlx", "engram": origin})
    (folder / MLX_WEIGHTS).write_bytes(safetensors_file.pack(new, tensors))
    convert(folder, tmp_path / "b")
    assert read(tmp_path / "b") == read(folder)


def test_layers_are_a_grid_only_where_their_product_is_whole() -> None:
    whole = grid(NAMES)
    assert whole and whole.whole and whole.blocks == [0, 1] and whole.inside == ["self_attn.q_proj", "self_attn.v_proj"]
    assert grid(NAMES[1:]) is None
    later = grid([name.replace(".0.", ".7.") for name in NAMES])
    assert later and later.blocks == [1, 7] and not later.whole
    assert grid([*NAMES, "lm_head"]) == whole._replace(outside=["lm_head"])
    assert grid([*NAMES, *(name.replace("model.", "encoder.", 1) for name in NAMES)]) is None
    assert grid([f"model.layers.0.mlp.experts.{i}.up" for i in (0, 1)]) is None
    assert grid(["lm_head"]) is None


def test_a_foreign_adapter_is_read_from_a_folder_that_goes_away(run: Run, tmp_path: Path) -> None:
    """With that, engram's own adapter comes back byte by byte."""
    convert(run.root / "adapter", tmp_path / "peft")
    with readable(tmp_path / "peft", MLX_WEIGHTS) as place:
        assert_same_files(run.root / "adapter", place, "mlx")
    assert not place.exists()
    with readable(run.root / "adapter", MLX_WEIGHTS) as place:
        assert place == run.root / "adapter"


def test_an_adapter_of_another_model_is_refused_by_its_own_name(run: Run, tmp_path: Path) -> None:
    folder = write_by_hand(tmp_path / "a", "peft")
    error = refusal(backends.get("mlx").load, run.model, folder)
    assert "the adapter does not fit tiny" in error.what and str(folder) in error.what
    assert "model.layers.0.self_attn.q_proj.lora_a: adapter shape (5, 2)" in error.problems[0]


def test_an_adapter_says_what_it_is(run: Run, tmp_path: Path) -> None:
    said = describe(run.root / "adapter")
    convert(run.root / "adapter", tmp_path / "peft")
    other = describe(tmp_path / "peft")
    assert said["layout"] == "mlx-lm" and other["layout"] == "PEFT"
    assert said["sha256"] == read_adapter(run.root / "adapter")[1] != other["sha256"]
    assert said["scale"] == "2" and said["blocks"] == "every one, 0-5" and said["dtype"] == "float32"
    assert said["parameters"] == f"{run.log['adapter']['parameters']:,}"
    assert {key for key in said if said[key] != other[key]} == {"layout", "sha256"} and said.keys() == other.keys()


def test_the_commands_convert_and_show(tmp_path: Path) -> None:
    write_by_hand(tmp_path / "a", "peft")
    (tmp_path / "b").mkdir()  # an empty folder is written to
    done = CliRunner().invoke(main, ["adapter", "convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "mlx"])
    assert done.exit_code == 0 and done.output.endswith("in mlx-lm's layout\n")
    shown = CliRunner().invoke(main, ["adapter", "show", str(tmp_path / "b")]).output
    head = "layout     mlx-lm\nmodel      not named\nrank       2\nscale      3\ndropout    0\n"
    assert shown.startswith(f"{head}targets    self_attn.q_proj self_attn.v_proj\n")
    again = CliRunner().invoke(main, ["adapter", "convert", str(tmp_path / "b"), str(tmp_path / "c"), "--to", "mlx"])
    assert again.exit_code == 2 and "already in mlx-lm's layout" in again.stderr


def test_eval_compare_and_demo_take_an_adapter(run: Run, tmp_path: Path) -> None:
    convert(run.root / "adapter", tmp_path / "foreign")
    data, results = ["--data", str(run.root / "data")], ["--results", str(tmp_path / "results")]
    given = ["--backend", "mlx", "--adapter", f"{tmp_path}/foreign/", *results]
    quick = ["--model", "tiny", "--set", "consistency_prompts=0 latency_prompts=1 batch_size=16"]
    for arguments in (["eval", *given, *data, *quick], ["compare", *given], ["demo", "--quick", *given, *data]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "results" / "mlx-with-foreign" / "tuned.json").read_text())
    assert [a["answer"] for a in document["answers"]] == [a["answer"] for a in run.tuned["answers"]]
    known = json.loads((run.root / "results" / "mlx" / "tuned.json").read_text())
    assert document["splits"] == known["splits"]
    assert document["adapter"] == {"sha256": sha256(tmp_path / "foreign" / PEFT_WEIGHTS)}
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["comparison.json", "mlx-with-foreign"]
    collected = json.loads((tmp_path / "results" / "comparison.json").read_text())
    assert list(collected["runs"]) == ["mlx-with-foreign"]
    assert collected["runs"]["mlx-with-foreign"]["backend"] == "mlx"
