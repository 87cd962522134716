"""The batch plan: which rows are in which batch, in which order, as which arrays; the same for every backend."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engram.dataset.rows import Example
from engram.models.model import Model
from engram.models.tokenizer import Encoded, Encoder
from engram.plan.config import MAX_STEPS, Config
from engram.support import strict_json
from engram.support.errors import EngramError
from engram.support.files import sha256_text

PAD_LENGTH = 4  # row lengths are padded to a multiple of this, so that few shapes occur: a GPU prepares for each
WINDOW = 16  # batches whose rows are sorted by length together; more pad less, but put rows of one family together
PAD_TARGETS = 16  # and the number of learned positions to a multiple of this
ACTIVATIONS = {"cpu": 7 << 28, "gpu": 1 << 32}  # bytes, about, of one part of a batch
FEWEST_SHARED = 8  # tokens; a shorter common beginning is not worth a separate pass
AT_ONCE = 512  # positions whose logits are in memory together
LIKELY = 64  # tokens of a next-token distribution that are kept one by one
REST = 1e-6  # the least probability of all others together

Floats = NDArray[np.float32]


class Likely(NamedTuple):
    """Next-token distributions at some positions: the most likely tokens, int32 [positions, LIKELY], and their
    probabilities with that of all others behind them, float32 [positions, LIKELY + 1]."""

    tokens: NDArray[np.int32]
    chances: Floats

    @staticmethod
    def joined(parts: Iterable[Likely]) -> Likely:
        """The positions of all parts, in their order."""
        tokens, chances = zip(*parts)
        return Likely(np.concatenate(tokens), np.concatenate(chances))


@dataclass(frozen=True)
class Batch:
    """One batch as arrays, logits wanted at the learned positions only.

    `tokens` int32 [rows, length], right-padded; `positions` int32 [targets] index the flattened rows × length
    grid at the token *before* each learned one; `targets` int32 [targets]; `weights` float32 [targets], 0 on padding.
    `owners` int32 [targets] is the row of each target. `rows` and `pad_id` are what it was made of; `answer_tokens`
    counts what is learned. With `likely` the loss of a position is the KL divergence from that distribution, not the
    target's cross-entropy; `of_rows` has those of each row. `replay` holds such rows, whose loss is added in the same
    step.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: Floats
    owners: NDArray[np.int32]
    rows: Sequence[Encoded]
    pad_id: int
    answer_tokens: int
    likely: Likely | None = None
    of_rows: Sequence[Likely] = ()
    replay: Batch | None = None

    @property
    def ids(self) -> list[str]:
        """The name of each row."""
        return [row.id for row in self.rows]

    @property
    def real_tokens(self) -> int:
        """The number of tokens that are no padding."""
        return sum(len(row.tokens) for row in self.rows)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens that each row reads, int64 [rows]: up to its last learned position."""
        return np.array([len(row.tokens) - 1 for row in self.rows])

    def of(self, rows: Iterable[int]) -> Batch:
        """These rows alone, padded no further than they need."""
        likely = [self.of_rows[row] for row in rows] if self.of_rows else ()
        return make_batch([self.rows[row] for row in rows], self.pad_id, likely)


class Plan(NamedTuple):
    """The batches of a run, for training and validation."""

    batches: Sequence[Batch]
    validation: Sequence[Batch] = ()


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
    needed = round(config.epochs * math.ceil(len(encoded) / config.batch_size))
    steps = config.steps or max(1, config.least_steps, needed)
    if steps > MAX_STEPS:
        what = f"{config.epochs:g} epochs of {len(encoded)} rows are {steps:,} steps, at most {MAX_STEPS:,} run"
        raise EngramError(what, where="epochs", fix="lower epochs, or raise batch_size")
    passes = (_epoch(encoded, config, epoch) for epoch in itertools.count())
    return [*itertools.islice(itertools.chain.from_iterable(passes), steps)]


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
    longest = max(len(e.tokens) for e in encoded) - 1
    length = longest + -longest % PAD_LENGTH
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
    padding = -real % PAD_TARGETS
    joined = Likely._make(np.pad(part, ((0, padding), (0, 0))) for part in Likely.joined(likely)) if likely else None
    places, names, whose = (np.pad(np.array(one, np.int32), (0, padding)) for one in (positions, targets, owners))
    weights = (np.arange(len(names)) < real).astype(np.float32)
    return Batch(tokens, places, names, weights, whose, encoded, pad_id, real, joined, likely)


def likeliest(logits: Floats) -> Likely:
    """The next-token distributions that logits [positions, vocabulary] stand for."""
    count = min(LIKELY, logits.shape[1] - 1)
    top = np.argpartition(logits, -count, axis=1)[:, -count:]
    highest = logits.max(axis=1, keepdims=True)
    whole = np.exp(logits - highest).sum(axis=1, keepdims=True, dtype=np.float64)
    chances = np.exp(np.take_along_axis(logits, top, axis=1) - highest) / whole
    rest = np.maximum(1.0 - chances.sum(axis=1, keepdims=True), REST)
    return Likely(top.astype(np.int32), np.concatenate([chances, rest], axis=1).astype(np.float32))


def parts(batch: Batch, tokens: int) -> list[Batch]:
    """The batch in parts of consecutive rows, each with at most `tokens` tokens, padding included, or one row.

    A batch that fits is left as it is. The sum of the parts' losses is the batch's.
    """
    rows, length = batch.tokens.shape
    if rows == 1 or rows * length <= tokens:
        return [batch]
    size = -(-rows // -(-rows // max(1, tokens // length)))  # as few parts as possible, as equal as possible
    return [batch.of(range(i, min(i + size, rows))) for i in range(0, rows, size)]


def tokens_at_once(model: Model, *, gpu: bool) -> int:
    """How many tokens of a batch are trained on together: whose activations fit into ACTIVATIONS bytes.

    A block keeps some 8 vectors of its width and 10 of its MLP's of a token, in float32 (MLX on a CPU, measured).
    """
    _, blocks, each, _ = _sizes(model)
    return max(1, ACTIVATIONS["gpu" if gpu else "cpu"] // (blocks * each))


def _sizes(model: Model) -> tuple[int, int, int, int]:
    """The model's width, its blocks, the bytes that one keeps of a token, and its heads."""
    settings = strict_json.read(model.path / "config.json", "take another MODEL")
    width = int(settings.get("hidden_size", 1024))
    each = 4 * (8 * width + 10 * int(settings.get("intermediate_size", 4 * width)))
    return width, int(settings.get("num_hidden_layers", 24)), each, int(settings.get("num_attention_heads", 16))


def refuse_too_large(model: Model, batches: Sequence[Batch], free: int | None) -> None:
    """Raise an EngramError if the longest row of these batches can't be trained on in `free` bytes; None: not known.

    Such a row keeps the input of each block, and all of one block at a time. The estimate leaves out what a batch of
    several rows adds, since that is bounded.
    """
    longest = max((row for batch in batches for row in batch.rows), key=lambda row: len(row.tokens))
    length, (width, blocks, each, heads) = len(longest.tokens), _sizes(model)
    kept = length * (4 * width * blocks + each) + 3 * 4 * heads * length**2
    needed = 4 * model.parameters + min(kept, length * blocks * each)
    if free is not None and needed > free:
        what = f"training {model.name} on a row of {length:,} tokens takes about {needed / 2**30:.1f} GiB"
        problems = [f"{free / 2**30:.1f} GiB are free", f"the longest row is {longest.id}"]
        raise EngramError(what, where="memory", problems=problems, fix="close other programs, or take a smaller MODEL")


def shared_tokens(batch: Batch) -> int:
    """With how many equal tokens all rows begin, none of them one whose loss is wanted; 0 if it is not worth a pass."""
    rows, length = batch.tokens.shape
    columns = batch.positions[batch.weights > 0] % length
    first = min(int(columns.min()), length - 1) if columns.size else 0
    equal = (batch.tokens[:, :first] == batch.tokens[:1, :first]).all(axis=0)
    count = int(np.argmin(equal)) if not equal.all() else first
    return count if rows > 1 and count >= FEWEST_SHARED else 0


def without_beginning(batch: Batch, count: int) -> Batch:
    """The batch without its first `count` columns; positions index what is left."""
    length = batch.tokens.shape[1]
    rows, columns = np.divmod(batch.positions, length)
    positions = rows * (length - count) + np.maximum(columns - count, 0)  # padding points anywhere
    left = [dataclasses.replace(r, tokens=r.tokens[count:], prompt_length=r.prompt_length - count) for r in batch.rows]
    return dataclasses.replace(batch, tokens=batch.tokens[:, count:], positions=positions.astype(np.int32), rows=left)


def rows_right(batch: Batch, right: NDArray[np.bool_]) -> int:
    """How many rows have every learned token right; `right` is bool [targets]."""
    real = batch.weights > 0
    return len(np.unique(batch.owners[real])) - len(np.unique(batch.owners[real & ~right]))


def mean_losses(
    encoded: Sequence[Encoded], pad_id: int, size: int, losses: Callable[[Batch], Floats], likely: Sequence[Likely] = ()
) -> list[list[float]]:
    """Mean nats per answer token of each row, in batches of `size` rows sorted by length: [losses][rows].

    `losses` is the backend's part: of a batch the cross-entropy, and with `likely` the KL divergence from each row's
    distributions as well, float32 [losses, targets]. Raises EngramError, naming the rows, where one is no number.
    """
    means = [[0.0] * len(encoded) for _ in range(2 if likely else 1)]
    for rows in by_length([e.tokens for e in encoded], size):
        batch = make_batch([encoded[i] for i in rows], pad_id, [likely[i] for i in rows] if likely else ())
        for each, found in zip(means, losses(batch), strict=True):
            sums = np.bincount(batch.owners, found * batch.weights, minlength=len(rows))
            for i, total in zip(rows, sums, strict=True):
                each[i] = float(max(total, 0.0)) / encoded[i].answer_length
    pairs = [(e.id, mean) for each in means for e, mean in zip(encoded, each)]
    if wrong := [f"{name}: {mean} nats per token" for name, mean in pairs if not math.isfinite(mean)]:
        what = f"the model gives no numbers for {len(wrong)} of {len(encoded)} rows"
        fix = "train again with a lower learning rate (make train FRESH=1 SET=learning_rate=…), or another MODEL"
        raise EngramError(what, where="scoring", problems=wrong[:20], fix=fix)
    return means


def distributions(
    encoded: Sequence[Encoded], pad_id: int, size: int, logits: Callable[[Batch], Iterator[Floats]]
) -> list[Likely]:
    """The next-token distributions at each row's learned positions, in batches of `size` rows sorted by length.

    `logits` is the backend's part: of a batch's targets, float32 [some, vocabulary], a piece at a time.
    """
    found: dict[int, Likely] = {}
    for rows in by_length([e.tokens for e in encoded], size):
        batch = make_batch([encoded[i] for i in rows], pad_id)
        whole, end = Likely.joined(map(likeliest, logits(batch))), 0
        for i in rows:
            here = slice(end, end := end + encoded[i].answer_length)
            found[i] = Likely(whole.tokens[here], whole.chances[here])
    return [found[i] for i in range(len(encoded))]


def digests_of(
    sequences: Sequence[Sequence[int]], size: int, logits: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
) -> list[str]:
    """A SHA-256 of the logits after every token of each sequence, in batches of `size` sorted by length.

    `logits` is the backend's part: of ids int32 [sequences, longest], zeros behind them, and of the sequences' lengths.
    """
    found = [""] * len(sequences)
    for batch in by_length(sequences, size):
        lengths = np.array([len(sequences[i]) for i in batch])
        tokens = np.zeros((len(batch), lengths.max()), np.int32)
        for row, i in enumerate(batch):
            tokens[row, : lengths[row]] = sequences[i]
        for i, length, made in zip(batch, lengths, logits(tokens, lengths)):
            found[i] = hashlib.sha256(made[:length].tobytes()).hexdigest()
    return found


def by_length(sequences: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """The indices of the sequences in batches of `size`, sorted by length."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    return (order[start : start + size] for start in range(0, len(order), size))


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
