"""What the stock programs do otherwise, each as it stands in the versions installed here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """A default of a stock program: whose, what, where it stands, what engram does instead, and the test of that.

    `side` is the backend that runs with it, `steps` how many steps of the recipe it runs.
    """

    name: str
    title: str
    side: str
    whose: str
    default: str
    source: str
    engram: str
    test: str
    steps: int = 50


_HERE = "tests/tools/test_parity.py"
_OURS = "tests/backends/test_unsloth.py"
DEVIATIONS = (
    Deviation(
        "bias-correction",
        "no bias correction",
        "mlx",
        "mlx-lm 0.32.2, mlx 0.32.4",
        "`optimizer: adam`, `bias_correction=False`",
        "mlx_lm/lora.py CONFIG_DEFAULTS; mlx/optimizers Adam",
        "AdamW with bias correction",
        f"{_HERE}::test_one_optimizer_step_is_torchs",
    ),
    Deviation(
        "float32-corrections",
        "bias correction in float32",
        "mlx",
        "mlx 0.32.4",
        "`1 - b2**step` in float32, 2e-5 off",
        "mlx/optimizers Adam.apply_single",
        "tables in double precision, as torch",
        f"{_HERE}::test_bias_corrections_are_those_of_double_precision",
    ),
    Deviation(
        "stock-sum",
        "loss summed one by one",
        "mlx",
        "mlx 0.32.4, CPU build",
        "`logsumexp` adds the vocabulary in sequence",
        "mlx/nn/losses.py cross_entropy",
        "summed in pieces of 64",
        f"{_HERE}::test_the_loss_and_its_gradient_are_exact",
    ),
    Deviation(
        "scale-20",
        "scale 20",
        "mlx",
        "mlx-lm 0.32.2",
        "`scale: 20.0`, not divided by the rank",
        "mlx_lm/lora.py CONFIG_DEFAULTS; tuner/lora.py",
        "alpha / rank, as PEFT",
        f"{_HERE}::test_scale_is_alpha_over_rank_in_both",
    ),
    Deviation(
        "padding-target",
        "one padding target per row",
        "mlx",
        "mlx-lm 0.32.2",
        "`steps <= lengths` counts the token after the last",
        "mlx_lm/tuner/trainer.py default_loss",
        "learned tokens only",
        f"{_HERE}::test_padding_changes_no_loss",
    ),
    Deviation(
        "prompt-in-loss",
        "the prompt in the loss",
        "mlx",
        "mlx-lm 0.32.2",
        "`mask_prompt: False`",
        "mlx_lm/lora.py CONFIG_DEFAULTS",
        "the answer and its end token only",
        "tests/plan/test_encoding.py",
    ),
    Deviation(
        "own-initial-adapter",
        "an initial adapter of its own",
        "mlx",
        "mlx-lm 0.32.2, PEFT 0.21.2",
        "drawn by each program's own generator",
        "mlx_lm/tuner/lora.py; peft/tuners/lora/layer.py",
        "drawn by NumPy from the seed",
        f"{_HERE}::test_both_backends_start_from_one_adapter",
    ),
    Deviation(
        "stock-batches",
        "stock batches",
        "mlx",
        "mlx-lm 0.32.2",
        "sorted by length, last batch dropped, order from NumPy",
        "mlx_lm/tuner/trainer.py iterate_batches",
        "one plan for both",
        f"{_HERE}::test_both_backends_get_the_plan",
    ),
    Deviation(
        "constant-rate",
        "constant learning rate",
        "mlx",
        "mlx-lm 0.32.2",
        "`lr_schedule: null`",
        "mlx_lm/lora.py CONFIG_DEFAULTS",
        "cosine to 0",
        f"{_HERE}::test_learning_rates_are_the_same",
    ),
    Deviation(
        "linear-decay",
        "linear decay",
        "torch",
        "transformers 5.17.0 (TRL 1.14.2)",
        '`lr_scheduler_type="linear"`',
        "transformers/training_args.py",
        "cosine to 0",
        f"{_HERE}::test_learning_rates_are_the_same",
    ),
    Deviation(
        "clip-1",
        "gradients clipped at 1",
        "torch",
        "transformers 5.17.0 (TRL 1.14.2)",
        "`max_grad_norm=1.0`",
        "transformers/training_args.py",
        "not clipped, or by the recipe",
        f"{_HERE}::test_one_optimizer_step_is_torchs",
    ),
    Deviation(
        "weight-decay",
        "weight decay 0.01",
        "mlx",
        "mlx 0.32.4",
        "`weight_decay=0.01` of AdamW",
        "mlx/optimizers AdamW",
        "none, or by the recipe",
        f"{_HERE}::test_one_optimizer_step_is_torchs",
    ),
    Deviation(
        "bf16-torch",
        "bfloat16 (torch)",
        "torch",
        "TRL 1.14.2",
        "`bf16` is on where `fp16` is not",
        "trl/trainer/base_config.py",
        "float32 on a CPU",
        f"{_HERE}::test_everything_is_float32_on_a_cpu",
        20,
    ),
    Deviation(
        "bf16-mlx",
        "bfloat16 (MLX)",
        "mlx",
        "mlx-lm 0.32.2",
        "the model's own precision",
        "mlx_lm/utils.py load_model",
        "float32 on a CPU",
        f"{_HERE}::test_everything_is_float32_on_a_cpu",
        20,
    ),
    Deviation(
        "reference-blas",
        "reference BLAS",
        "mlx",
        "mlx-cpu 0.32.4",
        "the wheel's own BLAS: another order of sums",
        "libmlx",
        "OpenBLAS, as fast as torch's",
        "tests/backends/test_blas.py",
        10,
    ),
)
CONTROLS = {
    "ulp": "every weight of the initial adapter one unit in the last place larger",
    "reversed": "the rows of every batch in reverse order",
    "weights": "every weight of the model one unit in the last place away",
}
