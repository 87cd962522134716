"""The batch plan: which rows are in which batch, in which order, as which arrays; the same for every backend."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.dataset.rows import Example
from engram.models.model import Model
from engram.models.tokenizer import Encoded, Encoder
from engram.plan.config import MAX_STEPS, Config
from engram.support import strict_json
from engram.support.errors import EngramError
from engram.support.files import sha256_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAD_LENGTH = 4  # row lengths are padded to a multiple of this, so that few shapes occur: a GPU prepares for each
WINDOW = 16  # batches whose rows are sorted by length together; more pad less, but put rows of one family together
PAD_TARGETS = 16  # and the number of learned positions to a multiple of this
ACTIVATIONS = {"cpu": 7 << 28, "gpu": 1 << 32}  # bytes, about, of one part of a batch
FEWEST_SHARED = 8  # tokens; a shorter common beginning is not worth a separate pass
AT_ONCE = 512  # positions whose logits are in memory together
LIKELY = 64  # tokens of a next-token distribution that are kept one by one
REST = 1e-6  # the least probability of all others together


class Likely(NamedTuple):
    """Next-token distributions at some positions: the most likely tokens, int32 [positions, LIKELY], and their
    probabilities with that of all others behind them, float32 [positions, LIKELY + 1]."""

    tokens: NDArray[np.int32]
    chances: NDArray[np.float32]

    def each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Likely:
        """Both arrays changed alike."""
        return Likely(change(self.tokens), change(self.chances))

    @staticmethod
    def joined(parts: Iterable[Likely]) -> Likely:
        """The positions of all parts, in their order."""
        import numpy as np

        tokens, chances = zip(*parts)
        return Likely(np.concatenate(tokens), np.concatenate(chances))


@dataclass(frozen=True)
class Batch:
    """One batch as arrays, logits wanted at the learned positions only.

    `tokens` int32 [rows, length], right-padded; `positions` int32 [targets] index the flattened rows × length
    grid at the token *before* each learned one; `targets` int32 [targets]; `weights` float32 [targets], 0 on padding.
    `owners` int32 [targets] is the row of each target. `real_tokens` and `answer_tokens` count what is no padding.
    `ids` names each row. With `likely` the loss of a position is the KL divergence from that distribution, not the
    target's cross-entropy. `replay` holds such rows, whose loss is added to this batch's in the same step.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    owners: NDArray[np.int32]
    real_tokens: int
    answer_tokens: int
    ids: tuple[str, ...]
    likely: Likely | None = None
    replay: Batch | None = None


def encode(encoder: Encoder, examples: Sequence[Example], max_length: int) -> list[Encoded]:
    """The examples as ids; raises EngramError naming every example longer than `max_length` tokens."""
    encoded = encoder.examples(examples)
    long = [f"{e.id}: {len(e.tokens)} tokens" for e in encoded if len(e.tokens) > max_length]
    if long:
        fix = f"shorten these patterns, or raise it: --set max_length={max(len(e.tokens) for e in encoded)}"
        raise EngramError(f"{len(long)} rows are longer than max_length = {max_length}", problems=long[:20], fix=fix)
    return encoded


def plan_batches(encoded: Sequence[Encoded], config: Config) -> list[list[int]]:
    """The batches as indices into the rows, in order: the plan of every backend.

    A pass goes in rounds, each with one row of every pattern, so that a part of a pass has met all of them alike. It
    shuffles by a hash of seed, pass and row id (the same on every machine), sorts windows of sixteen batches by length
    so that little is padded, and shuffles a window's batches the same way. A pass's last batch may be smaller; nothing
    is dropped. Raises EngramError if there are more steps than anybody runs.
    """
    steps = config.steps or max(
        1, config.least_steps, round(config.epochs * math.ceil(len(encoded) / config.batch_size))
    )
    if steps > MAX_STEPS:
        what = f"{config.epochs:g} epochs of {len(encoded)} rows are {steps:,} steps, at most {MAX_STEPS:,} run"
        raise EngramError(what, where="epochs", fix="lower epochs, or raise batch_size")
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < steps:
        batches += _epoch(encoded, config, epoch)
        epoch += 1
    return batches[:steps]


def plan_replay(rows: Sequence[Encoded], config: Config, steps: int) -> list[list[int]]:
    """Indices of the replay rows for each of `steps` batches, `config.replay` each, in a hashed order for each pass."""
    order: list[int] = []
    for turn in range(-(-steps * config.replay // max(1, len(rows)))):
        order += sorted(range(len(rows)), key=lambda i: _key(config.seed, f"replay:{turn}", rows[i].id))
    return [order[i * config.replay : (i + 1) * config.replay] for i in range(steps)] if order else []


def plan_validation(encoded: Sequence[Encoded], config: Config) -> list[list[int]]:
    """The validation batches: a fixed, seeded choice of `validation_rows` rows, sorted by length."""
    chosen = sorted(range(len(encoded)), key=lambda i: _key(config.seed, "valid", encoded[i].id))
    chosen = sorted(chosen[: config.validation_rows], key=lambda i: (len(encoded[i].tokens), encoded[i].id))
    return [chosen[i : i + config.batch_size] for i in range(0, len(chosen), config.batch_size)]


def make_batch(encoded: Sequence[Encoded], pad_id: int, likely: Sequence[Likely] = ()) -> Batch:
    """The arrays of one batch; shapes as in `Batch`. `likely` has the distributions of each row's learned positions."""
    import numpy as np

    length = rounded_up(max(len(e.tokens) for e in encoded) - 1, PAD_LENGTH)
    tokens = np.full((len(encoded), length), pad_id, dtype=np.int32)
    positions: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for row, e in enumerate(encoded):
        tokens[row, : len(e.tokens) - 1] = e.tokens[:-1]
        first = row * length + e.prompt_length - 1
        positions += range(first, first + e.answer_length)
        targets += e.tokens[e.prompt_length :]
        owners += [row] * e.answer_length
    real = len(targets)
    padding = [0] * (rounded_up(real, PAD_TARGETS) - real)
    return Batch(
        tokens,
        np.array(positions + padding, dtype=np.int32),
        np.array(targets + padding, dtype=np.int32),
        np.array([1.0] * real + [0.0] * len(padding), dtype=np.float32),
        np.array(owners + padding, dtype=np.int32),
        sum(len(e.tokens) for e in encoded),
        real,
        tuple(e.id for e in encoded),
        _padded(Likely.joined(likely), len(padding)) if likely else None,
    )


def _padded(likely: Likely, count: int) -> Likely:
    import numpy as np

    return likely.each(lambda array: np.pad(array, ((0, count), (0, 0))))


def likeliest(logits: NDArray[np.float32]) -> Likely:
    """The next-token distributions that logits [positions, vocabulary] stand for."""
    import numpy as np

    count = min(LIKELY, logits.shape[1] - 1)
    top = np.argpartition(logits, -count, axis=1)[:, -count:]
    highest = logits.max(axis=1, keepdims=True)
    whole = np.exp(logits - highest).sum(axis=1, keepdims=True, dtype=np.float64)
    chances = np.exp(np.take_along_axis(logits, top, axis=1) - highest) / whole
    rest = np.maximum(1.0 - chances.sum(axis=1, keepdims=True), REST)
    return Likely(top.astype(np.int32), np.concatenate([chances, rest], axis=1).astype(np.float32))


def row_lengths(batch: Batch) -> NDArray[np.int64]:
    """The number of tokens that each row reads, int64 [rows]: up to its last learned position."""
    import numpy as np

    rows, length = batch.tokens.shape
    real = batch.weights > 0
    lengths = np.ones(rows, dtype=np.int64)
    np.maximum.at(lengths, batch.owners[real], batch.positions[real] % length + 1)
    return lengths


def with_rows(batch: Batch, rows: Sequence[int], lengths: NDArray[np.int64]) -> Batch:
    """These rows alone, padded no further than they need; shapes as in `Batch`."""
    import numpy as np

    old, new = batch.tokens.shape[1], rounded_up(int(lengths[rows].max()), PAD_LENGTH)
    kept = (batch.weights > 0) & np.isin(batch.owners, rows)
    owners = np.searchsorted(rows, batch.owners[kept]).astype(np.int32)
    real = len(owners)
    padding = (0, rounded_up(real, PAD_TARGETS) - real)
    return Batch(
        np.ascontiguousarray(batch.tokens[rows, :new]),
        np.pad(owners * new + batch.positions[kept] % old, padding).astype(np.int32),
        np.pad(batch.targets[kept], padding),
        np.pad(batch.weights[kept], padding),
        np.pad(owners, padding),
        int(lengths[rows].sum()) + len(rows),
        real,
        tuple(batch.ids[row] for row in rows),
        _padded(batch.likely.each(lambda array: array[kept]), padding[1]) if batch.likely else None,
    )


def parts(batch: Batch, tokens: int) -> list[Batch]:
    """The batch in parts of consecutive rows, each with at most `tokens` tokens, padding included, or one row.

    A batch that fits is left as it is. The sum of the parts' losses is the batch's.
    """
    rows, length = batch.tokens.shape
    if rows == 1 or rows * length <= tokens:
        return [batch]
    size = -(-rows // -(-rows // max(1, tokens // length)))  # as few parts as possible, as equal as possible
    lengths = row_lengths(batch)
    return [with_rows(batch, range(i, min(i + size, rows)), lengths) for i in range(0, rows, size)]


def tokens_at_once(model: Model, *, gpu: bool) -> int:
    """How many tokens of a batch are trained on together: whose activations fit into ACTIVATIONS bytes."""
    _, blocks, each, _ = _sizes(model)
    return max(1, ACTIVATIONS["gpu" if gpu else "cpu"] // (blocks * each))


def _sizes(model: Model) -> tuple[int, int, int, int]:
    """The model's width, its blocks, the bytes that one keeps of a token, and its heads.

    It keeps some 8 vectors of its width and 10 of its MLP's, in float32 (MLX on a CPU, measured).
    """
    settings = strict_json.read(model.path / "config.json", "take another MODEL")
    width = int(settings.get("hidden_size", 1024))
    each = 4 * (8 * width + 10 * int(settings.get("intermediate_size", 4 * width)))
    return width, int(settings.get("num_hidden_layers", 24)), each, int(settings.get("num_attention_heads", 16))


def refuse_too_large(model: Model, batches: Sequence[Batch], free: int | None) -> None:
    """Raise an EngramError if the longest row of these batches can't be trained on in `free` bytes; None: not known.

    Such a row keeps the input of each block, and all of one block at a time. The estimate leaves out what a batch of
    several rows adds, since that is bounded.
    """
    longest = max(batches, key=lambda batch: batch.tokens.shape[1])
    length, (width, blocks, each, heads) = longest.tokens.shape[1], _sizes(model)
    kept = length * (4 * width * blocks + each) + 3 * 4 * heads * length**2
    needed = 4 * model.parameters + min(kept, length * blocks * each)
    if free is not None and needed > free:
        what = f"training {model.name} on a row of {length:,} tokens takes about {needed / 2**30:.1f} GiB"
        row = longest.ids[int(row_lengths(longest).argmax())]
        problems = [f"{free / 2**30:.1f} GiB are free", f"the longest row is {row}"]
        raise EngramError(what, where="memory", problems=problems, fix="close other programs, or take a smaller MODEL")


def shared_tokens(batch: Batch) -> int:
    """With how many equal tokens all rows begin, none of them one whose loss is wanted; 0 if it is not worth a pass."""
    import numpy as np

    rows, length = batch.tokens.shape
    columns = batch.positions[batch.weights > 0] % length
    first = min(int(columns.min()), length - 1) if columns.size else 0
    equal = (batch.tokens[:, :first] == batch.tokens[:1, :first]).all(axis=0)
    count = int(np.argmin(equal)) if not equal.all() else first
    return count if rows > 1 and count >= FEWEST_SHARED else 0


def without_beginning(batch: Batch, count: int) -> Batch:
    """The batch without its first `count` columns; positions index what is left."""
    import numpy as np

    length = batch.tokens.shape[1]
    rows, columns = np.divmod(batch.positions, length)
    positions = rows * (length - count) + np.maximum(columns - count, 0)  # padding points anywhere
    return dataclasses.replace(batch, tokens=batch.tokens[:, count:], positions=positions.astype(np.int32))


def rows_right(batch: Batch, right: NDArray[np.bool_]) -> int:
    """How many rows have every learned token right; `right` is bool [targets]."""
    import numpy as np

    real = batch.weights > 0
    return len(np.unique(batch.owners[real])) - len(np.unique(batch.owners[real & ~right]))


def mean_losses(
    encoded: Sequence[Encoded],
    pad_id: int,
    size: int,
    losses: Callable[[Batch], NDArray[np.float32]],
    likely: Sequence[Likely] = (),
) -> list[float]:
    """Mean nats per answer token of each row, in batches of `size` rows sorted by length.

    `losses` is the backend's part: the loss of a batch, float32 [targets]: cross-entropy, or with `likely` the KL
    divergence from each row's distributions. Raises EngramError, naming the rows, where one is no number.
    """
    import numpy as np

    means = [0.0] * len(encoded)
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].tokens))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        batch = make_batch([encoded[i] for i in rows], pad_id, [likely[i] for i in rows] if likely else ())
        sums = np.bincount(batch.owners, losses(batch) * batch.weights, minlength=len(rows))
        for i, total in zip(rows, sums, strict=True):
            means[i] = float(max(total, 0.0)) / encoded[i].answer_length
    if wrong := [f"{e.id}: {mean} nats per token" for e, mean in zip(encoded, means) if not math.isfinite(mean)]:
        what = f"the model gives no numbers for {len(wrong)} of {len(encoded)} rows"
        fix = "train again with a lower learning rate (make train FRESH=1 SET=learning_rate=…), or another MODEL"
        raise EngramError(what, where="scoring", problems=wrong[:20], fix=fix)
    return means


def distributions(
    encoded: Sequence[Encoded], pad_id: int, size: int, logits: Callable[[Batch], Iterator[NDArray[np.float32]]]
) -> list[Likely]:
    """The next-token distributions at each row's learned positions, in batches of `size` rows sorted by length.

    `logits` is the backend's part: of a batch's targets, float32 [some, vocabulary], a piece at a time.
    """
    found: dict[int, Likely] = {}
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].tokens))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        batch = make_batch([encoded[i] for i in rows], pad_id)
        whole, end = Likely.joined(map(likeliest, logits(batch))), 0
        for i in rows:
            here = slice(end, end := end + encoded[i].answer_length)
            found[i] = Likely(whole.tokens[here], whole.chances[here])
    return [found[i] for i in range(len(encoded))]


def padded(sequences: Sequence[Sequence[int]], size: int) -> Iterator[tuple[list[int], NDArray[np.int32]]]:
    """The sequences in batches of `size`, sorted by length: the numbers of each batch's, and their ids int32
    [sequences, longest], zeros behind them."""
    import numpy as np

    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        tokens = np.zeros((len(batch), len(sequences[batch[-1]])), np.int32)
        for row, i in enumerate(batch):
            tokens[row, : len(sequences[i])] = sequences[i]
        yield batch, tokens


def _epoch(encoded: Sequence[Encoded], config: Config, epoch: int) -> list[list[int]]:
    keys = [_key(config.seed, epoch, row.id) for row in encoded]
    met: Counter[str] = Counter()
    rounds = {}
    for i in sorted(range(len(encoded)), key=keys.__getitem__):
        pattern = encoded[i].id.partition("-")[0]  # which a row's id begins with
        rounds[i] = met[pattern]
        met[pattern] += 1
    order = sorted(rounds, key=lambda i: (rounds[i], keys[i]))
    size, window = config.batch_size, WINDOW * config.batch_size
    batches = []
    for start in range(0, len(order), window):
        rows = sorted(order[start : start + window], key=lambda i: len(encoded[i].tokens))
        cut = [rows[i : i + size] for i in range(0, len(rows), size)]
        batches += sorted(cut, key=lambda rows: _key(config.seed, epoch, "batch:" + encoded[rows[0]].id))
    return batches


def _key(seed: int, epoch: int | str, name: str) -> str:
    return sha256_text(f"{seed}:{epoch}:{name}")


def rounded_up(number: int, step: int) -> int:
    """Round up to a multiple of `step`."""
    return -(-number // step) * step
